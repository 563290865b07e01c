package sqlite

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"github.com/breakwater-gateway/breakwater/internal/journal"
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
	marks []mark   // wait like rows
}

// mark says when Stripe had our answer to an event that is in the file.
type mark struct{ seq, answered int64 }

type total struct {
	backend string
	state   int64
}

func (t *tx) count(backend string, s proxy.State, n int64) {
	t.delta[total{backend, stateCode(s, "")}] += n
}

// undoTo takes back what was changed in memory, but for the first n changes.
func (t *tx) undoTo(n int) {
	for i := len(t.undo) - 1; i >= n; i-- {
		t.undo[i]()
	}
	t.undo = t.undo[:n]
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

// entry is a proxy.Entry made ready to be written, by its caller's goroutine. It shares nothing with what it was made of:
// Record's are written when the caller has long gone, Append's may be when its context has ended.
type entry struct {
	proxy.Entry
	event              proxy.Event // which Event points to
	unique             bool
	body               *[]byte // which Event.Body is in; from bodies, or nil
	headers, forwarded []byte
	sum                [sha256.Size]byte
}

// bodies lends what the bodies of entries are copied to. A larger one than pooledBody is rare, and not worth keeping.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

const pooledBody = 64 << 10

// done gives back what the entry was lent, once it is written. It leaves Event alone: Find may be looking at it.
func (e *entry) done() {
	if e.body != nil && cap(*e.body) <= pooledBody {
		bodies.Put(e.body)
	}
}

func ready(e proxy.Entry) *entry {
	r := &entry{Entry: e, event: *e.Event, unique: e.Event.Unique()}
	r.Event = &r.event
	r.Answered = timeOf(millis(e.Answered))
	r.event.Header, r.event.Forwarded = nil, nil
	if !r.creates() {
		r.event.Body = nil
		return r
	}
	if e.Event.Body != nil {
		r.body = bodies.Get().(*[]byte)
		*r.body = append((*r.body)[:0], e.Event.Body...)
		r.event.Body = *r.body
	}
	b := appendHeader(make([]byte, 0, 512), e.Event.Header)
	n := len(b)
	b = appendHeader(b, e.Event.Forwarded)
	r.headers, r.forwarded = b[:n], b[n:]
	r.sum = sha256.Sum256(r.event.Body)
	r.Deliveries = slices.Clone(e.Deliveries)
	for i := range r.Deliveries {
		if a := r.Deliveries[i].Attempt; a != nil {
			own := *a
			r.Deliveries[i].Attempt = &own
		}
	}
	return r
}

// creates reports whether the entry stands for an event, rather than saying only that Stripe has our answer to one.
func (e *entry) creates() bool { return len(e.Deliveries) > 0 || e.State != "" }

// isMark reports whether it says only that, of an event of which the number is known.
func (e *entry) isMark() bool { return !e.creates() && e.Event.Seq != 0 }

func (e *entry) size() int64 { return int64(len(e.Event.Body) + len(e.headers) + 512) }

// eventRow is the part of an event's row that a merge may change.
type eventRow struct {
	seq int64
	journal.Summary
}

const eventRowQuery = `SELECT seq, state, reason, answered FROM events WHERE `

func scanEventRow(r row) eventRow {
	return eventRow{r.int(0), journal.Summary{State: stateOf(r.int(1)), Reason: r.text(2), Answered: timeOf(r.int(3))}}
}

// put writes or merges an entry and returns its event's number.
func (t *tx) put(e *entry) (int64, error) {
	if e.isMark() {
		return e.Event.Seq, t.answered(e)
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

const writeMarks = `UPDATE events SET answered = max(answered, CAST(substr(?3, (seq - ?1) * 16 + 1, 16) AS INTEGER))
	WHERE seq BETWEEN ?1 AND ?2`

// flushMarks writes the marks that wait. Those of events that came one after the other, which is most of them, are one
// statement: it gets the times as one text of 16 digits each. An event between them without a mark gets a time of 0,
// which changes nothing.
func (t *tx) flushMarks() error {
	slices.SortFunc(t.marks, func(a, b mark) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.answered, b.answered)) })
	for len(t.marks) > 0 {
		first, next := t.marks[0].seq, t.marks[0].seq
		var times []byte
		for len(t.marks) > 0 && t.marks[0].seq <= next+1 {
			m := t.marks[0]
			t.marks = t.marks[1:]
			if m.seq < next { // another one of the same event, and later
				times, next = times[:len(times)-16], m.seq
			}
			for ; next < m.seq; next++ {
				times = append(times, "0000000000000000"...)
			}
			times, next = fmt.Appendf(times, "%016d", m.answered), next+1
		}
		if _, err := t.exec(writeMarks, first, next-1, times); err != nil {
			return fmt.Errorf("note answers: %w", err)
		}
	}
	return nil
}

