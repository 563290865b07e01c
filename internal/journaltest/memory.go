package journaltest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// Memory is a journal in plain memory, for tests of what stands on a journal: no goroutines and no I/O, so it works in
// a synctest bubble. It keeps the contract, but nothing survives it.
type Memory struct {
	// Fail, when set, is asked at the start of each call with the method's name ("Append"); its error is returned and
	// nothing is done. Set it before the journal is used, or guard what it reads.
	Fail func(op string) error

	mu     sync.Mutex
	seq    int64
	token  int64
	events map[int64]*memEvent
	keys   map[proxy.Key]int64
}

type memEvent struct {
	event      proxy.Event
	state      proxy.State
	reason     string
	answered   time.Time
	deliveries map[string]*proxy.Delivery
	attempts   []proxy.Attempt
}

// NewMemory returns an empty journal.
func NewMemory() *Memory {
	return &Memory{events: map[int64]*memEvent{}, keys: map[proxy.Key]int64{}}
}

func (m *Memory) fail(ctx context.Context, op string) error {
	if m.Fail != nil {
		if err := m.Fail(op); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Find implements proxy.Journal.
func (m *Memory) Find(ctx context.Context, k proxy.Key) (proxy.Known, error) {
	if err := m.fail(ctx, "Find"); err != nil {
		return proxy.Known{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.events[m.keys[k]]
	if !ok {
		return proxy.Known{}, proxy.ErrNotFound
	}
	return v.known(), nil
}

// Append implements proxy.Journal.
func (m *Memory) Append(ctx context.Context, e proxy.Entry) (int64, error) {
	if err := m.fail(ctx, "Append"); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.put(e)
}

// Record implements proxy.Journal. Nothing is written behind: the entry is there at once.
func (m *Memory) Record(e proxy.Entry) error {
	if err := m.fail(context.Background(), "Record"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = m.put(e) // a note about an event that is not there says nothing
	return nil
}

func (m *Memory) put(e proxy.Entry) (int64, error) {
	v := m.events[e.Event.Seq]
	if v == nil && e.Event.Unique() {
		v = m.events[m.keys[e.Event.Key()]]
	}
	if v == nil {
		if len(e.Deliveries) == 0 && e.State == "" {
			return 0, proxy.ErrNotFound
		}
		m.seq++
		v = &memEvent{event: *e.Event, deliveries: map[string]*proxy.Delivery{}}
		v.event.Seq = m.seq
		m.events[m.seq] = v
		if e.Event.Unique() {
			m.keys[e.Event.Key()] = m.seq
		}
	}
	for _, d := range e.Deliveries {
		v.merge(e.Event, d)
	}
	if e.Answered.After(v.answered) {
		v.answered = e.Answered
	}
	switch {
	case e.Reason == proxy.ReasonUnparseable:
		v.state, v.reason = e.State, e.Reason
	case len(v.deliveries) == 0 && e.State != "":
		v.state, v.reason = e.State, e.Reason
	case len(v.deliveries) > 0 && v.reason != proxy.ReasonUnparseable:
		v.state, v.reason = "", ""
	}
	return v.event.Seq, nil
}

// rank orders the states of one turn: the higher wins.
func rank(s proxy.State) int {
	return slices.Index([]proxy.State{proxy.Failed, proxy.Pending, proxy.Delivered}, s)
}

func (v *memEvent) merge(e *proxy.Event, in proxy.EntryDelivery) {
	d, a := in.Delivery, in.Attempt
	d.Turn = max(d.Turn, 1)
	if a != nil {
		d.Attempts = max(d.Attempts, a.N, 1)
	}
	if d.State != proxy.Pending {
		d.Due, d.Token, d.LeaseUntil = time.Time{}, 0, time.Time{}
	}
	x := v.deliveries[d.Backend]
	if x != nil && d.Turn < x.Turn && d.State == proxy.Pending && x.State == proxy.Failed {
		d.Turn = x.Turn + 1
	}
	switch {
	case x == nil, d.Turn > x.Turn:
		if x != nil {
			v.answered = time.Time{}
		}
		if x != nil && e.Body != nil {
			v.event.Body, v.event.Header, v.event.Forwarded, v.event.Query = e.Body, e.Header, e.Forwarded, e.Query
		}
		v.deliveries[d.Backend] = &d
		v.tried(d, a, d.Attempts)
	case d.Turn < x.Turn:
		v.tried(d, a, d.Attempts)
	default:
		v.mergeTurn(x, d, a)
	}
}

func (v *memEvent) mergeTurn(x *proxy.Delivery, d proxy.Delivery, a *proxy.Attempt) {
	n := max(x.Attempts, d.Attempts)
	fresh := a != nil && !v.has(d, a)
	if fresh && a.N <= x.Attempts {
		n = x.Attempts + 1
	}
	if fresh {
		v.tried(d, a, n)
	}
	if rank(d.State) > rank(x.State) {
		if d.TurnStarted.IsZero() {
			d.TurnStarted = x.TurnStarted
		}
		if a == nil {
			d.Status, d.Outcome = x.Status, x.Outcome
		}
		*x = d
	} else if fresh && d.State == x.State {
		x.Status, x.Outcome = d.Status, d.Outcome
	}
	x.Attempts = n
}

func (v *memEvent) has(d proxy.Delivery, a *proxy.Attempt) bool {
	return slices.ContainsFunc(v.attempts, func(b proxy.Attempt) bool {
		return b.Backend == d.Backend && b.Turn == d.Turn && b.Started.Equal(a.Started)
	})
}

func (v *memEvent) tried(d proxy.Delivery, a *proxy.Attempt, n int) {
	if a == nil || v.has(d, a) {
		return
	}
	b := *a
	b.Backend, b.Turn, b.N = d.Backend, d.Turn, n
	last, taken := 0, false
	for _, c := range v.attempts {
		if c.Backend == b.Backend && c.Turn == b.Turn {
			last, taken = max(last, c.N), taken || c.N == n
		}
	}
	if taken {
		b.N = last + 1
	}
	v.attempts = append(v.attempts, b)
}

func (v *memEvent) known() proxy.Known {
	k := proxy.Known{Event: v.event, State: v.state, Reason: v.reason, Answered: v.answered}
	k.Event.Body, k.Event.Header, k.Event.Forwarded = nil, nil, nil
	for _, d := range v.deliveries {
		k.Deliveries = append(k.Deliveries, *d)
	}
	slices.SortFunc(k.Deliveries, func(a, b proxy.Delivery) int { return cmp.Compare(a.Backend, b.Backend) })
	if len(k.Deliveries) > 0 {
		k.State = Whole(k.Deliveries)
	}
	return k
}

// Whole is the state of an event with these deliveries.
func Whole(ds []proxy.Delivery) proxy.State {
	whole := proxy.Delivered
	for _, d := range ds {
		switch {
		case d.State == proxy.Failed:
			return proxy.Failed
		case d.State == proxy.Pending:
			whole = proxy.Pending
		}
	}
	return whole
}

// Lease implements proxy.Journal.
func (m *Memory) Lease(ctx context.Context, r proxy.LeaseRequest) ([]proxy.Leased, time.Time, error) {
	if err := m.fail(ctx, "Lease"); err != nil {
		return nil, time.Time{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var ready []*memEvent
	for _, v := range m.events {
		d := v.deliveries[r.Backend]
		if d != nil && d.State == proxy.Pending && !d.Due.After(r.Now) && !d.LeaseUntil.After(r.Now) {
			ready = append(ready, v)
		}
	}
	slices.SortFunc(ready, func(a, b *memEvent) int {
		return cmp.Or(a.deliveries[r.Backend].Due.Compare(b.deliveries[r.Backend].Due), cmp.Compare(a.event.Seq, b.event.Seq))
	})
	var out []proxy.Leased
	for _, v := range ready[:min(max(r.Most, 0), len(ready))] {
		m.token++
		d := v.deliveries[r.Backend]
		d.Token, d.LeaseUntil = m.token, r.Now.Add(r.For)
		ev := v.event
		out = append(out, proxy.Leased{Event: &ev, Delivery: *d})
	}
	if len(out) > 0 && len(out) == r.Most {
		return out, time.Time{}, nil
	}
	return out, m.next(r.Now, r.Backend), nil
}

// next is the earliest time at which a Pending delivery of the backend is due and not leased.
func (m *Memory) next(now time.Time, backend string) time.Time {
	var next time.Time
	for _, v := range m.events {
		d := v.deliveries[backend]
		if d == nil || d.State != proxy.Pending {
			continue
		}
		at := d.Due
		if d.LeaseUntil.After(now) && d.LeaseUntil.After(at) {
			at = d.LeaseUntil
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// Settle implements proxy.Journal.
func (m *Memory) Settle(ctx context.Context, ss ...proxy.Settlement) error {
	if err := m.fail(ctx, "Settle"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var lost error
	for _, s := range ss {
		v := m.events[s.Seq]
		if v == nil || !v.settle(s) {
			lost = proxy.ErrLeaseLost
		}
	}
	return lost
}

func (v *memEvent) settle(s proxy.Settlement) bool {
	d := v.deliveries[s.Backend]
	if d == nil || d.State != proxy.Pending || s.Token == 0 || d.Token != s.Token || d.Turn != s.Turn {
		return false
	}
	d.State, d.Token, d.LeaseUntil = s.State, 0, time.Time{}
	if s.Attempt != nil {
		d.Attempts++
		d.Status, d.Outcome = s.Attempt.Status, s.Attempt.Outcome
		v.tried(*d, s.Attempt, d.Attempts)
	}
	if !s.TurnStarted.IsZero() {
		d.TurnStarted = s.TurnStarted
	}
	if s.State != proxy.Pending {
		d.Due = time.Time{}
	} else if !s.Due.IsZero() {
		d.Due = s.Due
	}
	return true
}

// Resend implements proxy.Journal.
func (m *Memory) Resend(ctx context.Context, now time.Time, seq int64, backends []string) ([]proxy.Resent, error) {
	if err := m.fail(ctx, "Resend"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.events[seq]
	if v == nil {
		return nil, proxy.ErrNotFound
	}
	var out []proxy.Resent
	for _, b := range backends {
		out = append(out, v.resend(now, b))
	}
	return out, nil
}

func (v *memEvent) resend(now time.Time, backend string) proxy.Resent {
	d := v.deliveries[backend]
	switch {
	case d == nil:
		d = &proxy.Delivery{Backend: backend}
		v.deliveries[backend] = d
		if v.reason != proxy.ReasonUnparseable {
			v.state, v.reason = "", ""
		}
	case d.State == proxy.Pending && d.LeaseUntil.After(now):
		return proxy.Resent{Backend: backend, Turn: d.Turn, Result: proxy.ResentInFlight}
	case d.State == proxy.Pending:
		if now.Before(d.Due) {
			d.Due = now
		}
		return proxy.Resent{Backend: backend, Turn: d.Turn, Result: proxy.ResentDueNow}
	}
	*d = proxy.Delivery{Backend: backend, State: proxy.Pending, Turn: d.Turn + 1, Due: now, TurnStarted: now}
	return proxy.Resent{Backend: backend, Turn: d.Turn, Result: proxy.ResentNewTurn}
}

// Event returns an event by its number, with its attempts in order.
func (m *Memory) Event(ctx context.Context, seq int64) (proxy.Known, []proxy.Attempt, error) {
	if err := m.fail(ctx, "Event"); err != nil {
		return proxy.Known{}, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.events[seq]
	if v == nil {
		return proxy.Known{}, nil, proxy.ErrNotFound
	}
	attempts := slices.Clone(v.attempts)
	slices.SortFunc(attempts, func(a, b proxy.Attempt) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Turn, b.Turn), cmp.Compare(a.N, b.N))
	})
	return v.known(), attempts, nil
}

// All returns every event, in order of receipt.
func (m *Memory) All() []proxy.Known {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []proxy.Known
	for _, v := range m.events {
		all = append(all, v.known())
	}
	slices.SortFunc(all, func(a, b proxy.Known) int { return cmp.Compare(a.Event.Seq, b.Event.Seq) })
	return all
}
