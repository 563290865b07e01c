package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// backend is a Backend at work. It lives on by its name across reloads, with what it has learned: breaker, limiter,
// slots, pause. What the configuration says of it is its target, swapped whole.
type backend struct {
	name     string
	log      *zap.Logger
	seen     Observer
	target   atomic.Pointer[target]
	breaker  atomic.Pointer[breaker]
	limiter  *rate.Limiter
	slots    *slots
	paused   atomic.Bool
	wake     chan struct{} // says to the drain: look again
	nextLook atomic.Int64  // when the drain looks again, unix nanoseconds; 0 while it is at work
	owing    atomic.Bool   // something is due now, as far as is known
	hungry   atomic.Bool   // the drain waits for slots; else a free one is nothing to it
	settler  chan settling

	mu          sync.Mutex
	lastSuccess time.Time
	lastFailure Attempt
	lastErrorAt time.Time
	errors      int // since the last success, from errorsSince on
	errorsSince time.Time
	statuses    map[int]int64
}

// target is what the configuration says of a backend, ready for use.
type target struct {
	Backend
	url       *url.URL
	secrets   []string
	transport *http.Transport
}

// breaker is gobreaker with the time at which it opened, which gobreaker does not tell.
type breaker struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]
	Breaker
	openUntil atomic.Int64 // unix nanoseconds
}

// errNotCounted ends a breaker's step that says nothing about the backend.
var errNotCounted = errors.New("not counted")

func newBackend(name string, log *zap.Logger, seen Observer) *backend {
	b := &backend{
		name: name, log: log, seen: seen, wake: make(chan struct{}, 1), limiter: rate.NewLimiter(rate.Inf, 1),
		settler: make(chan settling, 1024), statuses: map[int]int64{},
	}
	b.slots = newSlots(0, func() {
		if b.hungry.Load() {
			b.poke()
		}
	})
	return b
}

// apply makes t what the backend is from now on.
func (b *backend) apply(t *target) {
	old := b.target.Swap(t)
	if old != nil && old != t {
		old.transport.CloseIdleConnections()
	}
	b.slots.resize(t.MaxInFlight)
	if t.Rate > 0 {
		b.limiter.SetBurst(max(1, int(t.Rate)))
		b.limiter.SetLimit(rate.Limit(t.Rate))
	} else {
		b.limiter.SetLimit(rate.Inf)
	}
	if br := b.breaker.Load(); br == nil || br.Breaker != t.Breaker {
		b.breaker.Store(b.newBreaker(t.Breaker))
	}
	b.poke()
}

func (b *backend) newBreaker(c Breaker) *breaker {
	br := &breaker{Breaker: c}
	br.TwoStepCircuitBreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        b.name,
		MaxRequests: 1,
		Timeout:     c.OpenFor,
		ReadyToTrip: func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= c.Failures },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNotCounted) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			switch to {
			case gobreaker.StateOpen:
				br.openUntil.Store(time.Now().Add(c.OpenFor).UnixNano())
			case gobreaker.StateClosed:
				b.slots.recovering()
			}
			b.log.Warn("breaker", zap.String(keyBackend, b.name), zap.Stringer("from", from), zap.Stringer("to", to))
		},
	})
	return br
}

// reopens returns when an open breaker lets a probe pass; the zero time when it is not open.
func (br *breaker) reopens() time.Time {
	if br.State() != gobreaker.StateOpen {
		return time.Time{}
	}
	return time.Unix(0, br.openUntil.Load())
}

func (br *breaker) halfOpen() bool { return br.State() == gobreaker.StateHalfOpen }

// probing reports whether a half-open breaker's one attempt is under way. Its end frees a slot.
func (br *breaker) probing() bool {
	n := br.Counts()
	return n.Requests > n.TotalExclusions
}

// poke makes the drain look again.
func (b *backend) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// names returns the names whose deliveries are this backend's: its own and those that it had.
func (b *backend) names() []string { return append([]string{b.name}, b.target.Load().Was...) }

// try is one attempt to be made.
type try struct {
	n           int // 1 for the first of its turn
	trigger     Trigger
	secrets     []string // the source's signing secrets
	resignAfter time.Duration
	drained     bool // holds a drain's slot, not a live one's
}

