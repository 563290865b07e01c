package journaltest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func testLeaseOrder(t *testing.T, h *harness) {
	var at [5]int64
	for i, due := range []time.Duration{4, 2, 2, 5, 1} {
		at[i] = h.append(event(i), pending(legacy, t0.Add(due*time.Second)))
	}
	now := t0.Add(minute)
	first, _ := h.lease(now, legacy, 3)
	rest, _ := h.lease(now, legacy, 3)
	if got, want := append(seqs(first), seqs(rest)...), []int64{at[4], at[1], at[2], at[0], at[3]}; !slices.Equal(got, want) {
		t.Errorf("leased %v, want those due longest first, then as received: %v", got, want)
	}
	tokens := map[int64]bool{}
	for _, l := range append(first, rest...) {
		if l.Token == 0 || tokens[l.Token] {
			t.Errorf("token %d twice, or none", l.Token)
		}
		tokens[l.Token] = true
		if !l.LeaseUntil.Equal(now.Add(minute)) {
			t.Errorf("leased until %v", l.LeaseUntil)
		}
	}
}

func testLeaseOnlyDue(t *testing.T, h *harness) {
	due := h.append(event(1), pending(legacy, t0))
	h.append(event(2), pending(legacy, t0.Add(time.Millisecond)))
	h.append(event(3), pending(other, t0))
	h.append(event(4), ended(legacy, proxy.Delivered, 1, attempt(1, 200)))
	h.append(event(5), ended(legacy, proxy.Failed, 1, attempt(1, 500)))
	ls, _ := h.lease(t0, legacy, 10)
	if got := seqs(ls); !slices.Equal(got, []int64{due}) {
		t.Errorf("leased %v, want [%d]", got, due)
	}
	if ls, _ := h.lease(t0, "nobody", 10); len(ls) != 0 {
		t.Errorf("leased %d for an unknown backend", len(ls))
	}
	if ls, _ := h.lease(t0, other, 0); len(ls) != 0 {
		t.Errorf("leased %d, asked for none", len(ls))
	}
}

func testLeaseWholeEvent(t *testing.T, h *harness) {
	e := event(1)
	seq := h.append(e, ended(legacy, proxy.Pending, 1, attempt(1, 503)))
	l := h.leaseOne(t0.Add(minute), legacy)
	want := *e
	want.Seq = seq
	diff(t, "event", *l.Event, want)
	diff(t, "delivery", l.Delivery, proxy.Delivery{
		Backend: legacy, State: proxy.Pending, Turn: 1, Attempts: 1, Due: t0.Add(minute), TurnStarted: t0, Token: l.Token,
		LeaseUntil: t0.Add(2 * minute), Status: 503, Outcome: proxy.OutcomeStatus5xx,
	})
	if d := h.delivery(e, legacy); d.Token != l.Token || !d.LeaseUntil.Equal(l.LeaseUntil) {
		t.Errorf("Find shows %+v, want it leased", d)
	}
}

func testLeaseNext(t *testing.T, h *harness) {
	if _, next := h.lease(t0, legacy, 1); !next.IsZero() {
		t.Errorf("nothing is Pending: look again at %v", next)
	}
	h.append(event(1), pending(legacy, t0.Add(5*time.Second)))
	h.append(event(2), pending(legacy, t0.Add(3*time.Second)))
	if _, next := h.lease(t0, legacy, 1); !next.Equal(t0.Add(3 * time.Second)) {
		t.Errorf("look again at %v, want the earliest due time", next)
	}
	ls, next := h.lease(t0.Add(3*time.Second), legacy, 2)
	if len(ls) != 1 || !next.Equal(t0.Add(5*time.Second)) {
		t.Errorf("leased %d, look again at %v, want 1 and the next due time", len(ls), next)
	}
	if ls, next := h.lease(t0.Add(5*time.Second), legacy, 2); len(ls) != 1 || !next.Equal(t0.Add(3*time.Second+minute)) {
		t.Errorf("leased %d, look again at %v, want 1 and the end of the first lease", len(ls), next)
	}
	h.settle(proxy.SettleDelivered(ls[0], *attempt(1, 200)))
	if _, next := h.lease(t0.Add(6*time.Second), legacy, 2); !next.Equal(t0.Add(5*time.Second + minute)) {
		t.Errorf("look again at %v, want the end of the other lease", next)
	}
}

