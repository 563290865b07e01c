package sqlite

import (
	"database/sql/driver"
	"fmt"
	"strings"
)

// rowsAtOnce is how many new rows one statement writes. Each statement has a fixed cost, about a third of a row's.
const rowsAtOnce = 8

// insert is a statement that writes rows, one or rowsAtOnce of them.
type insert struct {
	table     int // which of rows
	width     int // columns
	one, many string
}

func newInsert(table int, into string) insert {
	width := strings.Count(into, ",") + 1
	row := "(?" + strings.Repeat(",?", width-1) + ")"
	into = "INSERT INTO " + into + " VALUES "
	return insert{table, width, into + row, into + row + strings.Repeat(","+row, rowsAtOnce-1)}
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
		if _, err := t.exec(in.one, v...); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
		return nil
	}
	waiting := append(t.rows[in.table], v...)
	if len(waiting) == rowsAtOnce*in.width {
		if _, err := t.exec(in.many, waiting...); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
		waiting = waiting[:0]
	}
	t.rows[in.table] = waiting
	return nil
}

// flushRows writes what waits.
func (t *tx) flushRows() error {
	if t.rows == nil {
		return nil
	}
	for _, in := range inserts {
		for waiting := t.rows[in.table]; len(waiting) > 0; waiting = waiting[in.width:] {
			if _, err := t.exec(in.one, waiting[:in.width]...); err != nil {
				return fmt.Errorf("insert: %w", err)
			}
		}
		t.rows[in.table] = t.rows[in.table][:0]
	}
	return nil
}
