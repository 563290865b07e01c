package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// keepSeen is how long the ids of pruned events are kept.
const keepSeen = 31 * 24 * time.Hour

// pruneLap is how often Prune goes over what it had to leave: a Pending event that has ended since, say. Between laps it
// looks only at what has grown old since it last looked, so what is kept for long is not looked at again and again.
const pruneLap = time.Hour

// pruneOp is how many events one operation of the writer deletes, so that others do not wait long.
const pruneOp = 64

// pruner remembers how far Prune has come in each class.
type pruner struct {
	file  *file
	queue *queue

	mu      sync.Mutex
	classes [len(classQueries)]lap
	early   lap
	seen    proxy.Key
	seenLap time.Time
}

// lap is one walk over the events of a class.
type lap struct {
	at      int64 // the last event looked at
	started time.Time
}

// over reports whether as much time has passed since a lap began, or the clock was set back to before that.
func over(now, began time.Time, every time.Duration) bool {
	return now.Before(began) || now.Sub(began) >= every
}

// classQueries walk the events that one retention may end for, oldest first: delivered, failed, and those without
// deliveries. Each passes what it does not need by an index.
var classQueries = [...]string{
	`SELECT seq FROM events WHERE seq > ? ORDER BY seq LIMIT ?`,
	`SELECT DISTINCT event FROM deliveries INDEXED BY deliveries_failed WHERE state = 3 AND event > ? ORDER BY event LIMIT ?`,
	`SELECT seq FROM events INDEXED BY events_kept WHERE state = 3 AND state <> 0 AND seq > ? ORDER BY seq LIMIT ?`,
	`SELECT seq FROM events INDEXED BY events_kept WHERE state = 4 AND state <> 0 AND seq > ? ORDER BY seq LIMIT ?`,
	`SELECT seq FROM events INDEXED BY events_kept WHERE state = 5 AND state <> 0 AND seq > ? ORDER BY seq LIMIT ?`,
}

// kept is how long r keeps the events of a class.
func kept(r journal.Retention, class int) time.Duration {
	return [...]time.Duration{r.Delivered, r.Failed, r.Failed, r.Ignored, r.Unrouted}[class]
}

// Prune implements journal.Pruner. What it costs depends on n, not on how much there is.
func (d *DB) Prune(ctx context.Context, now time.Time, r journal.Retention, n int) (int, error) {
	d.prune.mu.Lock()
	defer d.prune.mu.Unlock()
	pruned := 0
	for class := range d.prune.classes {
		if kept(r, class) <= 0 || pruned >= n {
			continue
		}
		done, err := d.prune.class(ctx, now, r, class, &d.prune.classes[class], n-pruned)
		pruned += done
		if err != nil {
			return pruned, fmt.Errorf("prune: %w", err)
		}
	}
	if err := d.prune.forgetSeen(ctx, now, n); err != nil {
		return pruned, fmt.Errorf("prune ids: %w", err)
	}
	return pruned, nil
}

// aged is an event as Prune looks at it.
type aged struct {
	seq, received, state int64
	pending, failed      bool
	ended                int64
}

// over reports whether the event's retention has ended.
func (a *aged) over(now time.Time, r journal.Retention) bool {
	keep := r.Delivered
	switch {
	case a.pending:
		return false
	case a.failed || a.state == stateFailed:
		keep = r.Failed
	case a.state == stateIgnored:
		keep = r.Ignored
	case a.state == stateUnrouted:
		keep = r.Unrouted
	}
	return keep > 0 && max(a.received, a.ended) <= millis(now.Add(-keep))
}

const agedColumns = `SELECT e.seq, e.received, e.state, coalesce(max(d.state = 1), 0), coalesce(max(d.state = 3), 0),
	coalesce(max(d.started + d.ms), 0)`

func scanAged(r row) aged {
	return aged{seq: r.int(0), received: r.int(1), state: r.int(2), pending: r.int(3) != 0, failed: r.int(4) != 0, ended: r.int(5)}
}

// pruneLook is how many events are looked at in one go, and pruneLooks how often in one Prune.
const (
	pruneLook  = 4096
	pruneLooks = 16
)

// class goes on with a class from where it was.
func (p *pruner) class(ctx context.Context, now time.Time, r journal.Retention, class int, l *lap, n int) (pruned int, err error) {
	if over(now, l.started, pruneLap) {
		l.at, l.started = 0, now
	}
	for range pruneLooks {
		old, at, err := p.aged(ctx, now, r, class, l.at, n-pruned)
		if err != nil || at == l.at {
			return pruned, err
		}
		for len(old) > 0 {
			step := old[:min(pruneOp, len(old))]
			old = old[len(step):]
			done := 0
			if err := p.queue.do(ctx, &op{size: int64(len(step)) * 1024, run: func(t *tx) (err error) {
				done, err = t.prune(now, r, step)
				return err
			}}); err != nil {
				return pruned, err
			}
			pruned += done
		}
		if l.at = at; pruned >= n {
			return pruned, nil
		}
	}
	return pruned, nil
}

