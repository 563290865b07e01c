package proxy_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// legacy changes the backend of that name.
func legacy(change func(b *proxy.Backend)) func(*proxy.Config) {
	return func(cfg *proxy.Config) {
		b := cfg.Backends["legacy"]
		change(&b)
		cfg.Backends["legacy"] = b
	}
}

// hardlyEver makes a retry within the time of a test improbable: one in thousands.
var hardlyEver = proxy.Retry{Initial: 100_000 * time.Hour, Max: 100_000 * time.Hour}

// storePaused has n events kept for the backend, evt_1 first, one every millisecond.
func (w *world) storePaused(backend string, n int) {
	w.t.Helper()
	if err := w.Pause(backend); err != nil {
		w.t.Fatal(err)
	}
	for i := range n {
		wantAnswer(w.t, w.post(event(fmt.Sprintf("evt_%d", i+1), "invoice.paid")), 200, says("stored", fmt.Sprintf("evt_%d", i+1)))
		time.Sleep(time.Millisecond)
	}
}

func (w *world) resume(backend string) {
	w.t.Helper()
	if err := w.Resume(backend); err != nil {
		w.t.Fatal(err)
	}
}

func TestTheDrainLeavesHalfOfTheSlotsToLiveEvents(t *testing.T) {
	a := &app{}
	var drained, most atomic.Int64
	a.do = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Breakwater-Trigger") != "inline" {
			if n := drained.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer drained.Add(-1)
		}
		takes(time.Second)(w, r)
	}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight = 8 }), func(t *testing.T, w *world) {
		live := w.posted(event("evt_live", "invoice.paid"))
		synctest.Wait()
		w.storePaused("legacy", 200)
		w.resume("legacy")
		for i := range 40 {
			go w.post(event(fmt.Sprintf("evt_live_%d", i), "invoice.paid"))
			time.Sleep(300 * time.Millisecond)
		}
		if got := most.Load(); got != 4 {
			t.Errorf("%d retried at once while live events arrive, want half of 8", got)
		}
		<-live
		if n, _, _, _ := w.seen.counts(); n["main stored"] != 200 {
			t.Errorf("live events were kept: %v", n)
		}
		time.Sleep(5 * time.Second)
		if got := most.Load(); got != 8 {
			t.Errorf("%d retried at once when no live events arrive, want all 8 slots", got)
		}
		time.Sleep(time.Minute)
	})
}

func TestRateLimitsRetriedDeliveriesOnly(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Rate = 2 }), func(t *testing.T, w *world) {
		w.storePaused("legacy", 30)
		w.resume("legacy")
		start := time.Now()
		synctest.Wait()
		if got := w.why("evt_30", "legacy"); got != "rate" {
			t.Errorf("why = %q, want rate", got)
		}
		for i := range 50 {
			if got := w.post(event(fmt.Sprintf("evt_live_%d", i), "invoice.paid")); got.Body.String() != "" {
				t.Fatalf("a live event was kept: %s", got.Body)
			}
		}
		time.Sleep(20 * time.Second)
		var at []time.Duration
		for _, r := range a.requests() {
			if r.header.Get("Breakwater-Trigger") == "resume" {
				at = append(at, r.at.Sub(start))
			}
		}
		if len(at) != 30 {
			t.Fatalf("%d of 30 delivered after 20s at 2/s", len(at))
		}
		for i, d := range at {
			if least := time.Duration(i-2) * time.Second / 2; d < least-10*time.Millisecond {
				t.Errorf("delivery %d came after %v, want at least %v", i+1, d, least)
			}
		}
	})
}

func TestOnePoisonEventHoldsUpNobody(t *testing.T) {
	a := &app{do: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Breakwater-Event-Id") == "evt_3" {
			w.WriteHeader(500)
		}
	}}
	retry := proxy.Retry{Initial: time.Second, Max: time.Second}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight, b.Retry = 2, retry }), func(t *testing.T, w *world) {
		w.storePaused("legacy", 50)
		w.resume("legacy")
		time.Sleep(time.Second)
		for _, k := range w.journal.All() {
			if want := k.Event.ID != "evt_3"; (k.State == proxy.Delivered) != want {
				t.Errorf("%s is %s", k.Event.ID, k.State)
			}
		}
	})
}

