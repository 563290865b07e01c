package proxy

import (
	"maps"
	"slices"
	"time"
)

// Backends returns how each backend does, by name.
func (g *Gateway) Backends() []BackendStatus {
	st := g.state.Load()
	out := make([]BackendStatus, 0, len(st.backends))
	for _, name := range slices.Sorted(maps.Keys(st.backends)) {
		out = append(out, st.backends[name].status())
	}
	return out
}

// BackendStatus is how a backend does at this moment.
type BackendStatus struct {
	Name        string        // in routes.yaml
	Breaker     string        // "closed", "half-open" or "open"
	Paused      bool          // until Resume: its events are stored, nothing is sent
	InFlight    int           // attempts under way, inline and late ones
	MaxInFlight int           // as routes.yaml says
	Slots       int           // attempts allowed at once now: less than MaxInFlight while it recovers
	LastSuccess time.Time     // when an attempt last ended as delivered; zero: not since the start
	LastError   string        // what went wrong at the last attempt that failed; "" when none did
	LastErrorAt time.Time     // when that ended
	LastFailure Attempt       // the attempt that LastError is of
	Errors      int           // failed attempts since the last success
	ErrorsSince time.Time     // the first of them
	Statuses    map[int]int64 // attempts by HTTP status since the start; 0: no answer
	Config      Backend       // what routes.yaml says; its Secrets print as "***"
}

// status is a snapshot for people.
func (b *backend) status() BackendStatus {
	used, limit, maximum := b.slots.state()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BackendStatus{
		Name: b.name, Breaker: b.breaker.Load().State().String(), Paused: b.paused.Load(),
		InFlight: used, Slots: limit, MaxInFlight: maximum,
		LastSuccess: b.lastSuccess, LastError: b.lastFailure.Error, LastFailure: b.lastFailure, LastErrorAt: b.lastErrorAt,
		Errors: b.errors, Statuses: maps.Clone(b.statuses), Config: b.target.Load().Backend,
	}
	if b.errors > 0 {
		s.ErrorsSince = b.errorsSince
	}
	return s
}

// SourceStatus is what a source has seen since the start.
type SourceStatus struct {
	Name              string           // in routes.yaml
	Path              string           // that Stripe posts to
	Secrets           []SecretStatus   // in the order of routes.yaml
	LastVerified      time.Time        // when a signature was last good
	LastAnswered      time.Time        // when Stripe last got a 2xx; at first the start
	Failures          map[string]int64 // requests that did not verify, by reason: "no_match", "too_old" ...
	LastFailure       time.Time        // when the last of these came
	LastFailureReason string           // and why it did not verify
	NoMatchSince      time.Time        // since when no secret has matched, while requests came; zero when one did
}

// SecretStatus says when a signing secret was last of use: an old one that is not seen any more can go.
type SecretStatus struct {
	Hint        string    // its last 4 characters; empty for a short one
	LastMatched time.Time // when it last made a signature that was good; zero: not since the start
}

// Sources returns what each source has seen, by name.
func (g *Gateway) Sources() []SourceStatus {
	st := g.state.Load()
	out := make([]SourceStatus, 0, len(st.byName))
	for _, name := range slices.Sorted(maps.Keys(st.byName)) {
		out = append(out, st.byName[name].status())
	}
	return out
}

func (s *source) status() SourceStatus {
	h := s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	out := SourceStatus{
		Name: s.name, Path: s.Path, LastVerified: unixNano(h.verified.Load()), LastAnswered: unixNano(h.answered.Load()),
		Failures: maps.Clone(h.failures), LastFailure: h.failed, LastFailureReason: h.reason,
	}
	if h.noMatchSince.UnixNano() > h.verified.Load() && !h.noMatchSince.IsZero() {
		out.NoMatchSince = h.noMatchSince
	}
	for i, secret := range s.secrets {
		out.Secrets = append(out.Secrets, SecretStatus{Hint: lastFour(secret), LastMatched: unixNano(s.matched[i].Load())})
	}
	return out
}

// lastFour is enough of a secret to tell it from another, and too little to be of use.
func lastFour(secret string) string {
	if len(secret) < 16 {
		return ""
	}
	return secret[len(secret)-4:]
}

func unixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// Why says why a Pending delivery waits: "lease" (it is being sent), "no_backend", "no_secret", "paused", "breaker",
// "backoff", "rate" or "in_flight" (all slots are taken). It is derived, never stored.
func (g *Gateway) Why(source string, d Delivery, now time.Time) string {
	st := g.state.Load()
	b := st.backend(d.Backend)
	switch {
	case d.State != Pending:
		return ""
	case d.LeaseUntil.After(now):
		return "lease"
	case b == nil:
		return "no_backend"
	case !st.canSign(source, b):
		return "no_secret"
	}
	why, _ := b.drain.blocked(now)
	switch {
	case why == "paused", why == "breaker":
		return why
	case d.Due.After(now):
		return "backoff"
	case why == "":
		return "in_flight"
	}
	return why
}
