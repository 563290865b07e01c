package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// inTime is when Stripe is answered at the latest: inline_timeout, less what is kept for the journal.
const inTime = 6 * time.Second

func TestASlowHandlerIsCalledOnce(t *testing.T) {
	a := &app{do: takes(10 * time.Second)}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		start := time.Now()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		if !w.known("evt_1").Answered.IsZero() {
			t.Error("taken for answered, though Stripe may have hung up after 5s")
		}
		if took := time.Since(start); took != inTime {
			t.Errorf("Stripe was answered after %v, want %v", took, inTime)
		}
		d := w.delivery("evt_1", "legacy")
		if d.State != proxy.Pending || d.Attempts != 0 || d.Token == 0 || d.LeaseUntil.Sub(start) != 45*time.Second {
			t.Errorf("%+v, want it pending under the attempt's own claim, for its timeout and 15s", d)
		}
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("duplicate", "evt_1"))
		time.Sleep(4*time.Second + time.Millisecond)
		if d := w.delivery("evt_1", "legacy"); d.State != proxy.Delivered || d.Attempts != 1 {
			t.Errorf("%+v, want it delivered when the attempt has ended", d)
		}
		if got := w.attempts("evt_1"); !slices.Equal(got, []string{"inline delivered"}) {
			t.Errorf("attempts = %v", got)
		}
		time.Sleep(time.Hour)
		a.wantCount(t, 1)
	})
}

func TestASlowHandlerThatFailsIsRetried(t *testing.T) {
	a := &app{do: func(w http.ResponseWriter, r *http.Request) {
		takes(10*time.Second)(w, r)
		w.WriteHeader(500)
	}}
	change := legacy(func(b *proxy.Backend) { b.Retry = proxy.Retry{Initial: time.Second, Max: time.Second} })
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, change)
		hook(w.journal).on("Settle", func() error { time.Sleep(100 * time.Millisecond); return nil })
		w.run()
		w.post(event("evt_1", "invoice.paid"))
		a.then(nil)
		time.Sleep(6 * time.Second)
		w.wantState("evt_1", proxy.Delivered)
		if got := w.attempts("evt_1"); !slices.Equal(got, []string{"inline status_5xx", "retry delivered"}) {
			t.Errorf("attempts = %v", got)
		}
	})
}

func TestTheJournalRefusesWhileAnAttemptRuns(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		state  proxy.State
		calls  int // in the end
	}{{"and succeeds", 200, proxy.Delivered, 1}, {"and fails", 500, proxy.Pending, 1}} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{do: func(w http.ResponseWriter, r *http.Request) {
				takes(20*time.Second)(w, r)
				w.WriteHeader(c.status)
			}}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, apps{"legacy": a, "quick": {}}, legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }))
				h := hook(w.journal)
				h.fail("Append", proxy.ErrFull)
				w.run()
				if got := w.post(event("evt_1", "invoice.paid")); got.Code != 503 || got.Header().Get("Retry-After") == "" {
					t.Errorf("answered %d %s, want 503: the event is on nothing yet", got.Code, got.Body)
				}
				if n, _, _, _ := w.seen.counts(); n["main refused"] != 1 {
					t.Errorf("results = %v", n)
				}
				h.on("Append", nil)
				if got := w.post(event("evt_1", "invoice.paid")); got.Code != 503 { // the attempt still runs
					t.Errorf("a repeat was answered %d %s", got.Code, got.Body)
				}
				a.wantCount(t, 1)
				time.Sleep(15 * time.Second)
				if d := w.delivery("evt_1", "legacy"); d.State != c.state || d.Attempts != 1 || d.Token != 0 {
					t.Errorf("%+v, want the final result", d)
				}
				if d := w.delivery("evt_1", "quick"); d.State != proxy.Delivered {
					t.Errorf("%+v, want the other backend's result too", d)
				}
				wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("duplicate", "evt_1"))
				a.wantCount(t, c.calls)
			})
		})
	}
}

