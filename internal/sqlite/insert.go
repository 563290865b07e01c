package sqlite

import (
	"database/sql/driver"
	"fmt"
	"math/bits"
	"strings"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// rowsAtOnce is how many new rows wait for each other at most. Each statement has a fixed cost, about a third of a
// row's, so they are written by as few as possible: 32, 16, 8, 4, 2 or 1 at a time.
const rowsAtOnce = 32

// insert is the statements that write rows of a table; the one at n writes 1<<n of them.
type insert struct {
	table      int // which of rows
	width      int // columns
	statements []string
}

func newInsert(table int, into string) insert {
	width := strings.Count(into, ",") + 1
	row := ",(?" + strings.Repeat(",?", width-1) + ")"
	in := insert{table: table, width: width}
	for n := 1; n <= rowsAtOnce; n *= 2 {
		in.statements = append(in.statements, "INSERT INTO "+into+" VALUES "+strings.Repeat(row, n)[1:])
	}
	return in
}

var (
	insertEvents = newInsert(0, `events (seq, source, id, dedupe_key, type, account, livemode, api_version, object, customer, created,
		received, state, reason, answered, query, headers, forwarded, sha256)`)
	insertBodies     = newInsert(1, `bodies (event, body)`)
	insertDeliveries = newInsert(2, `deliveries (event, `+deliveryColumns+`)`)
	inserts          = [...]*insert{&insertEvents, &insertBodies, &insertDeliveries}
)

// rows are new rows that wait to be written together. Whatever reads or changes a row calls flushRows before.
type rows [len(inserts)][]driver.Value

// write writes a row, now or with others.
func (t *tx) write(in *insert, v ...driver.Value) error {
	if t.rows == nil {
		return t.writeAll(in, v)
	}
	waiting := append(t.rows[in.table], v...)
	t.rows[in.table] = waiting
	if len(waiting) < rowsAtOnce*in.width {
		return nil
	}
	t.rows[in.table] = waiting[:0]
	return t.writeAll(in, waiting)
}

func (t *tx) writeAll(in *insert, waiting []driver.Value) error {
	for len(waiting) > 0 {
		size := bits.Len(uint(len(waiting)/in.width)) - 1
		n := in.width << size
		if _, err := t.exec(in.statements[size], waiting[:n]...); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
		waiting = waiting[n:]
	}
	return nil
}

// flushRows writes what waits.
func (t *tx) flushRows() error {
	if t.rows == nil {
		return nil
	}
	for _, in := range inserts {
		if err := t.writeAll(in, t.rows[in.table]); err != nil {
			return err
		}
		t.rows[in.table] = t.rows[in.table][:0]
	}
	return t.flushMarks()
}

// insert writes an event that is new.
func (t *tx) insert(e *entry) (int64, error) {
	v := e.Event
	var key driver.Value
	if e.unique {
		key = v.ID
		t.db.ids.add(v.Key())
	}
	t.db.seq++
	seq := t.db.seq
	t.db.newest.add(seq, v)
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
	t.track(seq, d)
	if a == nil || d.saysAll() {
		return nil
	}
	return t.insertAttempt(seq, journal.Numbered(d.Delivery, a))
}

const insertAttempt = `INSERT INTO attempts (event, backend, turn, n, started, ms, status, class, error, trigger, excerpt)
	VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)`

// insertAttempt keeps an attempt in its place, or after the last of its turn where another has that.
func (t *tx) insertAttempt(seq int64, a *proxy.Attempt) error {
	args := []driver.Value{
		seq, a.Backend, int64(a.Turn), int64(a.N), millis(a.Started), a.Duration.Milliseconds(), int64(a.Status), a.Outcome, a.Error,
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
