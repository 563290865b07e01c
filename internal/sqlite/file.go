package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
)

// file is the database file as others than the writer use it, from letIn to letOut. While it is opened anew nobody may: a
// reader would keep the log from being copied as a whole, and syncFiles, as it closes its descriptor, would drop the
// locks of every connection that is open.
type file struct {
	closed func() error // why nobody is let in

	mu      sync.Mutex
	isOpen  bool
	cancels map[*context.CancelFunc]bool // of those who are in
	users   sync.WaitGroup

	// Connections; nil while nobody is let in. Find has its own: its callers have Stripe waiting.
	readers, finders, checkpoints atomic.Pointer[sql.DB]
}

func (f *file) letIn(path string) error {
	for at, n := range f.pools() {
		p, err := open(path, n, at != &f.checkpoints)
		if err != nil {
			return err
		}
		at.Store(p)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isOpen, f.cancels = true, map[*context.CancelFunc]bool{}
	return nil
}

// pools are the connections, and how many there are of each kind.
func (f *file) pools() map[*atomic.Pointer[sql.DB]]int {
	return map[*atomic.Pointer[sql.DB]]int{&f.readers: 4, &f.finders: 2, &f.checkpoints: 1}
}

// letOut cancels what is under way, waits for it, and closes the connections.
func (f *file) letOut() {
	f.mu.Lock()
	f.isOpen = false
	for cancel := range f.cancels {
		(*cancel)()
	}
	f.mu.Unlock()
	f.users.Wait()
	for at := range f.pools() {
		if p := at.Swap(nil); p != nil {
			_ = p.Close()
		}
	}
}

// enter lets one in, whom cancel tells to leave soon.
func (f *file) enter(cancel context.CancelFunc) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isOpen {
		return nil, f.closed()
	}
	f.cancels[&cancel] = true
	f.users.Add(1)
	return func() {
		f.mu.Lock()
		delete(f.cancels, &cancel)
		f.mu.Unlock()
		f.users.Done()
	}, nil
}

// use runs do, which may use the file while its context lasts, and must have closed what it opened when it returns.
func (f *file) use(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	leave, err := f.enter(func() { cancel(f.closed()) })
	if err != nil {
		return err
	}
	defer leave()
	if err = do(ctx); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// read runs do on a connection for reading, in one snapshot. do gets a context that also ends when the file has to be let
// go.
func (f *file) read(ctx context.Context, do func(ctx context.Context, c *sql.Conn) error) error {
	return f.use(ctx, func(ctx context.Context) (err error) {
		c, err := f.readers.Load().Conn(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.ExecContext(ctx, "BEGIN"); err != nil {
			return err
		}
		defer func() {
			_, end := c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
			err = errors.Join(err, end)
		}()
		return do(ctx, c)
	})
}

// finder is a connection for Find. Its use is short, so it is not cancelled.
func (f *file) finder(ctx context.Context) (c *sql.Conn, done func(), err error) {
	leave, err := f.enter(func() {})
	if err != nil {
		return nil, nil, err
	}
	if c, err = f.finders.Load().Conn(ctx); err != nil {
		leave()
		return nil, nil, err
	}
	return c, func() { _ = c.Close(); leave() }, nil
}
