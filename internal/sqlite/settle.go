package sqlite

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// leaseBytes bounds the bodies that one Lease reads, for memory's sake and for those who wait for the writer.
const leaseBytes = 8 << 20

const eventColumns = `e.seq, e.source, e.id, e.type, e.account, e.livemode, e.api_version, e.object, e.customer, e.created,
	e.received, e.query`

func scanEvent(r row) proxy.Event {
	return proxy.Event{
		Seq: r.int(0), Source: r.text(1), ID: r.text(2), Type: r.text(3), Account: r.text(4), Livemode: r.int(5) != 0,
		APIVersion: r.text(6), Object: r.text(7), Customer: r.text(8), Created: timeOf(r.int(9)), Received: timeOf(r.int(10)),
		Query: r.text(11),
	}
}

const leaseQuery = `SELECT ` + eventColumns + `, e.headers, e.forwarded, b.body, d.turn, d.attempts, d.due, d.turn_started, d.status,
	d.class FROM deliveries d INDEXED BY deliveries_due CROSS JOIN events e ON e.seq = d.event CROSS JOIN bodies b ON b.event = d.event
	WHERE d.backend = ?1 AND d.state = 1 AND d.due >= ?2 AND d.due <= ?4 AND (d.due, d.event) > (?2, ?3) ORDER BY d.due, d.event`

// lease takes up to n deliveries. It reads from where the last search ended, so that it costs the same however many
// rows wait, and however many are leased.
func (t *tx) lease(r proxy.LeaseRequest) (out []proxy.Leased, next time.Time, err error) {
	now, backend, n := r.Now, r.Backend, r.Most
	l := &t.db.leases
	from := l.begin(backend, now)
	size, until := 0, now.Add(r.For)
	if n > 0 {
		err = t.query(leaseQuery, func(r row) bool {
			seq, due := r.int(0), r.int(17)
			if !l.bars(backend, seq, now) {
				d := proxy.Leased{Event: &proxy.Event{}, Delivery: proxy.Delivery{
					Backend: backend, State: proxy.Pending, Turn: int(r.int(15)), Attempts: int(r.int(16)), Due: timeOf(due),
					TurnStarted: timeOf(r.int(18)), Token: rand.Int64() | 1, LeaseUntil: until, Status: int(r.int(19)), Outcome: r.text(20),
				}}
				t.undo = append(t.undo, l.set(backend, seq, held{d.Token, d.LeaseUntil, due, d.Turn, d.Attempts}))
				if bad := scanWhole(d.Event, r); bad != nil { // held, so that it is in nobody's way
					t.db.log.Error("a stored event cannot be read", zap.Int64("seq", seq), zap.Error(bad))
				} else {
					out = append(out, d)
					size += len(d.Event.Body)
				}
			}
			l.reached(backend, place{due, seq})
			return len(out) < n && size < leaseBytes
		}, backend, from.due, from.seq, millis(now))
	}
	switch {
	case err != nil:
		return nil, time.Time{}, err
	case n > 0 && len(out) == n:
		return out, time.Time{}, nil
	case size >= leaseBytes:
		return out, now, nil
	}
	searched := millis(now)
	if n <= 0 {
		searched = from.due - 1
	}
	next, err = t.next(now, backend, searched)
	return out, next, err
}

func scanWhole(e *proxy.Event, r row) (err error) {
	*e = scanEvent(r)
	if e.Header, err = decodeHeader(r.blob(12)); err != nil {
		return err
	}
	if e.Forwarded, err = decodeHeader(r.blob(13)); err != nil {
		return err
	}
	if e.Body = r.blob(14); e.Body == nil {
		e.Body = []byte{}
	}
	return nil
}

// next is when a delivery of the backend can be leased at the earliest, when all that are due until then are held.
func (t *tx) next(now time.Time, backend string, until int64) (time.Time, error) {
	next := t.db.leases.next(backend, now)
	err := t.query(`SELECT event, due FROM deliveries INDEXED BY deliveries_due WHERE backend = ? AND state = 1 AND due > ?
		ORDER BY due, event`, func(r row) bool {
		if t.db.leases.bars(backend, r.int(0), now) {
			return true // counted above
		}
		if due := timeOf(r.int(1)); next.IsZero() || due.Before(next) {
			next = due
		}
		return false
	}, backend, until)
	return next, err
}

const settleQuery = `UPDATE deliveries SET state = ?, attempts = ?, due = ?, turn_started = coalesce(?, turn_started), status = ?,
	class = ?, started = ?, ms = ?, trigger = ? WHERE event = ? AND backend = ? AND turn = ? AND state = 1`

// settle ends leases.
func (t *tx) settle(ss []proxy.Settlement) error {
	lost := error(nil)
	for i := range ss {
		ok, err := t.settleOne(&ss[i])
		if err != nil {
			return err
		}
		if !ok {
			lost = proxy.ErrLeaseLost
		}
	}
	return lost
}

