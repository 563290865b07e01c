package conditions

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Backend is how a backend does, and what the journal holds for it.
type Backend struct {
	proxy.BackendStatus
	Configured    bool      // false: routes.yaml does not name it any more, only the journal still knows it
	PausedSince   time.Time // zero where nobody knows
	Pending       int64
	Delivered     int64
	Failed        int64
	OldestPending time.Time // when the oldest event that is owed was received
}

// Backends puts together what the gateway and the journal say of each backend, by name. unreadable counts the events that
// are Failed without one, because nobody could read them.
func Backends(statuses []proxy.BackendStatus, totals []journal.Total) (list []Backend, unreadable int64) {
	at := map[string]int{}
	for _, s := range statuses {
		at[s.Name] = len(list)
		list = append(list, Backend{BackendStatus: s, Configured: true})
	}
	for _, t := range totals {
		if t.Backend == "" {
			if t.State == proxy.Failed {
				unreadable += t.Count
			}
			continue
		}
		i, ok := at[t.Backend]
		if !ok {
			i = len(list)
			at[t.Backend] = i
			list = append(list, Backend{BackendStatus: proxy.BackendStatus{Name: t.Backend}})
		}
		switch b := &list[i]; t.State {
		case proxy.Pending:
			b.Pending, b.OldestPending = t.Count, t.Oldest
		case proxy.Delivered:
			b.Delivered = t.Count
		case proxy.Failed:
			b.Failed = t.Count
		}
	}
	slices.SortFunc(list, func(x, y Backend) int { return cmp.Compare(x.Name, y.Name) })
	return list, unreadable
}

// byBacklog sorts the backends so that those come first that hold up the most.
func byBacklog(list []Backend) []Backend {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y Backend) int {
		return cmp.Or(cmp.Compare(y.Pending+y.Failed, x.Pending+x.Failed), cmp.Compare(y.Errors, x.Errors))
	})
	return list
}

// hardlyFailing is for how long a backend may fail before anybody is woken, unless it fails so often that its breaker opens.
const hardlyFailing = 2 * time.Minute

// longWait is for how long events may wait for a backend that neither fails nor is paused.
const longWait = time.Hour

// backend says what is wrong with a backend, and what that means for its events.
func (s *Snapshot) backend(b *Backend) (list []Condition) {
	c := Condition{About: b.Name, Count: b.Pending, Link: eventsOf(b.Name, proxy.Pending)}
	switch {
	case !b.Configured && b.Pending == 0:
	case !b.Configured:
		c.ID, c.Since.Time = NoBackend, b.OldestPending
		c.Text = fmt.Sprintf("routes.yaml does not name %s any more. %s", b.Name, b.waiting())
		c.Help = "Was it renamed? Then put its old name into was: of the new one."
	case b.Paused:
		c.ID, c.Since.Time, c.Link = BackendPaused, b.PausedSince, "/backends#"+b.Name
		since := ""
		if !b.PausedSince.IsZero() {
			since = " since " + s.clock(b.PausedSince)
		}
		c.Text = fmt.Sprintf("%s is paused%s. %s", b.Name, since, b.waiting())
		c.Help = "Nothing is sent until you resume it, also over a restart."
	case b.Errors > 0, b.Breaker != "closed":
		c.ID, c.Since.Time, c.Text = BackendFailing, b.ErrorsSince, s.failing(b)
		hardly := b.Breaker == "closed" && s.Now.Sub(b.ErrorsSince) < hardlyFailing
		if hardly || b.Pending == 0 && b.Failed == 0 {
			c.Severity = Warn
		}
		if f := b.LastFailure; b.Errors > 0 {
			c.Help = Hint(f.Outcome, f.Status, f.Error, f.Excerpt)
		}
		if b.Pending == 0 {
			c.Link = ""
		}
	case b.Pending > 0 && !b.OldestPending.IsZero() && s.Now.Sub(b.OldestPending) > longWait:
		c.ID, c.Since.Time = OldestPending, b.OldestPending
		c.Text = fmt.Sprintf("%s takes events, and yet one has waited since %s. %s", b.Name, s.clock(b.OldestPending), b.waiting())
		c.Help = "Either a backlog is still being delivered, as fast as max_in_flight and rate allow, or the backend refuses what waits. " +
			"Each event says why it does."
	}
	if c.ID != "" {
		list = append(list, c)
	}
	if b.Failed > 0 {
		text := fmt.Sprintf("%s deliveries to %s were given up. They are kept for you.", Count(b.Failed), b.Name)
		if b.Failed == 1 {
			text = "1 delivery to " + b.Name + " was given up. It is kept for you."
		}
		list = append(list, Condition{
			ID: DeliveriesFailed, About: b.Name, Count: b.Failed, Text: text, Help: "Mend what failed, then resend.",
			Link: eventsOf(b.Name, proxy.Failed),
		})
	}
	return list
}

func (b *Backend) waiting() string {
	switch b.Pending {
	case 0:
		return "Nothing waits."
	case 1:
		return "1 event waits; nothing is lost."
	}
	return Count(b.Pending) + " events wait; nothing is lost."
}

func eventsOf(backend string, state proxy.State) string {
	return "/events?" + url.Values{"state": {string(state)}, "backend": {backend}}.Encode()
}

// failing says since when a backend fails, and how.
func (s *Snapshot) failing(b *Backend) string {
	switch b.Errors {
	case 0:
		return fmt.Sprintf("The breaker of %s is %s. %s", b.Name, b.Breaker, b.waiting())
	case 1:
		return fmt.Sprintf("%s %s once, at %s. %s", b.Name, b.deed(), s.clock(b.ErrorsSince), b.waiting())
	}
	return fmt.Sprintf("%s %s since %s, %s times. %s", b.Name, b.deed(), s.clock(b.ErrorsSince), Count(int64(b.Errors)), b.waiting())
}

// deed says how a backend fails, to be followed by "since".
func (b *Backend) deed() string {
	switch b.LastFailure.Outcome {
	case proxy.OutcomeDial:
		return "has not been reachable"
	case proxy.OutcomeTLS:
		return "has failed the TLS handshake"
	case proxy.OutcomeTimeout:
		return "has not answered in time"
	case proxy.OutcomeReset:
		return "has broken off its answers"
	case proxy.OutcomeSoftFailure:
		return fmt.Sprintf("has answered %d with what its success rules refuse", b.LastFailure.Status)
	}
	if b.LastFailure.Status > 0 {
		return fmt.Sprintf("has answered %d", b.LastFailure.Status)
	}
	return "has failed"
}
