package proxy_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

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

func TestFailedAttemptIsRetriedWithBackoff(t *testing.T) {
	a := &app{do: answers(500)}
	retry := proxy.Retry{Initial: time.Second, Max: 8 * time.Second, GiveUpAfter: time.Hour}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry, b.Breaker.Failures = retry, 100 }), func(t *testing.T, w *world) {
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		time.Sleep(time.Minute)
		a.then(nil)
		time.Sleep(10 * time.Second)
		w.wantState("evt_1", proxy.Delivered)
		got := a.requests()
		for i, r := range got {
			if want := strconv.Itoa(i + 1); r.header.Get("Breakwater-Attempt") != want {
				t.Errorf("Breakwater-Attempt of request %d = %s", i+1, r.header.Get("Breakwater-Attempt"))
			}
			if i == 0 {
				continue
			}
			if most := min(time.Second<<(i-1), retry.Max) + 10*time.Millisecond; r.at.Sub(got[i-1].at) > most {
				t.Errorf("attempt %d came %v after the one before, want at most %v", i+1, r.at.Sub(got[i-1].at), most)
			}
		}
		want := append(append([]string{"inline status_5xx"}, slices.Repeat([]string{"retry status_5xx"}, len(got)-2)...), "retry delivered")
		if got := w.attempts("evt_1"); !slices.Equal(got, want) {
			t.Errorf("attempts = %v, want %v", got, want)
		}
	})
}

func TestBackoffIsFullJitter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := proxy.Retry{
			Initial: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "initial")),
			Max:     time.Duration(rapid.Int64Range(int64(time.Hour), int64(200*time.Hour)).Draw(t, "max")),
		}
		n := rapid.IntRange(1, 1000).Draw(t, "n")
		most := time.Duration(min(float64(r.Initial)*math.Exp2(float64(n-1)), float64(r.Max)))
		var sum float64
		for range 200 {
			d := time.Duration(r.Backoff(n))
			if d < 0 || d > most {
				t.Fatalf("backoff %v is not within 0 and %v", d, most)
			}
			sum += float64(d) / float64(most)
		}
		if mean := sum / 200; most > 100 && (mean < 0.3 || mean > 0.7) { // ten standard deviations
			t.Fatalf("mean of the backoffs is %.2f of %v, want about one half", mean, most)
		}
	})
}

func TestRetryAfterIsHonouredAndClamped(t *testing.T) {
	for _, c := range []struct {
		name, asked string
		least, most time.Duration
	}{
		{"seconds", "100", 100 * time.Second, 100 * time.Second},
		{"a date", "Sat, 01 Jan 2000 00:03:20 GMT", 200 * time.Second, 200 * time.Second}, // bubbles begin with the year 2000
		{"longer than max", "86400", 10 * time.Minute, 10 * time.Minute},
		{"more seconds than a duration holds", "2147483647", 10 * time.Minute, 10 * time.Minute},
		{"in the past", "Fri, 31 Dec 1999 23:00:00 GMT", 0, time.Second},
		{"negative", "-5", 0, time.Second},
		{"nonsense", "soon", 0, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{do: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", c.asked)
				w.WriteHeader(http.StatusServiceUnavailable)
			}}
			retry := proxy.Retry{Initial: time.Second, Max: 10 * time.Minute}
			inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = retry }), func(t *testing.T, w *world) {
				w.post(event("evt_1", "invoice.paid"))
				a.then(nil)
				time.Sleep(time.Hour)
				a.wantCount(t, 2)
				got := a.requests()
				if d := got[1].at.Sub(got[0].at); d < c.least || d > c.most+10*time.Millisecond {
					t.Errorf("retried after %v, want %v to %v", d, c.least, c.most)
				}
			})
		})
	}
}

// A Retry-After shorter than the backoff does not shorten it.
func TestRetryAfterDoesNotShortenTheBackoff(t *testing.T) {
	a := &app{do: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	}}
	retry := proxy.Retry{Initial: time.Hour, Max: time.Hour}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry, b.Breaker.Failures = retry, 1000 }), func(t *testing.T, w *world) {
		for i := range 40 {
			w.post(event(fmt.Sprintf("evt_%d", i), "invoice.paid"))
		}
		late := 0
		for _, k := range w.journal.All() {
			if k.Deliveries[0].Due.Sub(time.Now()) > time.Minute {
				late++
			}
		}
		if late < 20 { // of 40, each with a chance of one in sixty
			t.Errorf("%d of 40 wait for more than a minute, want nearly all", late)
		}
	})
}