func testLeaseExpiry(t *testing.T, h *harness) {
	e := event(1)
	h.append(e, pending(legacy, t0))
	first := h.leaseOne(t0, legacy)
	if ls, _ := h.lease(t0.Add(minute-time.Millisecond), legacy, 1); len(ls) != 0 {
		t.Fatalf("leased twice")
	}
	second := h.leaseOne(t0.Add(minute), legacy)
	if second.Token == first.Token {
		t.Errorf("the second lease has the first one's token")
	}
	h.settleLost(proxy.SettleRetry(first, *attempt(1, 500), t0, t0))
	if d := h.delivery(e, legacy); d.State != proxy.Pending || d.Attempts != 0 {
		t.Errorf("a lost settlement changed %+v", d)
	}
	h.settle(proxy.SettleDelivered(second, *attempt(1, 200)))
}

// testSettleLateSuccess: that the backend answered 2xx is a fact, though the lease is over and another has the delivery.
func testSettleLateSuccess(t *testing.T, h *harness) {
	e := event(1)
	seq := h.append(e, pending(legacy, t0))
	first := h.leaseOne(t0, legacy)
	second := h.leaseOne(t0.Add(minute), legacy)
	h.settle(proxy.SettleDelivered(first, *attempt(1, 200)))
	if d := h.delivery(e, legacy); d.State != proxy.Delivered || d.Token != 0 || !d.LeaseUntil.IsZero() {
		t.Errorf("%+v, want it delivered and not leased", d)
	}
	if ls, next := h.lease(t0.Add(time.Hour), legacy, 1); len(ls) != 0 || !next.IsZero() {
		t.Errorf("leased %v, next %v", ls, next)
	}
	h.settleLost(proxy.SettleRetry(second, *attempt(2, 500), t0, t0))
	h.attempted(seq, "legacy 1.1 200")

	gaveUp := event(2)
	h.append(gaveUp, pending(legacy, t0))
	first = h.leaseOne(t0, legacy)
	second = h.leaseOne(t0.Add(minute), legacy)
	h.settle(proxy.SettleFailed(second, *attempt(2, 500)))
	h.settle(proxy.SettleDelivered(first, *attempt(1, 200)))
	if d := h.delivery(gaveUp, legacy); d.State != proxy.Delivered {
		t.Errorf("%+v, want a success to win over a failure of its turn", d)
	}
}

// testLeasePastLeased: what is leased stands before the rest and must not hide it, also after some of it came back.
func testLeasePastLeased(t *testing.T, h *harness) {
	for n := range 50 {
		h.append(event(n), pending(legacy, t0.Add(time.Duration(n)*time.Millisecond)))
	}
	now := t0.Add(time.Second)
	var leased []proxy.Leased
	for range 5 {
		ls, _ := h.lease(now, legacy, 9)
		leased = append(leased, ls...)
	}
	if len(leased) != 45 {
		t.Fatalf("leased %d, want 45", len(leased))
	}
	h.settle(proxy.SettleRelease(leased[3], time.Time{}), proxy.SettleDelivered(leased[20], *attempt(1, 200)),
		proxy.SettleRelease(leased[40], now.Add(minute)))
	early := h.append(event(100), pending(legacy, t0.Add(-time.Second)))
	ls, next := h.lease(now, legacy, 100)
	want := []int64{early, leased[3].Event.Seq}
	if got := seqs(ls); len(got) != 7 || !slices.Equal(got[:2], want) {
		t.Errorf("leased %v, want seven that begin with %v", got, want)
	}
	if !next.Equal(now.Add(minute)) {
		t.Errorf("look again at %v, want %v", next, now.Add(minute))
	}
	ls, _ = h.lease(now.Add(minute), legacy, 100)
	if len(ls) != 50 {
		t.Errorf("leased %d after all leases were over, want 50", len(ls))
	}
}

