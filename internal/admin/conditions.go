package admin

import (
	"context"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
)

// ConditionList is the answer to a question for what wants a person.
type ConditionList struct {
	Conditions []conditions.Condition `json:"conditions" nullable:"false" doc:"Worst first; texts say times in UTC"`
}

type conditionsOutput struct{ Body ConditionList }

func (a *api) listConditions(ctx context.Context, _ *struct{}) (*conditionsOutput, error) {
	s, _ := a.snapshot(ctx)
	return &conditionsOutput{ConditionList{append([]conditions.Condition{}, conditions.Of(s)...)}}, nil
}

// Conditions returns what wants a person now, worst first.
func (s *Server) Conditions(ctx context.Context) []conditions.Condition {
	now, _ := s.core.snapshot(ctx)
	return conditions.Of(now)
}

// snapshot is how everything stands now. Where the journal does not answer, that is a part of it, and the error says that
// its figures are missing.
func (c *core) snapshot(ctx context.Context) (s conditions.Snapshot, err error) {
	s = conditions.Snapshot{Now: time.Now(), Outage: c.Journal.Ready(ctx), Sources: c.Sources()}
	if s.Backends, s.Unreadable, err = c.backends(ctx); err != nil {
		s.Unread, err = true, c.fail("count deliveries", err)
	}
	if c.Quarantine != nil {
		q := c.Quarantine.Stats()
		s.Kept = conditions.Kept{Requests: q.Items, Oldest: q.Oldest, Expires: q.Expires, TurnedAway: q.TurnedAway}
	}
	loaded := c.Config()
	s.ReloadFailed, s.NeedsRestart = loaded.ErrorAt.Time, loaded.NeedsRestart
	s.Unrouted, s.UnroutedSince = c.Feed.unrouted(s.Now)
	return s, err
}

// backends returns how the backends do, by name, with those that only the journal still knows, and the number of events
// that nobody could read. Where the journal does not answer, it returns what the gateway knows, and the error.
func (c *core) backends(ctx context.Context) (list []conditions.Backend, unreadable int64, err error) {
	statuses := c.Gateway.Backends()
	totals, err := c.Journal.Totals(ctx)
	list, unreadable = conditions.Backends(statuses, totals)
	var paused map[string]string
	for i := range list {
		b := &list[i]
		if !b.Paused {
			continue
		}
		if paused == nil && err == nil {
			paused, err = c.Journal.Notes(ctx, PausedNote)
		}
		b.PausedSince, _ = time.Parse(time.RFC3339, paused[PausedNote+b.Name])
	}
	return list, unreadable, err
}
