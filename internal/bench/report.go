package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

var cores = float64(runtime.NumCPU())

// report is everything that was measured. Figures of several passes stand in their order.
type report struct {
	Machine string              `json:"machine"`
	Live    map[string][]sample `json:"live"`   // by letter of the variant
	Ratios  map[string]compared `json:"ratios"` // of Live, by letter
	Drain   []drained           `json:"drain"`
	Small   []drained           `json:"drain_of_small_backlog"`
	Large   []drained           `json:"drain_of_large_backlog"`
	StartUp []float64           `json:"start_up_seconds"` // with the large backlog
	Readers map[string][]sample `json:"readers"`          // ingest, by phase of (g)
	Pages   []pageTimes         `json:"pages"`            // of (g)
	Notes   []string            `json:"notes"`
	Faults  []string            `json:"faults"`
	Aims    []aim               `json:"aims"`

	options options
	pages   map[string]map[string][]float64 // milliseconds by phase and page
}

// compared is a variant against the best peer that does the like: medians of the ratios within each pass, since what
// disturbs a pass disturbs both.
type compared struct {
	Against string  `json:"against"`
	CPU     float64 `json:"cpu"` // per event
	Rate    float64 `json:"rate"`
}

// peerOf is what a variant is compared with: who forwards with the proxy, who only keeps with the handler.
var peerOf = map[string]string{"b": "a", "c": "b", "d": "b", "e": "a"}

// aimedConnections is how many the aim of a latency is for: it grows with them.
const aimedConnections = 64

// aim is what the gateway is meant to reach.
type aim struct {
	What    string `json:"what"`
	Aim     string `json:"aim"`
	Got     string `json:"got"`
	Reached bool   `json:"reached"`
}

func newReport(o options) *report {
	return &report{
		Machine: fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
		Live:    map[string][]sample{}, Ratios: map[string]compared{}, Readers: map[string][]sample{}, Pages: []pageTimes{},
		Notes: []string{}, Faults: []string{},
		options: o, pages: map[string]map[string][]float64{},
	}
}

// note adds a remark, once.
func (r *report) note(format string, a ...any) {
	if text := fmt.Sprintf(format, a...); !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}

func (r *report) fault(letter, format string, a ...any) {
	r.Faults = append(r.Faults, "("+letter+") "+fmt.Sprintf(format, a...))
}

// audit compares what was answered with what the gateway and the backend say.
func (r *report) audit(letter string, s sample, g *gateway, backend string) error {
	m, err := g.metrics()
	if err != nil {
		return err
	}
	answered := s.answered2xx()
	delivered, stored := int(m[metricEvents("delivered")]), int(m[metricEvents("stored")])
	if delivered+stored != answered {
		r.fault(letter, "%d events answered 2xx, and the gateway says %d delivered, %d stored", answered, delivered, stored)
	}
	if n := m[metricDropped]; n != 0 {
		r.fault(letter, "history of %v events was dropped", n)
	}
	if letter == "e" {
		if n := int(m[metricPending]); n != answered {
			r.fault(letter, "%d events answered 2xx, %d pending", answered, n)
		}
		return nil
	}
	seen, err := stats(backend)
	if err != nil {
		return err
	}
	if int(seen.Count) < delivered {
		r.fault(letter, "%d events delivered, and the backend has seen %d", delivered, seen.Count)
	}
	if stored > 0 {
		r.note("(%s) %d of %d events were stored rather than delivered inline", letter, stored, answered)
	}
	return nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// each returns f of each measurement.
func each[T any](v []T, f func(T) float64) []float64 {
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = f(x)
	}
	return out
}

func sampleCPU(s sample) float64   { return s.CPU }
func perSecond(s sample) float64   { return s.PerSecond }
func drainRate(d drained) float64  { return d.PerSecond }
func laterRate(d drained) float64  { return d.Later }
func laterCPU(d drained) float64   { return d.LaterCPU }
func drainCPU(d drained) float64   { return d.CPU }
func drainPeak(d drained) float64  { return float64(d.PeakRSS) }
func samplePeak(s sample) float64  { return float64(s.PeakRSS) }
func others(s sample) float64      { return s.Others }
func most(v []float64) (m float64) { return slices.Max(append(v, 0)) }

// ratio is the median of the ratios within each pass.
func ratio(a, b []float64) float64 {
	n := min(len(a), len(b))
	out := make([]float64, n)
	for i := range n {
		out[i] = a[i] / b[i]
	}
	return median(out)
}

// compare fills in the ratios.
func (r *report) compare() {
	for letter, against := range peerOf {
		s, peer := r.Live[letter], r.Live[against]
		if len(s) > 0 && len(peer) > 0 {
			r.Ratios[letter] = compared{
				against, ratio(each(s, sampleCPU), each(peer, sampleCPU)), ratio(each(s, perSecond), each(peer, perSecond)),
			}
		}
	}
}

