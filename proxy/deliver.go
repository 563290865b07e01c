package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// accept takes a verified event to its answer: duplicates, routes, inline delivery, journal. unparsed is why its body
// could not be read, nil for a whole event.
func (g *Gateway) accept(x *exchange, unparsed error) verdict {
	ev := x.event
	match := x.Routes.Match(ev)
	if match.Answer == AnswerRelay {
		defer x.free()
		return g.relay(x, match)
	}
	if !ev.Unique() {
		return g.handle(x, match, first(match), nil, unparsed)
	}
	fl, mine := g.flights.join(ev.Key())
	if !mine {
		defer x.free()
		return g.follow(x, match, fl)
	}
	x.flight = fl
	plan, ft, known := g.plan(x, match)
	if known && len(plan) == 0 {
		fl.decide(ft)
		g.land(x, fl)
		return g.duplicate(x, match, ft)
	}
	return g.handle(x, match, plan, fl, unparsed)
}

// abandon is deferred: when handling an event panics, its repeats must not wait for it for ever, nor others for the
// memory of its body.
func (g *Gateway) abandon(x *exchange) {
	p := recover()
	if p == nil {
		return
	}
	if x.flight != nil {
		x.flight.decide(fateRefused)
		g.flights.end(x.event.Key())
	}
	x.free()
	panic(p)
}

// plan says which deliveries this arrival makes, and whether the event was known before.
func (g *Gateway) plan(x *exchange, match Match) (plan []planned, ft fate, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), journalShare)
	defer cancel()
	k, err := g.journal.Find(ctx, x.event.Key())
	switch {
	case err == nil && x.elsewhere && k.State == Delivered:
		return nil, fateDelivered, true
	case err == nil:
		plan, ft = x.weigh(k, match, x.start)
		x.owed, x.repeat = k.owed(), k.State == Delivered && !k.Answered.IsZero()
		return plan, ft, true
	case !errors.Is(err, ErrNotFound):
		g.log.Error("find event: cannot tell whether it is a duplicate, going on", zap.String(keyEventID, x.event.ID), zap.Error(err))
	default:
		if k, ok := g.dropped.find(x.event.Key()); ok {
			plan, ft = x.weigh(k, match, x.start)
			return plan, ft, true
		}
	}
	return first(match), fateStored, false
}

// follow answers a second arrival of an event that is in hand: it waits for the first one's outcome.
func (g *Gateway) follow(x *exchange, match Match, fl *flight) verdict {
	wait := time.NewTimer(time.Until(x.start.Add(x.InlineTimeout)))
	defer wait.Stop()
	select {
	case <-fl.decided:
		return g.duplicate(x, match, fl.fate)
	case <-wait.C:
		return tryLater("the same event is in hand and its outcome is not known yet")
	}
}

// duplicate answers an arrival that needs no delivery of its own.
func (g *Gateway) duplicate(x *exchange, match Match, ft fate) verdict {
	ev := x.event
	switch {
	case ft == fateRefused:
		return tryLater("the journal took the same event's first arrival no better")
	case ft == fateStored && x.held(match):
		return x.hold()
	}
	v := settled(http.StatusOK, ResultDuplicate, ev)
	if !x.repeat { // else this answer would prolong the window in which repeats are suppressed
		v.after = func(answered time.Time) { g.markAnswered(ev, 0, answered) }
	}
	return v
}

// held reports whether Stripe is to be kept waiting for the backend's own 2xx.
func (x *exchange) held(match Match) bool {
	if match.Answer != AnswerBackend {
		return false
	}
	limit := min(match.HoldFor, maxHold)
	if !x.event.Livemode {
		limit = min(limit, maxHoldTest)
	}
	since := x.event.Created
	if since.IsZero() {
		since = x.event.Received
	}
	if x.start.Sub(since) >= limit {
		return false
	}
	x.lifted = x.start.Sub(time.Unix(0, x.source.health.answered.Load())) >= maxSilence
	return !x.lifted
}

const (
	maxHold     = 60 * time.Hour // below the 72 h after which Stripe goes on without an answer
	maxHoldTest = time.Hour      // in test mode Stripe tries three times only
	maxSilence  = 48 * time.Hour // without any 2xx from a source; Stripe disables an endpoint after nine days
)

func (x *exchange) hold() verdict {
	v := settled(http.StatusServiceUnavailable, ResultHeld, x.event)
	v.header.Set("Retry-After", "60")
	v.reason = "held until the backend has it (answer: backend)"
	return v
}

