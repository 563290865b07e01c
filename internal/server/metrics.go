package server

import (
	"context"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// metrics counts what happens. It is the Gateway's Observer and a Collector of what is read when Prometheus asks.
//
// Labels are bounded: sources and backends are names of routes.yaml ("" for a path of no source), everything else is a
// closed set. Every series of the sources and backends exists from the start, at 0: a rate over a series that appears
// with its first failure misses that failure.
type metrics struct {
	registry *prometheus.Registry

	events        *prometheus.CounterVec
	requestTime   *prometheus.HistogramVec
	attempts      *prometheus.CounterVec
	attemptTime   *prometheus.HistogramVec
	refusals      *prometheus.CounterVec
	signatureAge  *prometheus.HistogramVec
	commitTime    prometheus.Histogram
	commitSize    prometheus.Histogram
	denied        *prometheus.CounterVec
	reloadSuccess prometheus.Gauge
	dropped       atomic.Int64 // told with what the journal dropped itself, by standing
}

var _ proxy.Observer = (*metrics)(nil)

func newMetrics(version, revision string) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "breakwater", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		o := prometheus.HistogramOpts{Namespace: "breakwater", Name: name, Help: help, Buckets: buckets}
		return prometheus.NewHistogramVec(o, labels)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		events:   counter("events_total", "Requests to the webhook paths, by what became of them.", "source", "result"),
		requestTime: histogram("request_duration_seconds", "Time until Stripe was answered.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 8, 10}, "source"),
		attempts: counter("attempts_total", "Attempts to deliver, by outcome.", "backend", "outcome"),
		attemptTime: histogram("attempt_duration_seconds", "Time that attempts took.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}, "backend"),
		refusals: counter("signature_failures_total", "Requests whose signature was not believed.", "source", "reason"),
		signatureAge: histogram("signature_age_seconds", "Age of genuine signatures; it shows clock skew and queues on the way.",
			[]float64{-60, -5, -1, 0, 1, 2, 5, 10, 30, 60, 120, 300, 3600}, "source"),
		commitTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "breakwater", Name: "journal_commit_seconds", Help: "Time that commits to stable storage took.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
		}),
		commitSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "breakwater", Name: "journal_batch_size", Help: "Operations that shared one commit.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256},
		}),
		denied: counter("admin_denied_total", "Requests to the admin listener that were turned away.", "reason"),
		reloadSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "breakwater", Name: "config_last_reload_successful", Help: "Whether the configuration as it is now was taken.",
		}),
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "breakwater", Name: "build_info", Help: "What is running; always 1.",
	}, []string{"version", "revision", "goversion"})
	info.WithLabelValues(version, revision, runtime.Version()).Set(1)
	m.reloadSuccess.Set(1)
	for _, reason := range admin.DeniedReasons {
		m.denied.WithLabelValues(reason)
	}

	m.registry.MustRegister(
		m.events, m.requestTime, m.attempts, m.attemptTime, m.refusals, m.signatureAge, m.commitTime, m.commitSize,
		m.denied, m.reloadSuccess, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// expect creates every series that cfg can lead to.
func (m *metrics) expect(cfg proxy.Config) {
	sources := []string{""}
	for name := range cfg.Sources {
		sources = append(sources, name)
		m.signatureAge.WithLabelValues(name)
		for _, reason := range stripe.Reasons {
			m.refusals.WithLabelValues(name, reason)
		}
	}
	for _, name := range sources {
		m.requestTime.WithLabelValues(name)
		for _, result := range proxy.Results {
			m.events.WithLabelValues(name, string(result))
		}
	}
	for name := range cfg.Backends {
		m.attemptTime.WithLabelValues(name)
		for _, outcome := range proxy.Outcomes {
			m.attempts.WithLabelValues(name, outcome)
		}
	}
}

// Answered implements proxy.Observer.
func (m *metrics) Answered(source string, _ *proxy.Event, result proxy.Result, took time.Duration) {
	m.events.WithLabelValues(source, string(result)).Inc()
	m.requestTime.WithLabelValues(source).Observe(took.Seconds())
}

// Attempted implements proxy.Observer.
func (m *metrics) Attempted(_ *proxy.Event, backend string, a proxy.Attempt) {
	m.attempts.WithLabelValues(backend, a.Outcome).Inc()
	m.attemptTime.WithLabelValues(backend).Observe(a.Duration.Seconds())
}

// Verified implements proxy.Observer. The age of a signature that Stripe did not make means nothing.
func (m *metrics) Verified(source, reason string, age time.Duration) {
	switch reason {
	case "":
		m.signatureAge.WithLabelValues(source).Observe(age.Seconds())
		return
	case stripe.TooOld, stripe.TooFarAhead:
		m.signatureAge.WithLabelValues(source).Observe(age.Seconds())
	}
	m.refusals.WithLabelValues(source, reason).Inc()
}

// HistoryDropped implements proxy.Observer.
func (m *metrics) HistoryDropped() { m.dropped.Add(1) }

// committed is told of each commit of the journal.
func (m *metrics) committed(took time.Duration, operations int) {
	m.commitTime.Observe(took.Seconds())
	m.commitSize.Observe(float64(operations))
}

func (m *metrics) adminDenied(reason string) { m.denied.WithLabelValues(reason).Inc() }

func (m *metrics) reloaded(ok bool) {
	if ok {
		m.reloadSuccess.Set(1)
	} else {
		m.reloadSuccess.Set(0)
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, // what can be told is told while the journal is away
		Timeout:       10 * time.Second,
	})
}