func testSettleTransitions(t *testing.T, h *harness) {
	due := t0.Add(time.Hour)
	for i, c := range []struct {
		name     string
		settle   func(l proxy.Leased) proxy.Settlement
		state    proxy.State
		due      time.Time
		attempts int
	}{
		{"delivered", func(l proxy.Leased) proxy.Settlement { return proxy.SettleDelivered(l, *attempt(1, 200)) }, proxy.Delivered, time.Time{}, 1},
		{"failed", func(l proxy.Leased) proxy.Settlement { return proxy.SettleFailed(l, *attempt(1, 500)) }, proxy.Failed, time.Time{}, 1},
		{"retry", func(l proxy.Leased) proxy.Settlement {
			return proxy.SettleRetry(l, *attempt(1, 500), due, t0.Add(minute))
		}, proxy.Pending, due, 1},
		{"release", func(l proxy.Leased) proxy.Settlement { return proxy.SettleRelease(l, due) }, proxy.Pending, due, 0},
		{"release, due kept", func(l proxy.Leased) proxy.Settlement { return proxy.SettleRelease(l, time.Time{}) }, proxy.Pending, t0, 0},
	} {
		e := event(i)
		seq := h.append(e, pending(c.name, t0))
		l := h.leaseOne(t0, c.name)
		h.settle(c.settle(l))
		d := h.delivery(e, c.name)
		if d.State != c.state || !d.Due.Equal(c.due) || d.Attempts != c.attempts || d.Token != 0 || !d.LeaseUntil.IsZero() || d.Turn != 1 {
			t.Errorf("%s: %+v", c.name, d)
		}
		if as := h.attempts(seq); len(as) != c.attempts {
			t.Errorf("%s: %d attempts kept, want %d", c.name, len(as), c.attempts)
		}
		if c.state == proxy.Delivered { // a fact, however often it is said
			h.settle(c.settle(l))
		} else {
			h.settleLost(c.settle(l)) // once only
		}
		if again := h.delivery(e, c.name); again.Attempts != c.attempts || len(h.attempts(seq)) != c.attempts {
			t.Errorf("%s: settled again, it is %+v", c.name, again)
		}
	}
}

func testSettleKeeps(t *testing.T, h *harness) {
	e := event(1)
	h.append(e, ended(legacy, proxy.Pending, 1, attempt(1, 503)))
	now := t0.Add(minute)
	h.settle(proxy.SettleRelease(h.leaseOne(now, legacy), time.Time{}))
	if d := h.delivery(e, legacy); d.Status != 503 || d.Attempts != 1 || !d.TurnStarted.Equal(t0) || !d.Due.Equal(now) {
		t.Errorf("a release changed %+v", d)
	}
	h.settle(proxy.SettleRetry(h.leaseOne(now, legacy), *attempt(2, 500), now.Add(minute), time.Time{}))
	if d := h.delivery(e, legacy); !d.TurnStarted.Equal(t0) || d.Attempts != 2 {
		t.Errorf("no new start of the turn, but %+v", d)
	}
	now = now.Add(minute)
	h.settle(proxy.SettleRetry(h.leaseOne(now, legacy), *attempt(3, 500), now.Add(minute), t0.Add(minute)))
	if d := h.delivery(e, legacy); !d.TurnStarted.Equal(t0.Add(minute)) || d.Attempts != 3 {
		t.Errorf("a new start of the turn, but %+v", d)
	}
}

