package sqlite

import (
	"errors"
	"fmt"
	"slices"
	"time"

	lib "modernc.org/sqlite/lib"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// write commits batches until the journal is closed, which returns nil, or broken.
func (d *DB) write(c *conn) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case err := <-d.hurt:
			return err
		default:
		}
		ops, closed := d.nextBatch()
		past, waited := d.history.head(batchOps)
		pause := time.Until(d.historyAt)
		if len(past) < batchOps/2 && waited < historyDelay && !closed || pause > 0 {
			past = nil // nobody waits for it, and many entries together change the same pages
		}
		if len(ops)+len(past) > 0 {
			if err := d.batch(c, ops, past); err != nil {
				return err
			}
			if err := d.reset(c); err != nil {
				return err
			}
			continue
		}
		if closed {
			return nil
		}
		if waited > 0 {
			timer.Reset(max(historyDelay-waited, pause, time.Millisecond))
		}
		select {
		case <-d.wake:
		case <-timer.C:
		case err := <-d.hurt:
			return err
		}
	}
}

// batch commits ops and history together and answers those who wait. Its error means that the file cannot be trusted.
func (d *DB) batch(c *conn, ops []*op, past []*unwritten) error {
	start := time.Now()
	all := make([]*op, 0, len(ops)+len(past))
	for _, o := range ops {
		if o.state.Load() == opWaiting {
			all = append(all, o)
		}
	}
	waiting := len(all)
	for _, u := range past {
		all = append(all, &op{put: u.entry, size: u.size()})
	}
	if len(all) == 0 {
		return nil
	}
	t := &tx{conn: c, db: d, delta: map[total]int64{}}
	seq := d.seq
	if err := t.commit(all); err != nil {
		t.undoTo(0)
		d.seq = seq
		if _, rollback := c.exec("ROLLBACK"); rollback != nil && broken(rollback) {
			err = errors.Join(rollback, err) // the first one counts: see code
		}
		return d.failed(c, all[:waiting], len(past) > 0, err)
	}
	for _, f := range t.after {
		f()
	}
	d.wrote(all)
	d.history.written(all[waiting:], d.log)
	lost := d.origin.lookAgain()
	for _, o := range all {
		if o.put != nil {
			o.put.done()
		}
	}
	for _, o := range all[:waiting] {
		if lost != nil && !o.reads && o.err == nil {
			o.err = fmt.Errorf("journal unavailable: %w", lost)
		}
		o.answer()
	}
	if d.onCommit != nil {
		d.onCommit(time.Since(start), len(all))
	}
	return lost
}

// failed deals with a batch that was rolled back. Nobody is told of success; what may succeed by itself is run again:
// on a full disk what needs little room, otherwise the operations without the history that was committed with them.
func (d *DB) failed(c *conn, ops []*op, history bool, err error) error {
	told := fmt.Errorf("journal unavailable: %w", err)
	var again []*op
	if code(err) == lib.SQLITE_FULL && !broken(err) {
		d.space.exhausted()
		d.wal.cut()
		told = fmt.Errorf("%w: %w", proxy.ErrFull, err)
		for _, o := range ops {
			if !o.full {
				again = append(again, o)
			}
		}
	} else if !broken(err) && history {
		again = ops
	}
	if history {
		d.historyAt = time.Now().Add(time.Second)
	}
	if len(again) == len(ops) && !history {
		again = nil
	}
	for _, o := range ops {
		if !slices.Contains(again, o) {
			o.err = told
			o.answer()
		}
	}
	if broken(err) {
		return err
	}
	return d.batch(c, again, nil)
}

// commit runs all in one transaction. An operation that fails for a reason of its own has its error in err and
// leaves nothing behind.
func (t *tx) commit(all []*op) error {
	if reads(all) {
		for _, o := range all {
			if o.err = t.do(o); broken(o.err) {
				return o.err
			}
		}
		return nil
	}
	if _, err := t.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	clean, err := t.runAll(all)
	if err == nil && !clean {
		err = t.runEach(all)
	}
	if err == nil {
		err = t.flush()
	}
	if err != nil {
		return err
	}
	if ackEarly {
		for _, o := range all {
			if o.done != nil {
				o.answer()
			}
		}
		time.Sleep(ackEarlyDelay)
	}
	_, err = t.exec("COMMIT")
	return err
}

// do runs one operation. One that only reads, and fails, leaves no leases.
func (t *tx) do(o *op) error {
	n := len(t.undo)
	var err error
	if e := o.put; e != nil && e.isMark() && o.done == nil && t.rows != nil {
		t.marks = append(t.marks, mark{e.Event.Seq, millis(e.Answered)}) // nobody asks whether the event is there
	} else if e != nil {
		o.seq, err = t.put(e)
	} else {
		err = o.run(t)
	}
	if err != nil && o.reads {
		t.undoTo(n)
	}
	return err
}

func reads(all []*op) bool {
	for _, o := range all {
		if !o.reads {
			return false
		}
	}
	return true
}

// runAll runs all; clean is false when one of them may have left something behind. err ends the batch.
func (t *tx) runAll(all []*op) (clean bool, err error) {
	t.rows = &rows{}
	for _, o := range all {
		err := error(nil)
		if o.put == nil {
			err = t.flushRows()
		}
		if err == nil {
			o.err = t.do(o)
			err = o.err
		}
		if err == nil || code(err) == 0 {
			continue // our own errors come before anything is written
		}
		return false, fatal(err)
	}
	if err := t.flushRows(); err != nil {
		return false, fatal(err)
	}
	return true, nil
}

// fatal is err where it ends the batch, rather than one operation of it.
func fatal(err error) error {
	if broken(err) || code(err) == lib.SQLITE_FULL {
		return err
	}
	return nil
}

// runEach starts the transaction again, with a savepoint for each operation.
func (t *tx) runEach(all []*op) error {
	t.undoTo(0)
	t.after, t.rows, t.marks = nil, nil, nil
	clear(t.delta)
	if _, err := t.exec("ROLLBACK"); err != nil {
		return err
	}
	if _, err := t.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, o := range all {
		if err := t.runOne(o); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) runOne(o *op) error {
	if _, err := t.exec("SAVEPOINT one"); err != nil {
		return err
	}
	undo, after := len(t.undo), len(t.after)
	delta := make(map[total]int64, len(t.delta))
	for k, n := range t.delta {
		delta[k] = n
	}
	if o.err = t.do(o); o.err != nil && code(o.err) != 0 {
		if err := fatal(o.err); err != nil {
			return err
		}
		t.undoTo(undo)
		t.after, t.delta = t.after[:after], delta
		if _, err := t.exec("ROLLBACK TO one"); err != nil {
			return err
		}
	}
	_, err := t.exec("RELEASE one")
	return err
}
