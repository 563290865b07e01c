package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

func (k *checker) checkRoutes() {
	for i := range k.Routes {
		r, at := &k.Routes[i], fmt.Sprintf("routes[%d]", i)
		k.checkTypes(at, r)
		k.checkTargets(at, r)
		k.checkAnswer(at, r)
		k.checkReach(at, i)
	}
	k.checkCatchAll()
	k.adviseThin()
}

func (k *checker) checkTypes(at string, r *Route) {
	if r.Types != nil && len(r.Types) == 0 {
		k.fail(at+".types", "an empty list matches nothing: leave types out to match every event")
	}
	odd := func(c rune) bool { return !alphanumeric(c) && !strings.ContainsRune("._-*", c) }
	for i, p := range r.Types {
		at := fmt.Sprintf("%s.types[%d]", at, i)
		switch {
		case p == "":
			k.fail(at, "an empty type matches nothing")
		case strings.ContainsFunc(p, odd):
			k.fail(at, "%q matches nothing: types are letters, digits, dots and underscores, and only * is special", p)
		case strings.ContainsFunc(p, func(c rune) bool { return 'A' <= c && c <= 'Z' }):
			k.warn(at, "%q matches nothing: Stripe writes types in lower case", p)
		case !realTime(p):
		case r.Answer != AnswerRelay:
			k.warn(at, "Stripe waits for a decision here: it is relayed to the first backend all the same; say answer: relay")
		}
	}
}

// realTime reports whether every type that the glob p matches is a real-time one. To ask, each "*" of p becomes a "!",
// which is in no type's name: "v1.delegated_checkout.!" is a real-time type only because all types that begin so are.
func realTime(p string) bool {
	_, ok := stripe.RealTime(strings.ReplaceAll(p, "*", "!"))
	return ok
}

func (k *checker) checkTargets(at string, r *Route) {
	if _, ok := k.Sources[r.Source]; !ok && r.Source != "" {
		k.unknown(at+".source", "source", r.Source, slices.Sorted(maps.Keys(k.Sources)))
	}
	for _, glob := range []struct{ key, text string }{{"account", r.Account}, {"api_version", r.APIVersion}} {
		if strings.ContainsFunc(glob.text, unprintable) {
			k.fail(at+"."+glob.key, "%s has blanks in it: it matches nothing", glob.key)
		}
	}
	for i, name := range r.To {
		at := fmt.Sprintf("%s.to[%d]", at, i)
		b, ok := k.Backends[name]
		switch {
		case !ok:
			k.unknown(at, "backend", name, slices.Sorted(maps.Keys(k.Backends)))
		case slices.Contains(r.To[:i], name):
			k.warn(at, "%q is named twice: it gets one delivery", name)
		case b.Sender != nil && (r.Answer == AnswerRelay || slices.ContainsFunc(r.Types, realTime)):
			k.fail(at, "%q gives no answer that could be relayed: Stripe waits for one here, so the backend must have an HTTP url", name)
		}
	}
}

func (k *checker) checkAnswer(at string, r *Route) {
	k.checkNotNegative(at+".hold_for", int64(r.HoldFor))
	if r.HoldFor > maxHoldFor {
		k.fail(at+".hold_for", "hold_for is at most %s: after 72h Stripe stops waiting, and later disables the endpoint", short(maxHoldFor))
	}
	if r.HoldFor != 0 && r.Answer != AnswerBackend {
		k.fail(at+".hold_for", "hold_for only goes with answer: backend")
	}
	if r.Fallback != nil {
		k.checkFallback(at+".fallback", r)
	}
	switch r.Answer {
	case "", AnswerAlways:
	case AnswerBackend:
		if r.Queued {
			k.fail(at+".deliver", "deliver: queued does not go with answer: backend: Stripe's answer is the backend's")
		}
	case AnswerRelay:
		k.checkRelay(at, r)
	default:
		k.problems = append(k.problems, Problem{
			Path: at + ".answer", Text: fmt.Sprintf("no answer %q: always, backend or relay", string(r.Answer)),
			Known: []string{string(AnswerAlways), string(AnswerBackend), string(AnswerRelay)},
		})
	}
}

func (k *checker) checkRelay(at string, r *Route) {
	if r.Continue {
		k.fail(at+".continue", "continue does not go with answer: relay: Stripe takes one answer, from one backend")
	}
	if r.Queued {
		k.fail(at+".deliver", "deliver: queued does not go with answer: relay: Stripe waits for the answer")
	}
	switch {
	case len(r.To) > 1:
		k.fail(at+".to", "answer: relay goes to one backend: Stripe takes one answer")
	case len(r.To) == 0 && r.Fallback == nil:
		k.fail(at+".to", "answer: relay needs a backend, or a fallback to answer with")
	}
}

