package proxy

import (
	"context"
	"net/http"
	"time"
)

// Gateway takes Stripe's events in and delivers them. Make one with New.
type Gateway struct{}

// New returns a Gateway for cfg. Its error names every problem of cfg, not the first only.
func New(cfg Config) (*Gateway, error) { return &Gateway{}, nil }

// ServeHTTP takes one request from Stripe.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// Run delivers what is Pending until ctx ends. It then takes no more, lets attempts that were sent end for up to
// DrainTimeout, settles all of them and returns nil.
func (g *Gateway) Run(ctx context.Context) error { return nil }

// Reload takes new sources, backends, routes and timing, in one step; on error the old ones stay. What a backend has
// learned (breaker, limiter, pause) lives on by its name.
func (g *Gateway) Reload(cfg Config) error { return nil }

// Accept takes an event that was verified elsewhere the way that ServeHTTP takes a request. When it returns a nil error,
// the promise holds for the event.
func (g *Gateway) Accept(ctx context.Context, e *Event) (Result, error) { return "", nil }

// Resend asks for deliveries of a stored event again: to the backends named, else to those it was delivered to, else to
// those that today's routes choose.
func (g *Gateway) Resend(ctx context.Context, k Known, backends ...string) ([]Resent, error) {
	return nil, nil
}

// Pause holds a backend's deliveries: events are kept, nothing is sent. Resume sends again.
func (g *Gateway) Pause(backend string) error { return nil }

// Resume ends a pause.
func (g *Gateway) Resume(backend string) error { return nil }

// Why says why a Pending delivery waits: "backoff", "breaker", "paused", "rate", "in_flight", "lease", "no_backend" or
// "no_secret". It is derived, never stored.
func (g *Gateway) Why(source string, d Delivery, now time.Time) string { return "" }

// Backends returns how each backend does, by name.
func (g *Gateway) Backends() []BackendStatus { return nil }

// BackendStatus is how a backend does at this moment.
type BackendStatus struct {
	Name        string
	Breaker     string // "closed", "half-open" or "open"
	Paused      bool
	InFlight    int
	MaxInFlight int
	Slots       int // attempts allowed at once now: less than MaxInFlight while it recovers
	LastSuccess time.Time
	LastError   string
	LastErrorAt time.Time
}
