package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// file is the database file as others than the writer use it, from letIn to letOut. While it is opened anew nobody may: a
// reader would keep the log from being copied as a whole, and syncFiles, as it closes its descriptor, would drop the
// locks of every connection that is open.
type file struct {
	closed func() error // why nobody is let in

	mu      sync.Mutex
	isOpen  bool
	gate    chan struct{}                     // closed when the gap is over that new ones wait for; nil: there is none
	cancels map[*context.CancelCauseFunc]bool // of those who are in
	users   sync.WaitGroup
	gaps    sync.Mutex // one at a time

	// Connections; nil while nobody is let in. Find has its own: its callers have Stripe waiting.
	readers, finders, checkpoints, copies atomic.Pointer[sql.DB]
}

func (f *file) letIn(ctx context.Context, path string) error {
	for at, n := range f.pools() {
		p, err := open(path, n, at == &f.readers || at == &f.finders)
		if err != nil {
			return err
		}
		at.Store(p)
		if err := connectAll(ctx, p, n); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isOpen, f.cancels = true, map[*context.CancelCauseFunc]bool{}
	return nil
}

// pools are the connections, and how many there are of each kind.
func (f *file) pools() map[*atomic.Pointer[sql.DB]]int {
	return map[*atomic.Pointer[sql.DB]]int{&f.readers: 4, &f.finders: 2, &f.checkpoints: 1, &f.copies: 1}
}

// connectAll makes all n connections of a pool now: later there may be another file of that name.
func connectAll(ctx context.Context, p *sql.DB, n int) error {
	for range n {
		c, err := p.Conn(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
	}
	return nil
}

// letOut cancels what is under way, waits for it, and closes the connections.
func (f *file) letOut() {
	f.mu.Lock()
	f.isOpen = false
	f.mu.Unlock()
	f.cancel(f.closed())
	f.users.Wait()
	for at := range f.pools() {
		if p := at.Swap(nil); p != nil {
			_ = p.Close()
		}
	}
}

// cancel tells those who are in to leave soon.
func (f *file) cancel(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for cancel := range f.cancels {
		(*cancel)(cause)
	}
}

// errAside tells one who has read for long that the log had to be emptied. It can read again: see again.
var errAside = errors.New("interrupted, as the journal's write-ahead log had to be emptied: try again")

// again reads once more what had to step aside.
func again(ctx context.Context, read func() error) error {
	for {
		if err := read(); !errors.Is(err, errAside) || ctx.Err() != nil {
			return err
		}
	}
}

// gap runs do while nobody is in. Those who are in have grace to leave, then they are cancelled; those who come wait.
func (f *file) gap(grace time.Duration, do func()) {
	f.gaps.Lock()
	defer f.gaps.Unlock()
	gate := make(chan struct{})
	f.mu.Lock()
	f.gate = gate
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.gate = nil
		f.mu.Unlock()
		close(gate)
	}()
	late := time.AfterFunc(grace, func() { f.cancel(errAside) })
	f.users.Wait()
	late.Stop()
	do()
}

// enter lets one in, whom cancel tells to leave soon.
func (f *file) enter(ctx context.Context, cancel context.CancelCauseFunc) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for gate := f.gate; gate != nil; gate = f.gate {
		f.mu.Unlock()
		select {
		case <-gate:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
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
	leave, err := f.enter(ctx, cancel)
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
	leave, err := f.enter(ctx, func(error) {})
	if err != nil {
		return nil, nil, err
	}
	if c, err = f.finders.Load().Conn(ctx); err != nil {
		leave()
		return nil, nil, err
	}
	return c, func() { _ = c.Close(); leave() }, nil
}
