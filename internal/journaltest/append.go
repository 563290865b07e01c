package journaltest

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func testAppendStores(t *testing.T, h *harness) {
	e := event(1)
	failed := ended(legacy, proxy.Pending, 1, attempt(1, 500))
	seq := h.append(e, failed, ended(other, proxy.Delivered, 1, attempt(1, 200)))
	if later := h.append(event(2), pending(legacy, t0)); later <= seq {
		t.Fatalf("numbers %d, then %d: not in order of receipt", seq, later)
	}
	want := proxy.Known{Event: *e, State: proxy.Pending, Deliveries: []proxy.Delivery{
		{Backend: legacy, State: proxy.Pending, Turn: 1, Attempts: 1, Due: t0.Add(minute), TurnStarted: t0, Status: 500, Outcome: proxy.OutcomeStatus5xx},
		{Backend: other, State: proxy.Delivered, Turn: 1, Attempts: 1, TurnStarted: t0, Status: 200, Outcome: proxy.OutcomeDelivered},
	}}
	want.Event.Seq, want.Event.Body, want.Event.Header, want.Event.Forwarded = seq, nil, nil, nil
	got := h.find(e)
	diff(t, "Find", got, want)
	h.attempted(seq, "legacy 1.1 500", "other 1.1 200")
	as, failure, success := h.attempts(seq), *attempt(1, 500), *attempt(1, 200)
	failure.Backend, failure.Turn, success.Backend, success.Turn = legacy, 1, other, 1
	diff(t, "attempts", as, []proxy.Attempt{failure, success})
}

// testAppendMerges goes through every pair of states within one turn.
func testAppendMerges(t *testing.T, h *harness) {
	states := []proxy.State{proxy.Pending, proxy.Delivered, proxy.Failed}
	rank := map[proxy.State]int{proxy.Delivered: 2, proxy.Pending: 1, proxy.Failed: 0}
	n := 0
	for _, a := range states {
		for _, b := range states {
			n++
			e := event(n)
			first := ended(legacy, a, 1, nil)
			first.Due = dueOf(a, t0.Add(5*minute))
			second := ended(legacy, b, 1, nil)
			second.Due = dueOf(b, t0.Add(9*minute))
			seq := h.append(e, first)
			if again := h.append(e, second); again != seq {
				t.Fatalf("%s, then %s: numbers %d and %d for one event", a, b, seq, again)
			}
			want, due := a, first.Due
			if rank[b] > rank[a] {
				want, due = b, second.Due
			}
			if got := h.delivery(e, legacy); got.State != want || !got.Due.Equal(due) {
				t.Errorf("%s, then %s: %s due %v, want %s due %v", a, b, got.State, got.Due, want, due)
			}
		}
	}
	e := event(n + 1)
	h.append(e, pending(legacy, t0))
	h.append(e, pending(other, t0))
	if ds := h.find(e).Deliveries; len(ds) != 2 || ds[0].Backend != legacy || ds[1].Backend != other {
		t.Errorf("two backends merged to %v", ds)
	}
}

func dueOf(s proxy.State, due time.Time) time.Time {
	if s == proxy.Pending {
		return due
	}
	return time.Time{}
}

func testAppendLaterTurn(t *testing.T, h *harness) {
	e := event(1)
	seq := h.append(e, ended(legacy, proxy.Delivered, 1, attempt(1, 200)), ended(other, proxy.Failed, 1, attempt(1, 500)))
	again := event(1)
	again.Body, again.Header, again.Query = []byte("{new}"), http.Header{"Stripe-Signature": {"t=2,v1=cd"}}, "new"
	d := ended(other, proxy.Pending, 2, nil)
	d.Due = t0
	h.append(again, d)
	if got := h.delivery(e, legacy); got.State != proxy.Delivered || got.Turn != 1 {
		t.Errorf("the other backend's delivery changed: %+v", got)
	}
	if got := h.delivery(e, other); got.State != proxy.Pending || got.Turn != 2 || got.Attempts != 0 || got.Status != 0 {
		t.Errorf("later turn: %+v", got)
	}
	l := h.leaseOne(t0, other)
	if string(l.Event.Body) != "{new}" || l.Event.Header.Get("Stripe-Signature") != "t=2,v1=cd" || l.Event.Query != "new" {
		t.Errorf("the later turn has the earlier body: %q %v", l.Event.Body, l.Event.Header)
	}
	if !l.Event.Received.Equal(e.Received) {
		t.Errorf("received became %v", l.Event.Received)
	}
	h.attempted(seq, "legacy 1.1 200", "other 1.1 500")
}

