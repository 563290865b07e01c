// Package conditions says what wants a person: a backend that fails, a secret that was rolled, deliveries that were given
// up. Of derives it all from one [Snapshot] of what the gateway and the journal count anyway; nothing is stored. The page,
// the API, the command and the metric show the same conditions in the same words.
//
// To change what is said of a paused backend, look in backends.go. To add a condition, give it an id and a severity here
// and raise it in Of.
package conditions

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Condition is one thing that wants a person. ID and About together name it: there are never two of both.
type Condition struct {
	ID       string        `json:"id" doc:"One of a closed set, such as backend_failing"`
	About    string        `json:"about" doc:"The backend or source that it is about; empty for the gateway as a whole"`
	Since    jsontime.Time `json:"since" doc:"null where nobody knows"`
	Severity Severity      `json:"severity" enum:"page,warn,info"`
	Text     string        `json:"text" doc:"What is wrong, in a sentence or two"`
	Help     string        `json:"help" doc:"What to do"`
	Link     string        `json:"link" doc:"Path of the page that shows it; may be empty"`
	Count    int64         `json:"count" doc:"The events or requests that it is about; 0 where nothing is counted"`
}

// AboutBackend reports whether About names a backend.
func (c Condition) AboutBackend() bool { return c.About != "" && c.ID != NoSecretMatches }

// Severity says how soon a person is wanted: Page now, Warn on the next working day, Info whenever somebody looks.
type Severity string

// The severities, worst first.
const (
	Page Severity = "page"
	Warn Severity = "warn"
	Info Severity = "info"
)

// The ids of conditions.
const (
	JournalFull        = "journal_full"        // less than journal_limits.reserve is free
	JournalUnavailable = "journal_unavailable" // it takes nothing for another reason, or cannot be read
	NoSecretMatches    = "no_secret_matches"   // about a source
	Quarantine         = "quarantine"
	BackendFailing     = "backend_failing" // about a backend, as are the next three
	NoBackend          = "no_backend"      // routes.yaml does not name it any more, and events wait for it
	OldestPending      = "oldest_pending"  // events wait although the backend takes others
	BackendPaused      = "backend_paused"
	DeliveriesFailed   = "deliveries_failed" // to a backend; about "": events that nobody could read
	Unrouted           = "unrouted"
	ReloadFailed       = "reload_failed"
	NeedsRestart       = "needs_restart"
)

// severities is the closed set of ids, each with its severity.
var severities = map[string]Severity{
	JournalFull: Page, JournalUnavailable: Page, NoSecretMatches: Page, BackendFailing: Page,
	Quarantine: Warn, NoBackend: Warn, OldestPending: Warn, DeliveriesFailed: Warn, Unrouted: Warn, ReloadFailed: Warn,
	BackendPaused: Info, NeedsRestart: Info,
}

// Snapshot is how everything stands at one moment.
type Snapshot struct {
	Now           time.Time
	Zone          *time.Location // in which texts say times; nil: in UTC, and they add that
	Outage        error          // why the journal takes no new events; nil while it does
	Unread        bool           // the journal could not be read: its figures are missing
	Sources       []proxy.SourceStatus
	Backends      []Backend
	Unreadable    int64     // events that Stripe signed and nobody could read
	Unrouted      int64     // events of the last hour that no route took
	UnroutedSince time.Time // about when the first of these came
	Kept          Kept
	ReloadFailed  time.Time // when routes.yaml was not taken; zero when it was
	NeedsRestart  []string  // what was changed in routes.yaml and waits for a restart
}

// Kept is how the quarantine stands.
type Kept struct {
	Requests   int64
	Oldest     time.Time // when the oldest was received
	Expires    time.Time // when the oldest is dropped
	TurnedAway time.Time // when one last found no room, or came too fast; zero: never
}

// Of returns the conditions that hold, worst first.
func Of(s Snapshot) []Condition {
	list := slices.Concat(s.journal(), s.sources(), s.quarantine(), s.config(), s.events())
	for _, b := range byBacklog(s.Backends) {
		list = append(list, s.backend(&b)...)
	}
	for i := range list {
		list[i].Severity = cmp.Or(list[i].Severity, severities[list[i].ID])
	}
	rank := map[Severity]int{Page: 1, Warn: 2, Info: 3}
	slices.SortStableFunc(list, func(x, y Condition) int { return cmp.Compare(rank[x.Severity], rank[y.Severity]) })
	return list
}

