package server

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/sqlite"
)

func (s *server) open(ctx context.Context) (journal.Store, error) {
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
		n, err := s.journal.Prune(ctx, time.Now(), journal.Retention(s.file.Load().Retention), pruneStep)
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("old events were not removed", zap.Error(err))
		}
		wait = pruneEvery
		if n > 0 && err == nil {
			wait = prunePause
		}
	}
}
