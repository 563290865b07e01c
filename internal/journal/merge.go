package journal

import (
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// The rules by which what a journal knows and what comes in become one. They are pure, so that every database has the
// same ones: it reads, asks them, and writes what they say.

// Incoming is what an entry says of one delivery, made whole: it is in its first turn at least, has as many attempts as
// it shows, and is due or leased only while it is Pending.
func Incoming(in proxy.EntryDelivery) proxy.Delivery {
	d := in.Delivery
	d.Turn = max(d.Turn, 1)
	if a := in.Attempt; a != nil {
		d.Attempts = max(d.Attempts, a.N, 1)
		d.Status, d.Outcome = a.Status, a.Outcome
	}
	if d.State != proxy.Pending {
		d.Due, d.Token, d.LeaseUntil = time.Time{}, 0, time.Time{}
	}
	return d
}

// Merged is what Merge says of one delivery.
type Merged struct {
	proxy.Delivery // as it is from now on

	// Attempt is to be kept, under its Turn and N; nil: there is none, or it is kept already. Where another attempt has
	// that place (a late one of an earlier turn, say), it comes after the last of its turn.
	Attempt *proxy.Attempt

	Opened   bool // a later turn began: the body that came with it is kept, and Answered was about the turn before
	Replaced bool // State, Due and the lease came in; else they are what they were
	Last     bool // Status and Outcome came in; else they are what they were
}

// Merge says what a delivery becomes when in comes in. known is the zero Delivery where there was none. isNew says that
// in.Attempt is not kept yet under in's turn; an attempt is known by when it started.
//
// A later turn replaces an earlier one. A Pending of an earlier turn opens the turn after one that Failed: who sent it
// did not know of the turns between, and owes it. Within a turn, Delivered wins over Pending and Pending over Failed, and
// attempts accumulate.
func Merge(known proxy.Delivery, in proxy.EntryDelivery, isNew bool) Merged {
	d, a := Incoming(in), in.Attempt
	if d.Turn < known.Turn && d.State == proxy.Pending && known.State == proxy.Failed {
		d.Turn = known.Turn + 1
	}
	m := Merged{Delivery: known}
	switch {
	case d.Turn > known.Turn:
		m = Merged{Delivery: d, Opened: known.Turn > 0, Replaced: true, Last: true}
		isNew = true
	case d.Turn == known.Turn:
		m.merge(d, a, isNew)
		d.Attempts = m.Attempts
	}
	if a != nil && isNew {
		m.Attempt = Numbered(d, a)
	}
	return m
}

// Numbered is a as the last attempt of d: of its backend and turn, and the count of its attempts for N.
func Numbered(d proxy.Delivery, a *proxy.Attempt) *proxy.Attempt {
	kept := *a
	kept.Backend, kept.Turn, kept.N = d.Backend, d.Turn, d.Attempts
	return &kept
}

// merge brings in d, which is of the same turn.
func (m *Merged) merge(d proxy.Delivery, a *proxy.Attempt, isNew bool) {
	known := m.Delivery
	n := max(known.Attempts, d.Attempts)
	if a != nil && isNew {
		n = max(n, known.Attempts+1) // who made it may not have known of the others
	}
	m.Replaced = rank(d.State) > rank(known.State)
	m.Last = a != nil && (m.Replaced || isNew && d.State == known.State)
	if m.Replaced {
		m.Delivery = d
		if d.TurnStarted.IsZero() {
			m.TurnStarted = known.TurnStarted
		}
		m.Status, m.Outcome = known.Status, known.Outcome
	}
	if m.Last {
		m.Status, m.Outcome = a.Status, a.Outcome
	}
	m.Attempts = n
}

// rank orders the states of one turn: the higher one wins.
func rank(s proxy.State) int {
	switch s {
	case proxy.Delivered:
		return 2
	case proxy.Pending:
		return 1
	}
	return 0
}

// Summary is what a journal knows of an event beside its deliveries.
type Summary struct {
	State    proxy.State // Ignored or Failed, of an event without deliveries; else empty: WholeState says it
	Reason   string
	Answered time.Time
}

// Merge says what it becomes when e comes in. opened says that some delivery of e opened a later turn.
func (s Summary) Merge(e proxy.Entry, opened bool) Summary {
	if opened {
		s.Answered = time.Time{}
	}
	if e.Answered.After(s.Answered) {
		s.Answered = e.Answered
	}
	switch {
	case len(e.Deliveries) > 0:
		s.State = ""
		if s.Reason != proxy.ReasonUnparseable { // that stays true of its body
			s.Reason = ""
		}
		if e.Reason == proxy.ReasonUnparseable {
			s.Reason = e.Reason
		}
	case e.State != "" && s.State != "":
		s.State, s.Reason = e.State, e.Reason
	}
	return s
}

// WholeState is the state of an event with these deliveries.
func WholeState(ds []proxy.Delivery) proxy.State {
	whole := proxy.Delivered
	for i := range ds {
		switch ds[i].State {
		case proxy.Failed:
			return proxy.Failed
		case proxy.Pending:
			whole = proxy.Pending
		}
	}
	return whole
}

// Settle says what a delivery becomes when s ends its lease; false: s is not of its lease and changes nothing. What s
// leaves alone (a zero TurnStarted, Status without an attempt) stays as it was.
func Settle(d proxy.Delivery, s proxy.Settlement) (proxy.Delivery, bool) {
	if d.State != proxy.Pending || s.Token == 0 || d.Token != s.Token || d.Turn != s.Turn {
		return d, false
	}
	d.State, d.Token, d.LeaseUntil = s.State, 0, time.Time{}
	if s.State != proxy.Pending {
		d.Due = time.Time{}
	} else if !s.Due.IsZero() {
		d.Due = s.Due
	}
	if !s.TurnStarted.IsZero() {
		d.TurnStarted = s.TurnStarted
	}
	if a := s.Attempt; a != nil {
		d.Attempts++
		d.Status, d.Outcome = a.Status, a.Outcome
	}
	return d, true
}

// Late says what a settlement means that is of no lease any more: that the backend answered 2xx is a fact, whoever holds
// the delivery now. What it returns is to be merged as of an Append. false: it changes nothing, being no success, or of
// another turn.
func Late(known proxy.Delivery, s proxy.Settlement) (proxy.EntryDelivery, bool) {
	if s.State != proxy.Delivered || s.Attempt == nil || s.Turn != known.Turn {
		return proxy.EntryDelivery{}, false
	}
	return proxy.EntryDelivery{
		Delivery: proxy.Delivery{Backend: known.Backend, State: proxy.Delivered, Turn: s.Turn}, Attempt: s.Attempt,
	}, true
}

// Resend says what a delivery becomes when it is asked for again at now, and what that is called. d has no Turn where
// the event has no delivery for its Backend yet. One whose lease is over waits: its holder may still settle it.
func Resend(d proxy.Delivery, now time.Time) (proxy.Delivery, proxy.Resent) {
	result := proxy.ResentNewTurn
	switch {
	case d.State == proxy.Pending && d.LeaseUntil.After(now):
		result = proxy.ResentInFlight
	case d.State == proxy.Pending:
		result = proxy.ResentDueNow
		if now.Before(d.Due) {
			d.Due = now
		}
	default:
		d = proxy.Delivery{Backend: d.Backend, State: proxy.Pending, Turn: d.Turn + 1, Due: now, TurnStarted: now}
	}
	return d, proxy.Resent{Backend: d.Backend, Turn: d.Turn, Result: result}
}
