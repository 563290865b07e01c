package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// phase is a time in which events come in and people read.
type phase struct {
	name   string
	rate   int // events a second; 0: as many as there can be
	people int
	pause  time.Duration // of each of them after a page
	length int           // in durations of one measurement: each page must be read often
}

// steadyRate is what comes in while pages are measured.
const steadyRate = 2000

// The phases of a pass. Ingest with readers is compared with that without, right before.
var (
	steady     = phase{name: "2000/s, nobody reads", rate: steadyRate, length: 2}
	steadyOne  = phase{name: "2000/s, 1 reader", rate: steadyRate, people: 1, length: 8}
	steadyFew  = phase{name: "2000/s, 4 readers at once", rate: steadyRate, people: 4, length: 4}
	flood      = phase{name: "all it takes, nobody reads", length: 2}
	floodPaced = phase{name: "all it takes, a page each 50 ms", people: 1, pause: 50 * time.Millisecond, length: 2}
	phases     = []phase{steady, steadyOne, steadyFew, flood, floodPaced}
)

// downName is a backend that is down: what it is owed stays pending.
const downName = "billing"

// readersRoutes adds to the configuration what pages have to show.
const readersRoutes = `  ` + downName + `: {url: "http://%s/"}
stripe_ips: [127.0.0.1]
quarantine: {rate: 1000/s}
`

const quarantined = 500

// measureReaders measures pages of a long journal while events come in, and what that costs the events.
func (o options) measureReaders(ctx context.Context, r *report) error {
	if !strings.Contains(o.only, "g") {
		return nil
	}
	if o.backlog == 0 {
		r.note("(g) is left out: it needs -backlog")
		return nil
	}
	progress("(g) fill a journal with %d events of all kinds", o.backlog)
	dir, err := o.fill(ctx, o.backlog, "-mixed")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	backend, to, err := startServer(ctx, filepath.Join(dir, "backend.log"), "backend")
	if err != nil {
		return err
	}
	defer backend.kill()
	down, err := freeAddr()
	if err != nil {
		return err
	}
	g, err := o.startGateway(ctx, dir, to, fmt.Sprintf(readersRoutes, down))
	if err != nil {
		return err
	}
	defer g.stop()
	if err := errors.Join(g.await(g.addr), g.await(g.admin)); err != nil {
		return err
	}
	if err := quarantine(ctx, g.addr); err != nil {
		return err
	}
	all := sample{loadResult: loadResult{Statuses: map[string]int{}}}
	for pass := range o.passes {
		for _, p := range phases {
			progress("pass %d of %d: (g) %s", pass+1, o.passes, p.name)
			s, err := o.measureReading(ctx, r, p, g, backend)
			if err != nil {
				return fmt.Errorf("(g) %s: %w", p.name, err)
			}
			r.Readers[p.name] = append(r.Readers[p.name], s)
			for status, n := range s.Statuses {
				all.Statuses[status] += n
			}
		}
	}
	return r.audit("g", all, g, to)
}

// quarantine sends what verifies with no secret.
func quarantine(ctx context.Context, addr string) error {
	for range quarantined {
		e := toystripe.New(types[0], toystripe.Options{})
		req, err := toystripe.Request(ctx, "http://"+addr+webhookPath, e, []string{"whsec_rolled"}, toystripe.Sending{})
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if err := res.Body.Close(); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("quarantine: answered %s", res.Status)
		}
	}
	return nil
}

// measureReading measures the ingest of one phase, and adds what its readers saw to the report.
func (o options) measureReading(ctx context.Context, r *report, p phase, g *gateway, backend *process) (s sample, err error) {
	if err := o.awaitQuiet(ctx); err != nil {
		return s, err
	}
	o.rate, o.duration = p.rate, time.Duration(p.length)*o.duration
	if p.people == 0 {
		s, err = o.sampled(ctx, g.addr, g.process, backend)
	} else {
		var readers *process
		readers, err = startRole(ctx, filepath.Join(o.dir, "read.log"), "read", "-admin", g.admin, "-events", strconv.Itoa(o.backlog),
			"-people", strconv.Itoa(p.people), "-pause", p.pause.String(), "-warm-up", o.warmUp.String())
		if err != nil {
			return s, err
		}
		defer readers.kill()
		if s, err = o.sampled(ctx, g.addr, g.process, backend, readers); err == nil {
			err = r.read(p, readers)
		}
	}
	for _, text := range s.faults() {
		r.fault("g", "%s: %s", p.name, text)
	}
	return s, err
}