// handle delivers inline and keeps what could not be delivered: steps 7 and 8. fl is nil for an event that cannot be a
// duplicate.
func (g *Gateway) handle(x *exchange, match Match, plan []planned, fl *flight, unparsed error) verdict {
	entry := Entry{Event: x.event}
	calls := g.deliver(x, plan)
	delivered, late := len(calls) > 0 && !x.owed, false
	for _, c := range calls {
		d := c.entry(time.Now())
		delivered = delivered && d.State == Delivered
		late = late || d.Token != 0
		entry.Deliveries = append(entry.Deliveries, d)
	}
	if unparsed != nil {
		entry.Reason = ReasonUnparseable
	}
	var v verdict
	var seq int64
	var err error
	var ft fate
	switch {
	case delivered:
		ft, v = fateDelivered, x.delivered(match, calls)
	case len(calls) == 0 && unparsed == nil && match.Reason != ReasonNoRoute:
		ft, v = fateSettled, settled(http.StatusOK, ResultIgnored, x.event)
		entry.State, entry.Reason = Ignored, match.Reason
	default:
		if len(calls) == 0 && unparsed == nil {
			entry.State, entry.Reason = Ignored, ReasonNoRoute
		} else if len(calls) == 0 {
			entry.State = Failed
		}
		seq, err = g.store(x, entry)
		ft, v = x.stored(match, entry, err)
	}
	if unparsed != nil {
		v.diagnosis = append(v.diagnosis, zap.NamedError("unparseable", unparsed))
		if v.status <= 299 {
			v.result = ResultUnparseable
		}
	}
	if fl != nil {
		fl.decide(ft)
	}
	v.after = func(answered time.Time) {
		switch ft {
		case fateDelivered, fateSettled:
			entry.Answered = answered
			g.record(entry)
		case fateStored:
			g.markAnswered(x.event, seq, answered)
		}
		if late {
			g.work.Go(func() { g.finish(x, fl, calls, entry, seq, err) })
		} else {
			g.land(x, fl)
		}
	}
	return v
}

// land ends an event's stay in this process.
func (g *Gateway) land(x *exchange, fl *flight) {
	if fl != nil {
		g.flights.end(x.event.Key())
	}
	x.free()
}

// delivered is the answer when every backend has the event.
func (x *exchange) delivered(match Match, calls []*inlineCall) verdict {
	if len(calls) == 1 && calls[0].got.Status <= 299 {
		return pass(calls[0].got)
	}
	return settled(http.StatusOK, ResultDelivered, x.event)
}

// store appends an entry within what is left of Stripe's clock.
func (g *Gateway) store(x *exchange, entry Entry) (int64, error) {
	now := time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), later(x.start.Add(x.InlineTimeout), now.Add(journalShare/2)))
	defer cancel()
	seq, err := g.journal.Append(ctx, entry)
	if err != nil {
		g.log.Error("append event: Stripe is asked to come again; free the disk or see the journal's error",
			zap.String(keyEventID, x.event.ID), zap.String(keySource, x.event.Source), zap.Error(err))
		return 0, err
	}
	x.announce(entry.Deliveries)
	return seq, nil
}

// announce tells the backends what was stored for them.
func (x *exchange) announce(ds []EntryDelivery) {
	for _, d := range ds {
		if b := x.backend(d.Backend); b != nil && d.State == Pending && d.Token == 0 {
			b.dueAt(d.Due)
		}
	}
}

// stored is the answer when the event rests on the journal.
func (x *exchange) stored(match Match, entry Entry, err error) (fate, verdict) {
	switch {
	case err != nil:
		v := tryLater("the event could not be put on stable storage")
		return fateRefused, v
	case entry.State == Ignored:
		return fateStored, settled(http.StatusOK, ResultUnrouted, x.event)
	case len(entry.Deliveries) > 0 && x.held(match):
		return fateStored, x.hold()
	}
	return fateStored, settled(http.StatusOK, ResultStored, x.event)
}

// record writes history behind. When the journal is too busy for longer than the wait, the row is given up and only
// the event's id is kept, so that a repeat is still known.
func (g *Gateway) record(entry Entry) {
	now := time.Now()
	for until := now.Add(recordWait); ; {
		err := g.journal.Record(entry)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrBusy) || time.Now().After(until) {
			break
		}
		time.Sleep(recordPoll)
	}
	g.observer.HistoryDropped()
	if entry.Event.Unique() && len(entry.Deliveries) > 0 {
		g.dropped.add(entry.Event, entry.Answered)
	}
}

const (
	recordWait = time.Second
	recordPoll = 5 * time.Millisecond
)

// markAnswered notes that Stripe has our 2xx for a stored event. It is history: lost in a crash, a repeat from Stripe is
// taken for Stripe's own retry.
func (g *Gateway) markAnswered(ev *Event, seq int64, answered time.Time) {
	if answered.IsZero() {
		return
	}
	mark := &Event{Seq: seq, Source: ev.Source, ID: ev.ID}
	g.record(Entry{Event: mark, Answered: answered})
}

// finish waits for the attempts that outlived their answer, and brings their results to the journal. appended is why
// the entry could not be stored; all results are then stored once the last attempt has ended.
func (g *Gateway) finish(x *exchange, fl *flight, calls []*inlineCall, entry Entry, seq int64, appended error) {
	defer g.land(x, fl)
	for i, c := range calls {
		if entry.Deliveries[i].Token == 0 {
			continue
		}
		<-c.done
		if appended != nil {
			entry.Deliveries[i] = c.ended()
			continue
		}
		s := c.settlement(seq)
		if err := g.journal.Settle(context.Background(), s); err != nil && !c.b.settleLater(s, err) {
			g.lostResult(x.event, c.Backend, err)
		}
		if s.State == Pending {
			c.b.dueAt(s.Due)
		}
	}
	if appended == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), journalShare)
	defer cancel()
	if _, err := g.journal.Append(ctx, entry); err != nil {
		g.lostResult(x.event, "", err)
		return
	}
	x.announce(entry.Deliveries)
}

// lostResult: nothing that was acknowledged is lost, but a backend that has the event may get it once more.
func (g *Gateway) lostResult(ev *Event, backend string, err error) {
	g.log.Error("result of an attempt not kept; the backend may get the event once more", zap.String(keyEventID, ev.ID),
		zap.String(keySource, ev.Source), zap.String(keyBackend, backend), zap.Error(err))
}
