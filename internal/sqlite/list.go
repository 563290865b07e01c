package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/breakwater-gateway/breakwater/proxy"
)

const (
	listScan    = 20_000 // rows that one Events looks at, at most
	listPending = 20_000 // with more Pending than this, they are found by walking all events
)

// Events returns a page of the events that f chooses. It looks at a bounded number of events, so a page may be short, or
// empty, before the end. A state together with a backend means the state of that backend's delivery.
func (d *DB) Events(ctx context.Context, f proxy.Filter) (p proxy.Page, err error) {
	var out []proxy.Known
	var next, looked int64
	if f.Limit <= 0 {
		f.Limit = 50
	}
	if f.Before <= 0 {
		f.Before = 1 << 62
	}
	err = d.read(ctx, func(c *sql.Conn) error {
		candidates, err := candidates(ctx, c, f)
		if err != nil {
			return err
		}
		next = f.Before
		for scanned, step := 0, 2*f.Limit; next > 0 && len(out) < f.Limit && scanned < listScan; step = min(4*step, 4096) {
			seqs, err := candidates(next, step)
			if err != nil {
				return err
			}
			scanned += len(seqs)
			found, err := choose(ctx, c, f, seqs, f.Limit-len(out))
			if err != nil {
				return err
			}
			out = append(out, found...)
			switch {
			case len(out) == f.Limit:
				next = out[len(out)-1].Event.Seq
			case len(seqs) < step:
				next = 0
			default:
				next = seqs[len(seqs)-1]
			}
		}
		if next > 0 && len(out) < f.Limit {
			return c.QueryRowContext(ctx, `SELECT received FROM events WHERE seq = ?`, next).Scan(&looked)
		}
		return nil
	})
	if err != nil {
		return p, fmt.Errorf("list events: %w", err)
	}
	for i := range out {
		d.leases.mark(out[i].Event.Seq, out[i].Deliveries)
	}
	return proxy.Page{Events: out, Next: next, LookedTo: timeOf(looked)}, nil
}

// Count counts all the events that f chooses. ctx bounds how long it takes.
func (d *DB) Count(ctx context.Context, f proxy.Filter) (n int64, err error) {
	for f.Limit, f.Before = 500, 0; ; {
		p, err := d.Events(ctx, f)
		n += int64(len(p.Events))
		if err != nil || p.Next == 0 {
			return n, err
		}
		f.Before = p.Next
	}
}

// walk returns up to n numbers of events below before, newest first.
type walk func(before int64, n int) ([]int64, error)

// candidates finds the fewest events that can match f.
func candidates(ctx context.Context, c *sql.Conn, f proxy.Filter) (walk, error) {
	by := func(q string, args ...any) walk {
		return func(before int64, n int) ([]int64, error) {
			return numbers(ctx, c, q, append(slices.Clone(args), sql.Named("before", before), sql.Named("n", n))...)
		}
	}
	switch {
	case f.ID != "" && (&proxy.Event{ID: f.ID}).Unique():
		seqs, err := lookup(ctx, c, f.ID)
		return func(before int64, _ int) ([]int64, error) {
			return slices.DeleteFunc(slices.Clone(seqs), func(n int64) bool { return n >= before }), nil
		}, err
	case f.State == proxy.Failed:
		return by(`SELECT event AS seq FROM deliveries WHERE state = 3 AND event < :before
			UNION SELECT seq FROM events WHERE state = 3 AND state <> 0 AND seq < :before ORDER BY seq DESC LIMIT :n`), nil
	case f.State == proxy.Ignored:
		return by(`SELECT seq FROM events WHERE state = 4 AND state <> 0 AND seq < :before
			UNION SELECT seq FROM events WHERE state = 5 AND state <> 0 AND seq < :before ORDER BY seq DESC LIMIT :n`), nil
	case f.State == proxy.Pending:
		n, err := numbers(ctx, c, `SELECT coalesce(sum(count), 0) FROM totals WHERE state = 1`)
		if err != nil {
			return nil, err
		}
		if n[0] <= listPending {
			return by(`SELECT DISTINCT event FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND event < :before
				ORDER BY event DESC LIMIT :n`), nil
		}
	}
	return by(`SELECT seq FROM events WHERE seq < :before ORDER BY seq DESC LIMIT :n`), nil
}

func numbers(ctx context.Context, c *sql.Conn, q string, args ...any) (out []int64, err error) {
	err = each(ctx, c, func(r row) error { out = append(out, r.int(0)); return nil }, q, args...)
	return out, err
}

// choose returns those of the events seqs that f chooses, newest first, at most n.
func choose(ctx context.Context, c *sql.Conn, f proxy.Filter, seqs []int64, n int) ([]proxy.Known, error) {
	list, err := json.Marshal(seqs)
	if err != nil {
		return nil, err
	}
	where, args := []string{`e.seq IN (SELECT value FROM json_each(?))`}, []any{string(list)}
	and := func(cond string, v ...any) { where, args = append(where, cond), append(args, v...) }
	for column, v := range map[string]string{"id": f.ID, "source": f.Source, "account": f.Account, "object": f.Object, "customer": f.Customer} {
		if v != "" {
			and(`e.`+column+` = ?`, v)
		}
	}
	if f.Query != "" {
		and(`(? IN (e.id, e.object, e.customer, e.account) OR
			instr(lower(CAST((SELECT body FROM bodies WHERE event = e.seq) AS TEXT)), lower(?)) > 0)`, f.Query, f.Query)
	}
	if f.Type != "" {
		and(`e.type GLOB ?`, strings.NewReplacer(`[`, `[[]`, `?`, `[?]`).Replace(f.Type))
	}
	if !f.Since.IsZero() {
		and(`e.received >= ?`, millis(f.Since))
	}
	if !f.Until.IsZero() {
		and(`e.received < ?`, millis(f.Until))
	}
	const of = `SELECT 1 FROM deliveries d WHERE d.event = e.seq`
	switch s := stateCode(f.State, ""); {
	case f.Backend != "" && s != 0:
		and(`EXISTS (`+of+` AND d.backend = ? AND d.state = ?)`, f.Backend, s)
	case f.Backend != "":
		and(`EXISTS (`+of+` AND d.backend = ?)`, f.Backend)
	case f.State == proxy.Pending:
		and(`EXISTS (` + of + ` AND d.state = 1) AND NOT EXISTS (` + of + ` AND d.state = 3)`)
	case f.State == proxy.Delivered:
		and(`e.state = 0 AND NOT EXISTS (` + of + ` AND d.state <> 2)`)
	case f.State == proxy.Failed:
		and(`(e.state = 3 OR EXISTS (` + of + ` AND d.state = 3))`)
	case f.State == proxy.Ignored:
		and(`e.state IN (4, 5)`)
	}
	args = append(args, n)
	return known(ctx, c, listColumns, `WHERE `+strings.Join(where, ` AND `)+` ORDER BY e.seq DESC LIMIT ?`, args...)
}

// Lookup returns the events with this id, over all sources, newest first. Of the dashboard's test events, which all have
// one id, it returns some of the newest.
func (d *DB) Lookup(ctx context.Context, id string) ([]proxy.Known, error) {
	p, err := d.Events(ctx, proxy.Filter{ID: id})
	return p.Events, err
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
