package sqlite

import (
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
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

// lease takes what r asks for. It reads on from where the last search ended, so that it costs the same however many
// deliveries wait, and however many are leased.
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
				t.undo = append(t.undo, l.set(backend, seq, lease{d.Token, d.LeaseUntil, due, d.Turn, d.Attempts}))
				if bad := scanWhole(d.Event, r); bad != nil { // it stays leased, out of the way of the others
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

// next is when a delivery of the backend can be leased at the earliest. All that are due until searched are leased.
func (t *tx) next(now time.Time, backend string, searched int64) (time.Time, error) {
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
	}, backend, searched)
	return next, err
}

const (
	settleQuery = `UPDATE deliveries SET state = ?1, due = ?2, turn_started = coalesce(?3, turn_started), attempts = ?7, status = ?8,
		class = ?9, started = ?10, ms = ?11, trigger = ?12 WHERE event = ?4 AND backend = ?5 AND turn = ?6 AND state = 1`
	releaseQuery = `UPDATE deliveries SET state = ?1, due = ?2, turn_started = coalesce(?3, turn_started)
		WHERE event = ?4 AND backend = ?5 AND turn = ?6 AND state = 1`
)

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
	l, ok := t.db.leases.get(s.Backend, s.Seq)
	if !ok {
		return t.settleLate(s)
	}
	d, ok := journal.Settle(l.delivery(s.Backend), *s)
	if !ok {
		return t.settleLate(s)
	}
	ok, err := t.settleRow(s, l, d)
	if err != nil {
		return false, fmt.Errorf("settle: %w", err)
	}
	t.undo = append(t.undo, t.db.leases.drop(s.Backend, s.Seq))
	if ok && d.State == proxy.Pending {
		t.db.leases.waits(s.Backend, s.Seq, millis(d.Due))
	}
	return ok, nil
}

// settleLate brings in a success whose lease is over, or in another's hands.
func (t *tx) settleLate(s *proxy.Settlement) (bool, error) {
	if s.State != proxy.Delivered {
		return false, nil
	}
	was, ok, err := t.delivery(s.Seq, s.Backend)
	if !ok || err != nil {
		return false, err
	}
	in, ok := journal.Late(was.Delivery, *s)
	if !ok {
		return false, nil
	}
	_, err = t.mergeDelivery(s.Seq, &entry{Entry: proxy.Entry{Event: &proxy.Event{}}}, in)
	return err == nil, err
}

// settleRow writes what a settlement makes of a row: d, as far as the lease knows it. It writes only what changes; a
// plain release changes nothing.
func (t *tx) settleRow(s *proxy.Settlement, l lease, d proxy.Delivery) (bool, error) {
	var turnStarted any
	if !d.TurnStarted.IsZero() {
		turnStarted = millis(d.TurnStarted)
	}
	due, a := millis(d.Due), s.Attempt
	after := delivery{Delivery: d}
	after.setLast(a)
	var n int64
	var err error
	switch {
	case a != nil:
		n, err = t.exec(settleQuery, stateCode(d.State, ""), due, turnStarted, s.Seq, s.Backend, int64(d.Turn), int64(d.Attempts),
			int64(d.Status), text(d.Outcome), after.started, after.ms, text(after.trigger))
	case d.State == proxy.Pending && due == l.due && turnStarted == nil:
		return true, nil
	default:
		n, err = t.exec(releaseQuery, stateCode(d.State, ""), due, turnStarted, s.Seq, s.Backend, int64(d.Turn))
	}
	if err != nil || n == 0 {
		return false, err
	}
	if d.State != proxy.Pending {
		t.count(s.Backend, proxy.Pending, -1)
		t.count(s.Backend, d.State, 1)
	}
	if a == nil || after.saysAll() {
		return true, nil
	}
	return true, t.insertAttempt(s.Seq, journal.Numbered(d, a))
}

// resend asks for deliveries again.
func (t *tx) resend(now time.Time, seq int64, backends []string) (out []proxy.Resent, err error) {
	var k eventRow
	if err := t.query(eventRowQuery+`seq = ?`, func(r row) bool { k = scanEventRow(r); return false }, seq); err != nil {
		return nil, err
	}
	if k.seq == 0 {
		return nil, proxy.ErrNotFound
	}
	for _, b := range backends {
		r, err := t.resendOne(now, k, b)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func (t *tx) resendOne(now time.Time, k eventRow, backend string) (proxy.Resent, error) {
	was, ok, err := t.delivery(k.seq, backend)
	if err != nil {
		return proxy.Resent{}, err
	}
	was.Backend = backend
	d := was
	var r proxy.Resent
	switch d.Delivery, r = journal.Resend(was.Delivery, now); {
	case !ok:
		t.reopened(backend, k.seq)
		if err = t.insertDelivery(k.seq, d, nil); err == nil {
			err = t.summarize(k, k.Summary.Merge(proxy.Entry{Deliveries: []proxy.EntryDelivery{{Delivery: d.Delivery}}}, false))
		}
	case d != was:
		if r.Result == proxy.ResentNewTurn {
			d.setLast(nil)
		}
		err = t.change(k.seq, was, d, true)
	}
	return r, err
}
