package proxy_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// seed puts an event with these deliveries in the journal, as received at that time.
func (w *world) seed(id string, received, answered time.Time, ds ...proxy.Delivery) {
	w.t.Helper()
	e := proxy.Entry{Event: &proxy.Event{Source: "main", ID: id, Type: "invoice.paid", Received: received, Body: []byte("old")}, Answered: answered}
	for _, d := range ds {
		d.Turn = max(d.Turn, 1)
		e.Deliveries = append(e.Deliveries, proxy.EntryDelivery{Delivery: d})
	}
	if _, err := w.journal.Append(w.t.Context(), e); err != nil {
		w.t.Fatal(err)
	}
}

// statuses counts answers by status and body.
func statuses(all []*httptest.ResponseRecorder) map[string]int {
	n := map[string]int{}
	for _, w := range all {
		n[fmt.Sprintf("%d %s", w.Code, w.Body)]++
	}
	return n
}

func TestTheSameIdOnTwoSourcesIsTwoEvents(t *testing.T) {
	a := &app{}
	change := func(cfg *proxy.Config) {
		cfg.Sources["connect"] = proxy.Source{Path: "/connect", SigningSecrets: []proxy.Secret{secret}}
	}
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		w.post(event("evt_1", "invoice.paid"))
		r := signed(event("evt_1", "invoice.paid"))
		r.URL.Path = "/connect"
		do(w, r)
		a.wantCount(t, 2)
		if n := len(w.journal.All()); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
	})
}

func TestRepeatsOfAnEventInFlightWaitForItsOutcome(t *testing.T) {
	dup := `200 {"status":"duplicate","event":"evt_1"}`
	for _, c := range []struct {
		name    string
		status  int
		answer  proxy.Answer
		journal error
		want    map[string]int
		result  map[string]int
	}{
		{"delivered", 200, "", nil, map[string]int{"200 ": 1, dup: 19}, map[string]int{"main delivered": 1, "main duplicate": 19}},
		{"failed and stored", 500, "", nil, map[string]int{`200 {"status":"stored","event":"evt_1"}`: 1, dup: 19}, map[string]int{"main stored": 1, "main duplicate": 19}},
		{"failed and held", 500, proxy.AnswerBackend, nil, map[string]int{`503 {"status":"held","event":"evt_1"}`: 20}, map[string]int{"main held": 20}},
		{"failed and refused", 500, "", errDisk, nil, map[string]int{"main refused": 20}},
		{"delivered and not stored", 200, "", errDisk, map[string]int{"200 ": 1, dup: 19}, map[string]int{"main delivered": 1, "main duplicate": 19}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{do: func(w http.ResponseWriter, r *http.Request) {
				takes(3*time.Second)(w, r)
				w.WriteHeader(c.status)
			}}
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, apps{"legacy": a}, both(legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }), func(cfg *proxy.Config) { cfg.Routes[0].Answer = c.answer }))
				hook(w.journal).fail("Append", c.journal)
				w.run()
				var waiting []<-chan *httptest.ResponseRecorder
				for i := range 20 {
					waiting = append(waiting, w.posted(event("evt_1", "invoice.paid")))
					if i%5 == 4 {
						time.Sleep(500 * time.Millisecond)
					}
				}
				var got []*httptest.ResponseRecorder
				for _, p := range waiting {
					got = append(got, <-p)
				}
				if n := statuses(got); c.want != nil && !maps.Equal(n, c.want) {
					t.Errorf("answers = %v, want %v", n, c.want)
				}
				synctest.Wait()
				if n, _, _, _ := w.seen.counts(); !maps.Equal(n, c.result) {
					t.Errorf("results = %v, want %v", n, c.result)
				}
				for _, g := range got {
					if g.Code == 503 && g.Header().Get("Retry-After") == "" {
						t.Error("503 without Retry-After")
					}
				}
				a.wantCount(t, 1)
			})
		})
	}
}

func TestARepeatWaitsNoLongerThanItsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": {do: answers(500)}}, nil)
		hook(w.journal).on("Append", func() error { time.Sleep(time.Minute); return errDisk })
		w.run()
		first := w.posted(event("evt_1", "invoice.paid"))
		synctest.Wait()
		start := time.Now()
		if got := w.post(event("evt_1", "invoice.paid")); got.Code != 503 || time.Since(start) != 8*time.Second {
			t.Errorf("answered %d after %v, want 503 after inline_timeout", got.Code, time.Since(start))
		}
		<-first
	})
}

func TestARepeatOfAPendingEventIsNotForwarded(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		w.storePaused("legacy", 1)
		if got := w.known("evt_1").Answered; got.IsZero() {
			t.Error("not marked as answered when it was stored")
		}
		for range 3 {
			wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("duplicate", "evt_1"))
		}
		a.wantCount(t, 0)
	})
}

func TestOnlyFailedBackendsAreOpenedAgainWithTheNewBytes(t *testing.T) {
	good, bad, waiting := &app{}, &app{}, &app{}
	inBubble(t, apps{"good": good, "bad": bad, "waiting": waiting}, nil, func(t *testing.T, w *world) {
		now := time.Now()
		w.seed("evt_1", now, now, proxy.Delivery{Backend: "good", State: proxy.Delivered}, proxy.Delivery{Backend: "bad", State: proxy.Failed, Attempts: 10},
			proxy.Delivery{Backend: "waiting", State: proxy.Pending, Due: now.Add(time.Hour)})
		body := event("evt_1", "invoice.paid")
		if got := w.post(body); got.Code != 200 {
			t.Errorf("answered %d %s", got.Code, got.Body)
		}
		good.wantCount(t, 0)
		waiting.wantCount(t, 0)
		bad.wantCount(t, 1)
		got := bad.requests()[0]
		if !bytes.Equal(got.body, body) || got.header.Get("Breakwater-Attempt") != "1" || got.header.Get("Breakwater-Trigger") != "resend" {
			t.Errorf("sent %q as %v", got.body, got.header)
		}
		if d := w.delivery("evt_1", "bad"); d.State != proxy.Delivered || d.Turn != 2 {
			t.Errorf("%+v, want it delivered in its second turn", d)
		}
		w.wantState("evt_1", proxy.Pending)
	})
}

func TestAFailedEventFailsAgain(t *testing.T) {
	a := &app{do: answers(500)}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }), func(t *testing.T, w *world) {
		w.seed("evt_1", time.Now(), time.Time{}, proxy.Delivery{Backend: "legacy", State: proxy.Failed, Attempts: 10})
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		if d := w.delivery("evt_1", "legacy"); d.State != proxy.Pending || d.Turn != 2 || d.Attempts != 1 {
			t.Errorf("%+v, want it pending in its second turn after one attempt", d)
		}
	})
}

// With answer: backend a 2xx means that every backend has the event, those included that were not called now.
func TestAnEventThatIsOwedToOthersIsHeld(t *testing.T) {
	change := func(cfg *proxy.Config) { cfg.Routes[0].Answer = proxy.AnswerBackend }
	inBubble(t, apps{"bad": {}, "waiting": {}}, change, func(t *testing.T, w *world) {
		now := time.Now()
		w.seed("evt_1", now, time.Time{}, proxy.Delivery{Backend: "bad", State: proxy.Failed}, proxy.Delivery{Backend: "waiting", State: proxy.Pending, Due: now.Add(time.Minute)})
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 503, says("held", "evt_1"))
		time.Sleep(2 * time.Minute)
		w.wantState("evt_1", proxy.Delivered)
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("duplicate", "evt_1"))
	})
}

