package proxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// source is a Source at work.
type source struct {
	Source
	name    string
	secrets []string
	matched []*atomic.Int64 // by secret: when it last matched, unix nanoseconds
	health  *sourceHealth
}

// sourceHealth is what a source has seen. It outlives a reload.
type sourceHealth struct {
	answered atomic.Int64 // when Stripe last got a 2xx, unix nanoseconds; the start counts as one
	verified atomic.Int64 // when a signature was last good, likewise

	mu           sync.Mutex
	matched      map[string]*atomic.Int64
	failures     map[string]int64
	failed       time.Time
	reason       string
	noMatchSince time.Time
}

func newSourceHealth(now time.Time) *sourceHealth {
	h := &sourceHealth{matched: map[string]*atomic.Int64{}, failures: map[string]int64{}}
	h.answered.Store(now.UnixNano())
	return h
}

func newSource(name string, c Source, h *sourceHealth) *source {
	s := &source{Source: c, name: name, secrets: plain(c.SigningSecrets), health: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, secret := range s.secrets {
		if h.matched[secret] == nil {
			h.matched[secret] = &atomic.Int64{}
		}
		s.matched = append(s.matched, h.matched[secret])
	}
	return s
}

// good notes that a secret matched.
func (s *source) good(secret int, now time.Time) {
	s.matched[secret].Store(now.UnixNano())
	s.health.verified.Store(now.UnixNano())
}

// bad notes that a request was not believed.
func (s *source) bad(reason string, now time.Time) {
	h := s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures[reason]++
	h.failed, h.reason = now, reason
	if reason == stripe.NoMatch && h.noMatchSince.UnixNano() <= h.verified.Load() {
		h.noMatchSince = now
	}
}

// SourceStatus is what a source has seen since the start.
type SourceStatus struct {
	Name              string
	Path              string
	Secrets           []SecretStatus
	LastVerified      time.Time // when a signature was last good
	LastAnswered      time.Time // when Stripe last got a 2xx; at first the start
	Failures          map[string]int64
	LastFailure       time.Time
	LastFailureReason string
	NoMatchSince      time.Time // since when no secret has matched, while requests came; zero when one did
}

// SecretStatus says when a signing secret was last of use: an old one that is not seen any more can go.
type SecretStatus struct {
	Hint        string // its last 4 characters; empty for a short one
	LastMatched time.Time
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
		out.Secrets = append(out.Secrets, SecretStatus{Hint: hint(secret), LastMatched: unixNano(s.matched[i].Load())})
	}
	return out
}

// hint is enough of a secret to tell it from another, and too little to be of use.
func hint(secret string) string {
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
