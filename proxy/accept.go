package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	journalShare = 2 * time.Second // of the inline timeout, kept for the journal

	// stripeRetries is how long Stripe itself goes on to send an event that it has no 2xx for: "up to three days"
	// (docs.stripe.com/webhooks).
	stripeRetries = 72 * time.Hour
)

// arrival is an event on its way to its answer.
type arrival struct {
	*state
	event      *Event
	source     *source
	start      time.Time   // Stripe's clock starts
	trigger    Trigger     // of its first attempts
	fromStripe bool        // Stripe sent it just now: one that every backend has may then be a person's Resend in its dashboard
	replay     bool        // its very signature had a 2xx before
	unreadable error       // why its body could not be parsed
	stopping   bool        // nothing is sent any more
	memory     *bodyMemory // of its body; nil outside a request

	match  Match
	known  Known   // what the journal has of it; zero for a new event
	flight *flight // nil for an event that cannot be a duplicate
}

// Accept takes an event that was verified elsewhere the way that ServeHTTP takes a request, within InlineTimeout. Its
// Source must be one of Config.Sources. trigger is what its first attempts are recorded with: TriggerReconcile, say. A nil
// error means that the promise holds for the event; after any other, accept it again later. ctx is only looked at before
// the event is taken. An event that every backend has already is a duplicate, however long ago it was delivered: nobody
// pressed Resend. One without a Type counts as one whose body could not be parsed.
func (g *Gateway) Accept(ctx context.Context, e *Event, trigger Trigger) (Result, error) {
	st := g.state.Load()
	a := &arrival{state: st, event: e, source: st.byName[e.Source], start: time.Now(), trigger: trigger}
	if a.source == nil {
		return ResultRefused, fmt.Errorf("accept %s: no source %q", e.ID, e.Source)
	}
	if err := ctx.Err(); err != nil {
		return ResultRefused, fmt.Errorf("accept %s: %w", e.ID, err)
	}
	if e.Type == "" {
		a.unreadable = errNoType
	}
	stopping, leave := g.enter()
	defer leave()
	a.stopping = stopping
	ans := g.accept(a, func(*answer) time.Time { return time.Now() })
	g.report(a.source, e, a.start, ans)
	if ans.status > 299 && ans.result != ResultHeld {
		return ans.result, fmt.Errorf("accept %s: %s", e.ID, ans.reason)
	}
	return ans.result, nil
}

var errNoType = errors.New("the event has no type")

// accept takes an event to its answer, has that written, and does what is left to do then. write returns when Stripe had
// the answer: the zero time when it may not have it.
func (g *Gateway) accept(a *arrival, write func(*answer) time.Time) *answer {
	defer g.abandon(a)
	ans := g.decide(a)
	answered := write(ans)
	if ans.after != nil {
		ans.after(answered)
	}
	return ans
}

// decide takes an event to its answer: routes, repeats, inline delivery, journal.
func (g *Gateway) decide(a *arrival) *answer {
	a.match = a.Routes.Match(a.event)
	if a.match.Answer == AnswerRelay {
		defer a.done()
		return g.relay(a)
	}
	turns := a.match.firstTurns()
	if a.event.Unique() {
		if a.replay {
			defer a.done()
			return say(http.StatusOK, ResultDuplicate, a.event)
		}
		fl, first := g.flights.join(a.event.Key())
		if !first {
			defer a.done()
			return g.follow(a, fl)
		}
		a.flight = fl
		g.look(a)
		if a.known.State != "" {
			turns = a.nextTurns()
		}
		if a.known.State != "" && len(turns) == 0 {
			fate := a.known.fate()
			fl.decide(fate)
			g.land(a)
			return g.duplicate(a, fate)
		}
	}
	return g.keep(a, g.deliver(a, turns))
}

// done gives back the memory that the body took.
func (a *arrival) done() {
	if a.memory != nil {
		a.memory.release()
	}
}

// abandon is deferred: when the handling of an event panics, its repeats must not wait for it for ever.
func (g *Gateway) abandon(a *arrival) {
	if p := recover(); p != nil {
		if a.flight != nil {
			a.flight.decide(fateRefused)
		}
		g.land(a)
		panic(p)
	}
}

// land ends an event's stay in this process.
func (g *Gateway) land(a *arrival) {
	if a.flight != nil {
		g.flights.end(a.event.Key())
	}
	a.done()
}

// look finds what is known of an event.
func (g *Gateway) look(a *arrival) {
	k, err := g.journal.Find(g.answers.at(time.Now().Add(journalShare)), a.event.Key())
	switch {
	case err == nil:
		a.known = k
	case errors.Is(err, ErrNotFound):
		a.known = g.unrecorded.find(a.event.Key())
	default:
		g.log.Error("find event: cannot tell whether it is a duplicate, going on", zap.String(keyEventID, a.event.ID), zap.Error(err))
	}
}