func TestTheJournalRefusesTheFinalResultToo(t *testing.T) {
	a := &app{do: takes(10 * time.Second)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		h := hook(w.journal)
		h.fail("Append", errDisk)
		w.run()
		if got := w.post(event("evt_1", "invoice.paid")); got.Code != 503 {
			t.Errorf("answered %d", got.Code)
		}
		time.Sleep(10 * time.Second)
		h.on("Append", nil)
		a.then(nil)
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "") // Stripe's retry: at least once
		a.wantCount(t, 2)
	})
}

// The result of an inline attempt that the journal does not take is offered to it again until it does.
func TestTheJournalDoesNotTakeALateResult(t *testing.T) {
	a := &app{do: takes(10 * time.Second)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		h := hook(w.journal)
		h.fail("Settle", errDisk)
		w.run()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		time.Sleep(20*time.Second + time.Second/2) // the journal is asked every second: in between
		h.on("Settle", nil)
		w.wantState("evt_1", proxy.Pending)
		time.Sleep(time.Minute)
		w.wantState("evt_1", proxy.Delivered)
		a.wantCount(t, 1)
	})
}

// An attempt belongs to the gateway, not to the request that brought the event.
func TestStripeHangsUp(t *testing.T) {
	a := &app{do: takes(3 * time.Second)}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		do(w, signed(event("evt_1", "invoice.paid")).WithContext(ctx))
		w.wantState("evt_1", proxy.Delivered)
		if k := w.known("evt_1"); !k.Answered.IsZero() {
			t.Error("taken for answered")
		}
		a.wantCount(t, 1)
	})
}

// The Settle of an inline claim waits for its Append.
func TestASlowAppendIsOvertakenByNothing(t *testing.T) {
	a := &app{do: takes(6500 * time.Millisecond)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		hook(w.journal).on("Append", func() error { time.Sleep(1500 * time.Millisecond); return nil })
		w.run()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		time.Sleep(time.Second)
		w.wantState("evt_1", proxy.Delivered)
		time.Sleep(time.Hour)
		a.wantCount(t, 1)
	})
}

func TestTheJournalRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     http.HandlerFunc
		change func(*proxy.Config)
		status int
		result string
	}{
		{"all delivered", nil, nil, 200, "main delivered"},
		{"the backend failed", answers(500), nil, 503, "main refused"},
		{"queued", nil, func(cfg *proxy.Config) { cfg.Routes[0].Queued = true }, 503, "main refused"},
		{"no route", nil, func(cfg *proxy.Config) { cfg.Routes = nil }, 503, "main refused"},
		{"ignored by a rule", nil, func(cfg *proxy.Config) { cfg.Routes[0].To = nil }, 200, "main ignored"},
	} {
		t.Run(c.name, func(t *testing.T) {
			core, logged := observer.New(zapcore.ErrorLevel)
			a := &app{do: c.do}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, apps{"legacy": a}, func(cfg *proxy.Config) {
					cfg.Log = zap.New(core)
					if c.change != nil {
						c.change(cfg)
					}
				})
				h := hook(w.journal)
				for _, op := range []string{"Find", "Append", "Record", "Settle"} {
					h.fail(op, errDisk)
				}
				w.run()
				got := w.post(event("evt_1", "invoice.paid"))
				if got.Code != c.status || (got.Code == 503) != (got.Header().Get("Retry-After") != "") {
					t.Errorf("answered %d %s, Retry-After %q, want %d", got.Code, got.Body, got.Header().Get("Retry-After"), c.status)
				}
				if n, _, _, _ := w.seen.counts(); n[c.result] != 1 {
					t.Errorf("results = %v, want %q", n, c.result)
				}
				if c.status == 503 && logged.FilterMessageSnippet("append event").Len() == 0 {
					t.Error("the operator is not told")
				}
			})
		})
	}
}