// judge fills in the aims. Rates have none against peers: on a machine that is full they say how much the load generator
// takes, too.
func (r *report) judge() {
	add := func(what, want string, got float64, format string, reached bool) {
		r.Aims = append(r.Aims, aim{what, want, fmt.Sprintf(format, got), reached})
	}
	if c, ok := r.Ratios["d"]; ok {
		add("CPU per event, (d) against (b)", "<= 1.7", c.CPU, "%.2f", c.CPU <= 1.7)
	}
	if c, ok := r.Ratios["e"]; ok {
		add("CPU per event, (e) against (a)", "<= 3.3", c.CPU, "%.2f", c.CPU <= 3.3)
	}
	if e := r.Live["e"]; len(e) > 0 && r.options.connections == aimedConnections {
		x := median(each(e, func(s sample) float64 { return s.P999 }))
		add(fmt.Sprintf("(e) p99.9 at %d connections", aimedConnections), "< 40 ms", x, "%.1f ms", x < 40)
	}
	if len(r.Drain) > 0 {
		x := median(each(r.Drain, drainRate))
		add("(f) drain", ">= 5000/s", x, "%.0f/s", x >= 5000)
	}
	if len(r.Large) > 0 {
		x := ratio(each(r.Large, laterRate), each(r.Small, drainRate))
		add("(f) large against small backlog", ">= 0.9", x, "%.2f", x >= 0.9)
		x = most(r.StartUp)
		add("(f) start with the large backlog, worst", "< 2 s", x, "%.2f s", x < 2)
	}
	r.judgeReaders(add)
	peaks := append(each(r.Live["d"], samplePeak), each(r.Live["e"], samplePeak)...)
	for _, d := range [][]drained{r.Drain, r.Small, r.Large} {
		peaks = append(peaks, each(d, drainPeak)...)
	}
	for _, s := range r.Readers {
		peaks = append(peaks, each(s, samplePeak)...)
	}
	if len(peaks) > 0 {
		x := most(peaks) / (1 << 20)
		add("peak RSS throughout", "< 150 MiB", x, "%.0f MiB", x < 150)
	}
}

func (r *report) print(w io.Writer) {
	o := r.options
	fmt.Fprintf(w, "%s. %d connections, client %s, %d x %v each, medians. CPU is user and system time of what is\n"+
		"measured. The ratios are to the peer in brackets, within each pass.\n\n", r.Machine, o.connections, o.client, o.passes, o.duration)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\tCPU us/event\tCPU ratio\tevents/s\trate ratio\tp50 ms\tp99 ms\tp99.9 ms\tload us/event\tbackend us/event\tpeak RSS MiB\tothers\t\n")
	for _, v := range variants {
		if s := r.Live[v.letter]; len(s) > 0 {
			printSample(t, v.letter, v.name, r.Ratios[v.letter], s)
		}
	}
	for _, row := range []struct {
		name      string
		d         []drained
		rate, cpu func(drained) float64
	}{
		{"drain", r.Drain, drainRate, drainCPU},
		{"small backlog", r.Small, drainRate, drainCPU},
		{"large backlog, the first", r.Large, drainRate, drainCPU},
		{"large backlog, after", r.Large, laterRate, laterCPU},
	} {
		if len(row.d) == 0 {
			continue
		}
		name := fmt.Sprintf("%s %d of %d", row.name, row.d[0].Events, row.d[0].Backlog)
		fmt.Fprintf(t, "(f) %s\t%.1f\t\t%.0f\t\t\t\t\t\t\t%.0f\t\t\n", pad(name), median(each(row.d, row.cpu)),
			median(each(row.d, row.rate)), most(each(row.d, drainPeak))/(1<<20))
	}
	for _, p := range phases {
		if s := r.Readers[p.name]; len(s) > 0 {
			printSample(t, "g", p.name, compared{}, s)
		}
	}
	_ = t.Flush()
	r.printPages(w)
	r.printAims(w)
}

func printSample(w io.Writer, letter, name string, c compared, s []sample) {
	m := func(f func(sample) float64) float64 { return median(each(s, f)) }
	cpu, rate := "", ""
	if c.Against != "" {
		cpu, rate = fmt.Sprintf("%.2f (%s)", c.CPU, c.Against), fmt.Sprintf("%.2f (%s)", c.Rate, c.Against)
	}
	fmt.Fprintf(w, "(%s) %s\t%.1f\t%s\t%.0f\t%s\t%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.0f\t%.0f %%\t\n", letter, pad(name),
		m(sampleCPU), cpu, m(perSecond), rate, m(func(s sample) float64 { return s.P50 }), m(func(s sample) float64 { return s.P99 }),
		m(func(s sample) float64 { return s.P999 }), m(func(s sample) float64 { return s.LoadCPU }),
		m(func(s sample) float64 { return s.BackendCPU }), most(each(s, samplePeak))/(1<<20), 100*m(others))
}

// pad makes the first column look left-aligned in a table that is right-aligned.
func pad(s string) string { return s + strings.Repeat(" ", max(0, 46-len(s))) }

func (r *report) printAims(w io.Writer) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range r.Aims {
		reached := "reached"
		if !a.Reached {
			reached = "NOT reached"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", a.What, a.Aim, a.Got, reached)
	}
	_ = t.Flush()
	for _, text := range r.Notes {
		fmt.Fprintln(w, "note:", text)
	}
	for _, text := range r.Faults {
		fmt.Fprintln(w, "FAULT:", text)
	}
}
