package sqlite

import (
	"crypto/sha256"
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// tx is the transaction of one batch. What it changes in memory it changes at once, so that later operations of the
// batch see it; undo takes that back.
type tx struct {
	*conn
	db    *DB
	delta map[total]int64
	undo  []func()
	after []func() // run when it is committed
	rows  *rows    // nil: each row is written by itself
}

type total struct {
	backend string
	state   int64
}

func (t *tx) count(backend string, s proxy.State, n int64) {
	t.delta[total{backend, stateCode(s, "")}] += n
}

// back takes back what was changed in memory since mark.
func (t *tx) back(mark int) {
	for i := len(t.undo) - 1; i >= mark; i-- {
		t.undo[i]()
	}
	t.undo = t.undo[:mark]
}

// flush writes the totals.
func (t *tx) flush() error {
	for k, n := range t.delta {
		if n == 0 {
			continue
		}
		if _, err := t.exec(`INSERT INTO totals (backend, state, count) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET count = count + excluded.count`, k.backend, k.state, n); err != nil {
			return fmt.Errorf("count: %w", err)
		}
	}
	return nil
}

// entry is a proxy.Entry made ready to be written, off the writer's goroutine.
type entry struct {
	proxy.Entry
	unique             bool
	headers, forwarded []byte
	sum                [sha256.Size]byte
}

func ready(e proxy.Entry) *entry {
	r := &entry{Entry: e, unique: e.Event.Unique()}
	if r.creates() {
		r.headers, r.forwarded = encodeHeader(e.Event.Header), encodeHeader(e.Event.Forwarded)
		r.sum = sha256.Sum256(e.Event.Body)
	}
	return r
}

// creates reports whether the entry stands for an event, rather than being a note about one.
func (e *entry) creates() bool { return len(e.Deliveries) > 0 || e.State != "" }

func (e *entry) size() int64 { return int64(len(e.Event.Body) + len(e.headers) + 512) }

// eventRow is the part of an event's row that a merge may change.
type eventRow struct {
	seq, state, answered int64
	reason               string
}

// put writes or merges an entry and returns its event's number.
func (t *tx) put(e *entry) (int64, error) {
	if !e.creates() && e.Event.Seq != 0 {
		return e.Event.Seq, t.mark(e)
	}
	k, err := t.lookup(e)
	if err != nil {
		return 0, err
	}
	if k.seq == 0 {
		if !e.creates() {
			return 0, proxy.ErrNotFound
		}
		return t.insert(e)
	}
	return k.seq, t.merge(k, e)
}

// mark notes that Stripe has our answer to an event of which the number is known.
func (t *tx) mark(e *entry) error {
	n, err := t.exec(`UPDATE events SET answered = max(answered, ?) WHERE seq = ?`, millis(e.Answered), e.Event.Seq)
	if err == nil && n == 0 {
		err = proxy.ErrNotFound
	}
	return err
}

func (t *tx) lookup(e *entry) (k eventRow, err error) {
	if e.Event.Seq != 0 || e.unique && t.db.ids.has(e.Event.Key()) {
		if err := t.flushRows(); err != nil {
			return k, err
		}
	}
	scan := func(r row) bool { k = eventRow{r.int(0), r.int(1), r.int(2), r.text(3)}; return false }
	if e.Event.Seq != 0 {
		err = t.query(`SELECT seq, state, answered, reason FROM events WHERE seq = ?`, scan, e.Event.Seq)
	}
	if err == nil && k.seq == 0 && e.unique && t.db.ids.has(e.Event.Key()) {
		err = t.query(`SELECT seq, state, answered, reason FROM events WHERE source = ? AND dedupe_key = ?`, scan,
			e.Event.Source, e.Event.ID)
	}
	return k, err
}

func (t *tx) insert(e *entry) (int64, error) {
	v := e.Event
	var key driver.Value
	if e.unique {
		key = v.ID
		t.db.ids.add(v.Key())
	}
	t.db.seq++
	seq := t.db.seq
	t.db.fresh.note(seq, v)
	state := int64(0)
	if len(e.Deliveries) == 0 {
		state = stateCode(e.State, e.Reason)
	}
	if err := t.write(&insertEvents, seq, v.Source, v.ID, key, v.Type, text(v.Account), flag(v.Livemode), text(v.APIVersion),
		text(v.Object), text(v.Customer), millis(v.Created), millis(v.Received), state, text(e.Reason), millis(e.Answered),
		text(v.Query), blob(e.headers), blob(e.forwarded), e.sum[:]); err != nil {
		return 0, err
	}
	if err := t.write(&insertBodies, seq, content(v.Body)); err != nil {
		return 0, err
	}
	for i, in := range e.Deliveries {
		if i > 0 { // a backend named twice merges
			if _, err := t.mergeDelivery(seq, e, in); err != nil {
				return 0, err
			}
			continue
		}
		if err := t.insertDelivery(seq, incoming(in), in.Attempt); err != nil {
			return 0, err
		}
	}
	return seq, nil
}

// text and blob bind nothing as null, content binds it as an empty blob.
func text(s string) driver.Value {
	if s == "" {
		return nil
	}
	return s
}

func blob(b []byte) driver.Value {
	if len(b) == 0 {
		return nil
	}
	return b
}

func content(b []byte) driver.Value {
	if b == nil {
		return []byte{}
	}
	return b
}

func (t *tx) insertDelivery(seq int64, d delivery, a *proxy.Attempt) error {
	if err := t.write(&insertDeliveries, d.values(seq)...); err != nil {
		return err
	}
	t.count(d.Backend, d.State, 1)
	t.stands(seq, d)
	if a == nil || d.first() {
		return nil
	}
	return t.insertAttempt(seq, d.Backend, d.Turn, d.Attempts, a)
}

// stands notes in memory how a row stands that was just written.
func (t *tx) stands(seq int64, d delivery) {
	due := millis(d.Due)
	switch {
	case d.State != proxy.Pending:
		t.undo = append(t.undo, t.db.leases.drop(d.Backend, seq))
	case d.Token != 0 && !d.LeaseUntil.IsZero():
		h := held{token: d.Token, until: d.LeaseUntil, due: due, turn: d.Turn, attempts: d.Attempts}
		t.undo = append(t.undo, t.db.leases.set(d.Backend, seq, h))
	default:
		t.undo = append(t.undo, t.db.leases.drop(d.Backend, seq))
		t.db.leases.waits(d.Backend, seq, due)
	}
}

const insertAttempt = `INSERT INTO attempts (event, backend, turn, n, started, ms, status, class, error, trigger, excerpt)
	VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)`

// insertAttempt keeps an attempt as the nth of its turn, or the next where another arrival has taken that place.
func (t *tx) insertAttempt(seq int64, backend string, turn, n int, a *proxy.Attempt) error {
	args := []driver.Value{
		seq, backend, int64(turn), int64(n), millis(a.Started), a.Duration.Milliseconds(), int64(a.Status), a.Outcome, a.Error,
		string(a.Trigger), a.Excerpt,
	}
	done, err := t.exec(insertAttempt+` ON CONFLICT DO NOTHING`, args...)
	if err == nil && done == 0 {
		args[3], err = t.number(`SELECT max(n) + 1 FROM attempts WHERE event = ? AND backend = ? AND turn = ?`, args[:3]...)
		if err == nil {
			_, err = t.exec(insertAttempt, args...)
		}
	}
	if err != nil {
		return fmt.Errorf("insert attempt: %w", err)
	}
	return nil
}

// merge brings an entry into an event that is there.
func (t *tx) merge(k eventRow, e *entry) error {
	was := k
	for _, in := range e.Deliveries {
		opened, err := t.mergeDelivery(k.seq, e, in)
		if err != nil {
			return err
		}
		if opened {
			k.answered = 0 // that was for an earlier turn
		}
	}
	k.answered = max(k.answered, millis(e.Answered))
	switch {
	case len(e.Deliveries) > 0:
		k.state = 0
		if e.Reason == proxy.ReasonUnparseable {
			k.reason = e.Reason
		} else if k.reason != proxy.ReasonUnparseable {
			k.reason = ""
		}
	case e.State != "" && k.state != 0:
		k.state, k.reason = stateCode(e.State, e.Reason), e.Reason
	}
	if k == was {
		return nil
	}
	_, err := t.exec(`UPDATE events SET state = ?, reason = ?, answered = ? WHERE seq = ?`, k.state, text(k.reason), k.answered, k.seq)
	return err
}

func (t *tx) delivery(seq int64, backend string) (d delivery, ok bool, err error) {
	if err := t.flushRows(); err != nil {
		return d, false, err
	}
	err = t.query(`SELECT `+deliveryColumns+` FROM deliveries WHERE event = ? AND backend = ?`,
		func(r row) bool { d, ok = scanDelivery(r), true; return false }, seq, backend)
	if h, leased := t.db.leases.get(backend, seq); ok && leased && d.State == proxy.Pending {
		d.Token, d.LeaseUntil = h.token, h.until
	}
	return d, ok, err
}

// mergeDelivery brings one delivery of an entry in. opened says that it began a later turn.
func (t *tx) mergeDelivery(seq int64, e *entry, in proxy.EntryDelivery) (opened bool, err error) {
	x, ok, err := t.delivery(seq, in.Backend)
	if err != nil {
		return false, err
	}
	d, a := incoming(in), in.Attempt
	if !ok {
		t.reopened(d.Backend, seq)
		return false, t.insertDelivery(seq, d, a)
	}
	if d.State == proxy.Pending && x.State == proxy.Failed && d.Turn < x.Turn {
		d.Turn = x.Turn + 1 // who sent it did not know of the turns before: it is owed all the same
	}
	if d.Turn == x.Turn {
		return false, t.mergeTurn(seq, x, d, a)
	}
	if opened = d.Turn > x.Turn; opened {
		if err := t.replace(seq, x, d); err != nil {
			return false, err
		}
		if e.Event.Body != nil {
			if err := t.replaceBody(seq, e); err != nil {
				return false, err
			}
		}
	}
	if a == nil || opened && d.first() {
		return opened, nil
	}
	if fresh, err := t.fresh(seq, x, d, a); err != nil || !fresh {
		return opened, err
	}
	return opened, t.insertAttempt(seq, d.Backend, d.Turn, d.Attempts, a)
}

// mergeTurn brings what another arrival knows of the same turn into x.
func (t *tx) mergeTurn(seq int64, x, d delivery, a *proxy.Attempt) (err error) {
	fresh := a != nil
	if fresh {
		if fresh, err = t.fresh(seq, x, d, a); err != nil {
			return err
		}
	}
	out, won := merge(x, d, a, fresh)
	if fresh {
		if x.first() { // the row can no longer stand for it
			last := x.last()
			if err := t.insertAttempt(seq, x.Backend, x.Turn, x.Attempts, &last); err != nil {
				return err
			}
		}
		if !out.first() {
			if err := t.insertAttempt(seq, d.Backend, d.Turn, out.Attempts, a); err != nil {
				return err
			}
		}
	}
	return t.update(seq, x, out, won)
}

// fresh reports whether the journal does not hold this attempt yet.
func (t *tx) fresh(seq int64, x, d delivery, a *proxy.Attempt) (bool, error) {
	if x.Turn == d.Turn && x.first() && x.started == millis(a.Started) {
		return false, nil
	}
	n, err := t.number(`SELECT count(*) FROM attempts WHERE event = ? AND backend = ? AND turn = ? AND started = ?`, seq,
		d.Backend, int64(d.Turn), millis(a.Started))
	return n == 0, err
}

// replace puts a later turn in the place of x.
func (t *tx) replace(seq int64, x, d delivery) error {
	if x.first() { // its row was all that told of the earlier turn
		last := x.last()
		if err := t.insertAttempt(seq, x.Backend, x.Turn, x.Attempts, &last); err != nil {
			return err
		}
	}
	return t.update(seq, x, d, true)
}

// update writes a changed row. lease says that the lease changes with it.
func (t *tx) update(seq int64, x, d delivery, lease bool) error {
	v := d.values(seq)
	if _, err := t.exec(`UPDATE deliveries SET state = ?, turn = ?, attempts = ?, due = ?, turn_started = ?, status = ?, class = ?,
		started = ?, ms = ?, trigger = ? WHERE event = ? AND backend = ?`, append(v[2:len(v):len(v)], v[0], v[1])...); err != nil {
		return fmt.Errorf("update delivery: %w", err)
	}
	if x.State != d.State {
		t.count(d.Backend, x.State, -1)
		t.count(d.Backend, d.State, 1)
	}
	if d.State == proxy.Pending {
		t.reopened(d.Backend, seq)
	}
	if lease {
		t.stands(seq, d)
	} else if h, ok := t.db.leases.get(d.Backend, seq); ok && h.attempts != d.Attempts {
		h.attempts = d.Attempts
		t.undo = append(t.undo, t.db.leases.set(d.Backend, seq, h))
	}
	return nil
}

// reopened notes that an event that was there before may be the oldest Pending one again.
func (t *tx) reopened(backend string, seq int64) {
	t.after = append(t.after, func() { t.db.oldest.lower(backend, seq) })
}

func (t *tx) replaceBody(seq int64, e *entry) error {
	if _, err := t.exec(`UPDATE bodies SET body = ? WHERE event = ?`, content(e.Event.Body), seq); err != nil {
		return fmt.Errorf("replace body: %w", err)
	}
	_, err := t.exec(`UPDATE events SET query = ?, headers = ?, forwarded = ?, sha256 = ? WHERE seq = ?`, text(e.Event.Query),
		blob(e.headers), blob(e.forwarded), e.sum[:], seq)
	return err
}

func duration(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
