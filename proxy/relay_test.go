package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/proxy"
)

const askType = "issuing_authorization.request"

// relayed makes the only route a relay.
func relayed(fallback *proxy.Fallback) func(*proxy.Config) {
	return func(cfg *proxy.Config) {
		cfg.Routes = proxy.Routes{{Types: []string{"*"}, To: []string{"legacy"}, Answer: proxy.AnswerRelay, Fallback: fallback}}
	}
}

func both(changes ...func(*proxy.Config)) func(*proxy.Config) {
	return func(cfg *proxy.Config) {
		for _, c := range changes {
			c(cfg)
		}
	}
}

var decline = &proxy.Fallback{Status: 200, Header: http.Header{"Stripe-Version": {"2024-06-20"}}, Body: `{"approved":false}`}

func TestRelayIsVerbatim(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		header http.Header
		body   string
	}{
		{"a decision", 200, http.Header{"Content-Type": {"application/json"}, "Stripe-Version": {"2024-06-20"}, "Set-Cookie": {"a=1"}}, `{"approved":true}`},
		{"compressed", 200, http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, "\x1f\x8b\x00"},
		{"long", 200, http.Header{"Content-Type": {"text/plain"}}, strings.Repeat("x", 100_000)},
		{"a refusal", 402, http.Header{"Content-Type": {"text/plain"}}, "no"},
		{"an error", 500, http.Header{"Content-Type": {"text/plain"}}, "broken"},
		{"nothing", 204, http.Header{"Content-Type": nil}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{do: func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Date"] = nil
				for k, v := range c.header {
					w.Header()[k] = v
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			}}
			inBubble(t, apps{"legacy": a}, relayed(nil), func(t *testing.T, w *world) {
				for range 2 { // never deduplicated
					got := w.post(event("evt_1", askType))
					if got.Code != c.status || got.Body.String() != c.body {
						t.Errorf("answered %d %.100q", got.Code, got.Body)
					}
					got.Header().Del("Content-Length")
					if d := cmp.Diff(c.header, got.Header()); d != "" {
						t.Error(d)
					}
				}
				time.Sleep(time.Hour) // never retried
				a.wantCount(t, 2)
				if all := w.journal.All(); len(all) != 0 {
					t.Errorf("stored: %+v", all)
				}
				if n, _, _, _ := w.seen.counts(); n["main relayed"] != 2 {
					t.Errorf("results = %v", n)
				}
			})
		})
	}
}

func TestRelayDeadlines(t *testing.T) {
	for _, c := range []struct {
		typ     string
		timeout time.Duration
		want    time.Duration
	}{
		{"issuing_authorization.request", 0, 1800 * time.Millisecond},
		{"v1.delegated_checkout.finalize_checkout", 0, 3500 * time.Millisecond},
		{"extend.workflows.custom_action", 0, 8 * time.Second},
		{"invoice.created", 0, 8 * time.Second},
		{"issuing_authorization.request", time.Second, time.Second},
		{"issuing_authorization.request", time.Minute, 1800 * time.Millisecond},
	} {
		t.Run(c.typ, func(t *testing.T) {
			change := both(relayed(decline), legacy(func(b *proxy.Backend) { b.Timeout = c.timeout }))
			inBubble(t, apps{"legacy": {do: hangs}}, change, func(t *testing.T, w *world) {
				start := time.Now()
				got := w.post(event("evt_1", c.typ))
				wantAnswer(t, got, 200, `{"approved":false}`)
				if got.Header().Get("Stripe-Version") != "2024-06-20" {
					t.Errorf("headers = %v", got.Header())
				}
				if took := time.Since(start); took != c.want {
					t.Errorf("answered after %v, want %v", took, c.want)
				}
			})
		})
	}
}

