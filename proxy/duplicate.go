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
// there are none, what the arrival is taken for. It is a pure function. "Received" never suppresses: what counts is
// whether the backends have the event, and whether Stripe has our 2xx.
func weigh(k Known, m Match, now time.Time, window time.Duration) ([]planned, fate) {
	switch k.State {
	case Failed:
		var again []planned
		for _, d := range k.Deliveries {
			if d.State == Failed {
				again = append(again, planned{m.target(d.Backend), d.Turn + 1})
			}
		}
		if len(k.Deliveries) == 0 {
			return first(m), fateStored
		}
		return again, fateStored
	case Pending:
		return nil, fateStored
	case Delivered:
		if k.Answered.IsZero() && now.Sub(k.Event.Received) < stripeRetries {
			return nil, fateDelivered // Stripe's own retry
		}
		if !k.Answered.IsZero() && now.Sub(k.Answered) < window {
			return nil, fateDelivered
		}
		// Stripe had its 2xx and has no reason to come again: a person pressed Resend there.
		again := first(m)
		for i := range again {
			for _, d := range k.Deliveries {
				if d.Backend == again[i].Backend {
					again[i].turn = d.Turn + 1
				}
			}
		}
		return again, fateDelivered
	}
	return first(m), fateSettled // Ignored: the routes of today may want it
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
