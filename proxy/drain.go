package proxy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

const (
	leaseBatch  = 256
	settleBatch = 256
	lookAgain   = time.Minute // at the latest, although nothing is known to be due
	journalRest = time.Second // after an error of the journal

	// An event that cannot be signed waits again for as long as it has waited already, but for no less and no more than this.
	noSecret     = 5 * time.Minute
	noSecretMost = 15 * time.Minute
)

// drain brings one backend what is Pending for it. It leases what can be sent now, sends it, and settles how that ended;
// in between it sleeps until something is due, or a slot, the breaker or the limiter lets it go on. Why it sends nothing,
// blocked says.
type drain struct {
	g       *Gateway
	b       *backend
	limiter *rate.Limiter // routes.yaml's rate

	wake        chan struct{} // look again
	nextLook    atomic.Int64  // when it looks again, unix nanoseconds; 0 while it is at work
	owing       atomic.Bool   // something is due now, as far as is known
	hungry      atomic.Bool   // it waits for slots: only then is it poked when one becomes free
	settlements chan settling // on their way to the journal
	settling    atomic.Int64  // since when it takes some of them, unix nanoseconds; 0 while it takes none
}

func newDrain(g *Gateway, b *backend) *drain {
	return &drain{g: g, b: b, limiter: rate.NewLimiter(rate.Inf, 1), wake: make(chan struct{}, 1), settlements: make(chan settling, 1024)}
}

// pace sets how many deliveries a second it leases; 0 is no limit.
func (d *drain) pace(perSecond float64) {
	if perSecond > 0 {
		d.limiter.SetBurst(max(1, int(perSecond)))
		d.limiter.SetLimit(rate.Limit(perSecond))
	} else {
		d.limiter.SetLimit(rate.Inf)
	}
}

// run leases what can be sent now, and sends it, until ctx ends.
func (d *drain) run(ctx context.Context) {
	var next time.Time // when the journal said that something is due
	for ctx.Err() == nil {
		now := time.Now()
		if !next.IsZero() && !now.Before(next) {
			d.owing.Store(true)
		}
		d.hungry.Store(true)
		n, until := d.room(now)
		if n > 0 {
			d.owing.Store(false)
			var got int
			if got, next = d.lease(ctx, n); got == n {
				d.owing.Store(true)
				continue
			}
			d.hungry.Store(false)
			until = next
		}
		d.sleep(ctx, until)
	}
}

// blocked says why nothing can be sent now, whatever is due, and when to look again; the zero time means when poked. The
// words are those of Gateway.Why.
func (d *drain) blocked(now time.Time) (why string, until time.Time) {
	br := d.b.breaker.Load()
	reopens := br.reopens()
	switch {
	case d.b.paused.Load():
		return "paused", time.Time{}
	case !reopens.IsZero():
		return "breaker", reopens
	case d.limiter.Limit() != rate.Inf && d.limiter.TokensAt(now) < 1:
		missing := 1 - d.limiter.TokensAt(now)
		return "rate", now.Add(time.Duration(missing / float64(d.limiter.Limit()) * float64(time.Second)))
	case len(d.settlements) > cap(d.settlements)/2: // the journal settles slowly
		return "in_flight", now.Add(batchWait)
	case d.stuck(now): // or nothing: leases may be over of what was sent and is not settled
		return "in_flight", now.Add(journalRest)
	case br.halfOpen() && (br.probing() || d.b.slots.late() > 0): // what was leased last may not have come to its breaker yet
		return "in_flight", time.Time{}
	}
	return "", time.Time{}
}

// room takes slots for what can be sent now. When it takes none it says when to look again.
func (d *drain) room(now time.Time) (n int, until time.Time) {
	if why, until := d.blocked(now); why != "" {
		return 0, until
	}
	n = leaseBatch
	if d.b.breaker.Load().halfOpen() {
		n = 1
	}
	if d.limiter.Limit() != rate.Inf {
		n = min(n, int(d.limiter.TokensAt(now)))
	}
	n, short := d.b.slots.acquireLate(n, now, d.owing.Load())
	if short {
		until = now.Add(batchWait)
	}
	return n, until
}

// lease takes up to n deliveries, for which the caller took slots, and has them sent. It returns how many there were, and
// when to look again.
func (d *drain) lease(ctx context.Context, n int) (got int, again time.Time) {
	now, t := time.Now(), d.b.target.Load()
	var all []Leased
	for _, name := range append([]string{d.b.name}, t.Was...) {
		leased, next, err := d.g.journal.Lease(ctx, LeaseRequest{Backend: name, Now: now, Most: n - len(all), For: t.Timeout + leaseSlack})
		if err != nil {
			if ctx.Err() == nil {
				d.g.log.Error("lease", zap.String(keyBackend, name), zap.Error(err))
			}
			next = now.Add(journalRest)
		}
		all = append(all, leased...)
		if !next.IsZero() && (again.IsZero() || next.Before(again)) {
			again = next
		}
		if len(all) == n {
			break
		}
	}
	room := d.b.slots.confirm(len(all))
	d.limiter.AllowN(now, room)
	for i, l := range all {
		if i < room && d.g.begin(func() { d.send(l, now, t.Timeout) }) {
			continue
		}
		if i < room {
			d.b.slots.release(1, true)
		}
		d.settlements <- settling{Settlement: SettleRelease(l, time.Time{})}
	}
	return len(all), again
}

