package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

func TestEmbeddedGatewayDelivers(t *testing.T) {
	t.Setenv("STRIPE_SIGNING_SECRET", "whsec_embed")
	got := make(chan string, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- string(body)
	}))
	defer backend.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, l, filepath.Join(t.TempDir(), "journal.db"), backend.URL) }()

	e := toystripe.New("invoice.paid", toystripe.Options{})
	req, err := toystripe.Request(ctx, "http://"+l.Addr().String()+"/stripe/webhook", e, []string{"whsec_embed"}, toystripe.Sending{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("answered %d, want 200", res.StatusCode)
	}
	if got := <-got; got != string(e.Body) {
		t.Errorf("the backend got %q, want the body as sent", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}
