package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// oldest remembers for each backend a number below which no event is Pending. The oldest Pending one is looked for from
// there on, so that over time each event is passed once.
type oldest struct {
	mu      sync.Mutex
	from    map[string]int64
	lowered map[string]int64 // since the last look began
	calm    calm
}

// lower says that an event that was there before is Pending again.
func (o *oldest) lower(backend string, seq int64) {
	o.calm.disturb(seq)
	o.mu.Lock()
	defer o.mu.Unlock()
	lowest := func(m map[string]int64) {
		if n, ok := m[backend]; ok {
			m[backend] = min(n, seq)
		}
	}
	lowest(o.from)
	if o.lowered == nil {
		o.lowered = map[string]int64{}
	}
	if _, ok := o.lowered[backend]; !ok {
		o.lowered[backend] = seq
	}
	lowest(o.lowered)
}

// begin returns where to look for a backend, or false where that is not known.
func (o *oldest) begin(backend string) (int64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.lowered, backend)
	n, ok := o.from[backend]
	return n, ok
}

// found says where the look that began last ended.
func (o *oldest) found(backend string, seq int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n, ok := o.lowered[backend]; ok {
		seq = min(seq, n)
	}
	if o.from == nil {
		o.from = map[string]int64{}
	}
	o.from[backend] = seq
}

// unreadableMost bounds the count of events that could not be read: more than that are not counted on.
const unreadableMost = 10_000

const unreadableQuery = `SELECT count(*) FROM (
	SELECT 1 FROM events INDEXED BY events_kept WHERE state = 3 AND state <> 0 LIMIT ?)`

// Totals implements journal.Reader. Each batch moves the counters on.
func (d *DB) Totals(ctx context.Context) ([]journal.Total, error) {
	d.totals.Lock() // one look at a time: see oldest
	defer d.totals.Unlock()
	var out []journal.Total
	err := d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		if err := each(ctx, c, func(r row) error {
			out = append(out, journal.Total{Backend: r.text(0), State: stateOf(r.int(1)), Count: r.int(2)})
			return nil
		}, `SELECT backend, state, count FROM totals WHERE count <> 0 ORDER BY backend, state`); err != nil {
			return err
		}
		unreadable, err := numbers(ctx, c, unreadableQuery, unreadableMost)
		if err != nil {
			return err
		}
		if unreadable[0] > 0 {
			out = append(out, journal.Total{State: proxy.Failed, Count: unreadable[0]})
		}
		for i := range out {
			if out[i].State == proxy.Pending {
				if err := d.findOldest(ctx, c, &out[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read totals: %w", err)
	}
	return out, nil
}

// oldestQuery walks the table, which the + make it do, not the index: what it passes now is never looked at again.
const oldestQuery = `SELECT event FROM deliveries WHERE +backend = ? AND +state = 1 AND event >= ? ORDER BY event LIMIT 1`

func (d *DB) findOldest(ctx context.Context, c *sql.Conn, t *journal.Total) error {
	q, from := `SELECT min(event) FROM deliveries INDEXED BY deliveries_due WHERE backend = ? AND state = 1 AND event >= ?`, int64(0)
	if n, ok := d.oldest.begin(t.Backend); ok {
		q, from = oldestQuery, n
	}
	seq, err := numbers(ctx, c, q, t.Backend, from)
	if err != nil || len(seq) == 0 {
		return err
	}
	d.oldest.found(t.Backend, seq[0])
	received, err := numbers(ctx, c, `SELECT received FROM events WHERE seq = ?`, seq[0])
	if len(received) == 1 {
		t.Oldest = timeOf(received[0])
	}
	return err
}
