package admin

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Backend is how a backend does at this moment.
type Backend struct {
	Name            string           `json:"name"`
	URL             string           `json:"url" doc:"Without user and query; empty for a backend that routes.yaml no longer has"`
	Configured      bool             `json:"configured" doc:"false: it left routes.yaml, and the journal still holds deliveries of it"`
	Breaker         string           `json:"breaker" enum:"closed,half-open,open," doc:"open: it failed too often in a row, events are stored at once"`
	Paused          bool             `json:"paused"`
	PausedAt        Time             `json:"paused_at"`
	InFlight        int              `json:"in_flight"`
	Slots           int              `json:"slots" doc:"Attempts allowed at once now: less than max_in_flight while it recovers"`
	MaxInFlight     int              `json:"max_in_flight"`
	Pending         int64            `json:"pending" doc:"Deliveries owed"`
	Delivered       int64            `json:"delivered" doc:"Deliveries in the journal"`
	Failed          int64            `json:"failed" doc:"Deliveries that were given up and can be resent"`
	OldestPendingAt Time             `json:"oldest_pending_at" doc:"When the oldest event that is owed was received"`
	LastSuccessAt   Time             `json:"last_success_at"`
	LastErrorAt     Time             `json:"last_error_at"`
	LastError       string           `json:"last_error"`
	LastStatus      int              `json:"last_status" doc:"Of the last attempt that failed"`
	LastOutcome     string           `json:"last_outcome" doc:"Of the last attempt that failed"`
	Hint            string           `json:"hint" doc:"What to do about last_error, while it stands"`
	Errors          int              `json:"errors" doc:"Failed attempts since the last success"`
	ErrorsSince     Time             `json:"errors_since" doc:"The first of them"`
	Statuses        map[string]int64 `json:"statuses" doc:"Attempts by HTTP status since the start; 0: no answer"`
	TimeoutMS       int64            `json:"timeout_ms"`
	Rate            float64          `json:"rate" doc:"Late deliveries a second, 0: no limit"`
	BreakerFailures int              `json:"breaker_failures"`
	BreakerOpenMS   int64            `json:"breaker_open_ms"`
	GiveUpAfterMS   int64            `json:"give_up_after_ms"`
}

func wireBackend(s conditions.Backend) Backend {
	b := Backend{
		Name: s.Name, URL: plainURL(s.Config.URL), Configured: s.Configured, Breaker: s.Breaker, Paused: s.Paused, PausedAt: jsontime.At(s.PausedSince),
		InFlight: s.InFlight, Slots: s.Slots, MaxInFlight: s.MaxInFlight,
		Pending: s.Pending, Delivered: s.Delivered, Failed: s.Failed, OldestPendingAt: jsontime.At(s.OldestPending),
		LastSuccessAt: jsontime.At(s.LastSuccess), LastErrorAt: jsontime.At(s.LastErrorAt), LastError: s.LastError,
		LastStatus: s.LastFailure.Status, LastOutcome: s.LastFailure.Outcome, Errors: s.Errors, ErrorsSince: jsontime.At(s.ErrorsSince),
		Statuses: make(map[string]int64, len(s.Statuses)), TimeoutMS: s.Config.Timeout.Milliseconds(), Rate: s.Config.Rate,
		BreakerFailures: s.Config.Breaker.Failures, BreakerOpenMS: s.Config.Breaker.OpenFor.Milliseconds(),
		GiveUpAfterMS: s.Config.Retry.GiveUpAfter.Milliseconds(),
	}
	if f := s.LastFailure; s.Errors > 0 {
		b.Hint = conditions.Hint(f.Outcome, f.Status, f.Error, f.Excerpt)
	}
	for status, n := range s.Statuses {
		b.Statuses[strconv.Itoa(status)] = n
	}
	return b
}

func wireBackends(list []conditions.Backend) []Backend {
	out := make([]Backend, len(list))
	for i, b := range list {
		out[i] = wireBackend(b)
	}
	return out
}

// plainURL is a URL without what may be secret in it.
func plainURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// BackendList is the answer to a question for the backends.
type BackendList struct {
	Backends   []Backend `json:"backends" nullable:"false"`
	Unreadable int64     `json:"unreadable" doc:"Events that Stripe signed and nobody could read: failed, owed to no backend. At most 10,000 are counted"`
}

type backendsOutput struct{ Body BackendList }

func (a *api) listBackends(ctx context.Context, _ *struct{}) (*backendsOutput, error) {
	list, unreadable, err := a.backends(ctx)
	if err != nil {
		return nil, a.fail("count deliveries", err)
	}
	return &backendsOutput{BackendList{wireBackends(list), unreadable}}, nil
}

// PausedNote begins the key of the note that a backend is paused; the backend's name follows, and its value is when.
const PausedNote = "paused/"

type backendInput struct {
	Name string `path:"name" maxLength:"300"`
}

type backendOutput struct{ Body Backend }

func (a *api) pause(ctx context.Context, in *backendInput) (*backendOutput, error) {
	return a.setPaused(ctx, in.Name, a.Gateway.Pause, "pause", time.Now().UTC().Format(time.RFC3339))
}

func (a *api) resume(ctx context.Context, in *backendInput) (*backendOutput, error) {
	return a.setPaused(ctx, in.Name, a.Gateway.Resume, "resume", "")
}

