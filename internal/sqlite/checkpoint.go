package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// The write-ahead log. A second connection copies it into the file beside the writer, whose commits then never wait
// for that; when it is nearly done, the writer copies the rest and starts the log from its beginning, so that the log
// stays small and is not always growing, which makes each fsync dearer. The rarer a copy, the more of what it finds was
// written several times and is copied once, the last pages of each table and index above all: at half these sizes an
// event needs about a tenth more CPU. At twice them it would need 7 % less, but a full disk more ballast.
const (
	walCopy     = 8 << 20   // copy after about this much was written
	walRestart  = 16 << 20  // start again from the beginning above this
	walRest     = 2 << 20   // but only when no more than this is left to copy
	walTruncate = 256 << 20 // cut the log above this, whatever is left
)

type walState struct {
	written atomic.Int64           // bytes since the last copy, about
	mode    atomic.Pointer[string] // what the writer is to do after its batch: RESTART or TRUNCATE
	poke    chan struct{}
}

// wrote counts what a batch wrote, and asks for a copy when that is due.
func (w *walState) wrote(ops []*op) {
	n := int64(0)
	for _, o := range ops {
		if !o.reads {
			n += o.size + pageSize/8 // its share of pages that are not full
		}
	}
	if w.written.Add(n) > walCopy {
		select {
		case w.poke <- struct{}{}:
		default:
		}
	}
}

// cut asks the writer to empty the log after its batch.
func (w *walState) cut() {
	mode := "TRUNCATE"
	w.mode.Store(&mode)
}

// truncate copies the whole log into the file, syncs it, and empties the log.
func truncate(ctx context.Context, c *sql.Conn) error {
	busy, _, _, err := checkpoint(ctx, c, "TRUNCATE")
	if err == nil && busy != 0 {
		err = errors.New("another program has the file open")
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func checkpoint(ctx context.Context, q querier, mode string) (busy, log, copied int64, err error) {
	err = q.QueryRowContext(ctx, "PRAGMA wal_checkpoint("+mode+")").Scan(&busy, &log, &copied)
	return busy, log * pageSize, copied * pageSize, err
}

// copyLog copies what it can without holding up anybody.
func (d *DB) copyLog() {
	if d.wal.written.Swap(0) == 0 {
		return
	}
	var log, copied int64
	err := d.file.use(context.Background(), func(ctx context.Context) (err error) {
		_, log, copied, err = checkpoint(ctx, d.file.checkpoints.Load(), "PASSIVE")
		return err
	})
	if err != nil {
		if broken(err) {
			select {
			case d.hurt <- fmt.Errorf("checkpoint: %w", err):
			default:
			}
		}
		return
	}
	mode := ""
	if s, err := os.Stat(d.path + "-wal"); err == nil && s.Size() > walTruncate {
		mode = "TRUNCATE"
	} else if log > walRestart && log-copied < walRest {
		mode = "RESTART"
	}
	if mode != "" {
		d.wal.mode.Store(&mode)
	}
}

// reset is the writer's part: it empties the log, or starts it again, when copyLog asked for that. When a reader is in
// the way it is left for the next time.
func (d *DB) reset(c *conn) error {
	mode := d.wal.mode.Swap(nil)
	if mode == nil {
		return nil
	}
	if _, err := c.exec("PRAGMA busy_timeout = 0"); err != nil {
		return err
	}
	err := c.query("PRAGMA wal_checkpoint("+*mode+")", func(row) bool { return false })
	if _, restore := c.exec("PRAGMA busy_timeout = 5000"); restore != nil {
		return restore
	}
	if broken(err) {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// housekeep does what is due now and then until the journal is closed.
func (d *DB) housekeep() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.done.Go(func() { <-d.stop; cancel() })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var c clock
	for {
		if now := time.Now(); !c.setBack(now) || d.recall(ctx, now) == nil { // what fails is done again a second later
			c.last = now.Round(0)
		}
		if !d.ids.loaded.Load() || d.ids.crowded() {
			_ = d.file.use(ctx, func(ctx context.Context) error {
				return d.ids.load(ctx, d.file.readers.Load(), d.barrier) // when this fails every lookup asks the file, until it is done again
			})
		}
		d.checkSpace(ctx)
		select {
		case <-d.stop:
			return
		case <-d.wal.poke:
		case <-tick.C:
		}
		d.copyLog()
	}
}
