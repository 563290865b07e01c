package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
)

// listTime bounds how long one page is looked for, waiting to be let in included; the last step may take a few
// milliseconds more. Bodies, which are looked at for text that is no id, take longer: textTime. Whether any event names
// what looks like an id is asked for longer still: were one page to find out and the next one not, the second would go on
// with another question.
const (
	listTime = 15 * time.Millisecond
	textTime = 40 * time.Millisecond
	nameTime = 250 * time.Millisecond
)

// Events implements journal.Reader. Events that are Pending, Failed or Ignored, and those that an id chooses, are found
// wherever they are. For other conditions event after event is looked at, newest first, for listTime or textTime.
func (d *DB) Events(ctx context.Context, f journal.Filter) (journal.Page, error) {
	budget := listTime
	if f.Query != "" && !idShape.MatchString(f.Query) {
		budget = textTime
	}
	p, _, err := d.page(ctx, f, budget)
	if err != nil {
		return journal.Page{}, fmt.Errorf("list events: %w", err)
	}
	return p, nil
}

// page also returns how many events it has looked at, at most.
func (d *DB) page(ctx context.Context, f journal.Filter, budget time.Duration) (p journal.Page, looked int64, err error) {
	if f.Limit <= 0 {
		f.Limit = 50
	}
	until := time.Now().Add(budget)
	if err := d.reading.enter(ctx); err != nil {
		return p, 0, err
	}
	defer d.reading.leave()
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		s, err := newSearch(ctx, d, c, f, until)
		if err != nil {
			return err
		}
		seqs, err := s.run(ctx, f.Limit)
		if err != nil {
			return err
		}
		looked = s.looked
		if p.Next = s.before; s.done || s.before <= 1 {
			p.Next = 0
		} else if len(seqs) < f.Limit {
			p.LookedTo, err = receivedFrom(ctx, c, s.before)
			if err != nil {
				return err
			}
		}
		p.Events, err = byNumber(ctx, c, seqs)
		return err
	})
	for i := range p.Events {
		d.leases.fill(p.Events[i].Event.Seq, p.Events[i].Deliveries)
	}
	return p, looked, err
}

// Count counts all the events that f chooses, now. ctx bounds how long it takes, which may be seconds; meanwhile the
// write-ahead log grows by what is written, until Count has to step aside and begins again. One Count runs at a time.
func (d *DB) Count(ctx context.Context, f journal.Filter) (n int64, err error) {
	f.Before, f.Limit = 0, 0
	if err := d.counting.enter(ctx); err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	defer d.counting.leave()
	err = again(ctx, func() error {
		return d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
			s, err := newSearch(ctx, d, c, f, time.Time{})
			if err != nil {
				return err
			}
			n, err = s.count(ctx)
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("count events: %w", err)
	}
	return n, nil
}

// permits let a few in at a time: lists must leave connections to the gateway's own work.
type permits chan struct{}

func (p permits) enter(ctx context.Context) error {
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p permits) leave() { <-p }

func numbers(ctx context.Context, c *sql.Conn, q string, args ...any) (out []int64, err error) {
	err = each(ctx, c, func(r row) error { out = append(out, r.int(0)); return nil }, q, args...)
	return out, err
}

// byNumber reads the events seqs, newest first.
func byNumber(ctx context.Context, c *sql.Conn, seqs []int64) ([]journal.Stored, error) {
	if len(seqs) == 0 {
		return nil, nil
	}
	list, err := json.Marshal(seqs)
	if err != nil {
		return nil, err
	}
	return known(ctx, c, listColumns, `WHERE e.seq IN (SELECT value FROM json_each(?)) ORDER BY e.seq DESC`, string(list))
}

// receivedFrom returns when the first event from a number on was received.
func receivedFrom(ctx context.Context, c *sql.Conn, seq int64) (time.Time, error) {
	at, err := numbers(ctx, c, `SELECT received FROM events WHERE seq >= ? ORDER BY seq LIMIT 1`, seq)
	if err != nil || len(at) == 0 {
		return time.Time{}, err
	}
	return timeOf(at[0]), nil
}

// lookup returns the numbers of the events with this id, newest first. The index begins with the source, so it goes
// from source to source.
func lookup(ctx context.Context, c *sql.Conn, id string) (out []int64, err error) {
	for source, first := "", true; ; first = false {
		q := `SELECT source FROM events WHERE source > ? ORDER BY source LIMIT 1`
		if first {
			q = `SELECT source FROM events WHERE source >= ? ORDER BY source LIMIT 1`
		}
		more := false
		if err := each(ctx, c, func(r row) error { source, more = r.text(0), true; return nil }, q, source); err != nil {
			return nil, err
		}
		if !more {
			break
		}
		seqs, err := numbers(ctx, c, `SELECT seq FROM events WHERE source = ? AND dedupe_key = ?`, source, id)
		if err != nil {
			return nil, err
		}
		out = append(out, seqs...)
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out, nil
}