func TestBusyHistoryDelaysNoAnswer(t *testing.T) {
	for _, c := range []struct {
		name     string
		busy     time.Duration
		answered bool
		dropped  int
	}{
		{"for a moment", 500 * time.Millisecond, true, 0},
		{"for long", time.Hour, true, 1},
		{"for long, and Stripe hung up", time.Hour, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, apps{"legacy": a}, nil)
				start := time.Now()
				hook(w.journal).on("Record", func() error {
					if time.Since(start) < c.busy {
						return proxy.ErrBusy
					}
					return nil
				})
				w.run()
				timed := &timedWriter{ResponseRecorder: httptest.NewRecorder()}
				if c.answered {
					w.ServeHTTP(timed, signed(event("evt_1", "invoice.paid")))
					if timed.at.Sub(start) != 0 || timed.Code != 200 {
						t.Errorf("answered %d after %v, want 200 at once", timed.Code, timed.at.Sub(start))
					}
				} else {
					w.ServeHTTP(brokenWriter{httptest.NewRecorder()}, signed(event("evt_1", "invoice.paid")))
				}
				if held := time.Since(start); held > 1100*time.Millisecond {
					t.Errorf("the handler waited for %v, want at most a second", held)
				}
				if _, _, _, dropped := w.seen.counts(); dropped != c.dropped {
					t.Errorf("dropped %d, want %d", dropped, c.dropped)
				}
				wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("duplicate", "evt_1"))
				a.wantCount(t, 1)
				if c.answered {
					time.Sleep(2 * time.Minute) // a person presses Resend
					w.post(event("evt_1", "invoice.paid"))
					a.wantCount(t, 2)
				}
			})
		})
	}
}

// timedWriter says when the answer was written.
type timedWriter struct {
	*httptest.ResponseRecorder
	at time.Time
}

func (w *timedWriter) WriteHeader(status int) {
	w.at = time.Now()
	w.ResponseRecorder.WriteHeader(status)
}

func TestNoSlotWithin500Milliseconds(t *testing.T) {
	a := &app{do: takes(20 * time.Second)}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight = 2 }), func(t *testing.T, w *world) {
		first, second := w.posted(event("evt_1", "invoice.paid")), w.posted(event("evt_2", "invoice.paid"))
		synctest.Wait()
		start := time.Now()
		wantAnswer(t, w.post(event("evt_3", "invoice.paid")), 200, says("stored", "evt_3"))
		if took := time.Since(start); took != 500*time.Millisecond {
			t.Errorf("stored after %v, want 500ms", took)
		}
		if d := w.delivery("evt_3", "legacy"); d.Attempts != 0 || d.Due.After(time.Now()) || d.Token != 0 {
			t.Errorf("%+v, want it due now, and no attempt used", d)
		}
		<-first
		<-second
		time.Sleep(40 * time.Second)
		w.wantState("evt_3", proxy.Delivered)
		a.wantCount(t, 3)
	})
}

func TestASlotThatComesFreeInTime(t *testing.T) {
	a := &app{do: takes(400 * time.Millisecond)}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight = 1 }), func(t *testing.T, w *world) {
		first := w.posted(event("evt_1", "invoice.paid"))
		synctest.Wait()
		wantAnswer(t, w.post(event("evt_2", "invoice.paid")), 200, "")
		wantAnswer(t, <-first, 200, "")
		if got := a.busiest(); got != 1 {
			t.Errorf("%d at once, want max_in_flight", got)
		}
	})
}

func TestSeveralBackendsAreCalledAtOnce(t *testing.T) {
	a, b, c := &app{do: takes(2 * time.Second)}, &app{do: takes(2 * time.Second)}, &app{do: answers(500)}
	change := func(cfg *proxy.Config) {
		cfg.Backends["c"] = proxy.Backend{URL: "http://c.test/", Retry: proxy.Retry{Initial: time.Second, Max: time.Second}}
	}
	inBubble(t, apps{"a": a, "b": b, "c": c}, change, func(t *testing.T, w *world) {
		start := time.Now()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("it took %v, want as long as the slowest", took)
		}
		if a, c := w.delivery("evt_1", "a").State, w.delivery("evt_1", "c").State; a != proxy.Delivered || c != proxy.Pending {
			t.Errorf("a is %s, c is %s, want delivered and pending", a, c)
		}
		c.then(nil)
		time.Sleep(2 * time.Second)
		w.wantState("evt_1", proxy.Delivered)
		a.wantCount(t, 1)
		b.wantCount(t, 1)
	})
}