func TestADeadBackendsBacklogHoldsUpNoOther(t *testing.T) {
	dead, alive := &app{do: hangs}, &app{}
	to := func(cfg *proxy.Config) {
		cfg.Routes = proxy.Routes{{Types: []string{"invoice.*"}, To: []string{"dead"}}, {To: []string{"alive"}}}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"dead": dead, "alive": alive}, to)
		for i := range 20_000 {
			ev := &proxy.Event{Source: "main", ID: fmt.Sprintf("evt_dead_%d", i), Type: "invoice.paid", Body: []byte("{}"), Received: time.Now()}
			d := proxy.Delivery{Backend: "dead", State: proxy.Pending, Turn: 1, Due: time.Now()}
			if _, err := w.journal.Append(t.Context(), proxy.Entry{Event: ev, Deliveries: []proxy.EntryDelivery{{Delivery: d}}}); err != nil {
				t.Fatal(err)
			}
		}
		w.run()
		time.Sleep(time.Minute)
		if got := w.status("dead"); got.Breaker != "open" || dead.count() > 200 {
			t.Errorf("the dead backend was called %d times, its breaker is %s", dead.count(), got.Breaker)
		}
		start := time.Now()
		if got := w.post(event("evt_live", "charge.succeeded")); got.Code != 200 || got.Body.Len() != 0 || time.Since(start) > 0 {
			t.Errorf("a live event for the other backend: %d %s after %v", got.Code, got.Body, time.Since(start))
		}
		w.Pause("alive")
		w.post(event("evt_kept", "charge.succeeded"))
		w.resume("alive")
		synctest.Wait()
		alive.wantCount(t, 2)
	})
}

func TestAPauseKeepsTheOrderOfReceipt(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight = 1 }), func(t *testing.T, w *world) {
		w.storePaused("legacy", 60)
		if got := w.why("evt_60", "legacy"); got != "paused" || a.count() != 0 {
			t.Errorf("why = %q, %d requests while paused", got, a.count())
		}
		w.resume("legacy")
		time.Sleep(time.Second)
		for i, id := range a.ids() {
			if want := fmt.Sprintf("evt_%d", i+1); id != want {
				t.Fatalf("request %d is %s, want %s", i, id, want)
			}
		}
		a.wantCount(t, 60)
		if got := a.requests()[0].header.Get("Breakwater-Trigger"); got != "resume" {
			t.Errorf("trigger = %q, want resume", got)
		}
	})
}

func TestWhyADeliveryWaits(t *testing.T) {
	a := &app{do: answers(404)}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry, b.MaxInFlight = hardlyEver, 1 }), func(t *testing.T, w *world) {
		w.post(event("evt_1", "invoice.paid"))
		if got := w.why("evt_1", "legacy"); got != "backoff" {
			t.Errorf("after a failure: %q, want backoff", got)
		}
		a.then(hangs)
		w.post(event("evt_2", "invoice.paid"))
		if got := w.why("evt_2", "legacy"); got != "lease" {
			t.Errorf("while the attempt runs: %q, want lease", got)
		}
		w.post(event("evt_3", "invoice.paid"))
		if got := w.why("evt_3", "legacy"); got != "in_flight" {
			t.Errorf("with all slots taken: %q, want in_flight", got)
		}
		d := w.delivery("evt_3", "legacy")
		if got := w.Why("gone", d, time.Now()); got != "no_secret" {
			t.Errorf("of a source that is gone: %q, want no_secret", got)
		}
		d.Backend = "gone"
		if got := w.Why("main", d, time.Now()); got != "no_backend" {
			t.Errorf("for a backend that is gone: %q, want no_backend", got)
		}
		d.State = proxy.Delivered
		if got := w.Why("main", d, time.Now()); got != "" {
			t.Errorf("of a delivered one: %q", got)
		}
	})
}

func TestALeaseLastsAsLongAsTheAttemptMay(t *testing.T) {
	a := &app{do: hangs}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Timeout = time.Minute }), func(t *testing.T, w *world) {
		w.storePaused("legacy", 1)
		w.resume("legacy")
		start := time.Now()
		synctest.Wait()
		if got := w.delivery("evt_1", "legacy").LeaseUntil.Sub(start); got != 75*time.Second {
			t.Errorf("the lease lasts %v, want the timeout and 15s", got)
		}
		time.Sleep(61 * time.Second)
		if got := w.attempts("evt_1"); len(got) == 0 || got[0] != "resume timeout" {
			t.Errorf("attempts = %v", got)
		}
	})
}