func TestGiveUpNeedsTimeAndTenAttempts(t *testing.T) {
	for _, c := range []struct {
		name    string
		giveUp  time.Duration
		atLeast int
		atMost  int
	}{
		{"time is over at once", time.Nanosecond, 10, 10},
		{"time is over late", time.Hour, 500, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{do: answers(404)}
			retry := proxy.Retry{Initial: 5 * time.Second, Max: 5 * time.Second, GiveUpAfter: c.giveUp}
			inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = retry }), func(t *testing.T, w *world) {
				w.post(event("evt_1", "invoice.paid"))
				time.Sleep(2 * time.Hour)
				w.wantState("evt_1", proxy.Failed)
				got := a.requests()
				if len(got) < c.atLeast || len(got) > c.atMost {
					t.Errorf("given up after %d attempts, want %d to %d", len(got), c.atLeast, c.atMost)
				}
				if d := got[len(got)-1].at.Sub(got[0].at); d < c.giveUp || d > max(c.giveUp, time.Minute)+6*time.Second {
					t.Errorf("given up %v after the first attempt, want %v", d, c.giveUp)
				}
				a.then(nil)
				if _, err := w.Gateway.Resend(t.Context(), w.known("evt_1")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				w.wantState("evt_1", proxy.Delivered)
				last := a.requests()[a.count()-1]
				if tr := last.header.Get("Breakwater-Trigger"); tr != "resend" || last.header.Get("Breakwater-Attempt") != "1" {
					t.Errorf("resent as %s, attempt %s", tr, last.header.Get("Breakwater-Attempt"))
				}
			})
		})
	}
}

func TestGiveUpDoesNotCountAPause(t *testing.T) {
	a := &app{do: answers(404)}
	retry := proxy.Retry{Initial: time.Second, Max: time.Second, GiveUpAfter: 2 * time.Minute}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = retry }), func(t *testing.T, w *world) {
		w.post(event("evt_1", "invoice.paid"))
		time.Sleep(time.Minute)
		w.Pause("legacy")
		time.Sleep(24 * time.Hour)
		w.resume("legacy")
		before := a.count()
		time.Sleep(50 * time.Second)
		if before < 10 || a.count() < before+10 {
			t.Fatalf("%d attempts before the pause, %d after it", before, a.count()-before)
		}
		w.wantState("evt_1", proxy.Pending)
		time.Sleep(20 * time.Second)
		w.wantState("evt_1", proxy.Failed)
	})
}

func TestGiveUpDoesNotCountAnOpenBreaker(t *testing.T) {
	a := &app{do: answers(500)}
	retry := proxy.Retry{Initial: time.Second, Max: time.Second, GiveUpAfter: time.Minute}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = retry }), func(t *testing.T, w *world) {
		w.post(event("evt_1", "invoice.paid"))
		time.Sleep(20 * time.Minute)
		if n := a.count(); n < 30 || n > 50 {
			t.Errorf("%d attempts in 20 minutes, want one for each time that the breaker lets one pass", n)
		}
		w.wantState("evt_1", proxy.Pending)
		time.Sleep(5 * time.Hour)
		w.wantState("evt_1", proxy.Failed)
	})
}

func TestBreakerOpensAndCostsNoAttempt(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    http.HandlerFunc
		opens bool
	}{
		{"500", answers(500), true}, {"503", answers(503), true}, {"429", answers(429), true}, {"reset", cuts, true},
		{"404", answers(404), false}, {"410", answers(410), false}, {"302", answers(302), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{do: c.do}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, apps{"legacy": a}, nil) // does not run: no retries
				defer func() { w.run(); w.stop() }()
				for i := range 5 {
					w.post(event(fmt.Sprintf("evt_%d", i), "invoice.paid"))
				}
				opened := time.Now()
				wantAnswer(t, w.post(event("evt_5", "invoice.paid")), 200, says("stored", "evt_5"))
				if !c.opens {
					a.wantCount(t, 6)
					return
				}
				a.wantCount(t, 5)
				d := w.delivery("evt_5", "legacy")
				if d.Attempts != 0 || !d.Due.Equal(opened.Add(30*time.Second)) {
					t.Errorf("%d attempts, due after %v, want none and when the breaker lets a probe pass", d.Attempts, d.Due.Sub(opened))
				}
				if got := w.why("evt_5", "legacy"); got != "breaker" {
					t.Errorf("why = %q", got)
				}
				if got := w.status("legacy").Breaker; got != "open" {
					t.Errorf("status = %q", got)
				}
			})
		})
	}
}

func TestALiveEventIsTheProbe(t *testing.T) {
	a := &app{do: answers(500)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		defer func() { w.run(); w.stop() }()
		for i := range 5 {
			w.post(event(fmt.Sprintf("evt_%d", i), "invoice.paid"))
		}
		time.Sleep(31 * time.Second)
		a.then(takes(time.Second))
		probe := w.posted(event("evt_probe", "invoice.paid"))
		synctest.Wait()
		for i := range 3 {
			id := fmt.Sprintf("evt_next_%d", i)
			wantAnswer(t, w.post(event(id, "invoice.paid")), 200, says("stored", id))
			if d := w.delivery(id, "legacy"); d.Attempts != 0 {
				t.Errorf("%s cost %d attempts", id, d.Attempts)
			}
		}
		if got := <-probe; got.Code != 200 || got.Body.String() != "" {
			t.Errorf("the probe was answered %d %s, want the backend's 200", got.Code, got.Body)
		}
		a.wantCount(t, 6)
		if got := w.status("legacy"); got.Breaker != "closed" || got.Slots != 1 {
			t.Errorf("after the probe: %s, %d slots, want closed, 1", got.Breaker, got.Slots)
		}
	})
}

