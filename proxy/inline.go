package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

const (
	slotWait   = 500 * time.Millisecond // for a backend's slot, before the event is stored instead
	leaseSlack = 15 * time.Second       // added to what an attempt may take, for its settlement
)

// inlineAttempt is made while Stripe waits. It may outlive the answer.
type inlineAttempt struct {
	turn
	b     *backend
	token int64 // of its claim on the delivery, should it outlive the answer
	phase atomic.Int32
	sent  time.Time
	until time.Time     // when it ends at the latest
	done  chan struct{} // closed when got, or due, is known

	got     Outcome
	skipped bool      // nothing was sent
	due     time.Time // when skipped
}

// Phases of an inlineAttempt.
const (
	waiting = iota // for a slot
	sending
	givenUp // before it was sent
)

// deliver makes every attempt that can be made at once, in parallel, and returns when all have ended or Stripe's clock
// does not allow to wait longer.
func (g *Gateway) deliver(a *arrival, turns []turn) []*inlineAttempt {
	attempts := make([]*inlineAttempt, 0, len(turns))
	for _, t := range turns {
		at := &inlineAttempt{turn: t, b: a.backend(t.Backend), token: newToken(), done: make(chan struct{})}
		attempts = append(attempts, at)
		if due, no := a.putOff(at); no {
			at.skip(due)
			continue
		}
		g.work.Go(func() { g.attemptInline(a, at) })
	}
	clock := g.answers.at(a.start.Add(a.InlineTimeout - min(journalShare, a.InlineTimeout/4)))
	for _, at := range attempts {
		select {
		case <-at.done:
		case <-g.stopping:
		case <-clock.Done():
		}
	}
	return attempts
}

func (at *inlineAttempt) skip(due time.Time) {
	at.skipped, at.due = true, due
	close(at.done)
}

// putOff reports whether an attempt is not to be made now, and when it is due instead.
func (a *arrival) putOff(at *inlineAttempt) (due time.Time, no bool) {
	now := time.Now()
	if at.b == nil || at.Queued || a.stopping || at.b.paused.Load() || !a.canSign(a.event.Source, at.b) {
		return now, true
	}
	reopens := at.b.breaker.Load().reopens()
	return later(now, reopens), !reopens.IsZero()
}

// attemptInline makes one inline attempt: slot, breaker, forward.
func (g *Gateway) attemptInline(a *arrival, at *inlineAttempt) {
	if now := time.Now(); !at.b.slots.tryAcquire(now) {
		ctx, cancel := context.WithTimeout(g.life, slotWait)
		ok := at.b.slots.acquire(ctx, now)
		cancel()
		if !ok {
			at.skip(time.Now())
			return
		}
	}
	at.sent = time.Now()
	at.until = at.sent.Add(at.b.target.Load().Timeout)
	if !at.phase.CompareAndSwap(waiting, sending) {
		at.b.slots.release(1, false)
		close(at.done)
		return
	}
	t := attempt{
		event: a.event, n: 1, trigger: a.trigger, secrets: a.source.secrets, resignAfter: a.ResignAfter, deadline: at.until,
	}
	if at.n > 1 {
		t.trigger = TriggerResend
	}
	got, ok := at.b.attempt(t)
	if !ok {
		at.skip(later(time.Now(), at.b.breaker.Load().reopens()))
		return
	}
	at.got = got
	close(at.done)
}

// entry says where the delivery stands now: ended, never sent, or still under way, which makes it Pending under the
// attempt's own claim.
func (at *inlineAttempt) entry(now time.Time) EntryDelivery {
	d := Delivery{Backend: at.Backend, State: Pending, Turn: at.n, Due: now}
	select {
	case <-at.done:
		return at.ended()
	default:
	}
	if at.phase.CompareAndSwap(waiting, givenUp) {
		return EntryDelivery{Delivery: d}
	}
	d.TurnStarted, d.Token = at.sent, at.token
	d.LeaseUntil = at.until.Add(leaseSlack)
	return EntryDelivery{Delivery: d}
}

// settlement ends the attempt's claim on its delivery. seq is the event's, as Append returned it.
func (at *inlineAttempt) settlement(seq int64) Settlement {
	l := Leased{Event: &Event{Seq: seq}, Delivery: Delivery{Backend: at.Backend, Turn: at.n, Token: at.token}}
	if at.skipped {
		return SettleRelease(l, at.due)
	}
	l.TurnStarted, l.Due = at.sent, at.sent
	return at.b.settlement(l, at.got, at.sent)
}

// ended is the delivery as the attempt left it.
func (at *inlineAttempt) ended() EntryDelivery {
	s := at.settlement(0)
	d := Delivery{Backend: at.Backend, State: s.State, Turn: at.n, Due: s.Due}
	if s.Attempt != nil {
		d.Attempts, d.TurnStarted, d.Status, d.Outcome = 1, at.sent, s.Attempt.Status, s.Attempt.Outcome
	}
	return EntryDelivery{Delivery: d, Attempt: s.Attempt}
}

// relay hands a real-time event to its backend and the backend's answer to Stripe. Nothing is kept: the decision is
// worth nothing a moment later.
func (g *Gateway) relay(a *arrival) *answer {
	if len(a.match.To) == 0 {
		return fallback(a.match, "no route takes it to a backend")
	}
	b := a.backend(a.match.To[0].Backend)
	limit, _ := stripe.RealTime(a.event.Type)
	if limit == 0 {
		limit = a.InlineTimeout
	}
	switch {
	case b == nil:
		return fallback(a.match, "no such backend")
	case b.target.Load().http == nil:
		return fallback(a.match, "the backend gives no answer")
	case b.paused.Load():
		return fallback(a.match, "the backend is paused")
	case !b.breaker.Load().reopens().IsZero():
		return fallback(a.match, "the breaker is open")
	case !a.canSign(a.event.Source, b):
		return fallback(a.match, "no signing secret")
	case !b.slots.tryAcquire(time.Now()):
		return fallback(a.match, "all slots of the backend are taken")
	}
	o, ok := b.attempt(attempt{
		event: a.event, n: 1, trigger: triggerRelay, secrets: a.source.secrets, resignAfter: a.ResignAfter, deadline: a.start.Add(limit),
	})
	switch {
	case !ok:
		return fallback(a.match, "the breaker is open")
	case o.Outcome != OutcomeDelivered && (a.match.Fallback != nil || o.Status <= 299): // a 2xx that was cut off is none
		return fallback(a.match, fmt.Sprintf("%s: %s", o.Outcome, o.Error))
	}
	o.Header.Del("Content-Length")
	o.Header.Del("Trailer")
	return &answer{result: ResultRelayed, status: o.Status, header: o.Header, body: o.Body}
}

// fallback answers a relayed event without its backend: as the route says, else 503, never a 2xx of our own.
func fallback(match Match, reason string) *answer {
	f := match.Fallback
	if f == nil {
		ans := tryLater("no answer from the backend")
		ans.result, ans.reason = ResultRelayed, reason
		return ans
	}
	h := f.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	return &answer{result: ResultRelayed, status: f.Status, header: h, body: []byte(f.Body), reason: "fallback: " + reason}
}

// newToken returns a name for a claim. It is never 0, which stands for nobody.
func newToken() int64 { return rand.Int64N(1<<62) + 1 }
