package journaltest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Memory is a journal in plain memory, for tests of what stands on a journal: no goroutines and no I/O, so it works in
// a synctest bubble. It keeps the contract, but nothing survives it; Backup is not supported. It is also the model that
// other journals are compared with, so it goes over everything it has, call by call, and remembers nothing besides.
type Memory struct {
	// Fail, when set, is asked at the start of each call with the method's name ("Append"); its error is returned and
	// nothing is done. Set it before the journal is used, or guard what it reads.
	Fail func(op string) error

	mu         sync.Mutex
	closed     bool
	seq, token int64 // the last ones given
	events     []*memEvent
	seen       map[proxy.Key]seenEvent
	rejected   []proxy.Rejected
	rejections int64 // ever
	jobs       [][]byte
	notes      map[string]string
	audit      []journal.AuditEntry
}

type memEvent struct {
	proxy.Event
	journal.Summary
	deliveries []proxy.Delivery // by backend
	attempts   []proxy.Attempt
}

var _ journal.Store = (*Memory)(nil)

// NewMemory returns an empty journal.
func NewMemory() *Memory {
	return &Memory{seen: map[proxy.Key]seenEvent{}, notes: map[string]string{}}
}

// enter begins a call, which is to end with m.mu.Unlock.
func (m *Memory) enter(ctx context.Context, op string) error {
	if m.Fail != nil {
		if err := m.Fail(op); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return errClosed
	}
	return nil
}

var errClosed = errors.New("journal unavailable: it is closed")

// Close implements journal.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// Find implements proxy.Journal.
func (m *Memory) Find(ctx context.Context, k proxy.Key) (proxy.Known, error) {
	if err := m.enter(ctx, "Find"); err != nil {
		return proxy.Known{}, err
	}
	defer m.mu.Unlock()
	if v := m.event(&proxy.Event{Source: k.Source, ID: k.ID}); v != nil {
		return v.known(), nil
	}
	if s, ok := m.seen[k]; ok && s.known.State == proxy.Delivered {
		return s.known, nil
	}
	return proxy.Known{}, proxy.ErrNotFound
}

// event is the one that e stands for, by number or by key.
func (m *Memory) event(e *proxy.Event) *memEvent {
	for _, v := range m.events {
		if v.Seq == e.Seq || e.Unique() && v.Key() == e.Key() {
			return v
		}
	}
	return nil
}

