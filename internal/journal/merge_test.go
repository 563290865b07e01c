package journal_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var states = []proxy.State{proxy.Pending, proxy.Delivered, proxy.Failed}

// drawn is a delivery as an entry may have it, often with an attempt of its own.
func drawn(t *rapid.T, name string) proxy.EntryDelivery {
	at := func(what string) time.Time {
		return t0.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, name+" "+what)) * time.Second)
	}
	in := proxy.EntryDelivery{Delivery: proxy.Delivery{
		Backend: "legacy", State: rapid.SampledFrom(states).Draw(t, name), Turn: rapid.IntRange(0, 3).Draw(t, name+" turn"),
		Attempts: rapid.IntRange(0, 3).Draw(t, name+" attempts"), Due: at("due"),
	}}
	if rapid.Bool().Draw(t, name+" started") {
		in.TurnStarted = at("turn started")
	}
	if rapid.Bool().Draw(t, name+" leased") {
		in.Token, in.LeaseUntil = rapid.Int64Range(1, 99).Draw(t, name+" token"), at("lease")
	}
	if rapid.Bool().Draw(t, name+" attempted") {
		a := &proxy.Attempt{N: rapid.IntRange(0, 3).Draw(t, name+" n"), Started: at("attempt"), Status: 500, Outcome: proxy.OutcomeStatus5xx}
		if in.State == proxy.Delivered {
			a.Status, a.Outcome = 200, proxy.OutcomeDelivered
		}
		in.Attempt = a
	}
	return in
}

// known is a delivery as a journal may hold it, or none.
func known(t *rapid.T) proxy.Delivery {
	if rapid.IntRange(0, 9).Draw(t, "known at all") == 0 {
		return proxy.Delivery{}
	}
	return journal.Incoming(drawn(t, "known"))
}

// sameTurn brings both into one turn.
func sameTurn(a, b *proxy.EntryDelivery) { b.Turn = max(a.Turn, 1); a.Turn = b.Turn }

func TestMergeOneWord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k, in, isNew := known(t), drawn(t, "in"), rapid.Bool().Draw(t, "new")
		whole := journal.Incoming(in)
		m := journal.Merge(k, in, isNew)

		if m.Turn < k.Turn || m.Turn < 1 {
			t.Fatalf("turn %d became %d", k.Turn, m.Turn)
		}
		if m.Turn == k.Turn && m.Attempts < k.Attempts {
			t.Fatalf("%d attempts became %d", k.Attempts, m.Attempts)
		}
		if m.Turn == k.Turn && k.State == proxy.Delivered && m.State != proxy.Delivered {
			t.Fatalf("what was Delivered became %s", m.State)
		}
		if whole.Turn > k.Turn && (m.Turn != whole.Turn || m.State != whole.State || m.Opened != (k.Turn > 0) || !m.Replaced) {
			t.Fatalf("a later turn does not replace the earlier one: %+v", m)
		}
		if whole.Turn < k.Turn && m.Turn == k.Turn && m.Delivery != k {
			t.Fatalf("an earlier turn changed the delivery to %+v", m.Delivery)
		}
		if owed := in.State == proxy.Pending && k.State != proxy.Delivered; owed && m.State != proxy.Pending {
			t.Fatalf("what is owed is %s", m.State)
		}
		if m.State != proxy.Pending && (m.Token != 0 || !m.LeaseUntil.IsZero() || !m.Due.IsZero()) {
			t.Fatalf("a delivery that ended is due or leased: %+v", m.Delivery)
		}
		if !m.Replaced && (m.State != k.State || m.Due != k.Due || m.Token != k.Token || m.LeaseUntil != k.LeaseUntil) {
			t.Fatalf("it is not replaced, but changed to %+v", m.Delivery)
		}
		if !m.Last && (m.Status != k.Status || m.Outcome != k.Outcome) {
			t.Fatalf("no attempt is its last, but it says %+v", m.Delivery)
		}
		if k.State == proxy.Pending && whole.State == proxy.Pending && m.Turn == k.Turn && m.Replaced {
			t.Fatal("a repeat took the lease and the due time")
		}
		checkAttempt(t, k, in, isNew, m)
	})
}

