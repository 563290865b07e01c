package journal

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// pruned is a journal with steps of old events left, as Prune sees it.
type pruned struct {
	steps []int
	keep  Retention // of the last call
	err   error
	at    []time.Duration // of each call, since the start
	start time.Time
}

func (p *pruned) Prune(_ context.Context, now time.Time, keep Retention, n int) (int, error) {
	p.at = append(p.at, now.Sub(p.start))
	p.keep = keep
	if len(p.steps) == 0 {
		return 0, p.err
	}
	step := min(n, p.steps[0])
	p.steps = p.steps[1:]
	return step, p.err
}

func TestPruneGoesInSmallSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pruned{start: time.Now(), steps: []int{pruneStep, pruneStep, 3}}
		runPrune(t, p, 3*time.Minute)
		want := []time.Duration{
			pruneEvery, pruneEvery + prunePause, pruneEvery + 2*prunePause, pruneEvery + 3*prunePause, // until nothing is left
			2*pruneEvery + 3*prunePause,
		}
		if !slices.Equal(p.at, want) {
			t.Errorf("got steps at %v, want %v", p.at, want)
		}
	})
}

func TestPruneDoesNotHurryOnAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pruned{start: time.Now(), steps: []int{pruneStep, pruneStep, pruneStep}, err: errors.New("disk full")}
		runPrune(t, p, 150*time.Second)
		if want := []time.Duration{pruneEvery, 2 * pruneEvery}; !slices.Equal(p.at, want) {
			t.Errorf("got steps at %v, want %v", p.at, want)
		}
	})
}

func runPrune(t *testing.T, p *pruned, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	calls := time.Duration(0)
	KeepPruned(ctx, p, func() Retention { calls++; return Retention{Failed: calls} }, zap.NewNop())
	if p.keep.Failed != calls {
		t.Errorf("the last step kept %v: not what it was told then", p.keep)
	}
}
