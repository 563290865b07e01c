package proxy

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// inlineCall is an attempt made while Stripe waits. It may outlive the answer.
type inlineCall struct {
	planned
	b     *backend
	token int64
	phase atomic.Int32 // waiting for a slot, sent, or given up before it was sent
	sent  time.Time
	done  chan struct{} // closed when got, or due, is known

	got     outcome
	skipped bool      // nothing was sent
	due     time.Time // when skipped
}

const (
	phaseWaiting = iota
	phaseSent
	phaseGivenUp
)

// deliver makes every attempt that can be made at once, in parallel, and returns when all have ended or Stripe's clock
// does not allow to wait longer.
func (g *Gateway) deliver(x *exchange, plan []planned) []*inlineCall {
	calls := make([]*inlineCall, 0, len(plan))
	clock := x.start.Add(x.InlineTimeout - min(journalShare, x.InlineTimeout/4))
	for _, p := range plan {
		c := &inlineCall{planned: p, b: x.backend(p.Backend), token: newToken(), done: make(chan struct{})}
		calls = append(calls, c)
		if due, no := x.putOff(c); no {
			c.skip(due)
			continue
		}
		g.work.Go(func() { g.attemptInline(x, c) })
	}
	var timer *time.Timer
	for _, c := range calls {
		select {
		case <-c.done:
			continue
		default:
		}
		if timer == nil {
			timer = time.NewTimer(time.Until(clock))
			defer timer.Stop()
		}
		select {
		case <-c.done:
		case <-g.stopping:
		case <-timer.C:
			timer.Reset(0)
		}
	}
	return calls
}

func (c *inlineCall) skip(due time.Time) {
	c.skipped, c.due = true, due
	close(c.done)
}

// putOff reports whether a call is not to be made now, and when it is due instead.
func (x *exchange) putOff(c *inlineCall) (due time.Time, no bool) {
	now := time.Now()
	switch {
	case c.b == nil, c.Queued, !x.inline, c.b.paused.Load(), !x.canSign(x.event.Source, c.b):
		return now, true
	}
	at := c.b.breaker.Load().reopens()
	return later(now, at), !at.IsZero()
}

// attemptInline makes one inline attempt: slot, breaker, forward.
func (g *Gateway) attemptInline(x *exchange, c *inlineCall) {
	if now := time.Now(); !c.b.slots.tryAcquire(now) {
		ctx, cancel := context.WithTimeout(g.life, slotWait)
		ok := c.b.slots.acquire(ctx, now)
		cancel()
		if !ok {
			c.skip(time.Now())
			return
		}
	}
	c.sent = time.Now()
	if !c.phase.CompareAndSwap(phaseWaiting, phaseSent) {
		c.b.slots.release(1, false)
		close(c.done)
		return
	}
	t := try{n: 1, trigger: TriggerInline, secrets: x.source.secrets, resignAfter: x.ResignAfter}
	if c.turn > 1 {
		t.trigger = TriggerResend
	}
	o, ok := c.b.attempt(g.life, x.event, t)
	if !ok {
		c.skip(later(time.Now(), c.b.breaker.Load().reopens()))
		return
	}
	c.got = o
	close(c.done)
}

// entry says where the delivery stands now: ended, never sent, or still under way, which makes it Pending under the
// attempt's own claim.
func (c *inlineCall) entry(now time.Time) EntryDelivery {
	d := Delivery{Backend: c.Backend, State: Pending, Turn: c.turn, Due: now}
	select {
	case <-c.done:
		return c.ended()
	default:
	}
	if c.phase.CompareAndSwap(phaseWaiting, phaseGivenUp) {
		return EntryDelivery{Delivery: d}
	}
	d.TurnStarted, d.Token = c.sent, c.token
	d.LeaseUntil = c.sent.Add(c.b.target.Load().Timeout + leaseSlack)
	return EntryDelivery{Delivery: d}
}

// leaseSlack is added to what an attempt may take, for its settlement.
const leaseSlack = 15 * time.Second

// settlement is how the call ended for its claim on the event.
func (c *inlineCall) settlement(seq int64) Settlement {
	l := Leased{Event: &Event{Seq: seq}, Delivery: Delivery{Backend: c.Backend, Turn: c.turn, Token: c.token}}
	if c.skipped {
		return SettleRelease(l, c.due)
	}
	l.TurnStarted, l.Due = c.sent, c.sent
	return c.b.settlement(l, c.got, c.sent)
}

// ended is the delivery after the call ended.
func (c *inlineCall) ended() EntryDelivery {
	s := c.settlement(0)
	d := Delivery{Backend: c.Backend, State: s.State, Turn: c.turn, Due: s.Due}
	if s.Attempt != nil {
		d.Attempts, d.TurnStarted, d.Status, d.Outcome = 1, c.sent, s.Attempt.Status, s.Attempt.Outcome
	}
	return EntryDelivery{Delivery: d, Attempt: s.Attempt}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// newToken names a claim. 0 means nobody.
func newToken() int64 { return rand.Int64N(1<<62) + 1 }
