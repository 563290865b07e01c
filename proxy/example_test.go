package proxy_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
	"github.com/breakwater-gateway/breakwater/proxy/sqlite"
)

// A backend that fails costs Stripe nothing: it gets its 2xx once the event is on disk, and the backend gets the event
// again when it is well.
func Example() {
	dir, err := os.MkdirTemp("", "breakwater")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	attempts := make(chan string, 2)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attempts <- r.Header.Get("Breakwater-Event-Id") + ", trigger " + r.Header.Get("Breakwater-Trigger")
		if r.Header.Get("Breakwater-Attempt") == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer backend.Close()

	ctx, stop := context.WithCancel(context.Background())
	journal, err := sqlite.Open(ctx, filepath.Join(dir, "breakwater.db"))
	if err != nil {
		log.Fatal(err)
	}
	const secret = "whsec_from_the_dashboard"
	gateway, err := proxy.New(proxy.Config{
		Sources: map[string]proxy.Source{"main": {Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{secret}}},
		Backends: map[string]proxy.Backend{"legacy": {
			URL: backend.URL + "/webhook.php", Retry: proxy.Retry{Initial: 10 * time.Millisecond},
		}},
		Routes:  proxy.Routes{{To: []string{"legacy"}}},
		Journal: journal,
	})
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- gateway.Run(ctx) }()

	body := `{"id": "evt_1", "type": "invoice.paid"}`
	request := httptest.NewRequest(http.MethodPost, "/stripe/webhook", strings.NewReader(body))
	request.Header.Set("Stripe-Signature", stripe.Sign([]byte(body), time.Now(), secret))
	answer := httptest.NewRecorder()
	gateway.ServeHTTP(answer, request)
	fmt.Println("Stripe got", answer.Code, answer.Body)

	fmt.Println("the backend got", <-attempts)
	fmt.Println("the backend got", <-attempts)
	stop()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	if err := journal.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// Stripe got 200 {"status":"stored","event":"evt_1"}
	// the backend got evt_1, trigger inline
	// the backend got evt_1, trigger retry
}

// Where an event goes can be asked without a gateway.
func ExampleRoutes_Match() {
	routes := proxy.Routes{
		{Types: []string{"invoice.*"}, To: []string{"billing"}, Continue: true},
		{Types: []string{"*"}, To: []string{"legacy"}},
	}
	for _, t := range []string{"invoice.paid", "customer.created"} {
		match := routes.Match(&proxy.Event{Type: t})
		for _, target := range match.To {
			fmt.Println(t, "goes to", target.Backend)
		}
	}
	// Output:
	// invoice.paid goes to billing
	// invoice.paid goes to legacy
	// customer.created goes to legacy
}

// Check says all that is wrong with a configuration, each with its place in the words of routes.yaml.
func ExampleConfig_Check() {
	config := proxy.Config{
		Sources:  map[string]proxy.Source{"main": {Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{"whsec_1"}}},
		Backends: map[string]proxy.Backend{"legacy": {URL: "http://127.0.0.1:8000/webhook.php"}},
		Routes:   proxy.Routes{{To: []string{"legcay"}}},
	}
	for _, problem := range config.Check() {
		fmt.Println(problem.Path+":", problem.Text)
	}
	// Output:
	// routes[0].to[0]: no backend "legcay"
}