// checkAttempt: an attempt that is new is kept, under a turn that there was.
func checkAttempt(t *rapid.T, k proxy.Delivery, in proxy.EntryDelivery, isNew bool, m journal.Merged) {
	if in.Attempt == nil {
		if m.Attempt != nil {
			t.Fatalf("an attempt out of nothing: %+v", m.Attempt)
		}
		return
	}
	if kept := m.Attempt != nil; kept != (isNew || m.Turn > k.Turn) {
		t.Fatalf("new: %v, kept: %v", isNew, kept)
	}
	if m.Attempt == nil {
		return
	}
	if m.Attempt.N < 1 || m.Attempt.Turn < 1 || m.Attempt.Turn > m.Turn || m.Attempt.Backend != in.Backend {
		t.Fatalf("kept as %+v", m.Attempt)
	}
	if m.Attempt.Turn == m.Turn && m.Attempts < m.Attempt.N {
		t.Fatalf("attempt %d of %d", m.Attempt.N, m.Attempts)
	}
	if m.Attempt.Turn == k.Turn && m.Attempts <= k.Attempts {
		t.Fatalf("a new attempt did not count: %d, then %d", k.Attempts, m.Attempts)
	}
}

// TestMergeTwoWords: what two arrivals say of one turn comes to the same, whichever the journal hears of first.
func TestMergeTwoWords(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k, a, b := known(t), drawn(t, "a"), drawn(t, "b")
		sameTurn(&a, &b)
		both := func(first, second proxy.EntryDelivery) proxy.Delivery {
			return journal.Merge(journal.Merge(k, first, true).Delivery, second, true).Delivery
		}
		ab, ba := both(a, b), both(b, a)
		// A turn that failed and is owed again is another turn, and then the order says which came last.
		if again := k.State == proxy.Failed && max(a.Turn, 1) < k.Turn; again {
			return
		}
		if ab.State != ba.State || ab.Turn != ba.Turn {
			t.Fatalf("a, b: %s in turn %d; b, a: %s in turn %d", ab.State, ab.Turn, ba.State, ba.Turn)
		}
		if some := a.State == proxy.Delivered || b.State == proxy.Delivered; some && ab.Turn == max(a.Turn, 1) && ab.State != proxy.Delivered {
			t.Fatalf("a Delivered of the current turn is lost: %s", ab.State)
		}
	})
}

func TestMergeTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k, in := known(t), drawn(t, "in")
		once := journal.Merge(k, in, true).Delivery
		if twice := journal.Merge(once, in, false); twice.Delivery != once || twice.Opened || twice.Replaced {
			t.Fatalf("once: %+v\ntwice: %+v", once, twice)
		}
	})
}

func TestSummaryMerge(t *testing.T) {
	t.Parallel()
	entry := func(t *rapid.T, name string) (e proxy.Entry) {
		switch rapid.IntRange(0, 4).Draw(t, name) {
		case 0:
			e.State, e.Reason = proxy.Ignored, proxy.ReasonNoRoute
		case 1:
			e.State, e.Reason = proxy.Failed, proxy.ReasonUnparseable
		case 2:
			e.Deliveries, e.Reason = make([]proxy.EntryDelivery, 1), proxy.ReasonUnparseable
		case 3:
			e.Deliveries = make([]proxy.EntryDelivery, 1)
		}
		if rapid.Bool().Draw(t, name+" answered") {
			e.Answered = t0.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, name+" at")) * time.Second)
		}
		return e
	}
	rapid.Check(t, func(t *rapid.T) {
		first, e := entry(t, "first"), entry(t, "then")
		s := journal.Summary{State: first.State, Reason: first.Reason, Answered: first.Answered}
		opened := len(e.Deliveries) > 0 && rapid.Bool().Draw(t, "opened")
		m := s.Merge(e, opened)
		if m != m.Merge(e, false) {
			t.Fatalf("twice is not once: %+v, then %+v", m, m.Merge(e, false))
		}
		if !opened && m.Answered.Before(s.Answered) || m.Answered.Before(e.Answered) {
			t.Fatalf("answered %v, then %v: %v", s.Answered, e.Answered, m.Answered)
		}
		if opened && !m.Answered.Equal(e.Answered) {
			t.Fatalf("the answer to an earlier turn counts: %v", m.Answered)
		}
		if len(e.Deliveries) > 0 && m.State != "" || s.State == "" && m.State != "" {
			t.Fatalf("an event with deliveries is %q by itself", m.State)
		}
		if s.Reason == proxy.ReasonUnparseable && len(e.Deliveries) > 0 && m.Reason != s.Reason {
			t.Fatalf("a body that could not be read became %q", m.Reason)
		}
	})
}

