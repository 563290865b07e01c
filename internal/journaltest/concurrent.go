package journaltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// testConcurrent lets appenders, workers and people who resend loose on few events at once. Whatever the order: no
// delivery is leased twice at a time, each success is settled once, and in the end nothing is Pending.
func testConcurrent(t *testing.T, h *harness) {
	const events, copies, workers = 60, 3, 4
	ctx := context.Background()
	var mu sync.Mutex
	holders := map[string]bool{}
	delivered := map[int64]int{}
	var appends, work sync.WaitGroup
	for c := range copies {
		appends.Go(func() {
			for n := range events {
				seq, err := h.Append(ctx, proxy.Entry{Event: event(n), Deliveries: []proxy.EntryDelivery{pending(legacy, t0)}})
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				if c == 0 && n%3 == 0 {
					if _, err := h.Resend(ctx, t0, seq, []string{legacy}); err != nil {
						t.Errorf("Resend: %v", err)
					}
				}
			}
		})
	}
	appended := make(chan struct{})
	go func() { appends.Wait(); close(appended) }()
	for range workers {
		work.Go(func() {
			for last := false; ; {
				ls, _, err := h.Lease(ctx, proxy.LeaseRequest{Backend: legacy, Now: t0, Most: 5, For: minute})
				if err != nil {
					t.Errorf("Lease: %v", err)
					return
				}
				for i, l := range ls {
					id := fmt.Sprint(l.Event.Seq)
					mu.Lock()
					if holders[id] {
						t.Errorf("event %s is leased twice", id)
					}
					holders[id] = true
					delivered[l.Event.Seq]++
					delete(holders, id) // before the settlement: the next lease may follow at once
					mu.Unlock()
					s := proxy.SettleDelivered(l, *attempt(1, 200))
					if i == 3 {
						s = proxy.SettleRelease(l, time.Time{})
						mu.Lock()
						delivered[l.Event.Seq]--
						mu.Unlock()
					}
					if err := h.Settle(ctx, s); err != nil {
						t.Errorf("Settle: %v", err)
					}
				}
				if len(ls) > 0 {
					continue
				}
				if last {
					return
				}
				<-appended
				last = true
			}
		})
	}
	work.Wait()
	for n := range events {
		k := h.find(event(n))
		if k.State != proxy.Delivered || len(k.Deliveries) != 1 || k.Deliveries[0].Turn != delivered[k.Event.Seq] {
			t.Errorf("event %d: %s, %+v, delivered %d times", n, k.State, k.Deliveries, delivered[k.Event.Seq])
		}
	}
}

// testModel runs random calls against the journal and against Memory, and compares every answer.
func testModel(t *testing.T, h *harness) {
	if _, ok := h.Store.(*Memory); ok {
		t.Skip("it is the model")
	}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := &machine{harness: h, ctx: context.Background(), real: h.Store, model: NewMemory(), run: run, now: t0, seq: map[int64]int64{}}
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "record": m.record, "lease": m.lease, "settle": m.settle, "resend": m.resend, "later": m.later,
			"answered": m.answered, "list": m.list, "totals": m.totals, "": m.compare,
		})
	})
}

// machine drives both journals. Runs share the journal, so each has backends and ids of its own.
type machine struct {
	*harness
	ctx    context.Context
	real   journal.Store
	model  *Memory
	run    int
	now    time.Time
	made   int               // attempts and the like, so that no two are alike
	leased [][2]proxy.Leased // by the journal, by the model
	seq    map[int64]int64   // the model's numbers to the journal's
}

func (m *machine) backend(rt *rapid.T) string {
	return fmt.Sprintf("%s%d", rapid.SampledFrom([]string{legacy, other}).Draw(rt, "backend"), m.run)
}

func (m *machine) event(rt *rapid.T) *proxy.Event {
	e := event(m.run*10 + rapid.IntRange(0, 4).Draw(rt, "event"))
	e.Body = fmt.Appendf(nil, "body %d", m.made)
	return e
}

// attempt is one that brings a delivery to a state.
func (m *machine) attempt(s proxy.State, n int) *proxy.Attempt {
	m.made++
	status := 500
	if s == proxy.Delivered {
		status = 200
	}
	a := attempt(n, status)
	a.Started = t0.Add(time.Duration(m.made) * time.Millisecond)
	return a
}