// Whatever fails, the fallback is the answer; without one it is 503, and never a 2xx of our own.
func TestRelayFallsBack(t *testing.T) {
	said := func(text string) func(w http.ResponseWriter, r *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
	}
	half := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"approved":true`)
		w.(http.Flusher).Flush()
		cuts(w, r)
	}
	halfAndHang := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"approved":true`)
		w.(http.Flusher).Flush()
		hangs(w, r)
	}
	none := func(*proxy.Config) {}
	success := legacy(func(b *proxy.Backend) { b.Success.BodyNot = []string{"Fatal"} })
	for _, c := range []struct {
		name   string
		do     http.HandlerFunc
		change func(*proxy.Config)
		before func(t *testing.T, w *world)
		sent   int // requests to the backend
		within time.Duration
		own    int // the backend's own status, which is relayed where there is no fallback
	}{
		{"reset", cuts, none, nil, 1, 0, 0},
		{"hang", hangs, none, nil, 1, 1800 * time.Millisecond, 0},
		{"500", answers(500), none, nil, 1, 0, 500},
		{"404", answers(404), none, nil, 1, 0, 404},
		{"redirect", answers(302), none, nil, 1, 0, 302},
		{"half an answer", half, none, nil, 1, 0, 0},
		{"half an answer, then nothing", halfAndHang, none, nil, 1, 1800 * time.Millisecond, 0},
		{"longer than can be relayed", said(strings.Repeat("x", 1<<20+1)), none, nil, 1, 0, 0},
		{"not a success by its rules", said("Fatal error"), success, nil, 1, 0, 0},
		{"no route", nil, func(cfg *proxy.Config) { cfg.Routes = nil }, nil, 0, 0, 0},
		{"paused", nil, none, func(_ *testing.T, w *world) { w.Pause("legacy") }, 0, 0, 0},
		{"no slot", takes(time.Hour), legacy(func(b *proxy.Backend) { b.MaxInFlight = 1 }), func(_ *testing.T, w *world) {
			go w.post(event("evt_first", "extend.workflows.custom_action"))
			synctest.Wait()
		}, 1, 0, 0},
		{"open breaker", cuts, legacy(func(b *proxy.Backend) { b.Breaker.Failures = 1 }), func(_ *testing.T, w *world) {
			w.post(event("evt_first", askType))
		}, 1, 0, 0},
	} {
		for _, fallback := range []*proxy.Fallback{decline, nil} {
			name, wantStatus := c.name+", fallback", 200
			if fallback == nil {
				name, wantStatus = c.name, max(c.own, 503)
				if c.own != 0 {
					wantStatus = c.own
				}
			}
			t.Run(name, func(t *testing.T) {
				if fallback != nil && c.name == "no route" {
					t.Skip("there is no route to have a fallback")
				}
				a := &app{do: c.do}
				inBubble(t, apps{"legacy": a}, both(relayed(fallback), c.change), func(t *testing.T, w *world) {
					if c.before != nil {
						c.before(t, w)
					}
					start := time.Now()
					got := w.post(event("evt_1", askType))
					if got.Code != wantStatus || fallback != nil && got.Body.String() != decline.Body {
						t.Errorf("answered %d %.200s, want %d", got.Code, got.Body, wantStatus)
					}
					if took := time.Since(start); took != c.within {
						t.Errorf("answered after %v, want %v", took, c.within)
					}
					a.wantCount(t, c.sent)
					if len(w.journal.All()) != 0 {
						t.Error("stored")
					}
					if n, _, _, _ := w.seen.counts(); n["main relayed"] < 1 || len(n) != 1 {
						t.Errorf("results = %v", n)
					}
				})
			})
		}
	}
}

func TestRealTimeUnderAStarRoute(t *testing.T) {
	say := func(text string) *app {
		return &app{do: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }}
	}
	first, second := say("first"), say("second")
	inBubble(t, apps{"first": first, "second": second}, nil, func(t *testing.T, w *world) {
		wantAnswer(t, w.post(event("evt_1", askType)), 200, "first")
		second.wantCount(t, 0)
	})
}

func TestRelayOfWhatHasNoEnvelope(t *testing.T) {
	a := &app{do: func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"ok":true}`) }}
	change := func(cfg *proxy.Config) {
		cfg.Routes = proxy.Routes{{Source: "main", To: []string{"legacy"}, Answer: proxy.AnswerRelay}}
	}
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		for _, body := range []string{`{"checkout_session":"cs_1"}`, "", "not json"} {
			wantAnswer(t, w.post([]byte(body)), 200, `{"ok":true}`)
			if got := a.requests()[a.count()-1].body; string(got) != body {
				t.Errorf("the backend got %q, want %q", got, body)
			}
		}
		if len(w.journal.All()) != 0 {
			t.Error("stored")
		}
	})
}

func TestARelayOpensTheBreaker(t *testing.T) {
	inBubble(t, apps{"legacy": {do: answers(500)}}, relayed(nil), func(t *testing.T, w *world) {
		for range 5 {
			w.post(event("evt_1", askType))
		}
		if got := w.status("legacy"); got.Breaker != "open" || got.InFlight != 0 {
			t.Errorf("breaker %s, %d slots in use", got.Breaker, got.InFlight)
		}
	})
}
