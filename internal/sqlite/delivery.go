package sqlite

import (
	"database/sql/driver"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
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

// saysAll reports whether the row says all that there is to say of its turn, which needs no row in attempts then: one
// attempt, a success.
func (d *delivery) saysAll() bool {
	return d.State == proxy.Delivered && d.Attempts == 1 && d.Outcome == proxy.OutcomeDelivered && d.started != 0
}

// last is the attempt that the row holds.
func (d *delivery) last() *proxy.Attempt {
	return &proxy.Attempt{
		Backend: d.Backend, Turn: d.Turn, N: d.Attempts, Started: timeOf(d.started), Duration: duration(d.ms),
		Status: d.Status, Outcome: d.Outcome, Trigger: proxy.Trigger(d.trigger),
	}
}

// setLast makes a, or none, the attempt that the row holds.
func (d *delivery) setLast(a *proxy.Attempt) {
	d.started, d.ms, d.trigger = 0, 0, ""
	if a != nil {
		d.started, d.ms, d.trigger = millis(a.Started), a.Duration.Milliseconds(), string(a.Trigger)
	}
}

func incoming(in proxy.EntryDelivery) delivery {
	d := delivery{Delivery: journal.Incoming(in)}
	d.setLast(in.Attempt)
	return d
}

func duration(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