func (m *machine) entry(rt *rapid.T) proxy.Entry {
	en := proxy.Entry{Event: m.event(rt)}
	for range rapid.IntRange(1, 2).Draw(rt, "deliveries") {
		s := rapid.SampledFrom([]proxy.State{proxy.Pending, proxy.Delivered, proxy.Failed}).Draw(rt, "state")
		d := ended(m.backend(rt), s, rapid.IntRange(1, 3).Draw(rt, "turn"), nil)
		if rapid.Bool().Draw(rt, "attempt") {
			d.Attempt = m.attempt(s, rapid.IntRange(1, 3).Draw(rt, "n"))
			d.Attempts, d.Status, d.Outcome = d.Attempt.N, d.Attempt.Status, d.Attempt.Outcome
		} else if s == proxy.Pending && rapid.Bool().Draw(rt, "claim") {
			m.made++
			d.Token, d.LeaseUntil = int64(1_000_000*m.run+m.made), m.now.Add(minute)
		}
		if s == proxy.Pending {
			d.Due = m.now.Add(time.Duration(rapid.IntRange(-2, 2).Draw(rt, "due")) * 30 * time.Second)
		}
		en.Deliveries = append(en.Deliveries, d)
	}
	return en
}

func (m *machine) append(rt *rapid.T) {
	en := m.entry(rt)
	a, err := m.real.Append(m.ctx, en)
	b, errB := m.model.Append(m.ctx, en)
	if err != nil || errB != nil {
		rt.Fatalf("Append: %v, model %v", err, errB)
	}
	m.seq[b] = a
	for _, d := range en.Deliveries {
		if d.Token != 0 {
			l, r := proxy.Leased{Event: &proxy.Event{Seq: a}, Delivery: d.Delivery}, proxy.Leased{Event: &proxy.Event{Seq: b}, Delivery: d.Delivery}
			m.leased = append(m.leased, [2]proxy.Leased{l, r})
		}
	}
}

func (m *machine) record(rt *rapid.T) {
	en := m.entry(rt)
	for i := range en.Deliveries {
		d := &en.Deliveries[i]
		*d = ended(d.Backend, proxy.Delivered, d.Turn, m.attempt(proxy.Delivered, 1))
	}
	if err := errors.Join(m.real.Record(en), m.model.Record(en)); err != nil {
		rt.Fatalf("Record: %v", err)
	}
	if a, err := m.real.Find(m.ctx, en.Event.Key()); err != nil || a.State == "" {
		rt.Fatalf("not seen at once: %+v, %v", a, err)
	}
	m.written(rt, en.Event)
}

// written has the journal write what was recorded, which the model did at once: a lease, and a later turn, depend on it.
func (m *machine) written(rt *rapid.T, e *proxy.Event) {
	m.flush()
	a, err := m.real.Find(m.ctx, e.Key())
	b, errB := m.model.Find(m.ctx, e.Key())
	if err != nil || errB != nil {
		rt.Fatalf("Find: %v, model %v", err, errB)
	}
	m.seq[b.Event.Seq] = a.Event.Seq
}

func (m *machine) answered(rt *rapid.T) {
	m.made++
	en := proxy.Entry{Event: m.event(rt), Answered: t0.Add(time.Duration(m.made) * time.Second)}
	if _, err := m.model.Find(m.ctx, en.Event.Key()); err != nil {
		rt.Skip()
	}
	if err := errors.Join(m.real.Record(en), m.model.Record(en)); err != nil {
		rt.Fatalf("Record: %v", err)
	}
	m.written(rt, en.Event)
}

func (m *machine) lease(rt *rapid.T) {
	b, n := m.backend(rt), rapid.IntRange(0, 3).Draw(rt, "n")
	got, next, err := m.real.Lease(m.ctx, proxy.LeaseRequest{Backend: b, Now: m.now, Most: n, For: minute})
	want, nextB, errB := m.model.Lease(m.ctx, proxy.LeaseRequest{Backend: b, Now: m.now, Most: n, For: minute})
	if err != nil || errB != nil {
		rt.Fatalf("Lease: %v, model %v", err, errB)
	}
	if len(got) != len(want) || !next.Equal(nextB) {
		rt.Fatalf("leased %d, next %v; model %d, next %v", len(got), next, len(want), nextB)
	}
	for i := range got {
		m.same(rt, "lease", *got[i].Event, *want[i].Event, got[i].Delivery, want[i].Delivery)
		m.leased = append(m.leased, [2]proxy.Leased{got[i], want[i]})
	}
}

// same compares an event and a delivery of both, but for numbers and tokens, which each gives as it likes.
func (m *machine) same(rt *rapid.T, what string, e, f proxy.Event, d, g proxy.Delivery) {
	if e.Seq != m.seq[f.Seq] || (d.Token == 0) != (g.Token == 0) {
		rt.Fatalf("%s: number %d token %d; model %d token %d", what, e.Seq, d.Token, m.seq[f.Seq], g.Token)
	}
	e.Seq, d.Token, f.Seq, g.Token = 0, 0, 0, 0
	if diff := cmp.Diff([]any{f, g}, []any{e, d}, cmpopts.EquateEmpty()); diff != "" {
		rt.Fatalf("%s (-model +journal):\n%s", what, diff)
	}
}

