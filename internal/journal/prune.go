package journal

import (
	"context"
	"time"

	"go.uber.org/zap"
)

const (
	pruneEvery = time.Minute
	pruneStep  = 500                    // events a step: a few milliseconds of the journal's time
	prunePause = 100 * time.Millisecond // between steps, so that live events come first
)

// KeepPruned removes what retention no longer keeps, in small steps, until ctx ends. It asks for the retention before each
// step, as it may change.
func KeepPruned(ctx context.Context, p Pruner, keep func() Retention, log *zap.Logger) {
	for wait := pruneEvery; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		n, err := p.Prune(ctx, time.Now(), keep(), pruneStep)
		if err != nil && ctx.Err() == nil {
			log.Warn("old events were not removed", zap.Error(err))
		}
		wait = pruneEvery
		if n > 0 && err == nil {
			wait = prunePause
		}
	}
}
