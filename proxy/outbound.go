package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

const (
	leaseBatch  = 256
	lookAgain   = time.Minute // at the latest, when nothing says when
	journalRest = time.Second // after an error of the journal
	settleBatch = 256

	// Until an event without a secret is looked at again: as long as it is old, between these.
	noSecret     = 5 * time.Minute
	noSecretMost = 15 * time.Minute
)

// Run delivers what is Pending until ctx ends. It then takes no more, lets attempts that were sent end for up to
// DrainTimeout, settles all of them and returns nil. Requests that wait for a backend at that moment are answered as
// if their time were up. A Gateway runs once.
func (g *Gateway) Run(ctx context.Context) error {
	var loops, settlers sync.WaitGroup
	running := map[string]context.CancelFunc{}
	settling := map[string]chan struct{}{}
	for ctx.Err() == nil {
		st := g.state.Load()
		for name, b := range st.backends {
			if running[name] == nil {
				loopCtx, cancel := context.WithCancel(ctx)
				running[name] = cancel
				loops.Go(func() { g.drain(loopCtx, b) })
			}
			if settling[name] == nil {
				stop := make(chan struct{})
				settling[name] = stop
				settlers.Go(func() { g.settle(b, stop) })
			}
		}
		for name, cancel := range running {
			if st.backends[name] == nil {
				cancel()
				delete(running, name)
			}
		}
		select {
		case <-ctx.Done():
		case <-g.changed:
		}
	}
	for _, cancel := range running {
		cancel()
	}
	g.stop()
	loops.Wait()
	g.waitForWork()
	for _, stop := range settling {
		close(stop)
	}
	settlers.Wait()
	g.mu.Lock() // a reload may still come
	defer g.mu.Unlock()
	for _, b := range g.known {
		b.target.Load().transport.CloseIdleConnections()
	}
	return nil
}

// begin runs f as work that Run waits for, unless the gateway has stopped.
func (g *Gateway) begin(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return false
	}
	g.work.Go(f)
	return true
}

// enter counts a request as work that Run waits for, so that attempts which outlive it are waited for too. A request
// that comes after the stop makes no attempts. The function returned ends it.
func (g *Gateway) enter(x *exchange) func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return func() {}
	}
	x.inline = true
	g.work.Add(1)
	return g.work.Done
}

func (g *Gateway) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	close(g.stopping)
}

// waitForWork lets attempts end for DrainTimeout, then cuts them.
func (g *Gateway) waitForWork() {
	timer := time.AfterFunc(g.state.Load().DrainTimeout, g.endLife)
	g.work.Wait()
	timer.Stop()
	g.endLife()
}

// drain is the loop of one backend: it leases what can be sent now, and sends it.
func (g *Gateway) drain(ctx context.Context, b *backend) {
	var next time.Time // when the journal said that something is due
	for ctx.Err() == nil {
		now := time.Now()
		if !next.IsZero() && !now.Before(next) {
			b.owing.Store(true)
		}
		b.hungry.Store(true)
		n, until := b.room(now)
		if n > 0 {
			b.owing.Store(false)
			var got int
			if got, next = g.drainOnce(ctx, b, n); got == n {
				b.owing.Store(true)
				continue
			}
			b.hungry.Store(false)
			until = next
		}
		b.sleep(ctx, until)
	}
}