func testAppendEarlierTurn(t *testing.T, h *harness) {
	e := event(1)
	seq := h.append(e, ended(legacy, proxy.Delivered, 2, attempt(1, 200)))
	h.append(e, ended(legacy, proxy.Failed, 1, attempt(1, 500)))
	if got := h.delivery(e, legacy); got.State != proxy.Delivered || got.Turn != 2 {
		t.Errorf("an earlier turn changed the delivery: %+v", got)
	}
	h.attempted(seq, "legacy 1.1 500", "legacy 2.1 200")
}

// testAppendOwedAgain: who could not ask what is known takes the first turn for the current one. What it then owes is
// owed, also when a later turn has been given up.
func testAppendOwedAgain(t *testing.T, h *harness) {
	e, again := event(1), event(1)
	again.Body = []byte("other")
	seq := h.append(e, ended(legacy, proxy.Failed, 2, attempt(2, 500)))
	late := attempt(1, 503)
	late.Started = t0.Add(30 * minute)
	h.append(again, ended(legacy, proxy.Pending, 1, late))
	if got := h.delivery(e, legacy); got.State != proxy.Pending || got.Turn != 3 || got.Attempts != 1 || got.Status != 503 {
		t.Errorf("it is not owed again: %+v", got)
	}
	h.attempted(seq, "legacy 2.2 500", "legacy 3.1 503")
	h.append(again, ended(legacy, proxy.Pending, 3, late)) // whose answer was lost
	if l := h.leaseOne(t0.Add(minute), legacy); l.Turn != 3 || !bytes.Equal(l.Event.Body, again.Body) {
		t.Errorf("leased turn %d with %q", l.Turn, l.Event.Body)
	}
	h.append(e, ended(other, proxy.Failed, 2, attempt(2, 500)))
	h.append(e, ended(other, proxy.Failed, 1, attempt(1, 500)))
	if got := h.delivery(e, other); got.State != proxy.Failed || got.Turn != 2 {
		t.Errorf("what failed in an earlier turn is owed: %+v", got)
	}
}

// testAppendLaterTurnUnanswered: that Stripe had our 2xx for one turn says nothing of the next.
func testAppendLaterTurnUnanswered(t *testing.T, h *harness) {
	at := t0.Add(time.Second)
	for n, put := range []func(e proxy.Entry){
		func(e proxy.Entry) {
			if _, err := h.Append(context.Background(), e); err != nil {
				t.Fatal(err)
			}
		},
		h.record,
	} {
		e := event(n)
		put(proxy.Entry{Event: e, Answered: at, Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Delivered, 1, attempt(1, 200))}})
		again := attempt(1, 200)
		again.Started = t0.Add(30 * minute)
		put(proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Delivered, 2, again)}})
		if k := h.find(e); !k.Answered.IsZero() {
			t.Errorf("a turn that began after the answer of %v counts as answered", k.Answered)
		}
		third := attempt(1, 200)
		third.Started = t0.Add(40 * minute)
		put(proxy.Entry{Event: e, Answered: t0, Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Delivered, 3, third)}})
		if k := h.find(e); !k.Answered.Equal(t0) {
			t.Errorf("a turn that brings its answer: %v", k.Answered)
		}
	}
}

