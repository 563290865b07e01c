package proxy

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.uber.org/zap"
)

// backend is a Backend at work. It lives on by its name across reloads, with what it has learned: breaker, limiter,
// slots, pause. What the configuration says of it is its target, swapped whole.
type backend struct {
	name    string
	g       *Gateway
	target  atomic.Pointer[target]
	breaker atomic.Pointer[breaker]
	slots   *slots
	paused  atomic.Bool
	drain   *drain // brings it what is Pending

	mu          sync.Mutex // guards what follows: see BackendStatus
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
	secrets []string    // plain, to sign with; empty: the source's are taken
	masked  []string    // what must not be seen of its answers
	send    Sender      // HTTP, or the configuration's own
	http    *httpSender // nil with a Sender of the configuration's own
}

// breaker is gobreaker with the time until which it is open, which gobreaker does not tell.
type breaker struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]
	Breaker
	openUntil atomic.Int64 // unix nanoseconds
}

// errNotCounted is how an attempt ends for the breaker that says nothing about the backend.
var errNotCounted = errors.New("not counted")

func newBackend(name string, g *Gateway) *backend {
	b := &backend{name: name, g: g, statuses: map[int]int64{}}
	b.drain = newDrain(g, b)
	b.slots = newSlots(0, b.drain.slotFreed)
	return b
}

// apply makes t what the backend is from now on.
func (b *backend) apply(t *target) {
	old := b.target.Swap(t)
	if old != nil && old != t {
		old.close()
	}
	b.slots.resize(t.MaxInFlight)
	b.drain.pace(t.Rate)
	if br := b.breaker.Load(); br == nil || br.Breaker != t.Breaker {
		b.breaker.Store(b.newBreaker(t.Breaker))
	}
	b.drain.poke()
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
			b.g.log.Warn("breaker", zap.String(keyBackend, b.name), zap.Stringer("from", from), zap.Stringer("to", to))
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

// attempt is one to be made.
type attempt struct {
	event       *Event
	n           int // 1 for the first of its turn
	trigger     Trigger
	secrets     []string // the source's signing secrets
	resignAfter time.Duration
	deadline    time.Time // where that is earlier than the backend's timeout; zero: none
	late        bool      // it holds a slot of the drain, not a live one
}

// attempt makes one under the breaker, on a slot that the caller holds and attempt gives back. When the breaker refuses,
// nothing is sent and ok is false.
func (b *backend) attempt(a attempt) (o Outcome, ok bool) {
	done, err := b.breaker.Load().Allow()
	if err != nil {
		b.slots.release(1, a.late)
		return Outcome{}, false
	}
	o = b.forward(a)
	failure := o.failure()
	done(failure)
	switch failure {
	case nil:
		b.slots.succeeded(a.late)
	case errNotCounted:
		b.slots.release(1, a.late)
	default:
		b.slots.failed(a.late)
	}
	b.learn(o)
	b.g.reportAttempt(b, a.event, o)
	return o, true
}

// learn keeps how an attempt ended, for people.
func (b *backend) learn(o Outcome) {
	at := o.Started.Add(o.Duration)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.statuses[o.Status]++
	if o.Outcome == OutcomeDelivered {
		b.lastSuccess, b.errors = at, 0
		return
	}
	if b.errors++; b.errors == 1 {
		b.errorsSince = at
	}
	b.lastFailure, b.lastErrorAt = o.Attempt, at
}

// reportAttempt counts and logs how an attempt ended.
func (g *Gateway) reportAttempt(b *backend, ev *Event, o Outcome) {
	g.observers.Attempted(ev, b.name, o.Attempt)
	level := zap.InfoLevel
	if o.Outcome != OutcomeDelivered {
		level = zap.WarnLevel
	}
	if line := g.log.Check(level, "attempt"); line != nil {
		line.Write(zap.String(keyEventID, ev.ID), zap.String(keyEventType, ev.Type), zap.String(keySource, ev.Source),
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

func newTarget(name string, c Backend, dial dialFunc) (*target, error) {
	t := &target{Backend: c, secrets: plain(c.SigningSecrets), masked: c.maskOf(), send: c.Sender}
	if c.Sender == nil {
		var err error
		if t.http, err = newHTTPSender(&t.Backend, dial); err != nil {
			return nil, fmt.Errorf("backend %s: %w", name, err)
		}
		t.send = t.http
	}
	return t, nil
}

// close ends the connections that nothing is sent on.
func (t *target) close() {
	if t.http != nil {
		t.http.transport.CloseIdleConnections()
	}
}

func plain(secrets []Secret) []string {
	out := make([]string, len(secrets))
	for i, s := range secrets {
		out[i] = string(s)
	}
	return out
}