// drainOnce leases up to n deliveries, for which the caller took slots, and sends them. It returns how many there were,
// and when to look again.
func (g *Gateway) drainOnce(ctx context.Context, b *backend, n int) (got int, again time.Time) {
	now := time.Now()
	ttl := b.target.Load().Timeout + leaseSlack
	var all []Leased
	for _, name := range b.names() {
		leased, next, err := g.journal.Lease(ctx, LeaseRequest{Backend: name, Now: now, Most: n - len(all), For: ttl})
		if err != nil {
			if ctx.Err() == nil {
				g.log.Error("lease", zap.String(keyBackend, name), zap.Error(err))
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
	kept := b.slots.keep(len(all))
	b.limiter.AllowN(now, kept)
	for i, l := range all {
		if i < kept && g.begin(func() { g.redeliver(b, l, now) }) {
			continue
		}
		if i < kept {
			b.slots.release(1, true)
		}
		b.settler <- settling{Settlement: SettleRelease(l, time.Time{})}
	}
	return len(all), again
}

// room takes slots for what can be sent to the backend now. When it takes none it says when to look again; the zero
// time means when poked.
func (b *backend) room(now time.Time) (n int, until time.Time) {
	if b.paused.Load() {
		return 0, time.Time{}
	}
	if len(b.settler) > cap(b.settler)/2 { // the journal settles slowly, or nothing: send no more
		return 0, now.Add(batchWait)
	}
	br := b.breaker.Load()
	if at := br.reopens(); !at.IsZero() {
		return 0, at
	}
	n = leaseBatch
	if br.halfOpen() {
		if br.probing() || b.slots.draining() { // the one leased last has not come to its breaker yet
			return 0, time.Time{}
		}
		n = 1
	}
	if tokens := b.limiter.TokensAt(now); b.limiter.Limit() != rate.Inf && tokens < float64(n) {
		if n = int(tokens); n < 1 {
			missing := 1 - tokens
			return 0, now.Add(time.Duration(missing / float64(b.limiter.Limit()) * float64(time.Second)))
		}
	}
	n, short := b.slots.drain(n, now, b.owing.Load())
	if short {
		until = now.Add(batchWait)
	}
	return n, until
}

// sleep waits until it is time, or the backend is poked, or the earliest due time that dueAt was told of.
func (b *backend) sleep(ctx context.Context, until time.Time) {
	now := time.Now()
	if latest := now.Add(lookAgain); until.IsZero() || until.After(latest) {
		until = latest
	}
	b.nextLook.Store(until.UnixNano())
	timer := time.NewTimer(max(until.Sub(now), time.Millisecond))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-b.wake:
	case <-timer.C:
	}
	b.nextLook.Store(0)
}

// dueAt tells the drain that something was stored that is due then.
func (b *backend) dueAt(t time.Time) {
	if !t.After(time.Now()) {
		b.owing.Store(true)
	}
	if look := b.nextLook.Load(); look == 0 || t.UnixNano() < look {
		b.poke()
	}
}

// redeliver makes one attempt of a leased delivery.
func (g *Gateway) redeliver(b *backend, l Leased, leasedAt time.Time) {
	st := g.state.Load()
	t := try{n: l.Attempts + 1, trigger: trigger(l.Delivery), resignAfter: st.ResignAfter, drained: true}
	if s := st.byName[l.Event.Source]; s != nil {
		t.secrets = s.secrets
	}
	if !st.canSign(l.Event.Source, b) {
		b.slots.release(1, true)
		if g.complain.Allow() {
			g.log.Error("not sent: no signing secret is left for this source; put it back, or give the backend signing_secrets of its own",
				zap.String(keyEventID, l.Event.ID), zap.String(keySource, l.Event.Source), zap.String(keyBackend, b.name))
		}
		wait := min(max(leasedAt.Sub(l.Event.Received), noSecret), noSecretMost)
		s := SettleRelease(l, leasedAt.Add(wait))
		if !l.TurnStarted.IsZero() { // this wait is not the backend's doing: see settlement
			s.TurnStarted = l.TurnStarted.Add(s.Due.Sub(l.Due))
		}
		b.settler <- settling{Settlement: s}
		return
	}
	select {
	case <-g.stopping:
		b.slots.release(1, true)
		b.settler <- settling{Settlement: SettleRelease(l, time.Time{})}
		return
	default:
	}
	o, ok := b.attempt(g.life, l.Event, t)
	if !ok { // its due time stays, and with it its place among those that wait
		b.settler <- settling{Settlement: SettleRelease(l, time.Time{})}
		return
	}
	s := b.settlement(l, o, leasedAt)
	if s.State == Failed {
		g.log.Error("gave up: kept as Failed until it is resent", zap.String(keyEventID, l.Event.ID),
			zap.String(keyEventType, l.Event.Type), zap.String(keySource, l.Event.Source), zap.String(keyBackend, b.name),
			zap.Int(keyAttempt, o.N), zap.String(keyOutcome, o.Outcome))
	}
	b.settler <- settling{Settlement: s}
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

// settlement says what an attempt means for its delivery. What the delivery waited beyond its due time, it waited for
// us (pause, open breaker, rate, a stop): that does not count towards give_up_after.
func (b *backend) settlement(l Leased, o outcome, leasedAt time.Time) Settlement {
	retry := b.target.Load().Retry
	ended := o.Started.Add(o.Duration)
	n := l.Attempts + 1
	started := l.TurnStarted
	if started.IsZero() {
		started = o.Started
	} else if waited := leasedAt.Sub(l.Due); waited > 0 {
		started = started.Add(waited)
	}
	switch {
	case o.Outcome == OutcomeDelivered:
		return SettleDelivered(l, o.Attempt)
	case o.Outcome != OutcomeInterrupted && n >= leastAttempts && ended.Sub(started) >= retry.GiveUpAfter:
		return SettleFailed(l, o.Attempt)
	}
	return SettleRetry(l, o.Attempt, ended.Add(retry.after(n, o.retryAfter)), started)
}

// settling is a settlement on its way to the journal.
type settling struct {
	Settlement
	done chan struct{} // closed when it is there, or will not get there; nil: nobody waits
}

// settle brings a backend's settlements to the journal, in batches, until stop and until all are there.
func (g *Gateway) settle(b *backend, stop <-chan struct{}) {
	for {
		var batch []settling
		select {
		case s := <-b.settler:
			batch = append(batch, s)
		case <-stop:
			select {
			case s := <-b.settler:
				batch = append(batch, s)
			default:
				return
			}
		}
	more:
		for len(batch) < settleBatch {
			select {
			case s := <-b.settler:
				batch = append(batch, s)
			default:
				break more
			}
		}
		plain := make([]Settlement, len(batch))
		for i, s := range batch {
			plain[i] = s.Settlement
		}
		g.settleAll(b, plain)
		for _, s := range batch {
			if s.State == Pending {
				b.dueAt(s.Due)
			}
			if s.done != nil {
				close(s.done)
			}
		}
	}
}

// settleLater has the settler try again what the journal did not take, and waits for the end of that; false when it
// cannot help.
func (b *backend) settleLater(s Settlement, err error) bool {
	if errors.Is(err, ErrLeaseLost) {
		return false
	}
	done := make(chan struct{})
	select {
	case b.settler <- settling{s, done}:
		<-done
		return true
	default:
		return false
	}
}

// settleAll tries until the journal takes the batch; when the gateway stops it tries once more only. What stays
// unsettled is sent again when its lease ends: at least once.
func (g *Gateway) settleAll(b *backend, batch []Settlement) {
	for {
		err := g.journal.Settle(context.Background(), batch...)
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrLeaseLost):
			g.log.Warn("settle: a lease was lost; its delivery may be made twice", zap.String(keyBackend, b.name), zap.Error(err))
			return
		}
		g.log.Error("settle: trying again", zap.String(keyBackend, b.name), zap.Int("deliveries", len(batch)), zap.Error(err))
		select {
		case <-g.stopping:
			return
		case <-time.After(journalRest):
		}
	}
}
