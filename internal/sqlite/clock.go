package sqlite

import (
	"context"
	"time"

	"go.uber.org/zap"
)

const (
	recallStep   = 256         // deliveries of one operation
	recallMargin = time.Minute // by which a clock may be slewed: see clock.setBack
)

// clock notices when the machine's clock is set back.
type clock struct{ last time.Time }

// setBack reports whether now is well before what it was told last, or the first that it is told.
func (c *clock) setBack(now time.Time) bool {
	return c.last.IsZero() || now.Round(0).Before(c.last.Add(-time.Minute))
}

// recall makes due now what waits for longer than any delivery is made to wait: only a clock that was ahead can have set
// that. It costs one look at the end of each backend's index where there is no such delivery.
func (d *DB) recall(ctx context.Context, now time.Time) error {
	for all, n := 0, recallStep; n > 0; all += n {
		err := d.do(ctx, &op{size: recallStep * 512, run: func(t *tx) (err error) { n, err = t.recall(now); return err }})
		if err != nil {
			return err
		}
		if n == 0 && all > 0 {
			d.log.Warn("deliveries stored while the clock was ahead are due now", zap.Int("deliveries", all))
		}
	}
	return nil
}

// recall does some, and returns how many; with 0 there are no more.
func (t *tx) recall(now time.Time) (n int, err error) {
	latest := millis(now.Add(t.db.opts.LongestWait() + recallMargin))
	var backends []string
	if err := t.query(`SELECT backend FROM totals WHERE state = 1 AND count > 0`, func(r row) bool {
		backends = append(backends, r.text(0))
		return true
	}); err != nil {
		return 0, err
	}
	for _, b := range backends {
		var seqs []int64
		if err := t.query(`SELECT event FROM deliveries INDEXED BY deliveries_due WHERE backend = ? AND state = 1 AND due > ?
			ORDER BY due DESC, event DESC LIMIT ?`, func(r row) bool { seqs = append(seqs, r.int(0)); return true },
			b, latest, int64(recallStep-n)); err != nil {
			return 0, err
		}
		for _, seq := range seqs {
			was, _, err := t.delivery(seq, b)
			if err != nil {
				return 0, err
			}
			d := was
			d.Due = now
			if err := t.change(seq, was, d, true); err != nil {
				return 0, err
			}
		}
		n += len(seqs)
	}
	return n, nil
}
