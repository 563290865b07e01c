package proxy

import (
	"slices"
	"strings"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// pingType is the event that Stripe sends when a destination is tested from its side. It is answered and not routed,
// unless a route names it exactly.
const pingType = "v2.core.event_destination.ping"

// Match is what the routes say about one event.
type Match struct {
	Routes   []int         // the routes that matched, as indexes, in order
	To       []Target      // each backend once; with AnswerRelay one at most
	Answer   Answer        // never empty
	HoldFor  time.Duration // with AnswerBackend: the longest of those routes
	Fallback *Fallback     // with AnswerRelay: the route's, may be nil
	Reason   string        // why To is empty: ReasonRule, ReasonNoRoute or ReasonPing
}

// Target is a backend that a match chose.
type Target struct {
	Backend string // its name
	Queued  bool   // nothing is sent before Stripe has its answer
}

// turn is the life of a delivery that an arrival opens.
type turn struct {
	Target
	n int
}

// firstTurns returns the first turn of every target.
func (m Match) firstTurns() []turn {
	out := make([]turn, len(m.To))
	for i, t := range m.To {
		out[i] = turn{t, 1}
	}
	return out
}

// target is how the routes of today deliver to a backend; inline when they do not.
func (m Match) target(backend string) Target {
	for _, t := range m.To {
		if t.Backend == backend {
			return t
		}
	}
	return Target{Backend: backend}
}

// Match returns which backends an event goes to and how Stripe is answered. It is a pure function: in order, the first
// match wins unless it says continue; a backend named twice gets one delivery. Types that Stripe decides upon in real
// time are relayed to the first backend of the first match, whatever the route says.
func (rs Routes) Match(e *Event) Match {
	m := Match{Answer: AnswerAlways}
	_, realTime := stripe.RealTime(e.Type)
	for i := range rs {
		r := &rs[i]
		if !r.matches(e) {
			continue
		}
		m.Routes = append(m.Routes, i)
		if realTime || (r.Answer == AnswerRelay && len(m.Routes) == 1) {
			m.relay(r)
			return m
		}
		m.add(r)
		if !r.Continue {
			break
		}
	}
	switch {
	case realTime:
		m.Answer, m.Reason = AnswerRelay, ReasonNoRoute
	case len(m.To) > 0:
	case e.Type == pingType:
		m.Reason = ReasonPing
	case len(m.Routes) > 0:
		m.Reason = ReasonRule
	default:
		m.Reason = ReasonNoRoute
	}
	return m
}

func (m *Match) relay(r *Route) {
	m.Answer, m.Fallback = AnswerRelay, r.Fallback
	if len(r.To) > 0 {
		m.To = []Target{{Backend: r.To[0]}}
	} else {
		m.Reason = ReasonRule
	}
}

func (m *Match) add(r *Route) {
	if r.Answer == AnswerBackend {
		m.Answer = AnswerBackend
		m.HoldFor = max(m.HoldFor, r.holdFor())
	}
	for _, b := range r.To {
		if !slices.ContainsFunc(m.To, func(t Target) bool { return t.Backend == b }) {
			m.To = append(m.To, Target{Backend: b, Queued: r.Queued})
		}
	}
}

const defaultHoldFor = 24 * time.Hour

func (r *Route) holdFor() time.Duration {
	if r.HoldFor == 0 {
		return defaultHoldFor
	}
	return r.HoldFor
}

func (r *Route) matches(e *Event) bool {
	switch {
	case r.Source != "" && r.Source != e.Source,
		r.Livemode != nil && (e.Type == "" || *r.Livemode != e.Livemode),
		r.Account == "-" && e.Account != "",
		r.Account != "" && r.Account != "-" && !globMatch(r.Account, e.Account),
		r.APIVersion != "" && !globMatch(r.APIVersion, e.APIVersion):
		return false
	case r.Types == nil:
		return e.Type != pingType
	case e.Type == pingType:
		return slices.Contains(r.Types, pingType)
	case e.Type == "":
		return false
	}
	return slices.ContainsFunc(r.Types, func(p string) bool { return globMatch(p, e.Type) })
}

// globMatch reports whether s fits pattern, in which "*" stands for any run of characters, dots included, and nothing
// else is special. It takes at most len(pattern)*len(s) steps.
func globMatch(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, more, another := strings.Cut(rest, "*")
		if !another {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}
