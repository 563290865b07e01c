package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestMetricsSeriesStartAtZero(t *testing.T) {
	t.Parallel()
	m := newMetrics("v1.2.3", "abc")
	m.expect(proxy.Config{
		Sources:  map[string]proxy.Source{"main": {}, "connect": {}},
		Backends: map[string]proxy.Backend{"legacy": {}},
	})
	for name, want := range map[string]int{
		"breakwater_events_total":                  3 * len(proxy.Results), // both sources, and the path of none
		"breakwater_request_duration_seconds":      3,
		"breakwater_attempts_total":                len(proxy.Outcomes),
		"breakwater_attempt_duration_seconds":      1,
		"breakwater_signature_failures_total":      2 * len(stripe.Reasons),
		"breakwater_signature_age_seconds":         2,
		"breakwater_journal_commit_seconds":        1,
		"breakwater_journal_batch_size":            1,
		"breakwater_config_last_reload_successful": 1,
		"breakwater_build_info":                    1,
	} {
		got, err := testutil.GatherAndCount(m.registry, name)
		if err != nil || got != want {
			t.Errorf("%s: got %d series (%v), want %d", name, got, err, want)
		}
	}
}

func TestMetricsCount(t *testing.T) {
	t.Parallel()
	m := newMetrics("v", "")
	m.Answered("main", nil, proxy.ResultStored, time.Second)
	m.Attempted(nil, "legacy", proxy.Attempt{Outcome: proxy.OutcomeTimeout, Duration: time.Second})
	m.Verified("main", stripe.NoMatch, 40*time.Hour)
	m.Verified("main", stripe.TooOld, time.Hour)
	m.Verified("main", "", time.Second)
	m.reloaded(false)

	err := testutil.GatherAndCompare(m.registry, strings.NewReader(`
# HELP breakwater_attempts_total Attempts to deliver, by outcome.
# TYPE breakwater_attempts_total counter
breakwater_attempts_total{backend="legacy",outcome="timeout"} 1
# HELP breakwater_config_last_reload_successful Whether the configuration as it is now was taken.
# TYPE breakwater_config_last_reload_successful gauge
breakwater_config_last_reload_successful 0
# HELP breakwater_events_total Requests to the webhook paths, by what became of them.
# TYPE breakwater_events_total counter
breakwater_events_total{result="stored",source="main"} 1
# HELP breakwater_signature_failures_total Requests whose signature was not believed.
# TYPE breakwater_signature_failures_total counter
breakwater_signature_failures_total{reason="no_match",source="main"} 1
breakwater_signature_failures_total{reason="too_old",source="main"} 1
`), "breakwater_attempts_total", "breakwater_config_last_reload_successful", "breakwater_events_total",
		"breakwater_signature_failures_total")
	if err != nil {
		t.Error(err)
	}
	// The forged signature's age is not observed: it says nothing about a clock.
	err = testutil.CollectAndCompare(m.signatureAge, strings.NewReader(`
# HELP breakwater_signature_age_seconds Age of genuine signatures; it shows clock skew and queues on the way.
# TYPE breakwater_signature_age_seconds histogram
breakwater_signature_age_seconds_bucket{source="main",le="-60"} 0
breakwater_signature_age_seconds_bucket{source="main",le="-5"} 0
breakwater_signature_age_seconds_bucket{source="main",le="-1"} 0
breakwater_signature_age_seconds_bucket{source="main",le="0"} 0
breakwater_signature_age_seconds_bucket{source="main",le="1"} 1
breakwater_signature_age_seconds_bucket{source="main",le="2"} 1
breakwater_signature_age_seconds_bucket{source="main",le="5"} 1
breakwater_signature_age_seconds_bucket{source="main",le="10"} 1
breakwater_signature_age_seconds_bucket{source="main",le="30"} 1
breakwater_signature_age_seconds_bucket{source="main",le="60"} 1
breakwater_signature_age_seconds_bucket{source="main",le="120"} 1
breakwater_signature_age_seconds_bucket{source="main",le="300"} 1
breakwater_signature_age_seconds_bucket{source="main",le="3600"} 2
breakwater_signature_age_seconds_bucket{source="main",le="+Inf"} 2
breakwater_signature_age_seconds_sum{source="main"} 3601
breakwater_signature_age_seconds_count{source="main"} 2
`))
	if err != nil {
		t.Error(err)
	}
}

