package cli

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares what people see with testdata/name.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: (-want +got):\n%s\ngot:\n%s", path, diff, got)
	}
}

var showNow = time.Date(2026, 11, 21, 14, 30, 0, 0, time.UTC)

func before(d time.Duration) admin.Time { return jsontime.At(showNow.Add(-d)) }

// shown returns what show writes on a screen that is width wide.
func shown(t *testing.T, width int, show func(screen) error) string {
	t.Helper()
	var b strings.Builder
	if err := show(screen{w: &b, width: width, now: showNow}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// nasty is what a stranger may write into a payload or an answer.
const nasty = "\x1b[2J\x1b]0;owned\a<script>alert(1)</script>\u202ecod.exe\n\xff"

func sampleEvents() []admin.Event {
	return []admin.Event{
		{
			Seq: 1204, ID: "evt_1Pgc76B7WZ01zgkWwyRHS12y", Source: "main", Type: "customer.subscription.updated", State: "failed",
			ReceivedAt: before(4 * time.Minute),
			Deliveries: []admin.Delivery{
				{Backend: "legacy", State: "delivered", Turn: 1, Attempts: 1, LastStatus: 200},
				{Backend: "billing", State: "failed", Turn: 1, Attempts: 23, LastStatus: 404, LastError: "status_4xx"},
			},
		},
		{
			Seq: 1203, ID: "evt_2", Source: "main", Type: "invoice.paid", State: "pending", ReceivedAt: before(3 * time.Hour),
			Deliveries: []admin.Delivery{
				{Backend: "legacy", State: "pending", Attempts: 2, LastError: "dial", NextAttemptAt: before(-time.Hour), Why: "backoff"},
				{Backend: "billing", State: "pending", Attempts: 3, LastStatus: 503, LastError: "status_5xx", NextAttemptAt: before(-42 * time.Second), Why: "breaker"},
			},
		},
		{
			Seq: 1202, ID: "evt_3", Source: "main", Type: "invoice.created", State: "pending", ReceivedAt: before(70 * time.Hour),
			Deliveries: []admin.Delivery{{Backend: "legacy", State: "pending", NextAttemptAt: before(time.Hour), Why: "paused"}},
		},
		{
			Seq: 1201, ID: "evt_4", Source: "main", Type: "charge.succeeded", State: "pending", ReceivedAt: before(2 * time.Second),
			Deliveries: []admin.Delivery{{Backend: "legacy", State: "pending", Attempts: 1, LastStatus: 200, LastError: "soft_failure", NextAttemptAt: before(time.Second), Why: "rate"}},
		},
		{
			Seq: 99, ID: "evt_5", Source: "main", Type: "charge.refunded", State: "delivered", ReceivedAt: before(time.Hour),
			Deliveries: []admin.Delivery{{Backend: "legacy", State: "delivered", Attempts: 1, LastStatus: 200}},
		},
		{Seq: 98, ID: "evt_6", Source: "main", Type: "ping", State: "ignored", Reason: "no_route", ReceivedAt: before(time.Hour)},
		{Seq: 97, ID: "sha256:9f86d0", Source: "main", Type: "", State: "failed", Reason: "unparseable", ReceivedAt: before(time.Hour)},
		{Seq: 96, ID: "evt_\x1b[1m", Source: "main", Type: nasty, State: "ignored", Reason: "rule", ReceivedAt: before(time.Hour)},
	}
}

func TestShowEvents(t *testing.T) {
	t.Parallel()
	list := func(s screen) error { return eventTable(s, sampleEvents()).write(s) }
	golden(t, "events", shown(t, 0, list)+"\n120 columns:\n"+shown(t, 120, list)+"\n80 columns:\n"+shown(t, 80, list))
}

func TestShowEvent(t *testing.T) {
	t.Parallel()
	e := admin.EventDetail{Event: sampleEvents()[0], NewerDelivered: 2, OtherEvents: 3}
	e.Created, e.Object, e.Account, e.APIVersion, e.Size = before(5*time.Minute), "sub_1Pgc75", "acct_1", "2023-10-16", 2048
	e.Attempts = []admin.Attempt{
		{
			Backend: "billing", Turn: 1, N: 1, StartedAt: before(4 * time.Minute), DurationMS: 8, Status: 0, Outcome: "dial",
			Error: "dial tcp 10.0.0.7:3000: connect: connection refused", Trigger: "inline", Hint: "Nothing listens there.",
		},
		{
			Backend: "billing", Turn: 1, N: 2, StartedAt: before(3 * time.Minute), DurationMS: 12345, Status: 404, Outcome: "status_4xx",
			Error: "404 Not Found", Trigger: "retry", Excerpt: nasty, Hint: "There is nothing at this path.",
		},
		{Backend: "legacy", Turn: 1, N: 1, StartedAt: before(4 * time.Minute), DurationMS: 31, Status: 200, Outcome: "delivered", Trigger: "inline"},
	}
	ignored := admin.EventDetail{Event: sampleEvents()[5], AnsweredAt: before(time.Hour)}
	golden(t, "event", shown(t, 0, func(s screen) error { return showEvent(s, e) })+
		"\n90 columns:\n"+shown(t, 90, func(s screen) error { return showEvent(s, e) })+
		"\nno deliveries:\n"+shown(t, 0, func(s screen) error { return showEvent(s, ignored) }))
}

func TestShowBackends(t *testing.T) {
	t.Parallel()
	list := []admin.Backend{
		{
			Name: "billing", Configured: true, Breaker: "open", MaxInFlight: 16, Slots: 0, Pending: 1204, Failed: 3,
			OldestPendingAt: before(27 * time.Minute), LastSuccessAt: before(28 * time.Minute), Errors: 23,
			ErrorsSince: before(27 * time.Minute), LastError: "404 Not Found", LastErrorAt: before(time.Second), LastOutcome: "status_4xx",
			LastStatus: 404, Hint: "There is nothing at this path.",
		},
		{Name: "gone", Pending: 1, OldestPendingAt: before(26 * time.Hour)},
		{Name: "idle", Configured: true, Breaker: "closed", MaxInFlight: 64, Slots: 64},
		{Name: "legacy", Configured: true, Breaker: "closed", Paused: true, PausedAt: before(2 * time.Hour), MaxInFlight: 16, Slots: 16, Pending: 12},
		{Name: "slow", Configured: true, Breaker: "closed", MaxInFlight: 16, Slots: 3, InFlight: 2, LastSuccessAt: before(time.Second)},
		{Name: "worse", Configured: true, Breaker: "half-open", MaxInFlight: 16, Slots: 1, Errors: 1, ErrorsSince: before(time.Minute), LastError: nasty},
	}
	golden(t, "backends", shown(t, 0, func(s screen) error { return backendTable(s, list).write(s) }))
}

func TestShowConditions(t *testing.T) {
	t.Parallel()
	list := []conditions.Condition{
		{
			ID: conditions.BackendFailing, About: "billing", Severity: conditions.Page, Since: before(27 * time.Minute), Count: 1204,
			Text: "billing has answered 404 since 14:03 UTC, 23 times. 1,204 events wait; nothing is lost.", Help: "There is nothing at this path.",
		},
		{ID: conditions.DeliveriesFailed, About: nasty, Severity: conditions.Warn, Count: 3, Text: nasty + " failed."},
		{ID: conditions.NeedsRestart, Severity: conditions.Info, Text: "A change in routes.yaml takes a restart.", Help: "listen was changed"},
	}
	golden(t, "conditions", shown(t, 0, func(s screen) error { return showConditions(s, list) })+
		"\nnone:\n"+shown(t, 0, func(s screen) error { return showConditions(s, nil) }))
}

func TestShowQuarantine(t *testing.T) {
	t.Parallel()
	items := []quarantine.Rejected{
		{
			ID: 13, Source: "main", Received: before(time.Hour), Expires: before(-29 * 24 * time.Hour), Client: "3.18.12.63", Reason: "no_match",
			EventID: "evt_1", EventType: "invoice.paid", Diagnosis: "signed with the secret of source `connect`",
		},
		{ID: 2, Source: "main", Received: before(29 * 24 * time.Hour), Expires: before(-time.Hour), Client: "3.18.12.63", Reason: "too_old", EventType: nasty},
	}
	golden(t, "quarantine", shown(t, 0, func(s screen) error { return quarantineTable(s, items).write(s) }))
}

func TestNext(t *testing.T) {
	t.Parallel()
	s := screen{now: time.Now()}
	for why, want := range map[string]string{
		"lease": "trying now", "breaker": "when the breaker lets it", "paused": "paused", "rate": "now, rate",
	} {
		if got := s.next(admin.Delivery{State: "pending", Why: why}); got != want {
			t.Errorf("%s: %q, want %q", why, got, want)
		}
	}
}

func TestEventThatNoRouteTakes(t *testing.T) {
	t.Parallel()
	got := advice(screen{}, admin.EventDetail{Event: admin.Event{Seq: 7, State: "failed", Reason: "unparseable"}, NeedsBackend: true})
	if !strings.Contains(got, "breakwater resend 7 --backend NAME") {
		t.Errorf("got %q", got)
	}
}

func TestTailLines(t *testing.T) {
	t.Parallel()
	messages := []struct {
		event string
		data  any
	}{
		{admin.MessageEvent, admin.StreamEvent{At: before(0), Source: "main", ID: "evt_1Pgc76B7WZ01zgkWwyRHS12y", Type: "invoice.paid", Object: "in_1", Livemode: true, Result: "delivered", DurationMS: 45}},
		{admin.MessageEvent, admin.StreamEvent{At: before(0), Source: "connect", ID: "evt_2", Type: "customer.subscription.trial_will_end", Account: "acct_1", Result: "stored", DurationMS: 8000}},
		{admin.MessageEvent, admin.StreamEvent{At: before(0), Source: "main", Result: "rejected"}},
		{admin.MessageAttempt, admin.StreamAttempt{ID: "evt_2", Source: "main", Type: "invoice.paid", Attempt: admin.Attempt{
			Backend: "legacy", N: 1, StartedAt: before(time.Second), DurationMS: 45, Status: 200, Outcome: "delivered", Trigger: "inline",
		}}},
		{admin.MessageAttempt, admin.StreamAttempt{ID: "evt_2", Source: "main", Type: "invoice.paid", Attempt: admin.Attempt{
			Backend: "billing", N: 3, StartedAt: before(31 * time.Second), DurationMS: 30000, Outcome: "timeout", Error: nasty, Trigger: "retry",
		}}},
		{admin.MessageBackend, admin.Backend{Name: "billing"}},
	}
	both := []string{admin.MessageEvent, admin.MessageAttempt}
	for name, tail := range map[string]tailing{
		"tail":        {only: both},
		"tail-failed": {only: both, failed: true},
		"tail-type":   {only: both, types: "invoice.*", backend: "legacy"},
		"tail-source": {only: both, source: "connect", out: screen{width: 60}},
		"tail-json":   {only: tailMessages, asJSON: true, types: "customer.*"},
	} {
		var b strings.Builder
		for _, m := range messages {
			data, err := json.Marshal(m.data)
			if err != nil {
				t.Fatal(err)
			}
			line, err := tail.line(admin.RawMessage{Event: m.event, Data: data})
			if err != nil {
				t.Fatal(err)
			}
			if line != "" {
				b.WriteString(line + "\n")
			}
		}
		golden(t, name, b.String())
	}
}