// nextTurns returns the turns that this arrival of a known event opens: none when it is a duplicate. That an event was
// received before does not make it one: what counts is whether the backends have it, and whether Stripe has our 2xx.
func (a *arrival) nextTurns() []turn {
	k := &a.known
	switch k.State {
	case Failed:
		var again []turn
		for _, d := range k.Deliveries {
			if d.State == Failed && a.backend(d.Backend) != nil {
				again = append(again, turn{a.match.target(d.Backend), d.Turn + 1})
			}
		}
		if len(again) == 0 { // what failed is gone from the configuration: today's routes, where they lack it
			again = k.next(a.match, func(d Delivery) bool { return d.State == Failed })
		}
		return again
	case Pending:
		return nil
	case Delivered:
		switch {
		case !a.fromStripe,
			k.Answered.IsZero() && a.start.Sub(k.Event.Received) < stripeRetries,   // Stripe's own retry
			!k.Answered.IsZero() && a.start.Sub(k.Answered).Abs() < a.DedupeWindow: // Abs: the clock may have been set back
			return nil
		}
		// Stripe had its 2xx and has no reason to come again: a person pressed Resend there.
		return k.next(a.match, func(Delivery) bool { return true })
	}
	return a.match.firstTurns() // Ignored: the routes of today may want it
}

// next returns the next turn of every target that has no delivery yet, or one for which again is true.
func (k *Known) next(m Match, again func(Delivery) bool) []turn {
	var out []turn
	for _, t := range m.firstTurns() {
		i := slices.IndexFunc(k.Deliveries, func(d Delivery) bool { return d.Backend == t.Backend })
		switch {
		case i < 0:
			out = append(out, t)
		case again(k.Deliveries[i]):
			t.n = k.Deliveries[i].Turn + 1
			out = append(out, t)
		}
	}
	return out
}

// owed reports whether a delivery is Pending, whatever the event as a whole is.
func (k *Known) owed() bool {
	return slices.ContainsFunc(k.Deliveries, func(d Delivery) bool { return d.State == Pending })
}

// follow answers a second arrival of an event that is in hand: it waits for the first one's fate.
func (g *Gateway) follow(a *arrival, fl *flight) *answer {
	select {
	case <-fl.decided:
		return g.duplicate(a, fl.fate)
	case <-g.answers.at(a.start.Add(a.InlineTimeout)).Done():
		return tryLater("the same event is in hand, and what becomes of it is not known yet")
	}
}

// duplicate answers an arrival that needs no delivery of its own.
func (g *Gateway) duplicate(a *arrival, f fate) *answer {
	var ans *answer
	switch f {
	case fateRefused:
		return tryLater("the first arrival of the same event could not be stored either")
	case fateStored:
		ans = a.kept(ResultDuplicate)
	default:
		ans = say(http.StatusOK, ResultDuplicate, a.event)
	}
	// Where Stripe had our 2xx before, this one must not prolong the window in which repeats are suppressed.
	if ans.result == ResultDuplicate && (a.known.State != Delivered || a.known.Answered.IsZero()) {
		ans.after = func(answered time.Time) { g.markAnswered(a.event, 0, answered) }
	}
	return ans
}

// keep puts what became of the attempts where the promise needs it, and makes the answer. The deliveries of attempts that
// still run are Pending under the attempt's own claim, and settled when it ends.
func (g *Gateway) keep(a *arrival, attempts []*inlineAttempt) *answer {
	entry := Entry{Event: a.event}
	delivered, running := len(attempts) > 0 && !a.known.owed(), false
	for _, at := range attempts {
		d := at.entry(time.Now())
		delivered = delivered && d.State == Delivered
		running = running || d.Token != 0
		entry.Deliveries = append(entry.Deliveries, d)
	}
	if a.unreadable != nil {
		entry.Reason = ReasonUnparseable
	}
	var (
		ans  *answer
		seq  int64
		err  error
		fate fate
	)
	switch {
	case delivered:
		fate, ans = fateDelivered, a.delivered(attempts)
	case len(attempts) == 0 && a.unreadable == nil && a.match.Reason != ReasonNoRoute:
		fate, ans = fateKnown, say(http.StatusOK, ResultIgnored, a.event)
		entry.State, entry.Reason = Ignored, a.match.Reason
	default:
		if len(attempts) == 0 && a.unreadable == nil {
			entry.State, entry.Reason = Ignored, ReasonNoRoute
		} else if len(attempts) == 0 {
			entry.State = Failed
		}
		seq, err = g.store(a, entry)
		fate, ans = a.stored(entry, err)
	}
	if a.unreadable != nil {
		ans.fields = append(ans.fields, zap.NamedError("unparseable", a.unreadable))
		if ans.status <= 299 {
			ans.result = ResultUnparseable
		}
	}
	if a.flight != nil {
		a.flight.decide(fate)
	}
	ans.after = func(answered time.Time) {
		switch fate {
		case fateDelivered, fateKnown:
			entry.Answered = answered
			g.record(entry)
		case fateStored:
			g.markAnswered(a.event, seq, answered)
		}
		if running {
			g.work.Go(func() { g.finish(a, attempts, entry, seq, err) })
		} else {
			g.land(a)
		}
	}
	return ans
}

