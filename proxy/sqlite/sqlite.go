// Package sqlite is a durable journal in one file, for programs that embed the gateway.
package sqlite

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/sqlite"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// DB is an open journal. Events leave it a while after they ended: Delivered ones after 7 days, Failed ones after 90,
// ignored ones after one, and those that no route wanted after 30.
type DB struct {
	proxy.Journal // to be put into proxy.Config

	close func() error
}

// Open opens the journal at path, and makes it where there is none. One process at a time can have it open; Open waits
// up to 30 seconds for another one to end, or until ctx does.
func Open(ctx context.Context, path string) (*DB, error) {
	db, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var pruning sync.WaitGroup
	pruning.Go(func() {
		journal.KeepPruned(run, db, func() journal.Retention { return journal.DefaultRetention }, zap.NewNop()) // what fails is tried again
	})
	return &DB{Journal: db, close: func() error { cancel(); pruning.Wait(); return db.Close() }}, nil
}

// Close writes what is not written yet and gives the file free.
func (d *DB) Close() error { return d.close() }