func TestWholeState(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom(states), 1, 5).Draw(t, "states")
		ds, is := make([]proxy.Delivery, len(some)), map[proxy.State]bool{}
		for i, s := range some {
			ds[i].State = s
			is[s] = true
		}
		want := proxy.Delivered
		if is[proxy.Pending] {
			want = proxy.Pending
		}
		if is[proxy.Failed] {
			want = proxy.Failed
		}
		if got := journal.WholeState(ds); got != want {
			t.Fatalf("%v: %s, want %s", some, got, want)
		}
	})
}

// TestSettle: a lease ends once, and only for who holds it.
func TestSettle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := known(t)
		l := proxy.Leased{Event: &proxy.Event{}, Delivery: d}
		l.Token = rapid.SampledFrom([]int64{0, d.Token, d.Token + 1}).Draw(t, "token")
		l.Turn = rapid.SampledFrom([]int{d.Turn, d.Turn + 1}).Draw(t, "turn")
		a := proxy.Attempt{Status: 503, Outcome: proxy.OutcomeStatus5xx}
		s := rapid.SampledFrom([]proxy.Settlement{
			proxy.SettleDelivered(l, a), proxy.SettleFailed(l, a), proxy.SettleRetry(l, a, t0.Add(time.Hour), t0), proxy.SettleRelease(l, time.Time{}),
		}).Draw(t, "settlement")
		after, ok := journal.Settle(d, s)
		if want := d.State == proxy.Pending && d.Token != 0 && l.Token == d.Token && l.Turn == d.Turn; ok != want {
			t.Fatalf("settled: %v, want %v", ok, want)
		}
		if !ok {
			if after != d {
				t.Fatalf("a lost settlement changed %+v", after)
			}
			return
		}
		if after.State != s.State || after.Turn != d.Turn || after.Token != 0 || !after.LeaseUntil.IsZero() {
			t.Fatalf("it became %+v", after)
		}
		if s.Attempt == nil && (after.Attempts != d.Attempts || after.Status != d.Status || after.Due != d.Due || after.TurnStarted != d.TurnStarted) {
			t.Fatalf("a release changed %+v", after)
		}
		if s.Attempt != nil && (after.Attempts != d.Attempts+1 || after.Status != 503) {
			t.Fatalf("its attempt did not count: %+v", after)
		}
		if after.State != proxy.Pending && !after.Due.IsZero() {
			t.Fatalf("what ended is due: %+v", after)
		}
		if _, ok := journal.Settle(after, s); ok {
			t.Fatal("one lease ended twice")
		}
	})
}

// TestResend: afterwards it is owed, at once unless it is being sent, and nothing that was counted is lost.
func TestResend(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, now := known(t), t0.Add(5*time.Second)
		after, r := journal.Resend(d, now)
		leased := d.State == proxy.Pending && d.LeaseUntil.After(now)
		if after.State != proxy.Pending || r.Turn != after.Turn || after.Turn < d.Turn || !leased && after.Due.After(now) {
			t.Fatalf("%s: %+v", r.Result, after)
		}
		if leased && (after != d || r.Result != proxy.ResentInFlight) {
			t.Fatalf("what is being sent became %+v (%s)", after, r.Result)
		}
		if d.State == proxy.Pending && (after.Turn != d.Turn || after.Attempts != d.Attempts || after.Token != d.Token) {
			t.Fatalf("what waits became %+v (%s)", after, r.Result)
		}
		if d.State != proxy.Pending && (after.Turn != d.Turn+1 || after.Attempts != 0 || after.Token != 0 || r.Result != proxy.ResentNewTurn) {
			t.Fatalf("what ended became %+v (%s)", after, r.Result)
		}
		if again, _ := journal.Resend(after, now); again != after {
			t.Fatalf("twice: %+v", again)
		}
	})
}