// standing reads how the backends and the journal stand, when Prometheus asks.
type standing struct {
	backends func() []proxy.BackendStatus
	totals   func(context.Context) ([]journal.Total, error)
	dropped  func() int64
	ready    func(context.Context) error // of the journal, nil when it takes new events; may be nil: then it is not told
}

var (
	failedDesc = prometheus.NewDesc("breakwater_deliveries_failed",
		"Deliveries that were given up and are kept; of no backend: events that could not be read.", []string{"backend"}, nil)
	fullDesc = prometheus.NewDesc("breakwater_journal_full", "1 while the journal takes no new events, for want of room or otherwise.",
		nil, nil)
	pendingDesc = prometheus.NewDesc("breakwater_deliveries_pending", "Deliveries that are owed.", []string{"backend"}, nil)
	oldestDesc  = prometheus.NewDesc("breakwater_oldest_pending_seconds",
		"Time since the oldest event that is owed was received, 0 when none is.", []string{"backend"}, nil)
	breakerDesc = prometheus.NewDesc("breakwater_breaker_state", "0 closed, 1 half-open, 2 open.", []string{"backend"}, nil)
	droppedDesc = prometheus.NewDesc("breakwater_history_dropped_total",
		"Delivered events that the journal has no history of, because it could not keep up.", nil, nil)
)

// Describe implements prometheus.Collector.
func (standing) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{failedDesc, fullDesc, pendingDesc, oldestDesc, breakerDesc, droppedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s standing) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(s.dropped()))

	failed := map[string]int64{"": 0}
	pending := map[string]journal.Total{} // a backend that left routes.yaml is in the totals only
	for _, b := range s.backends() {
		ch <- prometheus.MustNewConstMetric(breakerDesc, prometheus.GaugeValue, breakerState[b.Breaker], b.Name)
		pending[b.Name], failed[b.Name] = journal.Total{}, 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.ready != nil {
		full := 0.0
		if s.ready(ctx) != nil {
			full = 1
		}
		ch <- prometheus.MustNewConstMetric(fullDesc, prometheus.GaugeValue, full)
	}
	totals, err := s.totals(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(pendingDesc, err)
		return
	}
	for _, t := range totals {
		switch t.State {
		case proxy.Pending:
			pending[t.Backend] = t
		case proxy.Failed:
			failed[t.Backend] = t.Count
		}
	}
	for name, n := range failed {
		ch <- prometheus.MustNewConstMetric(failedDesc, prometheus.GaugeValue, float64(n), name)
	}
	now := time.Now()
	for name, t := range pending {
		age := 0.0
		if t.Count > 0 && !t.Oldest.IsZero() {
			age = max(0, now.Sub(t.Oldest).Seconds())
		}
		ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(t.Count), name)
		ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age, name)
	}
}

var breakerState = map[string]float64{"closed": 0, "half-open": 1, "open": 2}

// holding tells which conditions hold, when Prometheus asks. about is the name of a backend or source, or empty.
type holding struct {
	conditions func(context.Context) []conditions.Condition
}

var conditionDesc = prometheus.NewDesc("breakwater_condition", "1 while something wants a person: breakwater conditions says what it is.",
	[]string{"id", "about"}, nil)

// Describe implements prometheus.Collector.
func (holding) Describe(ch chan<- *prometheus.Desc) { ch <- conditionDesc }

// Collect implements prometheus.Collector.
func (h holding) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, c := range h.conditions(ctx) {
		ch <- prometheus.MustNewConstMetric(conditionDesc, prometheus.GaugeValue, 1, c.ID, c.About)
	}
}
