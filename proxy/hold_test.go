package proxy_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// created is an event that Stripe made at that time; the zero time says nothing of it.
func created(id string, at time.Time, live bool) []byte {
	when := ""
	if !at.IsZero() {
		when = fmt.Sprintf(`"created":%d,`, at.Unix())
	}
	return fmt.Appendf(nil, `{"id":%q,%s"livemode":%v,"type":"invoice.created"}`, id, when, live)
}

func holding(d time.Duration) func(*proxy.Config) {
	return both(legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }), func(cfg *proxy.Config) {
		cfg.Routes[0].Answer, cfg.Routes[0].HoldFor = proxy.AnswerBackend, d
	})
}

func TestHeldUntilTheBackendHasIt(t *testing.T) {
	a := &app{do: answers(500)}
	change := both(holding(0), legacy(func(b *proxy.Backend) { b.Retry = proxy.Retry{Initial: time.Second, Max: time.Second} }))
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		body := created("evt_1", time.Now(), true)
		got := w.post(body)
		wantAnswer(t, got, 503, says("held", "evt_1"))
		if got.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		w.wantState("evt_1", proxy.Pending) // and we retry it
		wantAnswer(t, w.post(body), 503, says("held", "evt_1"))
		a.then(nil)
		time.Sleep(5 * time.Second)
		w.wantState("evt_1", proxy.Delivered)
		wantAnswer(t, w.post(body), 200, says("duplicate", "evt_1"))
	})
}

func TestUnfinishedAndPausedAreHeld(t *testing.T) {
	a := &app{do: takes(20 * time.Second)}
	inBubble(t, apps{"legacy": a}, holding(0), func(t *testing.T, w *world) {
		wantAnswer(t, w.post(created("evt_1", time.Now(), true)), 503, says("held", "evt_1"))
		w.Pause("legacy")
		wantAnswer(t, w.post(created("evt_2", time.Now(), true)), 503, says("held", "evt_2"))
		w.wantState("evt_2", proxy.Pending)
		w.resume("legacy")
		time.Sleep(time.Minute)
		w.wantState("evt_1", proxy.Delivered)
		w.wantState("evt_2", proxy.Delivered)
		a.wantCount(t, 2)
	})
}

func TestDeliveredIsNotHeld(t *testing.T) {
	inBubble(t, apps{"legacy": {do: answers(201)}}, holding(0), func(t *testing.T, w *world) {
		wantAnswer(t, w.post(created("evt_1", time.Now(), true)), 201, "")
	})
}

func TestHoldFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		holdFor time.Duration
		age     time.Duration // of the event when it comes, -1: it does not say
		live    bool
		wait    time.Duration // until Stripe's retry
		held    bool
	}{
		{"within 24h", 0, 0, true, 24*time.Hour - time.Minute, true},
		{"after 24h", 0, 0, true, 24*time.Hour + time.Minute, false},
		{"by created", 0, 23 * time.Hour, true, 2 * time.Hour, false},
		{"old when it comes", time.Hour, 2 * time.Hour, true, 0, false},
		{"as the route says", 2 * time.Hour, 0, true, 90 * time.Minute, true},
		{"longer than the route says", 2 * time.Hour, 0, true, 121 * time.Minute, false},
		{"test mode within 1h", 0, 0, false, 59 * time.Minute, true},
		{"test mode after 1h", 0, 0, false, 61 * time.Minute, false},
		{"test mode, less than 1h", time.Minute, 0, false, 2 * time.Minute, false},
		{"without created", 0, -1, true, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, apps{"legacy": {do: answers(500)}}, holding(c.holdFor), func(t *testing.T, w *world) {
				at := time.Now().Add(-c.age)
				if c.age < 0 {
					at = time.Time{}
				}
				body := created("evt_1", at, c.live)
				first := w.post(body)
				if c.wait > 0 {
					wantAnswer(t, first, map[bool]int{true: 503, false: first.Code}[c.held], first.Body.String())
					time.Sleep(c.wait)
					first = w.post(body)
				}
				if got := first.Code; (got == 503) != c.held {
					t.Errorf("answered %d %s, want it held: %v", got, first.Body, c.held)
				}
				w.wantState("evt_1", proxy.Pending) // not held is not given up
			})
		})
	}
}

func TestHoldForIsBounded(t *testing.T) {
	w := newWorld(t, apps{"legacy": {}}, nil)
	err := w.reload(holding(61 * time.Hour))
	if err == nil {
		t.Error("hold_for of 61h was taken")
	}
	w.run()
}

// A quiet source lifts nothing: after a weekend without events the first one is held as any other. Nor do strangers, whose
// requests are refused all the time.
func TestQuietLiftsNoHolds(t *testing.T) {
	inBubble(t, apps{"legacy": {do: answers(500)}}, holding(60*time.Hour), func(t *testing.T, w *world) {
		do(w, signed(event("evt_0", "invoice.created"), "whsec_wrong"))
		time.Sleep(49 * time.Hour)
		do(w, signed(event("evt_0", "invoice.created"), "whsec_wrong"))
		wantAnswer(t, w.post(created("evt_1", time.Now(), true)), 503, says("held", "evt_1"))
	})
}

// A source that went on answering for 48 hours without any 2xx lifts its holds: the endpoint is never disabled by us.
func TestSilenceLiftsHolds(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	change := both(holding(60*time.Hour), func(cfg *proxy.Config) { cfg.Log = zap.New(core) })
	inBubble(t, apps{"legacy": {do: answers(500)}}, change, func(t *testing.T, w *world) {
		for hour := range 49 {
			id := fmt.Sprintf("evt_%d", hour+1)
			got := w.post(created(id, time.Now(), true))
			if want := map[bool]int{true: 503, false: 200}[hour < 48]; got.Code != want {
				t.Fatalf("after %dh: answered %d, want %d", hour, got.Code, want)
			}
			time.Sleep(time.Hour)
		}
		lines := logged.FilterFieldKey("hold").All()
		if len(lines) != 1 || lines[0].Level < zapcore.WarnLevel {
			t.Errorf("%d lines say that a hold was lifted, want one warning", len(lines))
		}
		if got := w.post(created("evt_after", time.Now(), true)); got.Code != 503 {
			t.Errorf("answered %d: the 2xx ended the silence", got.Code)
		}
	})
}

func TestAny2xxEndsTheSilence(t *testing.T) {
	change := both(holding(60*time.Hour), func(cfg *proxy.Config) {
		cfg.Routes = append(proxy.Routes{{Types: []string{"charge.*"}}}, cfg.Routes...)
	})
	inBubble(t, apps{"legacy": {do: answers(500)}}, change, func(t *testing.T, w *world) {
		wantAnswer(t, w.post(created("evt_0", time.Now(), true)), 503, says("held", "evt_0"))
		time.Sleep(40 * time.Hour)
		wantAnswer(t, w.post(event("evt_other", "charge.succeeded")), 200, says("ignored", "evt_other"))
		time.Sleep(10 * time.Hour)
		wantAnswer(t, w.post(created("evt_1", time.Now(), true)), 503, says("held", "evt_1"))
	})
}
