package main

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
)

// receipt names an event and exactly the bytes that it came with.
type receipt struct {
	id  string
	sum [sha256.Size]byte
}

// fault is how the backend behaves for a while.
type fault int32

const (
	healthy fault = iota
	errors5xx
	hangs
	resets
	down
)

var faultNames = []string{"healthy", "5xx and 429", "hangs", "resets", "down"}

// backend is one that fails at times. It checks Stripe's signature as any handler does, and notes what it has answered
// 2xx.
type backend struct {
	addr  string
	state atomic.Int32
	times [len(faults)]atomic.Int64 // requests met with each fault; for down, how often it went down

	mu  sync.Mutex
	got map[receipt]int
	rng *rand.Rand
	srv *http.Server
}

var faults = [...]fault{healthy, errors5xx, hangs, resets, down}

func newBackend(rng *rand.Rand) (*backend, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	b := &backend{addr: addr, got: map[receipt]int{}, rng: rng}
	return b, b.up()
}

func (b *backend) up() error {
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		return err
	}
	b.srv = &http.Server{Handler: b}
	go func() { _ = b.srv.Serve(l) }()
	return nil
}

// become changes how it behaves. Going down cuts what is under way.
func (b *backend) become(f fault) error {
	was := fault(b.state.Swap(int32(f)))
	switch {
	case f == down && was != down:
		b.times[down].Add(1)
		return b.srv.Close()
	case f != down && was == down:
		return b.up()
	}
	return nil
}

// weather changes the fault every now and then, until ctx ends.
func (b *backend) weather(ctx context.Context, rng *rand.Rand) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(100+rng.IntN(600)) * time.Millisecond):
		}
		next := healthy
		if rng.IntN(3) > 0 {
			next = faults[rng.IntN(len(faults))]
		}
		if err := b.become(next); err != nil {
			return err
		}
	}
}

func (b *backend) chance(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rng.IntN(n) == 0
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if webhook.ValidatePayload(body, r.Header.Get("Stripe-Signature"), signingSecret) != nil {
		http.Error(w, "signature", http.StatusBadRequest)
		return
	}
	f := fault(b.state.Load())
	if f != healthy && f != down && b.chance(4) {
		f = healthy // even a bad day has its moments: else the breaker would hide the rest
	}
	switch f {
	case errors5xx:
		b.times[f].Add(1)
		if b.chance(8) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	case hangs:
		b.times[f].Add(1)
		select {
		case <-r.Context().Done():
		case <-time.After(700 * time.Millisecond): // more than inline_timeout, less than the backend's timeout
			b.take(w, r, body)
		}
	case resets:
		b.times[f].Add(1)
		b.reset(w)
	default:
		b.take(w, r, body)
	}
}

func (b *backend) take(w http.ResponseWriter, r *http.Request, body []byte) {
	b.mu.Lock()
	b.got[receipt{r.Header.Get("Breakwater-Event-Id"), sha256.Sum256(body)}]++
	b.mu.Unlock()
	b.times[healthy].Add(1)
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, "ok")
}

// missing returns those of the events that it has not answered 2xx.
func (b *backend) missing(events map[receipt]time.Time) (out []receipt) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for x := range events {
		if b.got[x] == 0 {
			out = append(out, x)
		}
	}
	return out
}

// reset ends the connection with an RST, at times in the middle of an answer.
func (b *backend) reset(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	if b.chance(2) {
		_, _ = io.WriteString(c, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100\r\n\r\nhalf")
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}
