package proxy_test

import (
	"context"
	"errors"
	"net/http"
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

type panicking struct{}

func (panicking) Send(context.Context, *proxy.Event, http.Header) proxy.Outcome {
	panic("in the broker's library")
}

func TestASenderPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(cfg *proxy.Config) {
			cfg.Backends["queue"] = proxy.Backend{Sender: panicking{}}
			cfg.Routes = proxy.Routes{{To: []string{"queue"}}}
		})
		w.run()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		if got := w.attempts("evt_1"); len(got) != 1 || got[0] != "inline panic" {
			t.Errorf("attempts = %v, want one that panicked", got)
		}
	})
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
