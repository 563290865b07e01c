// The gateway inside another program: an http.Handler beside the program's own pages, durable through proxy/sqlite.
//
// Start it:  STRIPE_SIGNING_SECRET=whsec_... go run ./deploy/examples/embed
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
	"github.com/breakwater-gateway/breakwater/proxy/sqlite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:8420")
	if err == nil {
		err = run(ctx, l, "breakwater.db", "http://127.0.0.1:8000/webhook.php")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, l net.Listener, journal, backend string) error {
	db, err := sqlite.Open(ctx, journal)
	if err != nil {
		return err
	}
	secret := proxy.Secret(os.Getenv("STRIPE_SIGNING_SECRET"))
	gateway, err := proxy.New(proxy.Config{
		Sources:  map[string]proxy.Source{"main": {Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{secret}}},
		Backends: map[string]proxy.Backend{"legacy": {URL: backend}},
		Routes:   proxy.Routes{{To: []string{"legacy"}}},
		Journal:  db,
	})
	if err != nil {
		return errors.Join(err, db.Close())
	}

	mux := http.NewServeMux()
	mux.Handle("/stripe/", gateway)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "the program's own pages") })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}

	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { defer cancel(); served <- server.Serve(l) }()
	err = gateway.Run(ctx)                                        // sends what is pending, until ctx ends
	err = errors.Join(err, server.Shutdown(context.Background())) // waits for requests; the journal closes after them
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, db.Close())
}