// sleep waits until the time given, lookAgain at most, or until it is poked: by dueAt, say, for what is due earlier.
func (d *drain) sleep(ctx context.Context, until time.Time) {
	now := time.Now()
	if latest := now.Add(lookAgain); until.IsZero() || until.After(latest) {
		until = latest
	}
	d.nextLook.Store(until.UnixNano())
	timer := time.NewTimer(max(until.Sub(now), time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-d.wake:
	case <-timer.C:
	}
	d.nextLook.Store(0)
}

// poke makes it look again.
func (d *drain) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// slotFreed pokes when a slot is what it waits for.
func (d *drain) slotFreed() {
	if d.hungry.Load() {
		d.poke()
	}
}

// dueAt says that something was stored that is due then.
func (d *drain) dueAt(t time.Time) {
	if !t.After(time.Now()) {
		d.owing.Store(true)
	}
	if look := d.nextLook.Load(); look == 0 || t.UnixNano() < look {
		d.poke()
	}
}

// send makes one attempt of a leased delivery.
func (d *drain) send(l Leased, leasedAt time.Time, timeout time.Duration) {
	st := d.g.state.Load()
	if !st.canSign(l.Event.Source, d.b) {
		d.b.slots.release(1, true)
		d.settlements <- settling{Settlement: d.waitForSecret(l, leasedAt)}
		return
	}
	select {
	case <-d.g.stopping:
		d.b.slots.release(1, true)
		d.settlements <- settling{Settlement: SettleRelease(l, time.Time{})}
		return
	default:
	}
	a := attempt{
		event: l.Event, n: l.Attempts + 1, trigger: trigger(l.Delivery), resignAfter: st.ResignAfter, late: true,
		deadline: leasedAt.Add(timeout), // the lease ends with it, whatever a reload says
	}
	if s := st.byName[l.Event.Source]; s != nil {
		a.secrets = s.secrets
	}
	o, ok := d.b.attempt(a)
	if !ok { // its due time stays, and with it its place among those that wait
		d.settlements <- settling{Settlement: SettleRelease(l, time.Time{})}
		return
	}
	s := d.b.settlement(l, o, leasedAt)
	if s.State == Failed {
		d.g.log.Error("gave up: kept as Failed until it is resent", zap.String(keyEventID, l.Event.ID),
			zap.String(keyEventType, l.Event.Type), zap.String(keySource, l.Event.Source), zap.String(keyBackend, d.b.name),
			zap.Int(keyAttempt, o.N), zap.String(keyOutcome, o.Outcome))
	}
	d.settlements <- settling{Settlement: s}
}

// waitForSecret puts a delivery off that cannot be signed.
func (d *drain) waitForSecret(l Leased, leasedAt time.Time) Settlement {
	if d.g.complain.Allow() {
		d.g.log.Error("not sent: no signing secret is left for this source; put it back, or give the backend signing_secrets of its own",
			zap.String(keyEventID, l.Event.ID), zap.String(keySource, l.Event.Source), zap.String(keyBackend, d.b.name))
	}
	wait := min(max(leasedAt.Sub(l.Event.Received), noSecret), noSecretMost)
	s := SettleRelease(l, leasedAt.Add(wait))
	if !l.TurnStarted.IsZero() { // this wait is not the backend's doing: see settlement
		s.TurnStarted = l.TurnStarted.Add(s.Due.Sub(l.Due))
	}
	return s
}

func trigger(d Delivery) Trigger {
	switch {
	case d.Attempts > 0:
		return TriggerRetry
	case d.Turn > 1:
		return TriggerResend
	}
	return TriggerResume
}

// settling is a settlement on its way to the journal.
type settling struct {
	Settlement
	done chan struct{} // closed when it is there, or will not get there; nil: nobody waits
}

// settle brings settlements to the journal, in batches, until stop is closed and all are there.
func (d *drain) settle(stop <-chan struct{}) {
	for {
		var batch []settling
		select {
		case s := <-d.settlements:
			batch = append(batch, s)
		case <-stop:
			select {
			case s := <-d.settlements:
				batch = append(batch, s)
			default:
				return
			}
		}
	more:
		for len(batch) < settleBatch {
			select {
			case s := <-d.settlements:
				batch = append(batch, s)
			default:
				break more
			}
		}
		d.settling.CompareAndSwap(0, time.Now().UnixNano())
		settlements := make([]Settlement, len(batch))
		for i, s := range batch {
			settlements[i] = s.Settlement
		}
		d.settleAll(settlements)
		for _, s := range batch {
			if s.State == Pending {
				d.dueAt(s.Due)
			}
			if s.done != nil {
				close(s.done)
			}
		}
		if len(d.settlements) == 0 || !d.stuck(time.Now()) {
			d.settling.Store(0)
		}
	}
}

// stuck reports whether results wait for longer than the journal should take; then until none is left of them.
func (d *drain) stuck(now time.Time) bool {
	since := d.settling.Load()
	return since != 0 && now.UnixNano()-since > int64(journalRest)
}

// settleLater passes a settlement that the journal did not take, because of err, on to settle, and waits until that has
// done what it can. It returns false when there is no use in it, or no room.
func (d *drain) settleLater(s Settlement, err error) bool {
	if errors.Is(err, ErrLeaseLost) {
		return false
	}
	done := make(chan struct{})
	select {
	case d.settlements <- settling{s, done}:
		<-done
		return true
	default:
		return false
	}
}

// settleAll tries until the journal takes the batch; when the gateway stops it tries once more only. What stays
// unsettled is sent again when its lease ends: at least once.
func (d *drain) settleAll(batch []Settlement) {
	for {
		err := d.g.journal.Settle(context.Background(), batch...)
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrLeaseLost):
			d.g.log.Warn("settle: a lease was lost; its delivery may be made twice", zap.String(keyBackend, d.b.name), zap.Error(err))
			return
		}
		d.g.log.Error("settle: trying again", zap.String(keyBackend, d.b.name), zap.Int("deliveries", len(batch)), zap.Error(err))
		select {
		case <-d.g.stopping:
			return
		case <-time.After(journalRest):
		}
	}
}