func TestTheJournalFailsToSettle(t *testing.T) {
	a := &app{}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		h := hook(w.journal)
		w.run()
		w.storePaused("legacy", 20)
		h.fail("Settle", errDisk)
		w.resume("legacy")
		time.Sleep(10 * time.Second)
		h.on("Settle", nil)
		time.Sleep(2 * time.Second)
		a.wantCount(t, 20)
		w.wantState("evt_1", proxy.Delivered)
		w.wantState("evt_20", proxy.Delivered)
	})
}

func TestTheJournalFailsToLease(t *testing.T) {
	a := &app{}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		h := hook(w.journal)
		var calls atomic.Int64
		w.run()
		w.storePaused("legacy", 20)
		h.on("Lease", func() error { calls.Add(1); return errDisk })
		w.resume("legacy")
		time.Sleep(10*time.Second + time.Millisecond)
		if n := calls.Load(); n < 9 || n > 12 {
			t.Errorf("%d tries in 10s, want one a second", n)
		}
		h.on("Lease", nil)
		time.Sleep(2 * time.Second)
		a.wantCount(t, 20)
	})
}

// A drain that waits for the journal must not keep live events from the backend: with nothing to send it would hold
// every slot for as long as the journal takes to say so.
func TestALookAtTheJournalTakesNoSlotFromLiveEvents(t *testing.T) {
	a := &app{do: takes(time.Second)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight = 4 }))
		h := hook(w.journal)
		w.run()
		w.storePaused("legacy", 20)
		h.on("Lease", func() error { time.Sleep(10 * time.Second); return nil })
		w.resume("legacy")
		synctest.Wait()
		start := time.Now()
		live := w.posted(event("evt_live", "invoice.paid"))
		asked := w.posted(event("evt_asked", askType))
		wantAnswer(t, <-live, 200, "")
		wantAnswer(t, <-asked, 200, "")
		if took := time.Since(start); took != time.Second {
			t.Errorf("live events were answered after %v", took)
		}
		for i := range 4 {
			go w.post(event(fmt.Sprintf("evt_live_%d", i), "invoice.paid"))
		}
		h.on("Lease", nil)
		time.Sleep(time.Minute)
		if got := a.busiest(); got > 4 {
			t.Errorf("%d at once, want at most max_in_flight", got)
		}
		for _, k := range w.journal.All() {
			if k.State != proxy.Delivered {
				t.Errorf("%s is %s", k.Event.ID, k.State)
			}
		}
		a.wantCount(t, 20+1+1+4)
	})
}

// An attempt's claim lasts as long as the attempt may: a timeout that is lowered meanwhile does not shorten it.
func TestALoweredTimeoutEndsNoClaim(t *testing.T) {
	a := &app{do: takes(50 * time.Second)}
	change := legacy(func(b *proxy.Backend) { b.Timeout = time.Minute })
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		answered := w.posted(event("evt_1", "invoice.paid"))
		time.Sleep(time.Second)
		if err := w.reload(legacy(func(b *proxy.Backend) { b.Timeout = time.Second })); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, <-answered, 200, says("stored", "evt_1"))
		time.Sleep(20 * time.Second)
		w.resume("legacy") // has the drain look
		time.Sleep(time.Hour)
		a.wantCount(t, 1)
		w.wantState("evt_1", proxy.Delivered)
	})
}

// A journal that settles nothing for longer than leases last is not asked for more: what it would lease has been sent.
func TestNothingIsSentTwiceForAJournalThatIsAway(t *testing.T) {
	a := &app{}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		h := hook(w.journal)
		for i := range 5 {
			w.seed(fmt.Sprintf("evt_%d", i+1), time.Now(), time.Now(), proxy.Delivery{Backend: "legacy", State: proxy.Pending, Due: time.Now()})
		}
		h.fail("Settle", errDisk)
		w.run()
		time.Sleep(10 * time.Minute)
		a.wantCount(t, 5)
		h.on("Settle", nil)
		time.Sleep(time.Minute)
		a.wantCount(t, 5)
		for i := range 5 {
			w.wantState(fmt.Sprintf("evt_%d", i+1), proxy.Delivered)
		}
		w.post(event("evt_new", "invoice.paid"))
		a.wantCount(t, 6)
	})
}