func testAppendFirstBodyStays(t *testing.T, h *harness) {
	e, again := event(1), event(1)
	again.Body = []byte("other")
	h.append(e, pending(legacy, t0))
	h.append(again, pending(legacy, t0), pending(other, t0))
	for _, b := range []string{legacy, other} {
		if l := h.leaseOne(t0, b); !bytes.Equal(l.Event.Body, e.Body) {
			t.Errorf("%s gets %q, want the first body", b, l.Event.Body)
		}
	}
}

func testAppendAttempts(t *testing.T, h *harness) {
	e := event(1)
	seq := h.append(e, ended(legacy, proxy.Pending, 1, attempt(1, 500)))
	second := attempt(1, 503) // another arrival, which did not know of the first
	second.Started = t0.Add(30 * minute)
	h.append(e, ended(legacy, proxy.Pending, 1, second))
	if got := h.delivery(e, legacy); got.Attempts != 2 || got.Status != 503 {
		t.Errorf("after two attempts: %+v", got)
	}
	third := attempt(3, 200)
	h.append(e, ended(legacy, proxy.Delivered, 1, third))
	if got := h.delivery(e, legacy); got.Attempts != 3 || got.Status != 200 || got.State != proxy.Delivered {
		t.Errorf("after three attempts: %+v", got)
	}
	fourth := attempt(1, 500)
	fourth.Started = t0.Add(40 * minute)
	h.append(e, ended(legacy, proxy.Pending, 1, fourth))
	if got := h.delivery(e, legacy); got.Attempts != 4 || got.Status != 200 || got.State != proxy.Delivered {
		t.Errorf("after a late failure: %+v", got)
	}
	h.attempted(seq, "legacy 1.1 500", "legacy 1.2 503", "legacy 1.3 200", "legacy 1.4 500")
}

// testAppendTwice: an Append whose answer was lost is made again.
func testAppendTwice(t *testing.T, h *harness) {
	for i, d := range []proxy.EntryDelivery{
		ended(legacy, proxy.Delivered, 1, attempt(1, 200)),
		ended(legacy, proxy.Pending, 1, attempt(1, 500)),
		ended(legacy, proxy.Failed, 1, attempt(2, 500)),
	} {
		e := event(i)
		seq := h.append(e, d)
		h.append(e, d)
		if got := h.delivery(e, legacy); got.Attempts != d.Attempts || got.State != d.State {
			t.Errorf("%s twice: %+v", d.State, got)
		}
		if as := h.attempts(seq); len(as) != 1 {
			t.Errorf("%s twice: %d attempts", d.State, len(as))
		}
	}
}

func testAppendTestEvents(t *testing.T, h *harness) {
	e := event(1)
	e.ID = "evt_00000000000000"
	a := h.append(e, pending(legacy, t0))
	b := h.append(e, pending(legacy, t0))
	if a == b {
		t.Errorf("two test events became one")
	}
	if _, err := h.Find(context.Background(), e.Key()); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Find of the test event: %v, want ErrNotFound", err)
	}
	if ls, _ := h.lease(t0, legacy, 10); len(ls) != 2 {
		t.Errorf("leased %d, want 2", len(ls))
	}
}

func testAppendTwoSources(t *testing.T, h *harness) {
	a, b := event(1), event(1)
	b.Source = "connect"
	if x, y := h.append(a, pending(legacy, t0)), h.append(b, pending(legacy, t0)); x == y {
		t.Errorf("one id at two sources became one event")
	}
}

func testAppendWithoutDeliveries(t *testing.T, h *harness) {
	ctx := context.Background()
	for i, c := range []struct {
		state  proxy.State
		reason string
	}{
		{proxy.Ignored, proxy.ReasonRule},
		{proxy.Ignored, proxy.ReasonNoRoute},
		{proxy.Ignored, proxy.ReasonPing},
		{proxy.Failed, proxy.ReasonUnparseable},
	} {
		e := event(i)
		seq, err := h.Append(ctx, proxy.Entry{Event: e, State: c.state, Reason: c.reason})
		if err != nil {
			t.Fatal(err)
		}
		if k := h.find(e); k.State != c.state || k.Reason != c.reason || k.Event.Seq != seq {
			t.Errorf("%s/%s: found %s/%s", c.state, c.reason, k.State, k.Reason)
		}
		h.append(e, pending(legacy, t0))
		want := ""
		if c.reason == proxy.ReasonUnparseable {
			want = c.reason
		}
		if k := h.find(e); k.State != proxy.Pending || k.Reason != want {
			t.Errorf("%s with a delivery: found %s/%q", c.reason, k.State, k.Reason)
		}
	}
}

