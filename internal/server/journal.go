package server

import (
	"context"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/sqlite"
)

func (s *server) open(ctx context.Context) (journal.Store, error) {
	return sqlite.Open(ctx, s.boot.Journal.Path, sqlite.Options{
		Log: s.Log, Reserve: s.boot.JournalLimits.Reserve, OnCommit: s.metrics.committed,
	})
}

// prune removes what retention no longer keeps, until ctx ends.
func (s *server) prune(ctx context.Context) error {
	journal.KeepPruned(ctx, s.journal, func() journal.Retention { return journal.Retention(s.file.Load().Retention) }, s.Log)
	return nil
}
