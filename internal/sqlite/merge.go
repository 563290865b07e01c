package sqlite

import (
	"database/sql/driver"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// delivery is a row of deliveries: a proxy.Delivery with its last attempt.
type delivery struct {
	proxy.Delivery
	started, ms int64
	trigger     string
}

const deliveryColumns = `backend, state, turn, attempts, due, turn_started, status, class, started, ms, trigger`

func scanDelivery(r row) delivery {
	return delivery{
		Delivery: proxy.Delivery{
			Backend: r.text(0), State: stateOf(r.int(1)), Turn: int(r.int(2)), Attempts: int(r.int(3)), Due: timeOf(r.int(4)),
			TurnStarted: timeOf(r.int(5)), Status: int(r.int(6)), Outcome: r.text(7),
		},
		started: r.int(8), ms: r.int(9), trigger: r.text(10),
	}
}

func (d *delivery) values(seq int64) []driver.Value {
	return []driver.Value{
		seq, d.Backend, stateCode(d.State, ""), int64(d.Turn), int64(d.Attempts), millis(d.Due), millis(d.TurnStarted),
		int64(d.Status), text(d.Outcome), d.started, d.ms, text(d.trigger),
	}
}

// first reports whether the row alone says what there is to say of its turn: one attempt, a success.
func (d *delivery) first() bool {
	return d.State == proxy.Delivered && d.Attempts == 1 && d.Outcome == proxy.OutcomeDelivered
}

// last is the attempt that the row holds.
func (d *delivery) last() proxy.Attempt {
	return proxy.Attempt{
		Backend: d.Backend, Turn: d.Turn, N: d.Attempts, Started: timeOf(d.started), Duration: duration(d.ms),
		Status: d.Status, Outcome: d.Outcome, Trigger: proxy.Trigger(d.trigger),
	}
}

func (d *delivery) tried(a *proxy.Attempt) {
	d.Status, d.Outcome = a.Status, a.Outcome
	d.started, d.ms, d.trigger = millis(a.Started), a.Duration.Milliseconds(), string(a.Trigger)
}

// incoming is what an entry says of one delivery, made whole: a first turn, and as many attempts as it shows.
func incoming(in proxy.EntryDelivery) delivery {
	d := delivery{Delivery: in.Delivery}
	d.Turn = max(d.Turn, 1)
	if a := in.Attempt; a != nil {
		d.Attempts = max(d.Attempts, a.N, 1)
		d.tried(a)
	}
	if d.State != proxy.Pending {
		d.Due, d.Token, d.LeaseUntil = timeOf(0), 0, timeOf(0)
	}
	return d
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

// merge says what x becomes when d, of the same turn, comes in with attempt a, which may be nil. fresh says that x does
// not hold the attempt yet. won says that d's state replaces x's, and with it the lease.
func merge(x, d delivery, a *proxy.Attempt, fresh bool) (out delivery, won bool) {
	n := max(x.Attempts, d.Attempts)
	if a != nil && fresh && a.N <= x.Attempts {
		n = x.Attempts + 1
	}
	out, won = x, rank(d.State) > rank(x.State)
	switch {
	case won:
		out = d
		if d.TurnStarted.IsZero() {
			out.TurnStarted = x.TurnStarted
		}
		if a == nil {
			last := x.last()
			out.tried(&last)
		}
	case a != nil && fresh && d.State == x.State:
		out.tried(a)
	}
	out.Attempts = n
	return out, won
}

// whole is the state of an event with these deliveries.
func whole(ds []proxy.Delivery) proxy.State {
	s := proxy.Delivered
	for i := range ds {
		switch ds[i].State {
		case proxy.Failed:
			return proxy.Failed
		case proxy.Pending:
			s = proxy.Pending
		}
	}
	return s
}
