package proxy_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/breakwater-gateway/breakwater/proxy"
)

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
			if time.Until(k.Deliveries[0].Due) > time.Minute {
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