func TestStanding(t *testing.T) {
	t.Parallel()
	s := standing{
		backends: func() []proxy.BackendStatus {
			return []proxy.BackendStatus{{Name: "legacy", Breaker: "open"}, {Name: "fine", Breaker: "closed"}}
		},
		totals: func(context.Context) ([]journal.Total, error) {
			return []journal.Total{
				{Backend: "legacy", State: proxy.Pending, Count: 7},
				{Backend: "legacy", State: proxy.Delivered, Count: 9},
				{Backend: "gone", State: proxy.Pending, Count: 2},
				{State: proxy.Failed, Count: 3},
			}, nil
		},
		dropped: func() int64 { return 3 },
		ready:   func(context.Context) error { return errors.New("full") },
	}
	err := testutil.CollectAndCompare(s, strings.NewReader(`
# HELP breakwater_breaker_state 0 closed, 1 half-open, 2 open.
# TYPE breakwater_breaker_state gauge
breakwater_breaker_state{backend="fine"} 0
breakwater_breaker_state{backend="legacy"} 2
# HELP breakwater_deliveries_failed Deliveries that were given up and are kept; of no backend: events that could not be read.
# TYPE breakwater_deliveries_failed gauge
breakwater_deliveries_failed{backend=""} 3
breakwater_deliveries_failed{backend="fine"} 0
breakwater_deliveries_failed{backend="legacy"} 0
# HELP breakwater_deliveries_pending Deliveries that are owed.
# TYPE breakwater_deliveries_pending gauge
breakwater_deliveries_pending{backend="fine"} 0
breakwater_deliveries_pending{backend="gone"} 2
breakwater_deliveries_pending{backend="legacy"} 7
# HELP breakwater_history_dropped_total Delivered events that the journal has no history of, because it could not keep up.
# TYPE breakwater_history_dropped_total counter
breakwater_history_dropped_total 3
# HELP breakwater_journal_full 1 while the journal takes no new events, for want of room or otherwise.
# TYPE breakwater_journal_full gauge
breakwater_journal_full 1
`), "breakwater_breaker_state", "breakwater_deliveries_failed", "breakwater_journal_full", "breakwater_deliveries_pending", "breakwater_history_dropped_total")
	if err != nil {
		t.Error(err)
	}

	problems, err := testutil.CollectAndLint(s)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}

	// Without the journal, what does not need it is still told.
	s.totals = func(context.Context) ([]journal.Total, error) { return nil, errors.New("journal unavailable") }
	m := newMetrics("v", "")
	m.registry.MustRegister(s)
	families, err := m.registry.Gather()
	if err == nil {
		t.Error("a gap in the figures went unsaid")
	}
	found := false
	for _, f := range families {
		found = found || f.GetName() == "breakwater_breaker_state"
	}
	if !found {
		t.Error("breaker_state is missing while the journal is away")
	}
}

func TestConditionMetric(t *testing.T) {
	t.Parallel()
	h := holding{func(context.Context) []conditions.Condition {
		return []conditions.Condition{{ID: conditions.BackendFailing, About: "legacy"}, {ID: conditions.DeliveriesFailed}}
	}}
	err := testutil.CollectAndCompare(h, strings.NewReader(`
# HELP breakwater_condition 1 while something wants a person: breakwater conditions says what it is.
# TYPE breakwater_condition gauge
breakwater_condition{about="",id="deliveries_failed"} 1
breakwater_condition{about="legacy",id="backend_failing"} 1
`))
	if err != nil {
		t.Error(err)
	}
}
