package proxy

import (
	"context"
	"sync"
	"time"
)

// deadlines hands out contexts that end at a time, or a little later. All who need one within the same few milliseconds
// share it: a context and a timer for each event and each attempt would cost more than verifying the event, and hardly any
// of them ever reaches its time. For the same reason nothing ends them early, when their user is done.
type deadlines struct {
	parent context.Context
	cause  error     // of those that reached their time
	base   time.Time // slots are counted from it; its monotonic reading keeps them right when the clock is set

	mu sync.Mutex
	m  map[int64]context.Context // by slot
}

const deadlineStep = 10 * time.Millisecond

func newDeadlines(parent context.Context, cause error) *deadlines {
	return &deadlines{parent: parent, cause: cause, base: time.Now(), m: map[int64]context.Context{}}
}

// at returns a context that ends at t or less than deadlineStep later, or with its parent. Ended by time, it has the cause.
func (d *deadlines) at(t time.Time) context.Context {
	slot := int64((t.Sub(d.base) + deadlineStep - 1) / deadlineStep)
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx := d.m[slot]; ctx != nil {
		return ctx
	}
	ctx, cancel := context.WithDeadlineCause(d.parent, d.base.Add(time.Duration(slot)*deadlineStep), d.cause)
	d.m[slot] = ctx
	context.AfterFunc(ctx, func() {
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.m, slot)
	})
	return ctx
}