func (s *Snapshot) journal() []Condition {
	switch {
	case s.Outage == nil && s.Unread:
		return []Condition{{
			ID: JournalUnavailable, Text: "The journal cannot be read: what waits and what failed is not known.",
			Help: "The gateway's log says why. New events are taken all the same.",
		}}
	case s.Outage == nil:
		return nil
	}
	c := Condition{
		ID: JournalUnavailable, Text: "The journal takes no new events: " + s.Outage.Error() + ".",
		Help: "Stripe gets a 2xx only where every backend answered 2xx, and sends the rest again. If the disk is full, make room or deliver what waits.",
	}
	if errors.Is(s.Outage, proxy.ErrFull) {
		c.ID = JournalFull
	}
	var outage *journal.Outage
	if errors.As(s.Outage, &outage) {
		c.Since.Time = outage.Since
	}
	return []Condition{c}
}

// Who is not Stripe can send a forged signature now and then: only several of them, over a while in which no secret
// matched, mean something.
const (
	mismatches    = 3
	mismatchedFor = 10 * time.Minute
)

func (s *Snapshot) sources() (list []Condition) {
	for _, src := range s.Sources {
		since := src.NoMatchSince
		if since.IsZero() || src.Failures[stripe.NoMatch] < mismatches || src.LastFailure.Sub(since) < mismatchedFor {
			continue
		}
		list = append(list, Condition{
			ID: NoSecretMatches, About: src.Name, Since: jsontime.Time{Time: since},
			Text: fmt.Sprintf("No secret of source %s has matched since %s.", src.Name, s.clock(since)),
			Help: "Was it rolled at Stripe? Put the new secret into signing_secrets beside the old one. If nothing was rolled, it is " +
				"somebody who claims to be Stripe.",
			Link: "/sources",
		})
	}
	return list
}

const (
	lately    = time.Hour          // what was turned away since then is told
	dropsSoon = 7 * 24 * time.Hour // or half the time that requests are kept, where that is shorter
)

func (s *Snapshot) quarantine() []Condition {
	k := s.Kept
	crowded := !k.TurnedAway.IsZero() && s.Now.Sub(k.TurnedAway) < lately
	if k.Requests == 0 && !crowded {
		return nil
	}
	c := Condition{
		ID: Quarantine, Since: jsontime.Time{Time: k.Oldest}, Count: k.Requests, Link: "/quarantine",
		Text: Plural(k.Requests, "request") + " from Stripe's addresses in quarantine: they did not verify.",
		Help: "Stripe got a 2xx, and nothing was delivered. `breakwater quarantine list` says what is most likely wrong; what verifies " +
			"by today's secrets is released by `breakwater quarantine recheck`, and by each reload that changes secrets.",
	}
	if crowded {
		c.Help += fmt.Sprintf(" The last one that found no room was answered 400 at %s: add the secret that is missing, or drop what nobody needs.",
			s.clock(k.TurnedAway))
	}
	if k.Requests > 0 && k.Expires.Sub(s.Now) <= min(dropsSoon, k.Expires.Sub(k.Oldest)/2) {
		c.Help += fmt.Sprintf(" From %s on they are dropped for their age.", s.clock(k.Expires))
	}
	return []Condition{c}
}

func (s *Snapshot) config() (list []Condition) {
	if !s.ReloadFailed.IsZero() {
		list = append(list, Condition{
			ID: ReloadFailed, Since: jsontime.Time{Time: s.ReloadFailed}, Link: "/config",
			Text: "routes.yaml has a fault and was not taken at " + s.clock(s.ReloadFailed) + ". What ran before still runs.",
			Help: "Mend the file: it is taken as soon as it is right.",
		})
	}
	if len(s.NeedsRestart) > 0 {
		list = append(list, Condition{
			ID: NeedsRestart, Text: "A change in routes.yaml takes a restart.", Help: s.NeedsRestart[0], Link: "/config",
		})
	}
	return list
}

func (s *Snapshot) events() (list []Condition) {
	if n := s.Unreadable; n > 0 {
		text := Count(n) + " events that Stripe signed could not be read; they are kept."
		if n == 1 {
			text = "1 event that Stripe signed could not be read; it is kept."
		}
		list = append(list, Condition{
			ID: DeliveriesFailed, Count: n, Text: text, Link: "/events?state=failed",
			Help: "No route with types takes them. Open each to see its body, and resend it to a backend by name.",
		})
	}
	if n := s.Unrouted; n > 0 {
		list = append(list, Condition{
			ID: Unrouted, Since: jsontime.Time{Time: s.UnroutedSince}, Count: n, Link: "/events?state=ignored",
			Text: "No route took " + Plural(n, "event") + " of the last hour. Stripe got a 2xx, and what came is kept.",
			Help: "Is a type missing in routes.yaml, or misspelt? Add it and resend them; a route with to: [] ignores them for good.",
		})
	}
	return list
}
