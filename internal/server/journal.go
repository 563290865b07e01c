package server

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
	"github.com/breakwater-gateway/breakwater/internal/sqlite"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// journal is what the whole gateway asks of a database.
type journal interface {
	proxy.Journal
	admin.Journal
	quarantine.Store
	Ready(context.Context) error // nil, or a *sqlite.Outage
	HistoryDropped() int64       // entries of history that it took and could not write
	Prune(ctx context.Context, now time.Time, keep sqlite.Retention, n int) (int, error)
	Close() error
}

func (s *server) open(ctx context.Context) (journal, error) {
	return sqlite.Open(ctx, s.boot.Journal.Path, sqlite.Options{
		Log: s.Log, Reserve: s.boot.JournalLimits.Reserve, OnCommit: s.metrics.committed,
	})
}

const (
	pruneEvery = time.Minute
	pruneStep  = 500                    // events a step: a few milliseconds of the journal's time
	prunePause = 100 * time.Millisecond // between steps, so that live events come first
)

// prune removes what retention no longer keeps, in small steps, until ctx ends.
func (s *server) prune(ctx context.Context) error {
	for wait := pruneEvery; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		n, err := s.journal.Prune(ctx, time.Now(), sqlite.Retention(s.file.Load().Retention), pruneStep)
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("old events were not removed", zap.Error(err))
		}
		wait = pruneEvery
		if n > 0 && err == nil {
			wait = prunePause
		}
	}
}
