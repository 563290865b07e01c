package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// types are events that are stored when the backend fails; real-time ones, which are relayed, are not among them.
var types = []string{
	"invoice.paid", "customer.subscription.updated", "payment_intent.succeeded", "charge.refunded", "customer.created",
	"v1.billing.meter.error_report_triggered",
}

// load is Stripe: many senders, of which some send again what was not answered 2xx, and some do not.
type load struct {
	to      string
	client  *http.Client
	pause   time.Duration // on average, between two events of one sender
	burst   atomic.Bool   // no pauses now
	ledger  *os.File      // what was answered 2xx: id, sha256 of the body, unix nanoseconds
	stored  atomic.Int64  // answers 2xx that said so
	refused atomic.Int64  // answers that were no 2xx
	unknown atomic.Int64  // no answer

	mu   sync.Mutex
	sent map[receipt]struct{}
}

func newLoad(o options, to, ledger string) (*load, error) {
	f, err := os.Create(ledger)
	if err != nil {
		return nil, err
	}
	return &load{
		to:     to,
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: o.senders}},
		pause:  time.Duration(float64(o.senders) / o.rate * float64(time.Second)),
		ledger: f, sent: map[receipt]struct{}{},
	}, nil
}

// run is one sender, until ctx ends.
func (l *load) run(ctx context.Context, rng *rand.Rand) error {
	for ctx.Err() == nil {
		if err := l.event(ctx, rng); err != nil {
			return err
		}
		if !l.burst.Load() {
			wait(ctx, time.Duration(rng.ExpFloat64()*float64(l.pause)))
		}
	}
	return nil
}

// event sends one event. What is not answered 2xx is dropped, or sent again a few times as Stripe would.
func (l *load) event(ctx context.Context, rng *rand.Rand) error {
	e := toystripe.New(types[rng.IntN(len(types))], toystripe.Options{})
	if rng.IntN(10) == 0 {
		e.Body = enlarge(e.Body, 1<<(10+rng.IntN(9)), rng)
	}
	r := receipt{e.ID, sha256.Sum256(e.Body)}
	l.mu.Lock()
	l.sent[r] = struct{}{}
	l.mu.Unlock()
	for tries := rng.IntN(2) * 5; ; tries-- {
		ok, err := l.post(ctx, e)
		if err != nil {
			return err
		}
		if ok {
			_, err := fmt.Fprintf(l.ledger, "%s %x %d\n", r.id, r.sum, time.Now().UnixNano())
			return err
		}
		if tries <= 0 {
			return nil
		}
		wait(ctx, time.Duration(50+rng.IntN(300))*time.Millisecond)
	}
}

// post reports whether the event was answered 2xx. No answer is no error: it may mean anything.
func (l *load) post(ctx context.Context, e toystripe.Event) (bool, error) {
	// The last requests are not cut when ctx ends: their answers count.
	req, err := toystripe.Request(context.WithoutCancel(ctx), l.to, e, []string{signingSecret}, toystripe.Sending{})
	if err != nil {
		return false, err
	}
	res, err := l.client.Do(req)
	if err != nil {
		l.unknown.Add(1)
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			wait(ctx, 5*time.Millisecond) // the gateway is down
		}
		return false, nil
	}
	// The status line is Stripe's answer. What follows it may be cut by the kill.
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	switch {
	case res.StatusCode/100 != 2:
		l.refused.Add(1)
		return false, nil
	case bytes.Contains(body, []byte(`"status":"stored"`)):
		l.stored.Add(1)
	}
	return true, nil
}

// enlarge adds n bytes to a body.
func enlarge(body []byte, n int, rng *rand.Rand) []byte {
	padding := make([]byte, n/2)
	for i := range padding {
		padding[i] = byte(rng.Uint32())
	}
	end := bytes.LastIndexByte(body, '}')
	out := append(bytes.Clone(body[:end]), `, "padding": "`...)
	return append(hex.AppendEncode(out, padding), "\"}\n"...)
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// readLedger returns when each event was answered 2xx.
func readLedger(path string) (map[receipt]time.Time, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	acked := map[receipt]time.Time{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r receipt
		var sum []byte
		var at int64
		if _, err := fmt.Sscanf(lines.Text(), "%s %x %d", &r.id, &sum, &at); err != nil || copy(r.sum[:], sum) != len(r.sum) {
			return nil, fmt.Errorf("ledger: %q: %w", lines.Text(), err)
		}
		acked[r] = time.Unix(0, at)
	}
	return acked, nil
}