// setPaused acts first and notes it second: in an outage of the journal, a pause that holds until a restart is better
// than none.
func (a *api) setPaused(ctx context.Context, name string, act func(string) error, action, note string) (*backendOutput, error) {
	if err := act(name); errors.Is(err, proxy.ErrNoBackend) {
		return nil, huma.Error404NotFound("no such backend; there are " + backendNames(a.Gateway.Backends()))
	} else if err != nil {
		return nil, a.fail(action, err)
	}
	a.audit(ctx, action, name)
	if err := a.Journal.SetNote(ctx, PausedNote+name, note); err != nil {
		_ = a.fail(action, err)
		return nil, huma.Error503ServiceUnavailable("done, but the journal could not note it: after a restart it will be as before")
	}
	list, _, err := a.backends(ctx)
	if err != nil {
		return nil, a.fail("count deliveries", err)
	}
	i := slices.IndexFunc(list, func(b conditions.Backend) bool { return b.Name == name })
	if i < 0 {
		return nil, huma.Error404NotFound("no such backend any more")
	}
	return &backendOutput{wireBackend(list[i])}, nil
}

// Source is what a source has seen since the start, and what is remembered from before.
type Source struct {
	Name              string           `json:"name"`
	Path              string           `json:"path"`
	Secrets           []SigningSecret  `json:"secrets" nullable:"false"`
	LastVerifiedAt    Time             `json:"last_verified_at" doc:"When a signature was last good"`
	LastAnsweredAt    Time             `json:"last_answered_at" doc:"When Stripe last got a 2xx"`
	Failures          map[string]int64 `json:"failures" doc:"Signatures that were not believed since the start, by reason"`
	LastFailureAt     Time             `json:"last_failure_at"`
	LastFailureReason string           `json:"last_failure_reason"`
	NoMatchSince      Time             `json:"no_match_since" doc:"Since when no secret has matched, while requests came: was it rolled?"`
}

// SigningSecret says when a secret was last of use: an old one that does not match any more can go.
type SigningSecret struct {
	Hint          string `json:"hint" doc:"Its last 4 characters"`
	LastMatchedAt Time   `json:"last_matched_at"`
}

// SourceList is the answer to a question for the sources.
type SourceList struct {
	Sources []Source `json:"sources" nullable:"false"`
}

type sourcesOutput struct{ Body SourceList }

func wireSources(statuses []proxy.SourceStatus) []Source {
	list := []Source{}
	for _, s := range statuses {
		w := Source{
			Name: s.Name, Path: s.Path, Secrets: []SigningSecret{}, LastVerifiedAt: jsontime.At(s.LastVerified),
			LastAnsweredAt: jsontime.At(s.LastAnswered), Failures: maps.Clone(s.Failures), LastFailureAt: jsontime.At(s.LastFailure),
			LastFailureReason: s.LastFailureReason, NoMatchSince: jsontime.At(s.NoMatchSince),
		}
		if w.Failures == nil {
			w.Failures = map[string]int64{}
		}
		for _, secret := range s.Secrets {
			w.Secrets = append(w.Secrets, SigningSecret{secret.Hint, jsontime.At(secret.LastMatched)})
		}
		list = append(list, w)
	}
	return list
}

func (a *api) listSources(context.Context, *struct{}) (*sourcesOutput, error) {
	return &sourcesOutput{SourceList{wireSources(a.Sources())}}, nil
}

// Stats are figures of the whole gateway.
type Stats struct {
	StartedAt       Time             `json:"started_at"`
	Pending         int64            `json:"pending" doc:"Deliveries owed"`
	Delivered       int64            `json:"delivered" doc:"Deliveries in the journal"`
	Failed          int64            `json:"failed" doc:"Deliveries that were given up and can be resent, and what is unreadable"`
	Unreadable      int64            `json:"unreadable" doc:"Of failed: events that Stripe signed and nobody could read, owed to no backend"`
	OldestPendingAt Time             `json:"oldest_pending_at"`
	Results         map[string]int64 `json:"results" doc:"Requests since the start, by what became of them"`
	Minutes         []Minute         `json:"minutes" nullable:"false" doc:"The last 60 minutes, oldest first; the last one is not over yet"`
}

// Minute counts the requests of one minute.
type Minute struct {
	At      Time             `json:"at" doc:"When it began"`
	Results map[string]int64 `json:"results" doc:"By what became of them; what is 0 is left out"`
}

func (c *core) stats(ctx context.Context) (Stats, error) {
	list, unreadable, err := c.backends(ctx)
	if err != nil {
		return Stats{}, c.fail("count deliveries", err)
	}
	return sum(c.Feed, list, unreadable), nil
}

// sum adds up what the backends' figures say, and what the feed has counted.
func sum(f *Feed, list []conditions.Backend, unreadable int64) Stats {
	s := Stats{Unreadable: unreadable, Failed: unreadable}
	f.fill(&s, time.Now())
	for _, b := range list {
		s.Pending += b.Pending
		s.Delivered += b.Delivered
		s.Failed += b.Failed
		if at := b.OldestPending; !at.IsZero() && (s.OldestPendingAt.IsZero() || at.Before(s.OldestPendingAt.Time)) {
			s.OldestPendingAt.Time = at
		}
	}
	return s
}

type statsOutput struct{ Body Stats }

func (a *api) getStats(ctx context.Context, _ *struct{}) (*statsOutput, error) {
	s, err := a.stats(ctx)
	if err != nil {
		return nil, err
	}
	return &statsOutput{s}, nil
}
