package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/breakwater-gateway/breakwater/internal/sqlite"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// roles are what this program is when it starts itself.
var roles = map[string]func(ctx context.Context, args []string) error{
	"load": loadRole, "backend": backendRole, "handler": handlerRole, "proxy": proxyRole, "fill": fillRole, "read": readRole,
}

// serve says where it listens and serves h until it is killed.
func serve(h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, h)
}

// milestone is how many requests lie between two times that the backend notes.
const milestone = 1000

// backendStats is what a backend has seen.
type backendStats struct {
	Count int64   `json:"count"`
	Times []int64 `json:"times"` // of the 1st, 1001st, 2001st ... request, unix nanoseconds
}

// backendRole is a fast backend: it reads and answers 200.
func backendRole(context.Context, []string) error {
	var count atomic.Int64
	var mu sync.Mutex
	var times []int64
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if count.Add(1)%milestone == 1 {
			mu.Lock()
			times = append(times, time.Now().UnixNano())
			mu.Unlock()
		}
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(backendStats{count.Load(), times})
	})
	return serve(mux)
}

const (
	sourceName  = "main"
	backendName = "legacy"
	outage      = time.Hour // how long ago the first stored event came: all are signed afresh when they are drained
)

// fillRole puts events into a journal, through the journal itself: pending ones, as if their backend had been down for an
// hour.
func fillRole(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("fill", flag.ExitOnError)
	path := f.String("journal", "", "file")
	n := f.Int64("n", 0, "events")
	mixed := f.Bool("mixed", false, "events of all kinds, not only pending ones")
	_ = f.Parse(args)
	db, err := sqlite.Open(ctx, *path, sqlite.Options{})
	if err != nil {
		return err
	}
	began := time.Now().Add(-outage)
	step := outage / 2 / time.Duration(*n)
	var next atomic.Int64
	var once sync.Once
	var work sync.WaitGroup
	for range 512 { // so many share a commit
		work.Go(func() {
			for i := next.Add(1) - 1; i < *n; i = next.Add(1) - 1 {
				at := began.Add(time.Duration(i) * step)
				e := stored(types[i%int64(len(types))], at)
				if *mixed {
					mix(&e, i, at)
				}
				if _, ferr := db.Append(ctx, e); ferr != nil {
					once.Do(func() { err = ferr })
					return
				}
			}
		})
	}
	work.Wait()
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	return err
}

// stored is an event as the gateway keeps it when its backend's breaker is open.
func stored(typ string, at time.Time) proxy.Entry {
	e := toystripe.New(typ, toystripe.Options{Created: at})
	signature := fmt.Sprintf("t=%d,v1=%x", at.Unix(), webhook.ComputeSignature(at, e.Body, signingSecret))
	return proxy.Entry{
		Event: &proxy.Event{
			Source: sourceName, ID: e.ID, Type: typ, Created: at, Received: at, APIVersion: "2023-10-16", Body: e.Body,
			Header: http.Header{
				"Accept": {"*/*; q=0.5, application/xml"}, "Cache-Control": {"no-cache"},
				"Content-Type": {"application/json; charset=utf-8"}, "Stripe-Signature": {signature},
				"User-Agent": {"Stripe/1.0 (+https://stripe.com/docs/webhooks)"},
			},
			Forwarded: http.Header{
				"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"hooks.example.com"}, "X-Forwarded-Proto": {"https"},
			},
		},
		Deliveries: []proxy.EntryDelivery{{Delivery: proxy.Delivery{Backend: backendName, State: proxy.Pending, Turn: 1, Due: at}}},
	}
}

// mix makes of e the i-th event of a journal that holds all kinds: most are delivered, one in ten waits for a backend that
// is down, few failed or were ignored.
func mix(e *proxy.Entry, i int64, at time.Time) {
	ev := e.Event
	ev.ID, ev.Object, ev.Customer, ev.Account, ev.Livemode = eventID(i), objectID(i), customerID(i), accountID(i), i%8 != 0
	e.Answered = at
	refused := &proxy.Attempt{
		Started: at, Duration: time.Millisecond, Outcome: proxy.OutcomeDial, Error: "connection refused", Trigger: proxy.TriggerInline, Turn: 1, N: 1,
	}
	d := &e.Deliveries[0]
	d.TurnStarted, d.Attempts = at, 1
	switch {
	case i%499 == 0:
		e.State, e.Reason, e.Deliveries = proxy.Ignored, proxy.ReasonRule, nil
	case i%1013 == 0:
		d.Backend, d.State, d.Outcome, d.Attempt = downName, proxy.Failed, refused.Outcome, refused
	case i%10 == 0:
		d.Backend, d.Outcome, d.Attempt = downName, refused.Outcome, refused
	default:
		d.State, d.Status, d.Outcome = proxy.Delivered, http.StatusOK, proxy.OutcomeDelivered
	}
}

// Ids of the i-th event of such a journal. A thousand accounts take turns; an object has four events and a customer
// sixteen, all of one account. An event's id says nothing of its place, as Stripe's do not.
func eventID(i int64) string    { return fmt.Sprintf("evt_1T%016x", uint64(i)*0x9e3779b97f4a7c15) }
func objectID(i int64) string   { return fmt.Sprintf("in_1T%04d%06d", i%accounts, i/accounts/4) }
func customerID(i int64) string { return fmt.Sprintf("cus_%04d%06d", i%accounts, i/accounts/16) }
func accountID(i int64) string  { return fmt.Sprintf("acct_1T%04d", i%accounts) }

const accounts = 1000