func TestADeliveredAndAnsweredEventIsSuppressedForAWhile(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		again bool
	}{{0, false}, {59 * time.Second, false}, {61 * time.Second, true}, {72 * time.Hour, true}} {
		t.Run(c.after.String(), func(t *testing.T) {
			a := &app{}
			inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
				w.post(event("evt_1", "invoice.paid"))
				time.Sleep(c.after)
				got := w.post(event("evt_1", "invoice.paid"))
				if !c.again {
					wantAnswer(t, got, 200, says("duplicate", "evt_1"))
					a.wantCount(t, 1)
					return
				}
				wantAnswer(t, got, 200, "")
				a.wantCount(t, 2)
				if d := w.delivery("evt_1", "legacy"); d.Turn != 2 {
					t.Errorf("turn %d, want a new one", d.Turn)
				}
				if tr := a.requests()[1].header.Get("Breakwater-Trigger"); tr != "resend" {
					t.Errorf("trigger = %s", tr)
				}
			})
		})
	}
}

func TestADeliveredEventWithoutOurAnswerIsStripesRetryFor72Hours(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		again bool
	}{{time.Second, false}, {2 * time.Minute, false}, {72*time.Hour - time.Second, false}, {72*time.Hour + time.Second, true}} {
		t.Run(c.after.String(), func(t *testing.T) {
			a := &app{}
			inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
				w.ServeHTTP(brokenWriter{httptest.NewRecorder()}, signed(event("evt_1", "invoice.paid")))
				time.Sleep(c.after)
				got := w.post(event("evt_1", "invoice.paid"))
				if !c.again {
					wantAnswer(t, got, 200, says("duplicate", "evt_1"))
					a.wantCount(t, 1)
					if w.known("evt_1").Answered.IsZero() {
						t.Error("not marked as answered now")
					}
					return
				}
				a.wantCount(t, 2)
			})
		})
	}
}

func TestAnAnswerAfterFiveSecondsMayNotHaveArrived(t *testing.T) {
	for _, c := range []struct {
		takes    time.Duration
		answered bool
	}{{4900 * time.Millisecond, true}, {5100 * time.Millisecond, false}} {
		inBubble(t, apps{"legacy": {do: takes(c.takes)}}, nil, func(t *testing.T, w *world) {
			wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "")
			if got := !w.known("evt_1").Answered.IsZero(); got != c.answered {
				t.Errorf("answered after %v: %v, want %v", c.takes, got, c.answered)
			}
		})
	}
}

func TestTheDashboardsTestEventIsNeverADuplicate(t *testing.T) {
	a := &app{do: takes(time.Second)}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		body := event("evt_00000000000000", "invoice.paid")
		first, second := w.posted(body), w.posted(body)
		wantAnswer(t, <-first, 200, "")
		wantAnswer(t, <-second, 200, "")
		wantAnswer(t, w.post(body), 200, "")
		a.wantCount(t, 3)
		w.Pause("legacy")
		wantAnswer(t, w.post(body), 200, says("stored", "evt_00000000000000"))
		wantAnswer(t, w.post(body), 200, says("stored", "evt_00000000000000"))
		if n := len(w.journal.All()); n != 5 {
			t.Errorf("%d events, want 5", n)
		}
		w.resume("legacy")
		time.Sleep(2 * time.Second)
		a.wantCount(t, 5)
	})
}

func TestAnIgnoredEventFollowsTheRoutesOfToday(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, func(cfg *proxy.Config) { cfg.Routes = proxy.Routes{{Types: []string{"invoice.*"}}} }, func(t *testing.T, w *world) {
		for i, typ := range []string{"invoice.paid", "charge.succeeded"} {
			id := fmt.Sprintf("evt_%d", i+1)
			w.post(event(id, typ))
			wantAnswer(t, w.post(event(id, typ)), 200, says("duplicate", id))
		}
		if err := w.reload(func(cfg *proxy.Config) { cfg.Routes = proxy.Routes{{To: []string{"legacy"}}} }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // signed afresh
		for i, typ := range []string{"invoice.paid", "charge.succeeded"} {
			w.post(event(fmt.Sprintf("evt_%d", i+1), typ))
		}
		a.wantCount(t, 2)
		w.wantState("evt_1", proxy.Delivered)
		w.wantState("evt_2", proxy.Delivered)
	})
}

func TestAnUnreadableJournalIsNoDuplicate(t *testing.T) {
	a := &app{}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		h := hook(w.journal)
		w.run()
		w.post(event("evt_1", "invoice.paid"))
		h.fail("Find", errDisk)
		time.Sleep(time.Second) // signed afresh
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "")
		a.wantCount(t, 2)
	})
}

