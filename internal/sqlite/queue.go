package sqlite

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/breakwater-gateway/breakwater/internal/journal"
)

// A batch takes at most this much, which bounds how long the last of those who wait for it has to.
const (
	batchOps   = 256
	batchBytes = 16 << 20
)

// op is something for the writer to do, and its answer.
type op struct {
	put   *entry // to be put, or nil
	seq   int64  // the number of its event
	run   func(t *tx) error
	reads bool   // it writes nothing
	full  bool   // on a full disk it is refused, not run again
	size  int64  // about what it writes
	lost  func() // run when it was done but nobody waits any more; may be nil

	err   error
	done  chan error
	state atomic.Int32
}

const (
	opWaiting = iota
	opAnswered
	opGone
)

// queue is what waits for the writer.
type queue struct {
	mu     sync.Mutex
	ops    []*op
	closed bool
	down   *journal.Outage
	wake   chan struct{} // the writer
}

// unavailable is why nothing can be read or written now, or nil.
func (q *queue) unavailable() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refuses()
}

func (q *queue) refuses() error {
	switch {
	case q.closed:
		return errClosed
	case q.down != nil:
		return q.down
	}
	return nil
}

// do has the writer run o in its next batch, and waits for the commit.
func (q *queue) do(ctx context.Context, o *op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.done = make(chan error, 1)
	if err := q.enqueue(o); err != nil {
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		if o.state.CompareAndSwap(opWaiting, opGone) {
			q.forget(o)
			return context.Cause(ctx)
		}
		return <-o.done
	}
}

// forget takes an operation that nobody waits for out of the queue, which would grow while the disk hangs.
func (q *queue) forget(o *op) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.ops, o); i >= 0 {
		q.ops = slices.Delete(q.ops, i, i+1)
	}
}

func (q *queue) enqueue(o *op) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.refuses()
	if err == nil {
		q.ops = append(q.ops, o)
		q.poke()
	}
	return err
}

// poke wakes the writer.
func (q *queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (o *op) answer() {
	if o.state.CompareAndSwap(opWaiting, opAnswered) {
		o.done <- o.err
	} else if o.lost != nil && o.state.Load() == opGone && o.err == nil {
		o.lost()
	}
}

// nextBatch removes from the queue what the next batch is made of.
func (q *queue) nextBatch() (ops []*op, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, int64(0)
	for n < len(q.ops) && n < batchOps && size < batchBytes {
		size += q.ops[n].size
		n++
	}
	ops = append(ops, q.ops[:n]...)
	clear(q.ops[:n])
	if q.ops = q.ops[n:]; len(q.ops) == 0 {
		q.ops = nil
	}
	return ops, q.closed
}

// barrier returns when everything that was enqueued before is committed.
func (q *queue) barrier(ctx context.Context) error {
	return q.do(ctx, &op{run: func(*tx) error { return nil }})
}
