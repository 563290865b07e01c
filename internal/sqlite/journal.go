package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Append implements proxy.Journal.
func (d *DB) Append(ctx context.Context, e proxy.Entry) (int64, error) {
	if d.space.full.Load() {
		return 0, proxy.ErrFull
	}
	r := ready(e)
	o := &op{put: r, full: true, size: r.size()}
	if err := d.do(ctx, o); err != nil {
		return 0, err
	}
	return o.seq, nil
}

// Record implements proxy.Journal. It goes on while the journal is unavailable, until its buffer is full: then it returns
// the *journal.Outage, since there is nothing to wait for. While the journal is full it takes no new events.
func (d *DB) Record(e proxy.Entry) error {
	d.mu.Lock()
	closed, down := d.closed, d.down
	d.mu.Unlock()
	if closed {
		return errClosed
	}
	r := ready(e)
	if d.space.full.Load() && r.creates() && e.Event.Seq == 0 {
		r.done()
		return proxy.ErrFull
	}
	if err := d.history.add(r, d.opts.HistoryEntries, d.opts.HistoryBytes); err != nil {
		r.done()
		if down != nil {
			return down
		}
		return err
	}
	d.poke()
	return nil
}

// Lease implements proxy.Journal. One call reads about 8 MiB of bodies at most; it then returns fewer than n, and now.
func (d *DB) Lease(ctx context.Context, r proxy.LeaseRequest) ([]proxy.Leased, time.Time, error) {
	var out []proxy.Leased
	var next time.Time
	err := d.do(ctx, &op{
		reads: true,
		run: func(t *tx) (err error) {
			out, next, err = t.lease(r)
			return err
		},
		lost: func() { d.release(out) },
	})
	if err != nil {
		return nil, time.Time{}, err
	}
	return out, next, nil
}

// release gives back leases of which nobody was told.
func (d *DB) release(ls []proxy.Leased) {
	for _, l := range ls {
		d.leases.drop(l.Backend, l.Event.Seq)
		d.leases.waits(l.Backend, l.Event.Seq, millis(l.Due))
	}
}

// Settle implements proxy.Journal.
func (d *DB) Settle(ctx context.Context, s ...proxy.Settlement) error {
	s = slices.Clone(s) // the writer may come to it when ctx has ended and the caller has gone
	for i := range s {
		switch s[i].State {
		case proxy.Pending, proxy.Delivered, proxy.Failed:
		default:
			return fmt.Errorf("settle: a delivery cannot become %q", s[i].State)
		}
		if a := s[i].Attempt; a != nil {
			own := *a
			s[i].Attempt = &own
		}
	}
	return d.do(ctx, &op{size: int64(len(s)) * 512, run: func(t *tx) error { return t.settle(s) }})
}

// Resend implements proxy.Journal.
func (d *DB) Resend(ctx context.Context, now time.Time, seq int64, backends []string) ([]proxy.Resent, error) {
	backends = slices.Clone(backends)
	var out []proxy.Resent
	err := d.do(ctx, &op{size: 512, run: func(t *tx) (err error) {
		out, err = t.resend(now, seq, backends)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Flush returns when what Record has taken before is on stable storage.
func (d *DB) Flush(ctx context.Context) error {
	for n := d.history.hurry(); !d.history.reached(n); d.history.hurry() {
		if err := d.barrier(ctx); err != nil {
			return err
		}
	}
	return nil
}

// HistoryDropped is how many entries of Record were lost since the journal was opened.
func (d *DB) HistoryDropped() int64 {
	d.history.mu.Lock()
	defer d.history.mu.Unlock()
	return d.history.dropped
}

// Find implements proxy.Journal. An event that retention took is still found for 31 days where it was Delivered: without
// a number and deliveries.
func (d *DB) Find(ctx context.Context, k proxy.Key) (proxy.Known, error) {
	if !(&proxy.Event{ID: k.ID}).Unique() {
		return proxy.Known{}, proxy.ErrNotFound
	}
	for looks := 1; ; looks++ {
		before := d.history.commits()
		known, err := d.findOnce(ctx, k)
		if before == d.history.commits() || looks == 10 {
			return known, err
		} // else an entry may have moved into the file after the look at the file and before that at the entries
	}
}

func (d *DB) findOnce(ctx context.Context, k proxy.Key) (proxy.Known, error) {
	var known proxy.Known
	found := false
	if d.ids.has(k) {
		var err error
		if known, err = d.find(ctx, k); err != nil && !errors.Is(err, proxy.ErrNotFound) {
			return proxy.Known{}, fmt.Errorf("find: %w", err)
		}
		found = err == nil
	}
	for _, u := range d.history.about(k, known.Event.Seq) {
		if known.Event.Seq == 0 && len(known.Deliveries) == 0 && u.creates() {
			known, found = proxy.Known{Event: *u.Event, State: u.State, Reason: u.Reason}, true
			known.Event.Body = nil
		}
		if found {
			overlay(&known, u.entry)
		}
	}
	if !found {
		return proxy.Known{}, proxy.ErrNotFound
	}
	d.leases.fill(known.Event.Seq, known.Deliveries)
	return known, nil
}

// overlay shows what writing an entry will make of what is known. An attempt that does not raise the count is taken for
// one that is there already: the file is not asked.
func overlay(k *proxy.Known, e *entry) {
	s := journal.Summary{State: k.State, Reason: k.Reason, Answered: k.Answered}
	if len(k.Deliveries) > 0 {
		s.State = ""
	}
	opened := false
	for _, in := range e.Deliveries {
		i, ok := slices.BinarySearchFunc(k.Deliveries, in.Backend, func(d proxy.Delivery, b string) int { return cmp.Compare(d.Backend, b) })
		if !ok {
			k.Deliveries = slices.Insert(k.Deliveries, i, journal.Incoming(in))
			continue
		}
		m := journal.Merge(k.Deliveries[i], in, journal.Incoming(in).Attempts > k.Deliveries[i].Attempts)
		k.Deliveries[i], opened = m.Delivery, opened || m.Opened
	}
	s = s.Merge(e.Entry, opened)
	if k.State, k.Reason, k.Answered = s.State, s.Reason, s.Answered; len(k.Deliveries) > 0 {
		k.State = journal.WholeState(k.Deliveries)
	}
}