func (t *tx) settleOne(s *proxy.Settlement) (bool, error) {
	h, ok := t.db.leases.get(s.Backend, s.Seq)
	if !ok || s.Token == 0 || h.token != s.Token || h.turn != s.Turn {
		return false, nil
	}
	var due int64
	if s.State == proxy.Pending {
		if due = h.due; !s.Due.IsZero() {
			due = millis(s.Due)
		}
	}
	ok, err := t.settleRow(s, h, due)
	if err != nil {
		return false, fmt.Errorf("settle: %w", err)
	}
	t.undo = append(t.undo, t.db.leases.drop(s.Backend, s.Seq))
	if ok && s.State == proxy.Pending {
		t.db.leases.waits(s.Backend, s.Seq, due)
	}
	return ok, nil
}

func (t *tx) settleRow(s *proxy.Settlement, h held, due int64) (bool, error) {
	var started any
	if !s.TurnStarted.IsZero() {
		started = millis(s.TurnStarted)
	}
	if s.Attempt == nil {
		return t.settleUntried(s, h, due, started)
	}
	a := s.Attempt
	n, err := t.exec(settleQuery, stateCode(s.State, ""), int64(h.attempts+1), due, started, int64(a.Status), text(a.Outcome), millis(a.Started),
		a.Duration.Milliseconds(), text(string(a.Trigger)), s.Seq, s.Backend, int64(s.Turn))
	if err != nil || n == 0 {
		return false, err
	}
	t.moved(s)
	if s.State == proxy.Delivered && h.attempts == 0 && a.Outcome == proxy.OutcomeDelivered {
		return true, nil
	}
	return true, t.insertAttempt(s.Seq, s.Backend, s.Turn, h.attempts+1, a)
}

// settleUntried writes only what changes; a plain release changes nothing.
func (t *tx) settleUntried(s *proxy.Settlement, h held, due int64, started any) (bool, error) {
	if s.State == proxy.Pending && due == h.due && started == nil {
		return true, nil
	}
	n, err := t.exec(`UPDATE deliveries SET state = ?, due = ?, turn_started = coalesce(?, turn_started)
		WHERE event = ? AND backend = ? AND turn = ? AND state = 1`, stateCode(s.State, ""), due, started, s.Seq, s.Backend, int64(s.Turn))
	if err != nil || n == 0 {
		return false, err
	}
	t.moved(s)
	return true, nil
}

func (t *tx) moved(s *proxy.Settlement) {
	if s.State != proxy.Pending {
		t.count(s.Backend, proxy.Pending, -1)
		t.count(s.Backend, s.State, 1)
	}
}

// resend asks for deliveries again.
func (t *tx) resend(now time.Time, seq int64, backends []string) ([]proxy.Resent, error) {
	if n, err := t.number(`SELECT count(*) FROM events WHERE seq = ?`, seq); err != nil || n == 0 {
		return nil, errors.Join(err, notFound(n))
	}
	var out []proxy.Resent
	for _, b := range backends {
		r, err := t.resendOne(now, seq, b)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func notFound(n int64) error {
	if n == 0 {
		return proxy.ErrNotFound
	}
	return nil
}

func (t *tx) resendOne(now time.Time, seq int64, backend string) (proxy.Resent, error) {
	x, ok, err := t.delivery(seq, backend)
	if err != nil {
		return proxy.Resent{}, err
	}
	d := x
	switch {
	case ok && x.State == proxy.Pending && x.LeaseUntil.After(now):
		return proxy.Resent{Backend: backend, Turn: x.Turn, Result: proxy.ResentInFlight}, nil
	case ok && x.State == proxy.Pending:
		if now.Before(x.Due) { // of a lease that is over, the holder may still settle it before another takes it
			d.Due = now
			err = t.update(seq, x, d, true)
		}
		return proxy.Resent{Backend: backend, Turn: d.Turn, Result: proxy.ResentDueNow}, err
	}
	d = delivery{Delivery: proxy.Delivery{Backend: backend, State: proxy.Pending, Turn: x.Turn + 1, Due: now, TurnStarted: now}}
	if ok {
		err = t.replace(seq, x, d)
	} else {
		err = t.addDelivery(seq, d)
	}
	return proxy.Resent{Backend: backend, Turn: d.Turn, Result: proxy.ResentNewTurn}, err
}

// addDelivery gives an event, which may have had none, one more delivery.
func (t *tx) addDelivery(seq int64, d delivery) error {
	if err := t.insertDelivery(seq, d, nil); err != nil {
		return err
	}
	t.reopened(d.Backend, seq)
	_, err := t.exec(`UPDATE events SET state = 0, reason = iif(reason = 'unparseable', reason, NULL) WHERE seq = ? AND state <> 0`, seq)
	return err
}