// delivered is the answer when every backend has the event.
func (a *arrival) delivered(attempts []*inlineAttempt) *answer {
	if got := attempts[0].got; len(attempts) == 1 && got.Status >= 200 && got.Status <= 299 {
		return pass(got)
	}
	return say(http.StatusOK, ResultDelivered, a.event)
}

// store appends an entry within what is left of Stripe's clock.
func (g *Gateway) store(a *arrival, entry Entry) (int64, error) {
	deadline := later(a.start.Add(a.InlineTimeout), time.Now().Add(journalShare/2))
	seq, err := g.journal.Append(g.answers.at(deadline), entry)
	if err != nil {
		g.log.Error("append event: Stripe is asked to come again; free the disk or see the journal's error",
			zap.String(keyEventID, a.event.ID), zap.String(keySource, a.event.Source), zap.Error(err))
		return 0, err
	}
	a.announce(entry.Deliveries)
	return seq, nil
}

// announce tells the drains what was stored for their backends.
func (a *arrival) announce(ds []EntryDelivery) {
	for _, d := range ds {
		if b := a.backend(d.Backend); b != nil && d.State == Pending && d.Token == 0 {
			b.drain.dueAt(d.Due)
		}
	}
}

// stored is the answer when the event rests on the journal, or err says why it does not.
func (a *arrival) stored(entry Entry, err error) (fate, *answer) {
	switch {
	case err != nil:
		return fateRefused, tryLater("the event could not be put on stable storage")
	case entry.State == Ignored:
		return fateStored, say(http.StatusOK, ResultUnrouted, a.event)
	case entry.State == Failed:
		return fateStored, say(http.StatusOK, ResultStored, a.event)
	}
	return fateStored, a.kept(ResultStored)
}

// finish waits for the attempts that outlived the answer, and brings their outcomes to the journal. appended is why the
// entry could not be stored, or nil; with one, the whole entry is stored once the last attempt has ended.
func (g *Gateway) finish(a *arrival, attempts []*inlineAttempt, entry Entry, seq int64, appended error) {
	defer g.land(a)
	for i, at := range attempts {
		if entry.Deliveries[i].Token == 0 {
			continue
		}
		<-at.done
		if appended != nil {
			entry.Deliveries[i] = at.ended()
			continue
		}
		s := at.settlement(seq)
		if err := g.journal.Settle(context.Background(), s); err != nil && !at.b.drain.settleLater(s, err) {
			g.lostResult(a.event, at.Backend, err)
		}
		if s.State == Pending {
			at.b.drain.dueAt(s.Due)
		}
	}
	if appended == nil {
		return
	}
	if _, err := g.journal.Append(g.answers.at(time.Now().Add(journalShare)), entry); err != nil {
		g.lostResult(a.event, "", err)
		return
	}
	a.announce(entry.Deliveries)
}

// lostResult: nothing that was acknowledged is lost, but a backend that has the event may get it once more.
func (g *Gateway) lostResult(ev *Event, backend string, err error) {
	g.log.Error("result of an attempt not kept; the backend may get the event once more", zap.String(keyEventID, ev.ID),
		zap.String(keySource, ev.Source), zap.String(keyBackend, backend), zap.Error(err))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// fate is what the promise rests on for an event.
type fate int

const (
	fateRefused   fate = iota // on nothing: Stripe keeps the event
	fateStored                // on stable storage
	fateDelivered             // on every backend's 2xx
	fateKnown                 // on what the journal already said, or on a rule that ignores it
)

func (k *Known) fate() fate {
	switch k.State {
	case Delivered:
		return fateDelivered
	case Ignored:
		return fateKnown
	}
	return fateStored
}

// flights are the events in hand, by key: a second arrival waits for the first one's fate. An entry lives until its
// attempts have ended and their result is committed, or visible to Find.
type flights struct {
	mu sync.Mutex
	m  map[Key]*flight
}

type flight struct {
	once    sync.Once
	decided chan struct{} // closed when fate is known
	fate    fate
}

// join returns the flight of a key, and whether the caller is the one who opened it and must decide and end it.
func (f *flights) join(k Key) (fl *flight, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.m[k]; fl != nil {
		return fl, false
	}
	if f.m == nil {
		f.m = map[Key]*flight{}
	}
	fl = &flight{decided: make(chan struct{})}
	f.m[k] = fl
	return fl, true
}

// end takes a flight out: the event is not in hand any more.
func (f *flights) end(k Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.m, k)
}

// decide says what became of the event. Only the first call counts.
func (fl *flight) decide(f fate) {
	fl.once.Do(func() {
		fl.fate = f
		close(fl.decided)
	})
}