func TestManyEventsAtOnceAreEachDeliveredOnce(t *testing.T) {
	t.Parallel()
	a := &app{do: func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("Breakwater-Event-Id"), "7") && r.Header.Get("Breakwater-Attempt") == "1" {
			w.WriteHeader(404)
		}
	}}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = proxy.Retry{Initial: time.Second, Max: time.Second} }), func(t *testing.T, w *world) {
		var waiting []<-chan *httptest.ResponseRecorder
		for i := range 300 {
			waiting = append(waiting, w.posted(event(fmt.Sprintf("evt_%d", 1+i%100), "invoice.paid")))
		}
		for _, p := range waiting {
			if got := <-p; got.Code > 299 {
				t.Errorf("answered %d %s", got.Code, got.Body)
			}
		}
		time.Sleep(5 * time.Second)
		ids := a.ids()
		slices.Sort(ids)
		if len(ids) != 110 || len(slices.Compact(ids)) != 100 {
			t.Errorf("%d requests, want 100 and 10 retries", len(ids))
		}
		for _, k := range w.journal.All() {
			if k.State != proxy.Delivered {
				t.Errorf("%s is %s", k.Event.ID, k.State)
			}
		}
	})
}

// What is suppressed is answered too, but the window is counted from the first answer: somebody who presses Resend
// again and again is served.
func TestASuppressedRepeatDoesNotProlongTheWindow(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		w.post(event("evt_1", "invoice.paid"))
		time.Sleep(50 * time.Second)
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("duplicate", "evt_1"))
		a.wantCount(t, 1)
		time.Sleep(20 * time.Second)
		w.post(event("evt_1", "invoice.paid"))
		a.wantCount(t, 2)
	})
}

// The backend that failed is gone, and somebody presses Resend at Stripe: today's backends get the event.
func TestARepeatOfWhatFailedAtABackendThatIsGone(t *testing.T) {
	fresh := &app{}
	inBubble(t, apps{"fresh": fresh}, nil, func(t *testing.T, w *world) {
		e := &proxy.Event{Source: "main", ID: "evt_1", Type: "invoice.paid", Received: time.Now(), Body: event("evt_1", "invoice.paid")}
		d := proxy.Delivery{Backend: "old", State: proxy.Failed, Turn: 1, Attempts: 10}
		if _, err := w.journal.Append(t.Context(), proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{{Delivery: d}}}); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "")
		fresh.wantCount(t, 1)
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("duplicate", "evt_1"))
		fresh.wantCount(t, 1)
	})
}

// A person's Resend is signed afresh; what carries the very signature that had a 2xx before is a replay, whoever sends it.
func TestReplay(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		body := event("evt_1", "invoice.paid")
		first, resent := signed(body), signed(body)
		wantAnswer(t, do(w, first), 200, "")
		time.Sleep(65 * time.Second)
		replay := signed(body)
		replay.Header.Set("Stripe-Signature", resent.Header.Get("Stripe-Signature"))
		replay.Header.Set("X-Odd", "1")
		replay.URL.RawQuery = "as=admin"
		wantAnswer(t, do(w, replay), 200, says("duplicate", "evt_1"))
		a.wantCount(t, 1)
		wantAnswer(t, w.post(body), 200, "") // signed afresh
		a.wantCount(t, 2)
	})
}

// The signature of an arrival that had no 2xx is as good as new: whoever sends the event again may do so byte for byte.
func TestWhatHadNo2xxIsNoReplay(t *testing.T) {
	a := &app{do: answers(500)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		h := hook(w.journal)
		h.fail("Append", errDisk)
		w.run()
		body := event("evt_1", "invoice.paid")
		again := signed(body)
		if got := w.post(body); got.Code != 503 {
			t.Fatalf("answered %d", got.Code)
		}
		h.on("Append", nil)
		time.Sleep(10 * time.Second)
		wantAnswer(t, do(w, again), 200, says("stored", "evt_1"))
	})
}