// attempt makes one attempt under the breaker, on a slot that the caller holds and attempt gives back. When the breaker
// refuses, nothing is sent and ok is false.
func (b *backend) attempt(ctx context.Context, ev *Event, t try) (o outcome, ok bool) {
	done, err := b.breaker.Load().Allow()
	if err != nil {
		b.slots.release(1, t.drained)
		return outcome{}, false
	}
	o = b.forward(ctx, ev, t)
	done(o.verdict())
	switch o.verdict() {
	case nil:
		b.slots.succeeded(t.drained)
	case errNotCounted:
		b.slots.release(1, t.drained)
	default:
		b.slots.failed(t.drained)
	}
	b.note(ev, o)
	return o, true
}

// note keeps, counts and logs how an attempt ended.
func (b *backend) note(ev *Event, o outcome) {
	ended := o.Started.Add(o.Duration)
	b.mu.Lock()
	b.statuses[o.Status]++
	if o.Outcome == OutcomeDelivered {
		b.lastSuccess, b.errors = ended, 0
	} else {
		if b.errors++; b.errors == 1 {
			b.errorsSince = ended
		}
		b.lastFailure, b.lastErrorAt = o.Attempt, ended
	}
	b.mu.Unlock()
	b.seen.Attempted(ev, b.name, o.Attempt)
	level := zap.InfoLevel
	if o.Outcome != OutcomeDelivered {
		level = zap.WarnLevel
	}
	if e := b.log.Check(level, "attempt"); e != nil {
		e.Write(zap.String(keyEventID, ev.ID), zap.String(keyEventType, ev.Type), zap.String(keySource, ev.Source),
			zap.String(keyBackend, b.name), zap.Int(keyAttempt, o.N), zap.Int(keyStatus, o.Status),
			zap.String(keyOutcome, o.Outcome), millis(o.Duration), zap.String("trigger", string(o.Trigger)),
			unlessEmpty("error", o.Error), b.versionHint(ev))
	}
}

// versionHint warns of an event that the backend's Stripe library was not made for.
func (b *backend) versionHint(ev *Event) zap.Field {
	want := b.target.Load().APIVersion
	if want == "" || ev.APIVersion == "" || want == ev.APIVersion {
		return zap.Skip()
	}
	return zap.String("hint", "the event's api_version is "+ev.APIVersion+", the backend expects "+want)
}

// status is a snapshot for people.
func (b *backend) status() BackendStatus {
	used, limit, maximum := b.slots.state()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BackendStatus{
		Name: b.name, Breaker: b.breaker.Load().State().String(), Paused: b.paused.Load(),
		InFlight: used, Slots: limit, MaxInFlight: maximum,
		LastSuccess: b.lastSuccess, LastError: b.lastFailure.Error, LastFailure: b.lastFailure, LastErrorAt: b.lastErrorAt,
		Errors: b.errors, Statuses: maps.Clone(b.statuses), Config: b.target.Load().Backend,
	}
	if b.errors > 0 {
		s.ErrorsSince = b.errorsSince
	}
	return s
}

// handshakeError marks a TLS handshake that did not succeed, so that it is not taken for a dial.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "tls handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	idleConnTimeout  = 90 * time.Second
	maxAnswerHeader  = 64 << 10
)

// dialFunc is net.Dialer.DialContext.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func newTarget(name string, c Backend, dial dialFunc) (*target, error) {
	u, err := url.Parse(c.URL)
	if err != nil { // its text would quote the URL, which may hold a password
		return nil, fmt.Errorf("backend %s: url is not a URL", name)
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("backend %s: ca_file: %w", name, err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("backend %s: ca_file %s: no certificate in it, PEM is expected", name, c.CAFile)
		}
	}
	t := &target{Backend: c, url: u, secrets: plain(c.SigningSecrets)}
	t.transport = &http.Transport{
		DialContext: dial,
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			raw, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
			defer cancel()
			conn := tls.Client(raw, tc)
			if err := conn.HandshakeContext(ctx); err != nil {
				raw.Close()
				return nil, &handshakeError{err}
			}
			return conn, nil
		},
		MaxIdleConnsPerHost:    c.MaxInFlight,
		IdleConnTimeout:        idleConnTimeout,
		DisableCompression:     true, // an answer is passed on as it came
		MaxResponseHeaderBytes: maxAnswerHeader,
		WriteBufferSize:        16 << 10, // headers and a usual body leave in one write
	}
	return t, nil
}

func plain(secrets []Secret) []string {
	out := make([]string, len(secrets))
	for i, s := range secrets {
		out[i] = string(s)
	}
	return out
}