func TestQueued(t *testing.T) {
	a := &app{do: takes(3 * time.Second)}
	inBubble(t, apps{"legacy": a}, func(cfg *proxy.Config) { cfg.Routes[0].Queued = true }, func(t *testing.T, w *world) {
		start := time.Now()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		if time.Since(start) != 0 {
			t.Errorf("Stripe waited for %v", time.Since(start))
		}
		time.Sleep(4 * time.Second)
		w.wantState("evt_1", proxy.Delivered)
		if got := w.attempts("evt_1"); !slices.Equal(got, []string{"resume delivered"}) {
			t.Errorf("attempts = %v", got)
		}
	})
}

func TestIgnoredAndUnrouted(t *testing.T) {
	a := &app{}
	change := func(cfg *proxy.Config) {
		cfg.Routes = proxy.Routes{{Types: []string{"invoice.*"}}, {Types: []string{"charge.*"}, To: []string{"legacy"}}}
	}
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		for _, c := range []struct {
			id, typ string
			result  proxy.Result
			reason  string
		}{{"evt_1", "invoice.paid", proxy.ResultIgnored, proxy.ReasonRule}, {"evt_2", "payout.paid", proxy.ResultUnrouted, proxy.ReasonNoRoute}} {
			wantAnswer(t, w.post(event(c.id, c.typ)), 200, says(c.result, c.id))
			if k := w.known(c.id); k.State != proxy.Ignored || k.Reason != c.reason {
				t.Errorf("%s is %s, %q", c.id, k.State, k.Reason)
			}
			if _, err := w.Gateway.Resend(t.Context(), w.known(c.id)); err == nil || !strings.Contains(err.Error(), "no route") {
				t.Errorf("resend without a route: %v", err)
			}
		}
		a.wantCount(t, 0)
		if err := w.reload(func(cfg *proxy.Config) { cfg.Routes = proxy.Routes{{To: []string{"legacy"}}} }); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"evt_1", "evt_2"} {
			if _, err := w.Gateway.Resend(t.Context(), w.known(id)); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		a.wantCount(t, 2)
	})
}

func TestAccept(t *testing.T) {
	a := &app{do: answers(500)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }))
		h := hook(w.journal)
		w.run()
		accept := func(source, id string) (proxy.Result, error) {
			return w.Accept(t.Context(), &proxy.Event{Source: source, ID: id, Type: "invoice.paid", Body: event(id, "invoice.paid"), Received: time.Now()}, proxy.TriggerInline)
		}
		if got, err := accept("main", "evt_1"); got != proxy.ResultStored || err != nil {
			t.Errorf("%s, %v, want stored", got, err)
		}
		h.fail("Append", errDisk)
		if got, err := accept("main", "evt_2"); got != proxy.ResultRefused || err == nil {
			t.Errorf("%s, %v, want it refused", got, err)
		}
		if _, err := accept("other", "evt_3"); err == nil {
			t.Error("an unknown source was taken")
		}
		a.then(nil)
		if got, err := accept("main", "evt_4"); got != proxy.ResultDelivered || err != nil {
			t.Errorf("%s, %v, want delivered", got, err)
		}
		if last := a.requests()[a.count()-1]; last.header.Get("Stripe-Signature") == "" {
			t.Error("an event without a signature was not signed")
		}
	})
}

func TestMemoryOfBodiesIsGivenBackAfterTheAttempt(t *testing.T) {
	change := func(cfg *proxy.Config) {
		cfg.BodyMemory = 300
		cfg.Sources["main"] = proxy.Source{Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{secret}, MaxBody: 300}
	}
	inBubble(t, apps{"legacy": {do: takes(10 * time.Second)}}, change, func(t *testing.T, w *world) {
		for i := range 5 {
			id := fmt.Sprintf("evt_%d", i+1)
			wantAnswer(t, w.post(event(id, "invoice.paid")), 200, says("stored", id))
			time.Sleep(5 * time.Second)
		}
	})
}