func testEndedContext(t *testing.T, h *harness) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e := event(1)
	if _, err := h.Append(ctx, proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{pending(legacy, t0)}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Append: %v", err)
	}
	if _, _, err := h.Lease(ctx, proxy.LeaseRequest{Backend: legacy, Now: t0, Most: 1, For: minute}); !errors.Is(err, context.Canceled) {
		t.Errorf("Lease: %v", err)
	}
	if err := h.Settle(ctx, proxy.Settlement{}); err == nil {
		t.Errorf("Settle returned nil")
	}
}

// testAppendAnyBytes: what Stripe sends comes back as it was, whatever it is.
func testAppendAnyBytes(t *testing.T, h *harness) {
	odd := "a\x00b\xff\xfe\u2028'\";--"
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	n := 0
	for name, change := range map[string]func(e *proxy.Event){
		"binary body": func(e *proxy.Event) { e.Body = all },
		"empty body":  func(e *proxy.Event) { e.Body = []byte{} },
		"large body":  func(e *proxy.Event) { e.Body = bytes.Repeat(all, 8192) },
		"odd id":      func(e *proxy.Event) { e.ID = odd },
		"long id":     func(e *proxy.Event) { e.ID = strings.Repeat("x", 4096) },
		"odd fields": func(e *proxy.Event) {
			e.Type, e.Account, e.Object, e.Customer, e.APIVersion, e.Query = odd, odd, odd, odd, odd, odd
		},
		"empty fields": func(e *proxy.Event) { *e = proxy.Event{Source: src, ID: "empty", Body: []byte("x")} },
		"huge headers": func(e *proxy.Event) {
			e.Header = http.Header{"A": {strings.Repeat("v", 1<<20), "", odd}, odd: {odd}, "B": {}}
		},
	} {
		n++
		e := event(n)
		change(e)
		backend := name
		h.append(e, pending(backend, t0))
		l := h.leaseOne(t0, backend)
		if !bytes.Equal(l.Event.Body, e.Body) {
			t.Errorf("%s: the body came back as %d other bytes", name, len(l.Event.Body))
		}
		want := *e
		want.Seq, want.Body = l.Event.Seq, l.Event.Body[:0] // which a diff would go through byte by byte
		l.Event.Body = want.Body
		diff(t, name, *l.Event, want)
		if k := h.find(e); k.Event.ID != e.ID || k.Event.Type != e.Type {
			t.Errorf("%s: found %q %q", name, k.Event.ID, k.Event.Type)
		}
	}
}

// testAppendClaim: an attempt that still runs holds a lease from the start.
func testAppendClaim(t *testing.T, h *harness) {
	e := event(1)
	d := pending(legacy, t0)
	d.Token, d.LeaseUntil = 4711, t0.Add(minute)
	seq := h.append(e, d)
	if got := h.delivery(e, legacy); got.Token != 4711 || !got.LeaseUntil.Equal(t0.Add(minute)) {
		t.Errorf("claim not kept: %+v", got)
	}
	if ls, next := h.lease(t0, legacy, 10); len(ls) != 0 || !next.Equal(t0.Add(minute)) {
		t.Errorf("leased %d of a claimed one, look again at %v", len(ls), next)
	}
	h.append(e, pending(legacy, t0)) // a repeat, meanwhile
	if got := h.delivery(e, legacy); got.Token != 4711 {
		t.Errorf("a repeat took the lease: %+v", got)
	}
	claim := proxy.Leased{Event: &proxy.Event{Seq: seq}, Delivery: d.Delivery}
	h.settle(proxy.SettleDelivered(claim, *attempt(1, 200)))
	if got := h.delivery(e, legacy); got.State != proxy.Delivered || got.Attempts != 1 || got.Token != 0 {
		t.Errorf("after its settlement: %+v", got)
	}
	h.attempted(seq, "legacy 1.1 200")
}

