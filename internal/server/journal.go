package server

import (
	"context"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/sqlite"
)

func (s *server) open(ctx context.Context) (journal.Store, error) {
	return sqlite.Open(ctx, s.boot.Journal.Path, sqlite.Options{
		Log: s.Log, Reserve: s.boot.JournalLimits.Reserve, OnCommit: s.metrics.committed, LongestWait: s.longestWait,
	})
}

// longestWait is the longest retry.max of all backends, the default one included: a backend may have left routes.yaml.
func (s *server) longestWait() time.Duration {
	longest := time.Hour
	for _, b := range s.file.Load().Proxy.Backends {
		longest = max(longest, b.Retry.Max)
	}
	return longest
}

// prune removes what retention no longer keeps, until ctx ends.
func (s *server) prune(ctx context.Context) error {
	journal.KeepPruned(ctx, s.journal, func() journal.Retention { return journal.Retention(s.file.Load().Retention) }, s.Log)
	return nil
}