func TestALeasedEventIsTheOnlyProbe(t *testing.T) {
	a := &app{do: answers(500)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) {
			b.Retry = hardlyEver
			b.Breaker = proxy.Breaker{Failures: 1, OpenFor: 30 * time.Second}
		}))
		var leases atomic.Int64
		hook(w.journal).on("Lease", func() error { leases.Add(1); return nil })
		w.run()
		w.post(event("evt_0", "invoice.paid"))
		for i := range 20 {
			w.post(event(fmt.Sprintf("evt_%d", i+1), "invoice.paid"))
		}
		a.then(func(w http.ResponseWriter, r *http.Request) {
			takes(10*time.Second)(w, r)
			w.WriteHeader(500)
		})
		time.Sleep(25 * time.Second)
		a.wantCount(t, 1)
		leases.Store(0)
		time.Sleep(10 * time.Second) // the probe is under way
		a.wantCount(t, 2)
		if n := leases.Load(); n > 50 {
			t.Errorf("%d leases while the probe was under way, want next to none", n)
		}
		if got := w.why("evt_7", "legacy"); got != "breaker" && got != "in_flight" {
			t.Errorf("why = %q", got)
		}
		time.Sleep(30 * time.Second) // it failed, the breaker is open again
		a.wantCount(t, 2)
		if d := w.delivery("evt_2", "legacy"); d.Attempts != 0 {
			t.Errorf("evt_2 was attempted %d times", d.Attempts)
		}
		time.Sleep(10 * time.Second)
		a.wantCount(t, 3)
		a.then(nil)
		time.Sleep(time.Minute)
		if got := a.ids()[:3]; got[1] != "evt_1" || got[2] != "evt_2" {
			t.Errorf("the probes were %v, want the oldest", got[1:])
		}
		a.wantCount(t, 1+20)
	})
}

func TestSlowStartAfterAnOutage(t *testing.T) {
	a := &app{do: answers(500)}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) {
		b.MaxInFlight, b.Breaker, b.Retry = 8, proxy.Breaker{Failures: 1, OpenFor: 30 * time.Second}, hardlyEver
	}), func(t *testing.T, w *world) {
		w.post(event("evt_first", "invoice.paid"))
		for i := range 100 {
			w.post(event(fmt.Sprintf("evt_%d", i), "invoice.paid"))
		}
		a.then(takes(time.Second))
		time.Sleep(30*time.Second + 500*time.Millisecond)
		a.busiest()
		var got []int
		for range 7 {
			synctest.Wait()
			got = append(got, a.busiest())
			time.Sleep(time.Second + 10*time.Millisecond)
		}
		if want := []int{1, 1, 2, 4, 8, 8, 8}; !slices.Equal(got, want) {
			t.Errorf("at once, second by second: %v, want %v", got, want)
		}
	})
}

func TestAFailureHalvesTheSlowStart(t *testing.T) {
	a := &app{do: answers(500)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight = 100 }))
		defer func() { w.run(); w.stop() }()
		for i := range 5 {
			w.post(event(fmt.Sprintf("evt_%d", i), "invoice.paid"))
		}
		time.Sleep(31 * time.Second)
		a.then(nil)
		for i := range 10 {
			w.post(event(fmt.Sprintf("evt_good_%d", i), "invoice.paid"))
		}
		if got := w.status("legacy").Slots; got != 10 {
			t.Errorf("%d slots after a probe and 9 successes, want 10", got)
		}
		a.then(answers(500))
		w.post(event("evt_bad", "invoice.paid"))
		if got := w.status("legacy").Slots; got != 5 {
			t.Errorf("%d slots after a failure, want half of 10", got)
		}
	})
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
			if _, err := w.journal.Append(t.Context(), time.Now(), proxy.Entry{Event: ev, Deliveries: []proxy.EntryDelivery{{Delivery: d}}}); err != nil {
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

func TestAnOutageKeepsTheOrderOfReceipt(t *testing.T) {
	a := &app{do: answers(500)}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) {
		b.Breaker.Failures, b.MaxInFlight, b.Retry = 1, 1, hardlyEver
	}), func(t *testing.T, w *world) {
		w.post(event("evt_first", "invoice.paid"))
		var want []string
		for i := range 40 { // over three openings of the breaker
			id := fmt.Sprintf("evt_%02d", i)
			w.post(event(id, "invoice.paid"))
			want = append(want, id)
			time.Sleep(2*time.Second + 100*time.Millisecond)
		}
		probed := a.count()
		a.then(nil)
		time.Sleep(40 * time.Second)
		got := a.ids()[probed:]
		for _, failed := range a.ids()[:probed] {
			want = slices.DeleteFunc(want, func(id string) bool { return id == failed })
		}
		if !slices.Equal(got, want) {
			t.Errorf("order after the outage:\n%v\nwant\n%v", got, want)
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