// answered notes that Stripe has our answer to an event of which the number is known.
func (t *tx) answered(e *entry) error {
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
	scan := func(r row) bool { k = scanEventRow(r); return false }
	if e.Event.Seq != 0 {
		err = t.query(eventRowQuery+`seq = ?`, scan, e.Event.Seq)
	}
	if err == nil && k.seq == 0 && e.unique && t.db.ids.has(e.Event.Key()) {
		err = t.query(eventRowQuery+`source = ? AND dedupe_key = ?`, scan, e.Event.Source, e.Event.ID)
	}
	return k, err
}

// track keeps the leases in step with a row that was just written.
func (t *tx) track(seq int64, d delivery) {
	due := millis(d.Due)
	switch {
	case d.State != proxy.Pending:
		t.undo = append(t.undo, t.db.leases.drop(d.Backend, seq))
	case d.Token != 0 && !d.LeaseUntil.IsZero():
		h := lease{token: d.Token, until: d.LeaseUntil, due: due, turn: d.Turn, attempts: d.Attempts}
		t.undo = append(t.undo, t.db.leases.set(d.Backend, seq, h))
	default:
		t.undo = append(t.undo, t.db.leases.drop(d.Backend, seq))
		t.db.leases.waits(d.Backend, seq, due)
	}
}

// merge brings an entry into an event that is there.
func (t *tx) merge(k eventRow, e *entry) error {
	opened := false
	for _, in := range e.Deliveries {
		o, err := t.mergeDelivery(k.seq, e, in)
		if err != nil {
			return err
		}
		opened = opened || o
	}
	return t.summarize(k, k.Summary.Merge(e.Entry, opened))
}

func (t *tx) summarize(k eventRow, s journal.Summary) error {
	if s == k.Summary {
		return nil
	}
	_, err := t.exec(`UPDATE events SET state = ?, reason = ?, answered = ? WHERE seq = ?`, stateCode(s.State, s.Reason), text(s.Reason),
		millis(s.Answered), k.seq)
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
	was, ok, err := t.delivery(seq, in.Backend)
	if err != nil {
		return false, err
	}
	if !ok {
		t.reopened(in.Backend, seq)
		return false, t.insertDelivery(seq, incoming(in), in.Attempt)
	}
	isNew, err := t.isNew(seq, &was, in)
	if err != nil {
		return false, err
	}
	m := journal.Merge(was.Delivery, in, isNew)
	d := was
	if d.Delivery = m.Delivery; m.Last {
		d.setLast(in.Attempt)
	}
	if err := t.change(seq, was, d, m.Replaced); err != nil {
		return false, err
	}
	if m.Opened && e.Event.Body != nil {
		if err := t.replaceBody(seq, e); err != nil {
			return false, err
		}
	}
	if m.Attempt == nil || m.Last && d.saysAll() {
		return m.Opened, nil
	}
	return m.Opened, t.insertAttempt(seq, m.Attempt)
}

// isNew reports whether the journal does not hold the attempt that comes in yet.
func (t *tx) isNew(seq int64, was *delivery, in proxy.EntryDelivery) (bool, error) {
	a, turn := in.Attempt, max(in.Turn, 1)
	switch {
	case a == nil:
		return false, nil
	case turn > was.Turn:
		return true, nil
	case turn == was.Turn && was.saysAll() && was.started == millis(a.Started):
		return false, nil
	}
	n, err := t.number(`SELECT count(*) FROM attempts WHERE event = ? AND backend = ? AND turn = ? AND started = ?`, seq,
		in.Backend, int64(turn), millis(a.Started))
	return n == 0, err
}

// change writes a row that has become d. lease says that the lease changes with it.
func (t *tx) change(seq int64, was, d delivery, lease bool) error {
	if d == was && !lease {
		return nil
	}
	if was.saysAll() && (d.Turn != was.Turn || !d.saysAll()) { // the row was all that told of its attempt
		if err := t.insertAttempt(seq, was.last()); err != nil {
			return err
		}
	}
	v := d.values(seq)
	if _, err := t.exec(`UPDATE deliveries SET state = ?, turn = ?, attempts = ?, due = ?, turn_started = ?, status = ?, class = ?,
		started = ?, ms = ?, trigger = ? WHERE event = ? AND backend = ?`, append(v[2:len(v):len(v)], v[0], v[1])...); err != nil {
		return fmt.Errorf("update delivery: %w", err)
	}
	if was.State != d.State {
		t.count(d.Backend, was.State, -1)
		t.count(d.Backend, d.State, 1)
	}
	if d.State == proxy.Pending {
		t.reopened(d.Backend, seq)
	}
	if lease {
		t.track(seq, d)
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
