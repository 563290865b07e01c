package proxy

import (
	"slices"
	"time"
)

// stripeRetries is how long Stripe itself goes on to send an event that it has no 2xx for: "up to three days"
// (docs.stripe.com/webhooks).
const stripeRetries = 72 * time.Hour

// planned is a delivery that this arrival is to make.
type planned struct {
	Target
	turn int
}

// weigh says what an arrival is to do about an event of which the journal knows k: which deliveries to make, or, when
// there are none, what the arrival is taken for. "Received" never suppresses: what counts is whether the backends have
// the event, and whether Stripe has our 2xx.
func (st *state) weigh(k Known, m Match, now time.Time) ([]planned, fate) {
	switch k.State {
	case Failed:
		var again []planned
		for _, d := range k.Deliveries {
			if d.State == Failed && st.backend(d.Backend) != nil {
				again = append(again, planned{m.target(d.Backend), d.Turn + 1})
			}
		}
		if len(again) == 0 { // what failed is gone from the configuration: today's routes, where they lack it
			again = k.next(m, func(d Delivery) bool { return d.State == Failed })
		}
		return again, fateStored
	case Pending:
		return nil, fateStored
	case Delivered:
		if k.Answered.IsZero() && now.Sub(k.Event.Received) < stripeRetries {
			return nil, fateDelivered // Stripe's own retry
		}
		if !k.Answered.IsZero() && now.Sub(k.Answered).Abs() < st.DedupeWindow { // Abs: the clock may have been set back
			return nil, fateDelivered
		}
		// Stripe had its 2xx and has no reason to come again: a person pressed Resend there.
		return k.next(m, func(Delivery) bool { return true }), fateDelivered
	}
	return first(m), fateSettled // Ignored: the routes of today may want it
}

// next plans the next turn of every target that has no delivery yet, or one that again chooses.
func (k Known) next(m Match, again func(Delivery) bool) []planned {
	var out []planned
	for _, p := range first(m) {
		i := slices.IndexFunc(k.Deliveries, func(d Delivery) bool { return d.Backend == p.Backend })
		switch {
		case i < 0:
			out = append(out, p)
		case again(k.Deliveries[i]):
			p.turn = k.Deliveries[i].Turn + 1
			out = append(out, p)
		}
	}
	return out
}

// owed reports whether a delivery is Pending, whatever the event as a whole is.
func (k Known) owed() bool {
	return slices.ContainsFunc(k.Deliveries, func(d Delivery) bool { return d.State == Pending })
}

// target is how the routes of today deliver to a backend; inline when they do not.
func (m Match) target(backend string) Target {
	for _, t := range m.To {
		if t.Backend == backend {
			return t
		}
	}
	return Target{Backend: backend}
}

// first plans the first turn of every target.
func first(m Match) []planned {
	out := make([]planned, len(m.To))
	for i, t := range m.To {
		out[i] = planned{t, 1}
	}
	return out
}
