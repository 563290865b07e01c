package quarantine

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	lookEvery  = 10 * time.Minute
	retryAfter = time.Minute
	dropStep   = 100 // requests at once: live events wait for it
)

// Run rechecks what is kept at the start and when a secret changed, and drops what is too old, until ctx ends.
func (q *Quarantine) Run(ctx context.Context) error {
	q.poke() // secrets may have changed while nothing ran
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.recheck:
			if _, err := q.Recheck(ctx); err != nil && ctx.Err() == nil {
				q.Log.Error("quarantine: not everything that verifies was released, trying again", zap.Error(err))
				again = time.After(retryAfter)
			}
		case <-again:
			q.poke()
		case <-look.C:
		}
		if err := q.expire(ctx, time.Now()); err != nil && ctx.Err() == nil {
			q.Log.Error("quarantine: old requests were not dropped", zap.Error(err))
		}
	}
}

// expire drops what is too old.
func (q *Quarantine) expire(ctx context.Context, now time.Time) error {
	maxAge := q.config.Load().MaxAge
	items, err := q.count(ctx)
	oldest := q.Stats().Oldest
	if err != nil || items == 0 || now.Sub(oldest) < maxAge {
		return err
	}
	var old []int64
	for r, err := range q.all(ctx, 0) {
		if err != nil {
			return err
		}
		if now.Sub(r.Received) >= maxAge {
			old = append(old, r.ID)
		}
	}
	q.Log.Error("quarantine: dropping requests that are older than quarantine.max_age", zap.Int("items", len(old)),
		zap.Time("oldest", oldest))
	for step := range slices.Chunk(old, dropStep) {
		if _, err := q.Drop(ctx, step...); err != nil {
			return err
		}
	}
	return nil
}
