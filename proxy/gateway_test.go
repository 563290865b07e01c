package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journaltest"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

const secret = "whsec_test_one"

// config is a gateway's with one source and one backend named "legacy" at url.
func config(url string, j proxy.Journal) proxy.Config {
	return proxy.Config{
		Sources:  map[string]proxy.Source{"main": {Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{secret}}},
		Backends: map[string]proxy.Backend{"legacy": {URL: url}},
		Routes:   proxy.Routes{{Types: []string{"*"}, To: []string{"legacy"}}},
		Journal:  j,
	}
}

// start returns a running gateway; it is stopped when the test ends.
func start(t testing.TB, cfg proxy.Config) *proxy.Gateway {
	t.Helper()
	g, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return g
}

// event is a snapshot event's body.
func event(id, typ string) []byte {
	return []byte("{\n  \"id\": \"" + id + "\",\n  \"object\": \"event\",\n  \"type\": \"" + typ + "\",\n  \"data\": {\n    \"object\": {\n      \"id\": \"in_1\"\n    }\n  }\n}")
}

// post sends body as Stripe does.
func post(t testing.TB, g http.Handler, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("POST", "/stripe/webhook", bytes.NewReader(body))
	r.Header.Set("Stripe-Signature", stripe.Sign(body, time.Now(), secret))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

func TestHealthyBackendAnswersStripe(t *testing.T) {
	var got []byte
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		w.Header().Set("X-App", "legacy")
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, "thanks")
	}))
	defer b.Close()
	j := journaltest.NewMemory()
	g := start(t, config(b.URL, j))
	body := event("evt_1", "invoice.paid")
	w := post(t, g, body)
	if w.Code != http.StatusAccepted || w.Body.String() != "thanks" || w.Header().Get("X-App") != "legacy" {
		t.Errorf("answer = %d %q %v, want the backend's own", w.Code, w.Body, w.Header())
	}
	if !bytes.Equal(got, body) {
		t.Errorf("the backend got %q, want %q", got, body)
	}
	k, err := j.Find(t.Context(), proxy.Key{Source: "main", ID: "evt_1"})
	if err != nil || k.State != proxy.Delivered || k.Answered.IsZero() {
		t.Errorf("journal: %+v, %v; want it delivered and answered", k, err)
	}
}

func TestBackendDownIsKeptAndDeliveredLater(t *testing.T) {
	up := make(chan struct{})
	delivered := make(chan http.Header, 1)
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-up:
			delivered <- r.Header
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer b.Close()
	cfg := config(b.URL, journaltest.NewMemory())
	cfg.Backends["legacy"] = proxy.Backend{URL: b.URL, Retry: proxy.Retry{Initial: 10 * time.Millisecond, Max: 20 * time.Millisecond}}
	g := start(t, cfg)
	w := post(t, g, event("evt_1", "invoice.paid"))
	if w.Code != http.StatusOK || w.Body.String() != `{"status":"stored","event":"evt_1"}` {
		t.Fatalf("answer = %d %s", w.Code, w.Body)
	}
	close(up)
	select {
	case h := <-delivered:
		if h.Get("Breakwater-Trigger") != "retry" || h.Get("Breakwater-Event-Id") != "evt_1" {
			t.Errorf("headers of the retry: %v", h)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("not delivered after the backend came back")
	}
}
