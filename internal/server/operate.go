package server

import (
	"time"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// observers are told what happens: metrics count all of it, the feed tells who looks.
type observers struct {
	*metrics
	feed *admin.Feed
}

// Answered implements proxy.Observer.
func (o observers) Answered(source string, ev *proxy.Event, r proxy.Result, took time.Duration) {
	o.metrics.Answered(source, ev, r, took)
	o.feed.Answered(source, ev, r, took)
}

// Attempted implements proxy.Observer.
func (o observers) Attempted(ev *proxy.Event, backend string, a proxy.Attempt) {
	o.metrics.Attempted(ev, backend, a)
	o.feed.Attempted(ev, backend, a)
}
