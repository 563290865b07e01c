package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	lib "modernc.org/sqlite/lib"
)

// The write-ahead log. A second connection copies it into the file beside the writer, whose commits then never wait
// for that; when it is nearly done, the writer copies the rest and starts the log from its beginning, so that the log
// stays small and is not always growing, which makes each fsync dearer. The rarer a copy, the more of what it finds was
// written several times and is copied once, the last pages of each table and index above all; but the longer it takes, and
// the longer wait those who come meanwhile: at twice these sizes the slowest of a thousand answers took half as long again.
const (
	walCopy     = 4 << 20   // copy after about this much was written
	walRestart  = 8 << 20   // start again from the beginning above this
	walRest     = 2 << 20   // but only when no more than this is left to copy
	walTruncate = 256 << 20 // empty the log above this, whoever reads

	readGrace = time.Second // within which readers have to leave then
)

type walState struct {
	limit   int64                  // walTruncate
	written atomic.Int64           // bytes since the last copy, about
	mode    atomic.Pointer[string] // what the writer is to do after its batch: RESTART or TRUNCATE
	met     atomic.Pointer[error]  // what it met when it did that last
	poke    chan struct{}
}

// errReaders means that those who read the file keep the log from being copied as a whole, or emptied.
var errReaders = errors.New("the file is being read")

// wrote counts what a batch wrote, and asks for a copy when that is due. Until that is done, which takes a while on a slow
// disk, the log must not eat up the room that it needs.
func (d *DB) wrote(ops []*op) {
	w, n := &d.wal, int64(0)
	for _, o := range ops {
		if !o.reads {
			n += o.size + pageSize/8 // its share of pages that are not full
		}
	}
	if w.written.Add(n) > walCopy {
		if d.space.reserve > 0 && d.space.tight(0) {
			d.space.set(true, 0)
		}
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

// copyLog copies what was written since it did so last, and has the log started again, or emptied, when that is due.
func (d *DB) copyLog(ctx context.Context) {
	if d.wal.written.Swap(0) == 0 {
		return
	}
	log, left, err := d.copySome(ctx)
	if err != nil {
		return
	}
	if size := d.logSize(); size > d.wal.limit || d.space.tight(size) {
		if err := d.emptyLog(ctx); err != nil {
			d.log.Warn("the write-ahead log cannot be emptied yet", zap.Int64("bytes", d.logSize()), zap.Error(err))
		}
	} else if log > walRestart && left < walRest {
		mode := "RESTART"
		d.wal.mode.Store(&mode)
	}
}

// copySome copies what it can without holding up anybody. It returns the length of the log, and what is left to copy.
func (d *DB) copySome(ctx context.Context) (log, left int64, err error) {
	err = d.file.use(ctx, func(context.Context) (err error) {
		var copied int64
		_, log, copied, err = checkpoint(context.WithoutCancel(ctx), d.file.checkpoints.Load(), "PASSIVE")
		left = log - copied
		return err
	})
	if code(err) == lib.SQLITE_FULL {
		d.space.exhausted()
	} else if broken(err) {
		d.report(fmt.Errorf("checkpoint: %w", err))
	}
	return log, left, err
}

// report tells the writer that the file cannot be trusted.
func (d *DB) report(err error) {
	select {
	case d.hurt <- err:
	default:
	}
}

// logSize is what the log takes of the disk.
func (d *DB) logSize() int64 {
	s, err := os.Stat(d.path + "-wal")
	if err != nil {
		return 0
	}
	return s.Size()
}

// emptyLog copies the whole log and gives what it takes back to the disk. Readers that overlap would never let it: they
// step aside. A copy that is being made goes on while the disk has room for the log.
func (d *DB) emptyLog(ctx context.Context) error {
	_, left, err := d.copySome(ctx)
	if d.copying.Load() > 0 && !d.space.tight(d.logSize()) {
		return cmp.Or(err, errReaders)
	}
	if err == nil && left > walRest { // somebody has read since before that was written
		d.file.gap(readGrace, func() {})
		_, _, err = d.copySome(ctx)
	}
	if err == nil {
		err = d.truncateLog(ctx)
	}
	if errors.Is(err, errReaders) {
		d.file.gap(readGrace, func() { err = d.truncateLog(ctx) })
	}
	return err
}

// truncateLog has the writer copy the rest and empty the log, and returns what it met.
func (d *DB) truncateLog(ctx context.Context) error {
	none := errors.New("it was not done")
	d.wal.met.Store(&none)
	d.wal.cut()
	for range 2 { // the log is cut after the first batch, before the second
		if err := d.barrier(ctx); err != nil {
			return err
		}
	}
	return *d.wal.met.Load()
}

// reset is the writer's part: it empties the log, or starts it again, when it was asked to. Its error means that the file
// cannot be trusted.
func (d *DB) reset(c *conn) error {
	mode := d.wal.mode.Swap(nil)
	if mode == nil {
		return nil
	}
	err := resetLog(c, *mode)
	if code(err) == lib.SQLITE_FULL && d.space.exhausted() {
		err = resetLog(c, *mode) // with the room of the ballast
	}
	d.wal.met.Store(&err)
	if broken(err) {
		return err
	}
	return nil
}

// resetLog does not wait for readers: while they are in the way it returns errReaders.
func resetLog(c *conn, mode string) (err error) {
	if _, err := c.exec("PRAGMA busy_timeout = 0"); err != nil {
		return err
	}
	defer func() {
		if _, restore := c.exec("PRAGMA busy_timeout = 5000"); restore != nil {
			err = restore
		}
	}()
	busy, err := c.number("PRAGMA wal_checkpoint(" + mode + ")")
	if err == nil && busy != 0 {
		err = errReaders
	}
	if err != nil {
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
		if err := d.origin.lookAgain(); err != nil {
			d.report(err)
		}
		d.copyLog(ctx)
	}
}
