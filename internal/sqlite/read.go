package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

const knownColumns = eventColumns + `, e.state, e.reason, e.answered`

// listColumns are knownColumns with the size of the body, which is in another table.
const listColumns = knownColumns + `, (SELECT length(body) FROM bodies WHERE event = e.seq)`

func scanStored(r row) journal.Stored {
	k := journal.Stored{Known: proxy.Known{
		Event: scanEvent(r), State: stateOf(r.int(12)), Reason: r.text(13), Answered: timeOf(r.int(14)),
	}}
	if len(r) > 15 {
		k.Size = r.int(15)
	}
	return k
}

// each runs q and calls f for each row.
func each(ctx context.Context, c *sql.Conn, f func(r row) error, q string, args ...any) error {
	rows, err := c.QueryContext(ctx, q, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	r, dest := make(row, len(columns)), make([]any, len(columns))
	for i := range r {
		dest[i] = (*any)(&r[i]) // as any it takes null too
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

// known reads events with their deliveries.
func known(ctx context.Context, c *sql.Conn, columns, where string, args ...any) ([]journal.Stored, error) {
	var out []journal.Stored
	err := each(ctx, c, func(r row) error {
		out = append(out, scanStored(r))
		return nil
	}, `SELECT `+columns+` FROM events e `+where, args...)
	if err != nil {
		return nil, err
	}
	return out, deliveriesOf(ctx, c, out)
}

// deliveriesOf fills in the deliveries of events, and with them how the events stand.
func deliveriesOf(ctx context.Context, c *sql.Conn, events []journal.Stored) error {
	at := make(map[int64]*journal.Stored, len(events))
	seqs := make([]int64, len(events))
	for i := range events {
		seqs[i] = events[i].Event.Seq
		at[seqs[i]] = &events[i]
	}
	where, arg := `event = ?`, any(nil)
	switch len(events) {
	case 0:
		return nil
	case 1:
		arg = seqs[0]
	default:
		list, err := json.Marshal(seqs)
		if err != nil {
			return err
		}
		where, arg = `event IN (SELECT value FROM json_each(?))`, string(list)
	}
	err := each(ctx, c, func(r row) error {
		k := at[r.int(len(r)-1)]
		k.Deliveries = append(k.Deliveries, scanDelivery(r).Delivery)
		return nil
	}, `SELECT `+deliveryColumns+`, event FROM deliveries WHERE `+where+` ORDER BY event, backend`, arg)
	for i := range events {
		if k := &events[i]; len(k.Deliveries) > 0 {
			k.State = journal.WholeState(k.Deliveries)
		}
	}
	return err
}

func (d *DB) find(ctx context.Context, k proxy.Key) (proxy.Known, error) {
	c, done, err := d.file.finder(ctx)
	if err != nil {
		return proxy.Known{}, err
	}
	defer done()
	ctx = context.WithoutCancel(ctx) // the driver starts a goroutine for each query that can be cancelled
	found, err := known(ctx, c, knownColumns, `WHERE e.source = ? AND e.dedupe_key = ?`, k.Source, k.ID)
	if err != nil {
		return proxy.Known{}, err
	}
	if len(found) > 0 {
		return found[0].Known, nil
	}
	var state, received, answered int64
	err = c.QueryRowContext(ctx, `SELECT state, received, answered FROM seen WHERE source = ? AND id = ?`, k.Source, k.ID).
		Scan(&state, &received, &answered)
	if errors.Is(err, sql.ErrNoRows) || err == nil && state != stateDelivered {
		return proxy.Known{}, proxy.ErrNotFound
	}
	return proxy.Known{
		Event: proxy.Event{Source: k.Source, ID: k.ID, Received: timeOf(received)}, State: proxy.Delivered, Answered: timeOf(answered),
	}, err
}

// Event implements journal.Reader.
func (d *DB) Event(ctx context.Context, seq int64) (journal.Stored, []proxy.Attempt, error) {
	var out []journal.Stored
	var attempts []proxy.Attempt
	err := d.file.read(ctx, func(ctx context.Context, c *sql.Conn) (err error) {
		if out, err = known(ctx, c, listColumns, `WHERE e.seq = ?`, seq); err != nil || len(out) == 0 {
			return err
		}
		if err := headers(ctx, c, &out[0].Event); err != nil {
			return err
		}
		attempts, err = attemptsOf(ctx, c, seq)
		return err
	})
	if err != nil {
		return journal.Stored{}, nil, fmt.Errorf("read event: %w", err)
	}
	if len(out) == 0 {
		return journal.Stored{}, nil, proxy.ErrNotFound
	}
	d.leases.fill(seq, out[0].Deliveries)
	return out[0], attempts, nil
}

// headers fills in the headers of an event.
func headers(ctx context.Context, c *sql.Conn, e *proxy.Event) error {
	return each(ctx, c, func(r row) (err error) {
		if e.Header, err = decodeHeader(r.blob(0)); err == nil {
			e.Forwarded, err = decodeHeader(r.blob(1))
		}
		return err
	}, `SELECT headers, forwarded FROM events WHERE seq = ?`, e.Seq)
}

// attemptsOf reads the attempts of an event: the rows, and the successes at the first attempt, which have none.
func attemptsOf(ctx context.Context, c *sql.Conn, seq int64) ([]proxy.Attempt, error) {
	var out []proxy.Attempt
	err := each(ctx, c, func(r row) error {
		out = append(out, proxy.Attempt{
			Backend: r.text(0), Turn: int(r.int(1)), N: int(r.int(2)), Started: timeOf(r.int(3)), Duration: duration(r.int(4)),
			Status: int(r.int(5)), Outcome: r.text(6), Error: r.text(7), Trigger: proxy.Trigger(r.text(8)), Excerpt: r.text(9),
		})
		return nil
	}, `SELECT backend, turn, n, started, ms, status, class, error, trigger, excerpt FROM attempts WHERE event = ?`, seq)
	if err != nil {
		return nil, err
	}
	err = each(ctx, c, func(r row) error {
		if d := scanDelivery(r); d.saysAll() {
			out = append(out, *d.last())
		}
		return nil
	}, `SELECT `+deliveryColumns+` FROM deliveries WHERE event = ?`, seq)
	slices.SortFunc(out, func(a, b proxy.Attempt) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Turn, b.Turn), cmp.Compare(a.N, b.N))
	})
	return out, err
}

// Body implements journal.Reader.
func (d *DB) Body(ctx context.Context, seq int64) (body []byte, err error) {
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return c.QueryRowContext(ctx, `SELECT body FROM bodies WHERE event = ?`, seq).Scan(&body)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, proxy.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return body, nil
}
