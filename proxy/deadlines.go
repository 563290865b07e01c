package proxy

import (
	"context"
	"sync"
	"time"
)

// deadlines hands out contexts that end at a time, or a little later. All who need one within the same few milliseconds
// share it: a context and a timer for each event and each attempt would cost more than verifying the event, and nearly all
// of them are never needed.
type deadlines struct {
	parent context.Context
	cause  error     // of those that reached their time
	base   time.Time // what slots are counted from; its monotonic reading makes them safe from a clock that is set

	mu sync.Mutex
	m  map[int64]context.Context // by slot
}

const deadlineStep = 10 * time.Millisecond

func newDeadlines(parent context.Context, cause error) *deadlines {
	return &deadlines{parent: parent, cause: cause, base: time.Now(), m: map[int64]context.Context{}}
}

// at returns a context that ends at t, at most deadlineStep later, or with its parent. One that reached its time has the cause.
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
