package proxy_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestBreakerOpensAndCostsNoAttempt(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    http.HandlerFunc
		opens bool
	}{
		{"500", answers(500), true},
		{"503", answers(503), true},
		{"429", answers(429), true},
		{"reset", cuts, true},
		{"404", answers(404), false},
		{"410", answers(410), false},
		{"302", answers(302), false},
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