func testSettleLost(t *testing.T, h *harness) {
	e := event(1)
	h.append(e, pending(legacy, t0))
	l := h.leaseOne(t0, legacy)
	for name, change := range map[string]func(s *proxy.Settlement){
		"token":   func(s *proxy.Settlement) { s.Token++ },
		"none":    func(s *proxy.Settlement) { s.Token = 0 },
		"turn":    func(s *proxy.Settlement) { s.Turn++ },
		"event":   func(s *proxy.Settlement) { s.Seq += 1000 },
		"backend": func(s *proxy.Settlement) { s.Backend = other },
	} {
		s := proxy.SettleFailed(l, *attempt(1, 500))
		change(&s)
		if err := h.Settle(context.Background(), s); !errors.Is(err, proxy.ErrLeaseLost) {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
	h.append(e, ended(legacy, proxy.Delivered, 1, attempt(1, 200))) // delivered behind the lease's back
	h.settleLost(proxy.SettleRetry(l, *attempt(1, 500), t0, t0))
	if d := h.delivery(e, legacy); d.State != proxy.Delivered || d.Token != 0 {
		t.Errorf("a lost settlement changed %+v", d)
	}
}

func testSettleOthersApply(t *testing.T, h *harness) {
	a, b, c := event(1), event(2), event(3)
	for _, e := range []*proxy.Event{a, b, c} {
		h.append(e, pending(legacy, t0))
	}
	ls, _ := h.lease(t0, legacy, 3)
	wrong := proxy.SettleFailed(ls[1], *attempt(1, 500))
	wrong.Token++
	h.settleLost(proxy.SettleDelivered(ls[0], *attempt(1, 200)), wrong, proxy.SettleFailed(ls[2], *attempt(1, 500)))
	for e, want := range map[*proxy.Event]proxy.State{a: proxy.Delivered, b: proxy.Pending, c: proxy.Failed} {
		if got := h.find(e).State; got != want {
			t.Errorf("event %d is %s, want %s", e.Seq, got, want)
		}
	}
}

// testSettleOldTurn: a lease that is over, a success by another way, a resend: then the first attempt's end comes in.
func testSettleOldTurn(t *testing.T, h *harness) {
	e := event(1)
	seq := h.append(e, pending(legacy, t0))
	old := h.leaseOne(t0, legacy)
	h.append(e, ended(legacy, proxy.Delivered, 1, attempt(1, 200)))
	h.resend(t0, seq, legacy)
	h.settleLost(proxy.SettleFailed(old, *attempt(1, 500)))
	now := h.leaseOne(t0, legacy)
	if now.Turn != 2 {
		t.Fatalf("turn %d", now.Turn)
	}
	h.settleLost(proxy.SettleFailed(old, *attempt(1, 500)))
	forged := proxy.SettleFailed(now, *attempt(1, 500))
	forged.Turn = 1
	h.settleLost(forged)
	if d := h.delivery(e, legacy); d.State != proxy.Pending || d.Turn != 2 || d.Token != now.Token {
		t.Errorf("a settlement of turn 1 changed turn 2: %+v", d)
	}
	h.settle(proxy.SettleDelivered(now, *attempt(1, 200)))
}

func testResend(t *testing.T, h *harness) {
	now := t0.Add(time.Hour)
	e := event(1)
	leased := pending("leased", t0)
	leased.Token, leased.LeaseUntil = 7, now.Add(minute)
	over := pending("over", t0)
	over.Token, over.LeaseUntil = 8, now
	seq := h.append(e, ended("delivered", proxy.Delivered, 1, attempt(1, 200)), ended("failed", proxy.Failed, 3, attempt(2, 500)),
		pending("waiting", now.Add(time.Hour)), pending("due", t0), leased, over)
	got := h.resend(now, seq, "delivered", "failed", "waiting", "due", "leased", "over", "new")
	diff(t, "Resend", got, []proxy.Resent{
		{Backend: "delivered", Turn: 2, Result: proxy.ResentNewTurn},
		{Backend: "failed", Turn: 4, Result: proxy.ResentNewTurn},
		{Backend: "waiting", Turn: 1, Result: proxy.ResentDueNow},
		{Backend: "due", Turn: 1, Result: proxy.ResentDueNow},
		{Backend: "leased", Turn: 1, Result: proxy.ResentInFlight},
		{Backend: "over", Turn: 1, Result: proxy.ResentDueNow},
		{Backend: "new", Turn: 1, Result: proxy.ResentNewTurn},
	})
	for _, b := range []string{"delivered", "failed", "waiting", "due", "over", "new"} {
		l := h.leaseOne(now, b)
		if l.Attempts != 0 || l.Event.ID != e.ID {
			t.Errorf("%s: %+v", b, l.Delivery)
		}
		h.settle(proxy.SettleDelivered(l, *attempt(1, 200)))
	}
	if ls, _ := h.lease(now, "leased", 1); len(ls) != 0 {
		t.Errorf("a resend ended a lease")
	}
	if d := h.delivery(e, "leased"); d.Token != 7 || !d.Due.Equal(t0) {
		t.Errorf("a resend changed a leased delivery: %+v", d)
	}
	ignored := event(2)
	n, err := h.Append(context.Background(), proxy.Entry{Event: ignored, State: proxy.Ignored, Reason: proxy.ReasonNoRoute})
	if err != nil {
		t.Fatal(err)
	}
	h.resend(now, n, legacy)
	if k := h.find(ignored); k.State != proxy.Pending || k.Reason != "" {
		t.Errorf("an ignored event after a resend: %s %q", k.State, k.Reason)
	}
}

func testResendKeepsAttempts(t *testing.T, h *harness) {
	e := event(1)
	seq := h.append(e, ended(legacy, proxy.Delivered, 1, attempt(1, 200)))
	h.resend(t0, seq, legacy)
	h.attempted(seq, "legacy 1.1 200")
	h.settle(proxy.SettleRetry(h.leaseOne(t0, legacy), *attempt(1, 500), t0, t0))
	h.settle(proxy.SettleDelivered(h.leaseOne(t0, legacy), *attempt(2, 204)))
	h.resend(t0, seq, legacy)
	h.settle(proxy.SettleDelivered(h.leaseOne(t0, legacy), *attempt(1, 202)))
	h.attempted(seq, "legacy 1.1 200", "legacy 2.1 500", "legacy 2.2 204", "legacy 3.1 202")
}

func testResendUnknown(t *testing.T, h *harness) {
	if _, err := h.Resend(context.Background(), t0, 4711, []string{legacy}); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Resend: %v, want ErrNotFound", err)
	}
}