// aged returns up to n events of a class, from one on, whose retention is over, and where to go on: before the first of
// those that have yet to grow old, when nothing older follows. An event may follow that was received earlier, by a clock
// that had been ahead. One that was received later than now is passed until the next lap.
func (p *pruner) aged(ctx context.Context, now time.Time, r journal.Retention, class int, from int64, n int) (old []int64, at int64, err error) {
	at = from
	cutoff := millis(now.Add(-kept(r, class)))
	err = p.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		err := each(ctx, c, func(found row) error {
			if len(old) >= n {
				return errEnough
			}
			a := scanAged(found)
			if a.received <= cutoff || a.received > millis(now) {
				at = a.seq
			}
			if a.over(now, r) {
				old = append(old, a.seq)
			}
			return nil
		}, `WITH c(seq) AS MATERIALIZED (`+classQueries[class]+`) `+agedColumns+` FROM c CROSS JOIN events e ON e.seq = c.seq
			LEFT JOIN deliveries d ON d.event = e.seq GROUP BY e.seq ORDER BY e.seq`, from, pruneLook)
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
	return old, at, err
}

var errEnough = errors.New("enough was found")

// prune deletes those of the events whose retention is still over.
func (t *tx) prune(now time.Time, r journal.Retention, seqs []int64) (pruned int, err error) {
	for _, seq := range seqs {
		var a aged
		if err := t.query(agedColumns+` FROM events e LEFT JOIN deliveries d ON d.event = e.seq WHERE e.seq = ? GROUP BY e.seq`,
			func(r row) bool { a = scanAged(r); return false }, seq); err != nil {
			return pruned, err
		}
		if a.seq == 0 || !a.over(now, r) {
			continue
		}
		if err := t.remove(now, &a); err != nil {
			return pruned, fmt.Errorf("event %d: %w", seq, err)
		}
		pruned++
	}
	return pruned, nil
}

func (t *tx) remove(now time.Time, a *aged) error {
	state := a.state
	if state == 0 {
		state = stateDelivered
		if a.failed {
			state = stateFailed
		}
	}
	if err := t.query(`SELECT backend, state FROM deliveries WHERE event = ?`, func(r row) bool {
		t.delta[total{r.text(0), r.int(1)}]--
		return true
	}, a.seq); err != nil {
		return err
	}
	if _, err := t.exec(`INSERT OR REPLACE INTO seen (source, id, state, received, answered, pruned)
		SELECT source, id, ?, received, answered, ? FROM events WHERE seq = ? AND dedupe_key IS NOT NULL`, state, millis(now), a.seq); err != nil {
		return err
	}
	for _, q := range []string{
		`DELETE FROM attempts WHERE event = ?`, `DELETE FROM deliveries WHERE event = ?`, `DELETE FROM bodies WHERE event = ?`,
		`DELETE FROM events WHERE seq = ?`,
	} {
		if _, err := t.exec(q, a.seq); err != nil {
			return err
		}
	}
	return nil
}

// forgetSeen walks the ids of pruned events once a day and deletes those that are old.
func (p *pruner) forgetSeen(ctx context.Context, now time.Time, n int) error {
	if p.seen == (proxy.Key{}) && !over(now, p.seenLap, 24*time.Hour) {
		return nil
	}
	if p.seen == (proxy.Key{}) {
		p.seenLap = now
	}
	var old []proxy.Key
	var at proxy.Key
	looked := 0
	cutoff := millis(now.Add(-keepSeen))
	err := p.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return each(ctx, c, func(r row) error {
			looked++
			at = proxy.Key{Source: r.text(0), ID: r.text(1)}
			if r.int(2) <= cutoff {
				old = append(old, at)
			}
			return nil
		}, `SELECT source, id, pruned FROM seen WHERE (source, id) > (?, ?) ORDER BY source, id LIMIT ?`, p.seen.Source, p.seen.ID, n)
	})
	if err == nil && len(old) > 0 {
		err = p.queue.do(ctx, &op{size: int64(len(old)) * 128, run: func(t *tx) error {
			for _, k := range old {
				if _, err := t.exec(`DELETE FROM seen WHERE source = ? AND id = ?`, k.Source, k.ID); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	if err != nil {
		return err
	}
	if p.seen = at; looked < n {
		p.seen = proxy.Key{}
	}
	return nil
}
