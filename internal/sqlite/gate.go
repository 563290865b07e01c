package sqlite

import (
	"context"
	"database/sql"
	"sync"
)

// gate are the uses of the file by others than the writer, from one connect to the next disconnect. While the file is
// opened anew there must be none: a reader would keep the log from being copied as a whole, and syncFiles, as it closes
// its descriptor, would drop the locks of every connection that is open.
type gate struct {
	mu   sync.Mutex
	open bool
	ends map[*context.CancelFunc]bool
	all  sync.WaitGroup
}

func (v *gate) begin() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open, v.ends = true, map[*context.CancelFunc]bool{}
}

// end cancels what is under way, waits for it, and lets nobody in until begin.
func (v *gate) end() {
	v.mu.Lock()
	v.open = false
	for cancel := range v.ends {
		(*cancel)()
	}
	v.mu.Unlock()
	v.all.Wait()
}

// enter lets one in, whom cancel tells to leave soon. It returns false when the file is not open.
func (v *gate) enter(cancel context.CancelFunc) (leave func(), ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.open {
		return nil, false
	}
	v.ends[&cancel] = true
	v.all.Add(1)
	return func() {
		v.mu.Lock()
		delete(v.ends, &cancel)
		v.mu.Unlock()
		v.all.Done()
	}, true
}

// use runs f, which may use the file while its context lasts, and must have closed what it opened when it returns.
func (d *DB) use(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	leave, ok := d.gate.enter(func() { cancel(d.unavailable()) })
	if !ok {
		return d.unavailable()
	}
	defer leave()
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// unavailable is why the file is not open.
func (d *DB) unavailable() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down != nil {
		return d.down
	}
	return errClosed
}

// finder is a connection for Find, whose callers have Stripe waiting. They share none with lists.
func (d *DB) finder(ctx context.Context) (c *sql.Conn, done func(), err error) {
	leave, ok := d.gate.enter(func() {})
	if !ok {
		return nil, nil, d.unavailable()
	}
	if c, err = d.finders.Load().Conn(ctx); err != nil {
		leave()
		return nil, nil, err
	}
	return c, func() { _ = c.Close(); leave() }, nil
}
