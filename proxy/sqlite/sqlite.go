// Package sqlite is a durable journal in one file, for programs that embed the gateway.
package sqlite

import (
	"context"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/sqlite"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// DB is an open journal. It is a proxy.Journal. Events leave it a while after they ended: Delivered ones after 7 days,
// Failed ones after 90, ignored ones after one, and those that no route wanted after 30.
type DB struct {
	db   *sqlite.DB
	stop context.CancelFunc
	done chan struct{}
}

var _ proxy.Journal = (*DB)(nil)

// Open opens the journal at path, and makes it where there is none. One process at a time can have it open; Open waits
// up to 30 seconds for another one to end, or until ctx does.
func Open(ctx context.Context, path string) (*DB, error) {
	db, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	d := &DB{db: db, stop: stop, done: make(chan struct{})}
	go d.prune(run)
	return d, nil
}

// prune deletes what is old, a little every few seconds, until ctx ends.
func (d *DB) prune(ctx context.Context) {
	defer close(d.done)
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for n := 1; n > 0 && ctx.Err() == nil; {
				n, _ = d.db.Prune(ctx, now, journal.DefaultRetention, 256) // what fails now is tried again
			}
		}
	}
}

// Close writes what is not written yet and gives the file free.
func (d *DB) Close() error {
	d.stop()
	<-d.done
	return d.db.Close()
}

// Find implements proxy.Journal.
func (d *DB) Find(ctx context.Context, k proxy.Key) (proxy.Known, error) { return d.db.Find(ctx, k) }

// Append implements proxy.Journal.
func (d *DB) Append(ctx context.Context, e proxy.Entry) (int64, error) {
	return d.db.Append(ctx, e)
}

// Record implements proxy.Journal.
func (d *DB) Record(e proxy.Entry) error { return d.db.Record(e) }

// Lease implements proxy.Journal.
func (d *DB) Lease(ctx context.Context, r proxy.LeaseRequest) ([]proxy.Leased, time.Time, error) {
	return d.db.Lease(ctx, r)
}

// Settle implements proxy.Journal.
func (d *DB) Settle(ctx context.Context, s ...proxy.Settlement) error {
	return d.db.Settle(ctx, s...)
}

// Resend implements proxy.Journal.
func (d *DB) Resend(ctx context.Context, now time.Time, seq int64, backends []string) ([]proxy.Resent, error) {
	return d.db.Resend(ctx, now, seq, backends)
}
