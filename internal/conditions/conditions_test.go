package conditions

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

var now = time.Date(2026, 11, 21, 14, 30, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// legacy is a backend that works, but for what edit changes.
func legacy(edit func(*Backend)) []Backend {
	b := Backend{BackendStatus: proxy.BackendStatus{Name: "legacy", Breaker: "closed"}, Configured: true}
	edit(&b)
	return []Backend{b}
}

func main3(failures int64, last time.Duration) []proxy.SourceStatus {
	return []proxy.SourceStatus{{
		Name: "main", NoMatchSince: ago(time.Hour), Failures: map[string]int64{stripe.NoMatch: failures}, LastFailure: ago(last),
	}}
}

func TestOf(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	full := &journal.Outage{Since: ago(time.Minute), Err: proxy.ErrFull}
	kept := func(age time.Duration) Kept { return Kept{Requests: 2, Oldest: ago(age), Expires: ago(age - 30*day)} }
	seen := map[string]bool{}
	for _, tt := range []struct {
		name string
		s    Snapshot
		want string // severity id about, count, since: text | help | link, a condition a line; * for anything
	}{
		{"all is well", Snapshot{Backends: legacy(func(*Backend) {})}, ""},
		{
			"the disk is full",
			Snapshot{Outage: full},
			"page journal_full , 0, 14:29: The journal takes no new events: " + full.Error() + ". | Stripe gets a 2xx only where* | ",
		},
		{
			"the journal cannot be read",
			Snapshot{Outage: errors.New("disk I/O error")},
			"page journal_unavailable , 0, -: The journal takes no new events: disk I/O error. | * | ",
		},
		{
			"a secret was rolled",
			Snapshot{Sources: main3(3, 0)},
			"page no_secret_matches main, 0, 13:30: No secret of source main has matched since 13:30 UTC. | Was it rolled at Stripe?* | /sources",
		},
		{"two forged requests", Snapshot{Sources: main3(2, 0)}, ""},
		{"many of them at once", Snapshot{Sources: main3(1000, 51*time.Minute)}, ""},
		{
			"requests in quarantine",
			Snapshot{Kept: kept(day)},
			"warn quarantine , 2, 14:30: 2 requests from Stripe's addresses in quarantine: they did not verify. | " +
				"Stripe got a 2xx, and nothing was delivered. * | /quarantine",
		},
		{"more than 7 days before they are dropped", Snapshot{Kept: kept(23*day - time.Hour)}, "warn quarantine , 2, 15:30: * | *changes secrets. | /quarantine"},
		{
			"7 days before they are dropped",
			Snapshot{Kept: kept(23 * day)},
			"warn quarantine , 2, 14:30: * | *From 28 Nov 14:30 UTC on they are dropped for their age. | /quarantine",
		},
		{
			"no room for more",
			Snapshot{Kept: Kept{Requests: 1, Oldest: now, Expires: now.Add(30 * day), TurnedAway: ago(time.Minute)}},
			"warn quarantine , 1, 14:30: 1 request from Stripe's addresses* | *no room was answered 400 at 14:29 UTC: add the secret* | /quarantine",
		},
		{"there was no room yesterday", Snapshot{Kept: Kept{TurnedAway: ago(day)}}, ""},
		{
			"a fault in routes.yaml",
			Snapshot{ReloadFailed: ago(2 * time.Minute)},
			"warn reload_failed , 0, 14:28: routes.yaml has a fault and was not taken at 14:28 UTC. What ran before still runs. | " +
				"Mend the file: it is taken as soon as it is right. | /config",
		},
		{
			"a change that waits",
			Snapshot{NeedsRestart: []string{"listen was changed"}},
			"info needs_restart , 0, -: A change in routes.yaml takes a restart. | listen was changed | /config",
		},
		{
			"an event that nobody can read",
			Snapshot{Unreadable: 1},
			"warn deliveries_failed , 1, -: 1 event that Stripe signed could not be read; it is kept. | No route with types* | /events?state=failed",
		},
		{
			"events that no route took",
			Snapshot{Unrouted: 3, UnroutedSince: ago(9 * time.Minute)},
			"warn unrouted , 3, 14:21: No route took 3 events of the last hour. Stripe got a 2xx, and what came is kept. | Is a type missing* | " +
				"/events?state=ignored",
		},
		{
			"a backend that fails",
			Snapshot{Backends: legacy(func(b *Backend) {
				b.Errors, b.ErrorsSince, b.Pending = 23, ago(day), 1204
				b.LastFailure = proxy.Attempt{Outcome: proxy.OutcomeStatus4xx, Status: 404}
			})},
			"page backend_failing legacy, 1204, 14:30: legacy has answered 404 since 20 Nov 14:30 UTC, 23 times. 1,204 events wait; nothing is lost. | " +
				"There is nothing at this path.* | /events?backend=legacy&state=pending",
		},
		{
			"one that failed once",
			Snapshot{Backends: legacy(func(b *Backend) {
				b.Errors, b.ErrorsSince = 1, ago(time.Minute)
				b.LastFailure = proxy.Attempt{Outcome: proxy.OutcomeDial}
			})},
			"warn backend_failing legacy, 0, 14:29: legacy has not been reachable once, at 14:29 UTC. Nothing waits. | No connection* | ",
		},
		{
			"one whose breaker is probing",
			Snapshot{Backends: legacy(func(b *Backend) { b.Breaker = "half-open" })},
			"warn backend_failing legacy, 0, -: The breaker of legacy is half-open. Nothing waits. |  | ",
		},
		{
			"a paused backend",
			Snapshot{Backends: legacy(func(b *Backend) { b.Paused, b.PausedSince, b.Pending, b.Errors = true, ago(time.Hour), 1, 9 })},
			"info backend_paused legacy, 1, 13:30: legacy is paused since 13:30 UTC. 1 event waits; nothing is lost. | " +
				"Nothing is sent until you resume it, also over a restart. | /backends#legacy",
		},
		{
			"a pause that nobody noted",
			Snapshot{Backends: legacy(func(b *Backend) { b.Paused = true })},
			"info backend_paused legacy, 0, -: legacy is paused. Nothing waits. | * | /backends#legacy",
		},
		{
			"a backend that left routes.yaml",
			Snapshot{Backends: legacy(func(b *Backend) { b.Configured, b.Pending, b.OldestPending = false, 2, ago(time.Hour) })},
			"warn no_backend legacy, 2, 13:30: routes.yaml does not name legacy any more. 2 events wait; nothing is lost. | Was it renamed?* | " +
				"/events?backend=legacy&state=pending",
		},
		{"one that left and owes nothing", Snapshot{Backends: legacy(func(b *Backend) { b.Configured, b.Breaker = false, "" })}, ""},
		{
			"deliveries that were given up",
			Snapshot{Backends: legacy(func(b *Backend) { b.Failed = 1 })},
			"warn deliveries_failed legacy, 1, -: 1 delivery to legacy was given up. It is kept for you. | Mend what failed, then resend. | " +
				"/events?backend=legacy&state=failed",
		},
		{
			"a long wait",
			Snapshot{Backends: legacy(func(b *Backend) { b.Pending, b.OldestPending = 1, ago(61*time.Minute) })},
			"warn oldest_pending legacy, 1, 13:29: legacy takes events, and yet one has waited since 13:29 UTC. 1 event waits; nothing is lost. | * | " +
				"/events?backend=legacy&state=pending",
		},
		{"a short wait", Snapshot{Backends: legacy(func(b *Backend) { b.Pending, b.OldestPending = 9, ago(59*time.Minute) })}, ""},
		{
			"times in the reader's zone",
			Snapshot{ReloadFailed: now, Zone: time.FixedZone("", 3600)},
			"warn reload_failed , 0, 14:30: routes.yaml has a fault and was not taken at 15:30. * | * | *",
		},
		{
			"worst first",
			Snapshot{
				NeedsRestart: []string{"listen"}, Unrouted: 1, Outage: full,
				Backends: append(legacy(func(b *Backend) { b.Paused = true }), legacy(func(b *Backend) { b.Name, b.Errors, b.Pending = "node", 2, 1 })...),
			},
			"page journal_full *\npage backend_failing node*\nwarn unrouted *\ninfo needs_restart *\ninfo backend_paused legacy*",
		},
	} {
		tt.s.Now = now
		got := Of(tt.s)
		lines := strings.Split(tt.want, "\n")
		if tt.want == "" {
			lines = nil
		}
		if len(got) != len(lines) {
			t.Errorf("%s: %+v, want %d", tt.name, got, len(lines))
			continue
		}
		for i, c := range got {
			seen[c.ID] = true
			since := "-"
			if !c.Since.IsZero() {
				since = c.Since.UTC().Format("15:04")
			}
			line := fmt.Sprintf("%s %s %s, %d, %s: %s | %s | %s", c.Severity, c.ID, c.About, c.Count, since, c.Text, c.Help, c.Link)
			if !regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(lines[i]), `\*`, ".*") + "$").MatchString(line) {
				t.Errorf("%s:\n%s, want\n%s", tt.name, line, lines[i])
			}
		}
	}
	for id := range severities {
		if !seen[id] {
			t.Errorf("%s is never raised here", id)
		}
	}
}

func TestBackends(t *testing.T) {
	t.Parallel()
	got, unreadable := Backends([]proxy.BackendStatus{{Name: "node"}, {Name: "legacy"}}, []journal.Total{
		{State: proxy.Failed, Count: 3},
		{Backend: "gone", State: proxy.Pending, Count: 2, Oldest: ago(time.Hour)},
		{Backend: "legacy", State: proxy.Delivered, Count: 40},
		{Backend: "legacy", State: proxy.Failed, Count: 1},
	})
	want := []Backend{
		{BackendStatus: proxy.BackendStatus{Name: "gone"}, Pending: 2, OldestPending: ago(time.Hour)},
		{BackendStatus: proxy.BackendStatus{Name: "legacy"}, Configured: true, Delivered: 40, Failed: 1},
		{BackendStatus: proxy.BackendStatus{Name: "node"}, Configured: true},
	}
	if diff := cmp.Diff(want, got); diff != "" || unreadable != 3 {
		t.Errorf("unreadable %d, (-want +got):\n%s", unreadable, diff)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		Count(1234567): "1,234,567", Count(-1234): "-1,234", Count(999): "999",
		Plural(0, "event"): "0 events", Plural(1, "event"): "1 event", Plural(1000, "event"): "1,000 events",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