func (k *checker) checkFallback(at string, r *Route) {
	if r.Answer != AnswerRelay {
		k.fail(at, "fallback only goes with answer: relay")
	}
	switch s := r.Fallback.Status; {
	case s < 200 || s > 599:
		k.fail(at+".status", "fallback.status must be from 200 to 599")
	case s <= 299 && r.Answer == AnswerRelay:
		k.warn(at+".status", "a relayed event that gets this 2xx has reached nobody, is kept nowhere and does not come again: "+
			"only right where the 2xx is itself the decision; without a fallback Stripe gets 503")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Fallback.Header)) {
		if !token(name) {
			k.fail(at+".headers", "%q is not a header's name", name)
		}
	}
}

// checkReach finds routes, and single types of a route, that no event reaches: after {types: ["invoice.*"]}, a route for
// invoice.paid is one.
func (k *checker) checkReach(at string, i int) {
	r := &k.Routes[i]
	patterns := r.Types
	if patterns == nil {
		patterns = []string{""} // no glob: stands for every event, whatever its type
	}
	var dead []int       // the patterns that no event reaches
	var by []string      // the routes that take their events
	var continuing []int // the routes that take their events too, and go on
	for n, p := range patterns {
		for j := range k.Routes[:i] {
			if e := &k.Routes[j]; !e.covers(r, p) {
				continue
			} else if e.Continue {
				continuing = append(continuing, j)
				continue
			}
			dead = append(dead, n)
			if name := fmt.Sprintf("routes[%d]", j); !slices.Contains(by, name) {
				by = append(by, name)
			}
			break
		}
	}
	switch {
	case len(patterns) == 0:
	case len(dead) == len(patterns):
		k.warn(at, "never reached: %s already takes every event that this route could match", strings.Join(by, " and "))
		return
	default:
		for _, n := range dead {
			k.warn(fmt.Sprintf("%s.types[%d]", at, n), "never matches here: an earlier route (%s) already takes every %q",
				strings.Join(by, ", "), patterns[n])
		}
	}
	if r.Answer == AnswerRelay && len(continuing) > 0 {
		k.warn(at+".answer", "not relayed: routes[%d], with continue, matches first; put this route before it", continuing[0])
	}
}

// covers reports whether e, the earlier route, matches every event that r matches by its type glob p. p is "" where r has
// no types.
func (e *Route) covers(r *Route, p string) bool {
	switch {
	case e.Source != "" && e.Source != r.Source,
		e.Livemode != nil && (r.Livemode == nil || *e.Livemode != *r.Livemode),
		!accountCovers(e.Account, r.Account),
		!globCovers(e.APIVersion, r.APIVersion):
		return false
	case p == pingType: // only its exact name matches it
		return slices.Contains(e.Types, pingType)
	case e.Types == nil:
		return true
	case p == "":
		return false
	}
	return slices.ContainsFunc(e.Types, func(q string) bool { return globCovers(q, p) })
}

// globCovers reports whether q matches everything that p matches, an empty glob being "*". It does if q matches p read as
// a text: only a "*" of q can match the "*" in it, and that one matches any other run as well.
func globCovers(q, p string) bool {
	if q == "" {
		return true
	}
	if p == "" {
		p = "*"
	}
	return globMatch(q, p)
}

func accountCovers(q, p string) bool {
	switch {
	case q == "" || q == p:
		return true
	case q == "-":
		return false
	case p == "-":
		return globMatch(q, "")
	}
	return globCovers(q, p)
}

// checkCatchAll warns of sources from which an event of a type that nobody foresaw would reach no backend.
func (k *checker) checkCatchAll() {
	var open []string
	names := slices.Sorted(maps.Keys(k.Sources))
	for _, name := range names {
		for _, live := range []bool{true, false} {
			unforeseen := &Route{Source: name, Livemode: &live}
			if !slices.ContainsFunc(k.Routes, func(e Route) bool { return e.covers(unforeseen, "*") }) {
				open = append(open, name)
				break
			}
		}
	}
	const text = `events that no route matches reach nobody, and are only kept: end with a route {types: ["*"], to: [...]}`
	switch {
	case len(open) == 0:
	case len(open) == len(names):
		k.warn("routes", text)
	default:
		k.warn("routes", "source %s: %s", strings.Join(open, ", "), text)
	}
}

// adviseThin tells those who only name snapshot events that thin ones have names of their own: v1.invoice.paid.
func (k *checker) adviseThin() {
	at, snapshot := "", ""
	for i := range k.Routes {
		for j, p := range k.Routes[i].Types {
			if strings.HasPrefix(p, "v1.") || strings.HasPrefix(p, "v2.") {
				return
			}
			if at == "" && p != "" && p[0] != '*' && !realTime(p) {
				at, snapshot = fmt.Sprintf("routes[%d].types[%d]", i, j), p
			}
		}
	}
	if at != "" {
		k.advise(at, "thin events have names of their own: if Stripe sends you those, add %q", "v1."+snapshot)
	}
}