// read ends readers and takes what they saw.
func (r *report) read(p phase, readers *process) error {
	if err := readers.cmd.Process.Signal(os.Interrupt); err != nil {
		return errors.Join(err, readers.err())
	}
	var seen readResult
	if err := json.NewDecoder(readers.out).Decode(&seen); err != nil {
		return fmt.Errorf("readers: %w", errors.Join(err, readers.err()))
	}
	for _, text := range slices.Sorted(maps.Keys(seen.Faults)) {
		r.fault("g", "%s: %d times %s", p.name, seen.Faults[text], text)
	}
	if r.pages[p.name] == nil {
		r.pages[p.name] = map[string][]float64{}
	}
	for name, took := range seen.Took {
		r.pages[p.name][name] = append(r.pages[p.name][name], took...)
	}
	return nil
}

// pageTimes is how long a page took in a phase, over all passes.
type pageTimes struct {
	Page  string  `json:"page"`
	Phase string  `json:"phase"`
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

// pageLimit is what the p99 of a page is meant to stay below, in milliseconds.
const pageLimit = 50

// times sums up what was read in a phase, the slowest first.
func (r *report) times(p phase) []pageTimes {
	var all []pageTimes
	for name, took := range r.pages[p.name] {
		slices.Sort(took)
		at := func(q float64) float64 { return took[min(int(q*float64(len(took))), len(took)-1)] }
		all = append(all, pageTimes{name, p.name, len(took), at(0.5), at(0.99), at(1)})
	}
	slices.SortFunc(all, func(a, b pageTimes) int {
		return cmp.Or(cmp.Compare(b.P99, a.P99), strings.Compare(a.Page, b.Page))
	})
	return all
}

// judgeReaders fills in the aims of (g).
func (r *report) judgeReaders(add func(what, want string, got float64, format string, reached bool)) {
	for _, p := range []phase{steadyOne, steadyFew} {
		times := r.times(p)
		if len(times) == 0 {
			return
		}
		r.Pages = append(r.Pages, times...)
		over := 0
		for _, t := range times {
			if t.P99 >= pageLimit {
				over++
			}
		}
		add(fmt.Sprintf("(g) %s: p99 of the slowest page", p.name), fmt.Sprintf("< %d ms", pageLimit), times[0].P99, "%.1f ms, "+times[0].Page, over == 0)
		add(fmt.Sprintf("(g) %s: pages over that", p.name), fmt.Sprintf("0 of %d", len(times)), float64(over), "%.0f", over == 0)
	}
	for _, c := range [][2]phase{{steadyOne, steady}, {steadyFew, steady}, {floodPaced, flood}} {
		x := ratio(each(r.Readers[c[0].name], perSecond), each(r.Readers[c[1].name], perSecond))
		add(fmt.Sprintf("(g) ingest, %s against nobody", c[0].name), ">= 0.9", x, "%.2f", x >= 0.9)
	}
}

// printPages shows each page of (g), the slowest first.
func (r *report) printPages(w io.Writer) {
	one := map[string]pageTimes{}
	for _, p := range r.times(steadyOne) {
		one[p.Page] = p
	}
	if len(one) == 0 {
		return
	}
	fmt.Fprintf(w, "\nPages while %d events/s come in: one reader, and %d at once. ! is a p99 of %d ms or more. Of fewer than 100 it is the\n"+
		"maximum: ask for a longer -duration.\n\n", steadyRate, steadyFew.people, pageLimit)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\tcount\tp50 ms\tp99 ms\tmax ms\t\tcount\tp50 ms\tp99 ms\tmax ms\t\t\n")
	for _, p := range r.times(steadyFew) {
		fmt.Fprint(t, pad(p.Page))
		for _, p := range []pageTimes{one[p.Page], p} {
			over := " "
			if p.P99 >= pageLimit {
				over = "!"
			}
			fmt.Fprintf(t, "\t%d\t%.1f\t%.1f\t%.1f\t%s", p.Count, p.P50, p.P99, p.Max, over)
		}
		fmt.Fprint(t, "\t\n")
	}
	_ = t.Flush()
}
