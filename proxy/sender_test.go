package proxy_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// queue is a backend that is reached without HTTP.
type queue struct {
	mu  sync.Mutex
	got []string // "id trigger attempt signed"
	err error
}

func (q *queue) Send(ctx context.Context, e *proxy.Event, h http.Header) (o proxy.Outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	line := []string{e.ID, h.Get("Breakwater-Trigger"), h.Get("Breakwater-Attempt")}
	if h.Get("Stripe-Signature") != "" {
		line = append(line, "signed")
	}
	q.got = append(q.got, strings.Join(line, " "))
	o.Outcome, o.Body = proxy.OutcomeDelivered, []byte("queued as 7")
	if q.err != nil {
		o.Outcome, o.Error, o.RetryAfter = proxy.OutcomeDial, q.err.Error(), time.Minute
	}
	return o
}

func (q *queue) then(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

func (q *queue) want(t *testing.T, want ...string) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if got := strings.Join(q.got, ", "); got != strings.Join(want, ", ") {
		t.Errorf("sent %s, want %s", got, strings.Join(want, ", "))
	}
}

// A backend need not speak HTTP: what is kept, retried and shown is the same.
func TestSender(t *testing.T) {
	q := &queue{}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(cfg *proxy.Config) {
			cfg.Backends["queue"] = proxy.Backend{Sender: q}
			cfg.Routes = proxy.Routes{{To: []string{"queue"}}}
		})
		w.run()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("delivered", "evt_1"))
		q.want(t, "evt_1 inline 1 signed")

		q.then(errors.New("no route to the broker"))
		wantAnswer(t, w.post(event("evt_2", "invoice.paid")), 200, says("stored", "evt_2"))
		if d := w.delivery("evt_2", "queue"); time.Until(d.Due) < time.Minute {
			t.Errorf("due in %v, the broker asked for a minute", time.Until(d.Due))
		}
		q.then(nil)
		time.Sleep(2 * time.Minute)
		w.wantState("evt_2", proxy.Delivered)
		q.want(t, "evt_1 inline 1 signed", "evt_2 inline 1 signed", "evt_2 retry 2 signed")
	})
}

// owner treats the headers that it is given as its own, and answers with the same ones each time. It fails at first.
type owner struct {
	answer http.Header

	mu  sync.Mutex
	got []string
}

func (s *owner) Send(_ context.Context, _ *proxy.Event, h http.Header) (o proxy.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, h.Get("Content-Type"))
	h["Content-Type"][0] = "changed"
	if len(s.got) == 1 {
		o.Outcome = proxy.OutcomeDial
		return o
	}
	o.Outcome, o.Status, o.Header = proxy.OutcomeDelivered, 200, s.answer
	return o
}

// A Sender may change the headers of an attempt, and keep those of its answer: neither reaches another attempt.
func TestHeadersAreNotShared(t *testing.T) {
	s := &owner{answer: http.Header{"Set-Cookie": {"a=1"}}}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(cfg *proxy.Config) {
			cfg.Backends["queue"] = proxy.Backend{Sender: s}
			cfg.Routes = proxy.Routes{{To: []string{"queue"}}}
		})
		w.run()
		w.post(event("evt_1", "invoice.paid"))
		time.Sleep(time.Minute)
		one, other := w.posted(event("evt_2", "invoice.paid")), w.posted(event("evt_3", "invoice.paid"))
		for _, got := range []*httptest.ResponseRecorder{<-one, <-other} {
			if got.Code != 200 || got.Header().Get("Set-Cookie") != "" {
				t.Errorf("answer = %d %v", got.Code, got.Header())
			}
		}
		w.wantState("evt_1", proxy.Delivered)
	})
	if slices.Contains(s.got, "changed") || len(s.got) != 4 {
		t.Errorf("sent with Content-Type %q", s.got)
	}
	if s.answer.Get("Set-Cookie") == "" {
		t.Error("the Sender's answer was changed")
	}
}

// busy changes while it sends.
type busy struct {
	n        int
	reloaded chan struct{}
}

func (s *busy) Send(context.Context, *proxy.Event, http.Header) (o proxy.Outcome) {
	s.n++
	<-s.reloaded
	o.Outcome = proxy.OutcomeDelivered
	return o
}

// A reload does not look into a Sender, which is at work: the race detector would see it.
func TestReloadWhileASenderSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &busy{reloaded: make(chan struct{})}
		w := newWorld(t, nil, func(cfg *proxy.Config) {
			cfg.Backends["queue"] = proxy.Backend{Sender: s}
			cfg.Routes = proxy.Routes{{To: []string{"queue"}}}
		})
		w.run()
		answer := w.posted(event("evt_1", "invoice.paid"))
		time.Sleep(time.Second)
		if err := w.reload(func(cfg *proxy.Config) { cfg.Backends["queue"] = proxy.Backend{Sender: &busy{}} }); err != nil {
			t.Fatal(err)
		}
		close(s.reloaded)
		wantAnswer(t, <-answer, 200, says("delivered", "evt_1"))
	})
}

type senderFunc func() proxy.Outcome

func (f senderFunc) Send(context.Context, *proxy.Event, http.Header) proxy.Outcome { return f() }

// A Sender that breaks its contract costs an attempt, and nothing more.
func TestASenderBreaksItsContract(t *testing.T) {
	for name, f := range map[string]senderFunc{
		"panics":     func() proxy.Outcome { panic("in the broker's library") },
		"no outcome": func() proxy.Outcome { return proxy.Outcome{} },
		"an outcome of its own": func() proxy.Outcome {
			return proxy.Outcome{Attempt: proxy.Attempt{Outcome: "queued"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil, func(cfg *proxy.Config) {
					cfg.Backends["queue"] = proxy.Backend{Sender: f}
					cfg.Routes = proxy.Routes{{To: []string{"queue"}}}
				})
				w.run()
				wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
				if got := w.attempts("evt_1"); len(got) != 1 || got[0] != "inline panic" {
					t.Errorf("attempts = %v, want one that panicked", got)
				}
			})
		})
	}
}

// An answer is relayed to Stripe as it is, so only HTTP can give one.
func TestOnlyHTTPIsRelayed(t *testing.T) {
	cfg := proxy.Config{
		Sources:  map[string]proxy.Source{"main": {Path: "/hook", SigningSecrets: []proxy.Secret{secret}}},
		Backends: map[string]proxy.Backend{"queue": {Sender: &queue{}}},
	}
	for _, c := range []struct {
		name  string
		route proxy.Route
		want  string
	}{
		{"kept", proxy.Route{Types: []string{"invoice.paid"}, To: []string{"queue"}}, ""},
		{"answer: relay", proxy.Route{Types: []string{"invoice.paid"}, To: []string{"queue"}, Answer: proxy.AnswerRelay}, "routes[0].to[0]"},
		{"a real-time type", proxy.Route{Types: []string{"issuing_authorization.request"}, To: []string{"queue"}}, "routes[0].to[0]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg.Routes = proxy.Routes{c.route, {Types: []string{"*"}, To: nil}}
			var failed string
			for _, p := range cfg.Check() {
				if !p.Warning {
					failed += p.Path
				}
			}
			if failed != c.want {
				t.Errorf("wrong at %q, want %q", failed, c.want)
			}
		})
	}
}
