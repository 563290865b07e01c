package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// openQuarantine makes the quarantine over what the journal holds. It is there whether stripe_ips is set or not: a reload
// may turn it on, and what was kept before it was turned off is still released and dropped.
func (s *server) openQuarantine(ctx context.Context) (err error) {
	s.quarantine, err = quarantine.New(ctx, quarantine.Options{
		Store: s.journal, Log: s.Log,
		Accept: func(ctx context.Context, ev *proxy.Event) (proxy.Result, error) {
			return s.gateway.Accept(ctx, ev, proxy.TriggerInline)
		},
		Sources: s.sources,
	})
	if err == nil {
		s.quarantine.Use(quarantineConfig(s.boot))
	}
	return err
}

func quarantineConfig(file *config.File) quarantine.Config {
	addresses := file.StripeIPs.Own
	if file.StripeIPs.Default {
		addresses = append(quarantine.StripeIPs(), addresses...)
	}
	return quarantine.Config{
		Addresses: addresses, MaxBytes: file.Quarantine.MaxBytes, MaxAge: file.Quarantine.MaxAge, Rate: file.Quarantine.Rate,
		Sources: file.Proxy.Sources,
	}
}

// quarantined reads how the quarantine stands, when Prometheus asks.
type quarantined struct {
	stats func() quarantine.Stats
}

var (
	quarantineItems  = prometheus.NewDesc("breakwater_quarantine_items", "Requests that came from Stripe and did not verify.", nil, nil)
	quarantineBytes  = prometheus.NewDesc("breakwater_quarantine_bytes", "Room that they take.", nil, nil)
	quarantineOldest = prometheus.NewDesc("breakwater_quarantine_oldest_seconds",
		"Time since the oldest of them was received, 0 when there is none.", nil, nil)
)

// Describe implements prometheus.Collector.
func (quarantined) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{quarantineItems, quarantineBytes, quarantineOldest} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (q quarantined) Collect(ch chan<- prometheus.Metric) {
	s := q.stats()
	age := 0.0
	if s.Items > 0 {
		age = max(0, time.Since(s.Oldest).Seconds())
	}
	ch <- prometheus.MustNewConstMetric(quarantineItems, prometheus.GaugeValue, float64(s.Items))
	ch <- prometheus.MustNewConstMetric(quarantineBytes, prometheus.GaugeValue, float64(s.Bytes))
	ch <- prometheus.MustNewConstMetric(quarantineOldest, prometheus.GaugeValue, age)
}