func (m *machine) settle(rt *rapid.T) {
	if len(m.leased) == 0 {
		rt.Skip()
	}
	i := rapid.IntRange(0, len(m.leased)-1).Draw(rt, "lease")
	pair := m.leased[i]
	if rapid.Bool().Draw(rt, "once") {
		m.leased = slices.Delete(m.leased, i, i+1)
	}
	kind, due := rapid.IntRange(0, 3).Draw(rt, "kind"), m.now.Add(20*time.Second)
	a := m.attempt([]proxy.State{proxy.Delivered, proxy.Failed, proxy.Pending, proxy.Pending}[kind], 1)
	var err [2]error
	for j, of := range []journal.Store{m.real, m.model} {
		l := pair[j]
		s := []proxy.Settlement{
			proxy.SettleDelivered(l, *a), proxy.SettleFailed(l, *a), proxy.SettleRetry(l, *a, due, m.now), proxy.SettleRelease(l, time.Time{}),
		}[kind]
		err[j] = of.Settle(m.ctx, s)
	}
	if !errors.Is(err[0], err[1]) {
		rt.Fatalf("Settle: %v, model %v", err[0], err[1])
	}
}

func (m *machine) resend(rt *rapid.T) {
	all := m.model.All()
	if len(all) == 0 {
		rt.Skip()
	}
	k, b := rapid.SampledFrom(all).Draw(rt, "event"), m.backend(rt)
	got, err := m.real.Resend(m.ctx, m.now, m.seq[k.Event.Seq], []string{b})
	want, errB := m.model.Resend(m.ctx, m.now, k.Event.Seq, []string{b})
	if diff := cmp.Diff(want, got); diff != "" || err != nil || errB != nil {
		rt.Fatalf("Resend: %v, model %v (-model +journal):\n%s", err, errB, diff)
	}
}

func (m *machine) later(rt *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 4).Draw(rt, "time")) * 20 * time.Second)
}

// list compares what both list of the events of one backend.
func (m *machine) list(rt *rapid.T) {
	f := journal.Filter{
		Backend: m.backend(rt), State: rapid.SampledFrom([]proxy.State{"", proxy.Pending, proxy.Delivered, proxy.Failed}).Draw(rt, "state"),
		Limit: rapid.IntRange(1, 3).Draw(rt, "limit"),
	}
	var got, want []int64
	for _, k := range m.pages(f) {
		got = append(got, k.Event.Seq)
	}
	for _, v := range slices.Backward(m.model.chosen(f)) {
		want = append(want, m.seq[v.Seq])
	}
	if n, err := m.real.Count(m.ctx, f); err != nil || int(n) != len(want) || !slices.Equal(got, want) {
		rt.Fatalf("%+v: listed %v, counted %d, %v; model %v", f, got, n, err, want)
	}
}

// totals compares what both count of this run's backends.
func (m *machine) totals(rt *rapid.T) {
	var all [2][]journal.Total
	for i, j := range []journal.Store{m.real, m.model} {
		ts, err := j.Totals(m.ctx)
		if err != nil {
			rt.Fatalf("Totals: %v", err)
		}
		for _, b := range []string{legacy, other} {
			for _, s := range []proxy.State{proxy.Pending, proxy.Delivered, proxy.Failed} {
				for _, c := range ts {
					if c.Backend == fmt.Sprint(b, m.run) && c.State == s && c.Count > 0 {
						all[i] = append(all[i], c)
					}
				}
			}
		}
	}
	if diff := cmp.Diff(all[1], all[0]); diff != "" {
		rt.Fatalf("totals (-model +journal):\n%s", diff)
	}
}

func (m *machine) compare(rt *rapid.T) {
	for _, want := range m.model.All() {
		got, err := m.real.Find(m.ctx, want.Event.Key())
		if err != nil {
			rt.Fatalf("Find: %v", err)
		}
		if got.State != want.State || !got.Answered.Equal(want.Answered) || len(got.Deliveries) != len(want.Deliveries) {
			rt.Fatalf("found %+v, model %+v", got, want)
		}
		for i := range got.Deliveries {
			e, f := got.Event, want.Event
			e.Body, f.Body = nil, nil
			m.same(rt, "Find", e, f, got.Deliveries[i], want.Deliveries[i])
		}
		m.attempts(rt, got.Event.Seq, want.Event.Seq)
	}
}

func (m *machine) attempts(rt *rapid.T, seq, model int64) {
	_, got, err := m.real.Event(m.ctx, seq)
	_, want, errB := m.model.Event(m.ctx, model)
	if err != nil || errB != nil {
		rt.Fatalf("Event: %v, model %v", err, errB)
	}
	// A success at the first attempt is kept without the excerpt.
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(proxy.Attempt{}, "Excerpt", "Error")); diff != "" {
		rt.Fatalf("attempts (-model +journal):\n%s", diff)
	}
}