func testFindUnknown(t *testing.T, h *harness) {
	h.append(event(1), pending(legacy, t0))
	if k, err := h.Find(context.Background(), event(2).Key()); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Find: %+v, %v, want ErrNotFound", k, err)
	}
	if k, err := h.Find(context.Background(), proxy.Key{Source: "connect", ID: event(1).ID}); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Find at another source: %+v, %v, want ErrNotFound", k, err)
	}
}

func testRecordSeenAtOnce(t *testing.T, h *harness) {
	for n := range 100 {
		e := event(n)
		h.record(proxy.Entry{Event: e, Answered: t0.Add(time.Second), Deliveries: []proxy.EntryDelivery{
			ended(legacy, proxy.Delivered, 1, attempt(1, 200)),
		}})
		k := h.find(e)
		if k.State != proxy.Delivered || !k.Answered.Equal(t0.Add(time.Second)) || len(k.Deliveries) != 1 || k.Deliveries[0].Attempts != 1 {
			t.Fatalf("found %+v", k)
		}
		if k.Event.Type != e.Type || k.Event.Body != nil || k.Event.Header != nil {
			t.Fatalf("found event %+v", k.Event)
		}
	}
}

func testRecordAnswered(t *testing.T, h *harness) {
	at := t0.Add(3 * time.Second)
	byKey, bySeq := event(1), event(2)
	h.append(byKey, pending(legacy, t0))
	seq := h.append(bySeq, pending(legacy, t0))
	h.record(proxy.Entry{Event: &proxy.Event{Source: byKey.Source, ID: byKey.ID}, Answered: at})
	h.record(proxy.Entry{Event: &proxy.Event{Seq: seq}, Answered: at})
	for _, e := range []*proxy.Event{byKey, bySeq} {
		if k := h.find(e); !k.Answered.Equal(at) || k.State != proxy.Pending {
			t.Errorf("found %+v, want it answered and else as it was", k)
		}
	}
	h.record(proxy.Entry{Event: &proxy.Event{Seq: seq}, Answered: t0})
	if k := h.find(bySeq); !k.Answered.Equal(at) {
		t.Errorf("an earlier answer replaced a later one: %v", k.Answered)
	}
	recorded := event(3)
	h.record(proxy.Entry{Event: recorded, Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Delivered, 1, attempt(1, 200))}})
	h.record(proxy.Entry{Event: &proxy.Event{Source: src, ID: recorded.ID}, Answered: at})
	if k := h.find(recorded); !k.Answered.Equal(at) {
		t.Errorf("the answer to what was only recorded is lost")
	}
}

func testRecordAnswerMakesNoEvent(t *testing.T, h *harness) {
	e := event(1)
	h.record(proxy.Entry{Event: &proxy.Event{Source: src, ID: e.ID}, Answered: t0})
	if _, err := h.Find(context.Background(), e.Key()); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Find: %v, want ErrNotFound", err)
	}
	_, err := h.Append(context.Background(), proxy.Entry{Event: &proxy.Event{Source: src, ID: e.ID}, Answered: t0})
	if !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Append: %v, want ErrNotFound", err)
	}
}

func testRecordDoesNotUndo(t *testing.T, h *harness) {
	e := event(1)
	h.append(e, ended(legacy, proxy.Failed, 1, attempt(1, 500)), pending(other, t0))
	again := attempt(2, 200)
	h.record(proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Delivered, 1, again)}})
	if d := h.delivery(e, legacy); d.State != proxy.Delivered || d.Attempts != 2 {
		t.Errorf("the success is not seen: %+v", d)
	}
	if d := h.delivery(e, other); d.State != proxy.Pending {
		t.Errorf("the other delivery changed: %+v", d)
	}
}