// Append implements proxy.Journal.
func (m *Memory) Append(ctx context.Context, e proxy.Entry) (int64, error) {
	if err := m.enter(ctx, "Append"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return m.put(e)
}

// Record implements proxy.Journal. Nothing is written behind: the entry is there at once.
func (m *Memory) Record(e proxy.Entry) error {
	if err := m.enter(context.Background(), "Record"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	_, _ = m.put(e) // an answer to an event that is not there says nothing
	return nil
}

func (m *Memory) put(e proxy.Entry) (int64, error) {
	v := m.event(e.Event)
	if v == nil {
		if len(e.Deliveries) == 0 && e.State == "" {
			return 0, proxy.ErrNotFound
		}
		m.seq++
		v = &memEvent{Event: own(e.Event), Summary: journal.Summary{State: e.State, Reason: e.Reason}}
		v.Seq = m.seq
		m.events = append(m.events, v)
	}
	opened := false
	for _, in := range e.Deliveries {
		opened = v.merge(in) || opened
	}
	if opened && e.Event.Body != nil {
		o := own(e.Event)
		v.Body, v.Header, v.Forwarded, v.Query = o.Body, o.Header, o.Forwarded, o.Query
	}
	v.Summary = v.Summary.Merge(e, opened)
	return v.Seq, nil
}

// own is a copy of an event that shares nothing with it.
func own(e *proxy.Event) proxy.Event {
	o := *e
	o.Body, o.Header, o.Forwarded = slices.Clone(e.Body), e.Header.Clone(), e.Forwarded.Clone()
	return o
}

// delivery is the one to a backend, made where there is none.
func (v *memEvent) delivery(backend string) *proxy.Delivery {
	i, ok := slices.BinarySearchFunc(v.deliveries, backend, func(d proxy.Delivery, b string) int { return cmp.Compare(d.Backend, b) })
	if !ok {
		v.deliveries = slices.Insert(v.deliveries, i, proxy.Delivery{Backend: backend})
	}
	return &v.deliveries[i]
}

func (v *memEvent) merge(in proxy.EntryDelivery) (opened bool) {
	d := v.delivery(in.Backend)
	isNew := in.Attempt != nil && !slices.ContainsFunc(v.attempts, func(a proxy.Attempt) bool {
		return a.Backend == in.Backend && a.Turn == max(in.Turn, 1) && a.Started.Equal(in.Attempt.Started)
	})
	m := journal.Merge(*d, in, isNew)
	*d = m.Delivery
	if m.Attempt != nil {
		v.keep(m.Attempt)
	}
	return m.Opened
}

func (v *memEvent) keep(a *proxy.Attempt) {
	taken, after := false, 0
	for _, b := range v.attempts {
		if b.Backend == a.Backend && b.Turn == a.Turn {
			taken, after = taken || b.N == a.N, max(after, b.N+1)
		}
	}
	if taken {
		a.N = after
	}
	v.attempts = append(v.attempts, *a)
}

func (v *memEvent) known() proxy.Known {
	k := proxy.Known{Event: v.Event, State: v.State, Reason: v.Reason, Answered: v.Answered, Deliveries: slices.Clone(v.deliveries)}
	k.Event.Body, k.Event.Header, k.Event.Forwarded = nil, nil, nil
	if len(k.Deliveries) > 0 {
		k.State = journal.WholeState(k.Deliveries)
	}
	return k
}

// Lease implements proxy.Journal.
func (m *Memory) Lease(ctx context.Context, r proxy.LeaseRequest) (out []proxy.Leased, again time.Time, err error) {
	if err := m.enter(ctx, "Lease"); err != nil {
		return nil, time.Time{}, err
	}
	defer m.mu.Unlock()
	var owed []*memEvent
	for _, v := range m.events {
		if v.pending(r.Backend) != nil {
			owed = append(owed, v)
		}
	}
	slices.SortStableFunc(owed, func(a, b *memEvent) int { return a.pending(r.Backend).Due.Compare(b.pending(r.Backend).Due) })
	for _, v := range owed {
		d := v.pending(r.Backend)
		at := d.Due
		if d.LeaseUntil.After(r.Now) && d.LeaseUntil.After(at) {
			at = d.LeaseUntil
		}
		if !at.After(r.Now) && len(out) < r.Most {
			m.token++
			d.Token, d.LeaseUntil = m.token, r.Now.Add(r.For)
			e := own(&v.Event)
			out = append(out, proxy.Leased{Event: &e, Delivery: *d})
			at = d.LeaseUntil
		}
		if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	if len(out) > 0 && len(out) == r.Most {
		again = time.Time{}
	}
	return out, again, nil
}

// pending is the delivery to a backend where it is Pending, else nil.
func (v *memEvent) pending(backend string) *proxy.Delivery {
	for i := range v.deliveries {
		if d := &v.deliveries[i]; d.Backend == backend && d.State == proxy.Pending {
			return d
		}
	}
	return nil
}

// Settle implements proxy.Journal.
func (m *Memory) Settle(ctx context.Context, ss ...proxy.Settlement) (err error) {
	if err := m.enter(ctx, "Settle"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	for _, s := range ss {
		if v := m.event(&proxy.Event{Seq: s.Seq}); v == nil || !v.settle(s) {
			err = proxy.ErrLeaseLost
		}
	}
	return err
}

func (v *memEvent) settle(s proxy.Settlement) bool {
	i := slices.IndexFunc(v.deliveries, func(d proxy.Delivery) bool { return d.Backend == s.Backend })
	if i < 0 {
		return false
	}
	d := &v.deliveries[i]
	if after, ok := journal.Settle(*d, s); ok {
		if *d = after; s.Attempt != nil {
			v.keep(journal.Numbered(*d, s.Attempt))
		}
		return true
	}
	in, ok := journal.Late(*d, s)
	if ok {
		v.merge(in)
	}
	return ok
}

// Resend implements proxy.Journal.
func (m *Memory) Resend(ctx context.Context, now time.Time, seq int64, backends []string) (out []proxy.Resent, err error) {
	if err := m.enter(ctx, "Resend"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	v := m.event(&proxy.Event{Seq: seq})
	if v == nil {
		return nil, proxy.ErrNotFound
	}
	for _, b := range backends {
		d := v.delivery(b)
		after, r := journal.Resend(*d, now)
		*d, out = after, append(out, r)
		v.Summary = v.Summary.Merge(proxy.Entry{Deliveries: []proxy.EntryDelivery{{Delivery: after}}}, false)
	}
	return out, nil
}

// All returns every event, in order of receipt.
func (m *Memory) All() (all []proxy.Known) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.events {
		all = append(all, v.known())
	}
	return all
}
