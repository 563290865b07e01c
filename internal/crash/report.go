package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report is what a run has shown.
type report struct {
	options
	kills   []time.Time
	starts  []time.Duration // until connections were taken, of those lives that came so far
	loaded  time.Duration
	drained time.Duration
	pending int // by the list of events, at the end
	counted int // by the metric
	failed  int

	sent, acked, delivered, answers int // answers: 2xx of the backend, so that answers-delivered are duplicates
	stored, refused, unknown        int64
	faults                          [len(faults)]int64
	lost                            []loss
	altered                         int // bodies at the backend that nobody has sent
}

// loss is an event that was answered 2xx and is not at the backend.
type loss struct {
	receipt
	after time.Duration // the kill that is nearest in time; negative when it was answered before it
}

// compare fills in what the ledger and the backend say.
func (r *report) compare(acked map[receipt]time.Time, l *load, b *backend) {
	for _, x := range b.missing(acked) {
		kill := slices.MinFunc(r.kills, func(a, b time.Time) int { return cmp.Compare(acked[x].Sub(a).Abs(), acked[x].Sub(b).Abs()) })
		r.lost = append(r.lost, loss{x, acked[x].Sub(kill)})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	for x, n := range b.got {
		r.answers += n
		r.delivered++
		if _, ok := l.sent[x]; !ok {
			r.altered++
		}
	}
	r.sent, r.acked = len(l.sent), len(acked)
	r.stored, r.refused, r.unknown = l.stored.Load(), l.refused.Load(), l.unknown.Load()
	for f := range b.times {
		r.faults[f] = b.times[f].Load()
	}
	slices.Sort(r.starts)
	slices.SortFunc(r.lost, func(a, b loss) int { return cmp.Compare(a.after, b.after) })
}

// conclude returns an error when the promise was broken; for the control, when it was not.
func (r *report) conclude(control bool) error {
	if control {
		if len(r.lost) == 0 {
			return errors.New("the control lost nothing: this test would not see a gateway that answers before it commits")
		}
		return nil
	}
	var wrong []error
	if n := len(r.lost); n > 0 {
		wrong = append(wrong, fmt.Errorf("%d events were answered 2xx and lost", n))
	}
	if r.altered > 0 {
		wrong = append(wrong, fmt.Errorf("%d bodies were changed on the way", r.altered))
	}
	if r.failed > 0 {
		wrong = append(wrong, fmt.Errorf("%d events were given up, long before give_up_after", r.failed))
	}
	if r.stored == 0 {
		wrong = append(wrong, errors.New("no event was stored: nothing was tested"))
	}
	return errors.Join(wrong...)
}

func (r *report) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, a ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, a...)) }
	what := ""
	if r.control {
		what = ", control: answers before it commits"
	}
	row("seed", "%d (%s%s)", r.seed, machine(), what)
	row("killed", "%d times, %d of them before it took connections", len(r.kills), len(r.kills)-len(r.starts))
	row("sent", "%d events, %.0f/s, %d senders", r.sent, float64(r.sent)/r.loaded.Seconds(), r.senders)
	row("answered 2xx", "%d, %d of them stored (and %d other answers, %d times no answer)", r.acked, r.stored, r.refused, r.unknown)
	row("delivered", "%d", r.delivered)
	row("lost", "%d", len(r.lost))
	row("changed", "%d", r.altered)
	row("duplicates", "%d (%.2f %%)", r.answers-r.delivered, 100*float64(r.answers-r.delivered)/float64(max(r.delivered, 1)))
	for _, f := range faults[1:] {
		row("backend "+faultNames[f], "%d times", r.faults[f])
	}
	if n := len(r.starts); n > 0 {
		row("start-up", "median %v, max %v", r.starts[n/2].Round(time.Millisecond), r.starts[n-1].Round(time.Millisecond))
	}
	row("drained in", "%v after the last start, %d given up", r.drained.Round(time.Millisecond), r.failed)
	for _, x := range r.lost[:min(len(r.lost), 10)] {
		row("lost", "%s, answered %v from a kill", x.id, x.after.Round(time.Microsecond))
	}
	_ = t.Flush()
}
