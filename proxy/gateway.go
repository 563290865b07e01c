package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// Gateway takes Stripe's events in and delivers them. Make one with New.
type Gateway struct {
	journal  Journal
	log      *zap.Logger
	observer Observer
	keeper   Quarantine // nil: none
	dial     dialFunc

	state    atomic.Pointer[state]
	flights  flights
	dropped  *recent // events whose history was dropped: Find cannot know them
	memory   *semaphore.Weighted
	memoryOf int64
	diagnose *rate.Limiter // bounds the work done to explain a bad signature
	complain *rate.Limiter // bounds what is said of events that no secret is left for

	life     context.Context // of attempts: ends when Run gives up waiting for them
	endLife  context.CancelFunc
	stopping chan struct{} // closed when Run stops: nobody waits for a backend any more
	changed  chan struct{} // tells Run that Reload brought other backends

	mu      sync.Mutex
	known   map[string]*backend // every backend since the start: what they learned lives on
	sources map[string]*sourceHealth
	stopped bool
	work    sync.WaitGroup // attempts and settlements under way; Add only under mu, while not stopped
}

// state is one configuration at work. It is swapped whole.
type state struct {
	Config
	byPath   map[string]*source
	byName   map[string]*source
	backends map[string]*backend
}

// New returns a Gateway for cfg. Its error names every problem of cfg, not the first only.
func New(cfg Config) (*Gateway, error) {
	if cfg.Journal == nil {
		return nil, errors.New("new gateway: Config.Journal is nil; proxy/sqlite opens one")
	}
	cfg = cfg.WithDefaults()
	g := &Gateway{
		journal: cfg.Journal, log: cfg.Log, observer: cfg.Observer, keeper: cfg.Quarantine,
		dial:    (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		dropped: newRecent(), diagnose: rate.NewLimiter(2, 10), complain: rate.NewLimiter(0.1, 3),
		memory: semaphore.NewWeighted(cfg.BodyMemory), memoryOf: cfg.BodyMemory,
		stopping: make(chan struct{}), changed: make(chan struct{}, 1),
		known: map[string]*backend{}, sources: map[string]*sourceHealth{},
	}
	g.life, g.endLife = context.WithCancel(context.Background())
	return g, g.Reload(cfg)
}

// Reload takes new sources, backends, routes and timing, in one step; on error the old ones stay. What a backend has
// learned (breaker, limiter, pause) lives on by its name.
func (g *Gateway) Reload(cfg Config) error {
	cfg = cfg.WithDefaults()
	var wrong []error
	for _, p := range cfg.Check() {
		if !p.Warning {
			wrong = append(wrong, fmt.Errorf("%s: %s", p.Path, p.Text))
		}
	}
	targets := make(map[string]*target, len(cfg.Backends))
	for _, name := range slices.Sorted(maps.Keys(cfg.Backends)) {
		t, err := g.target(name, cfg.Backends[name])
		if err != nil {
			wrong = append(wrong, err)
		}
		targets[name] = t
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	st := &state{Config: cfg, byPath: map[string]*source{}, byName: map[string]*source{}, backends: map[string]*backend{}}
	for name, c := range cfg.Sources {
		h := g.sources[name]
		if h == nil {
			h = newSourceHealth(time.Now())
			g.sources[name] = h
		}
		s := newSource(name, c, h)
		st.byPath[c.Path], st.byName[name] = s, s
	}
	for name, t := range targets {
		b := g.known[name]
		if b == nil {
			b = newBackend(name, g.log, g.observer)
			g.known[name] = b
		}
		b.apply(t)
		st.backends[name] = b
	}
	g.state.Store(st)
	select {
	case g.changed <- struct{}{}:
	default:
	}
	return nil
}

// target returns what the configuration says of a backend. One that has not changed keeps its connections.
func (g *Gateway) target(name string, c Backend) (*target, error) {
	g.mu.Lock()
	b := g.known[name]
	g.mu.Unlock()
	if b != nil && c.CAFile == "" {
		if t := b.target.Load(); reflect.DeepEqual(t.Backend, c) {
			return t, nil
		}
	}
	return newTarget(name, c, g.dial)
}

// Resend asks for deliveries of a stored event again: to the backends named, else to those it was delivered to, else to
// those that today's routes choose. The error is ErrNoBackend when there is none, or none of a name.
func (g *Gateway) Resend(ctx context.Context, k Known, backends ...string) ([]Resent, error) {
	st := g.state.Load()
	if len(backends) == 0 {
		for _, d := range k.Deliveries {
			backends = append(backends, d.Backend)
		}
	}
	if len(backends) == 0 {
		for _, t := range st.Routes.Match(&k.Event).To {
			backends = append(backends, t.Backend)
		}
	}
	if len(backends) == 0 {
		return nil, fmt.Errorf("resend %s: %w: no route of today takes %q to one; add one, or name a backend", k.Event.ID, ErrNoBackend, k.Event.Type)
	}
	for _, name := range backends {
		if st.backend(name) == nil {
			return nil, fmt.Errorf("resend %s: %w: %q; there are %s", k.Event.ID, ErrNoBackend, name,
				strings.Join(slices.Sorted(maps.Keys(st.backends)), ", "))
		}
	}
	res, err := g.journal.Resend(ctx, time.Now(), k.Event.Seq, backends)
	if err != nil {
		return nil, fmt.Errorf("resend %s: %w", k.Event.ID, err)
	}
	for _, name := range backends {
		st.backend(name).poke()
	}
	return res, nil
}

// ErrNoBackend: no backend has that name, today.
var ErrNoBackend = errors.New("no such backend")

// backend returns the backend of that name, or the one that had it.
func (st *state) backend(name string) *backend {
	if b := st.backends[name]; b != nil {
		return b
	}
	for _, b := range st.backends {
		if slices.Contains(b.target.Load().Was, name) {
			return b
		}
	}
	return nil
}

// Pause holds a backend's deliveries: events are kept, nothing is sent. The error is ErrNoBackend.
func (g *Gateway) Pause(backend string) error { return g.setPaused(backend, true) }

// Resume ends a pause. The error is ErrNoBackend.
func (g *Gateway) Resume(backend string) error { return g.setPaused(backend, false) }

func (g *Gateway) setPaused(name string, paused bool) error {
	b := g.state.Load().backends[name]
	if b == nil {
		return fmt.Errorf("%w: %q", ErrNoBackend, name)
	}
	b.paused.Store(paused)
	b.poke()
	return nil
}

// Why says why a Pending delivery waits: "lease" (it is being sent), "no_backend", "no_secret", "paused", "breaker",
// "backoff", "rate" or "in_flight" (all slots are taken). It is derived, never stored.
func (g *Gateway) Why(source string, d Delivery, now time.Time) string {
	st := g.state.Load()
	b := st.backend(d.Backend)
	switch {
	case d.State != Pending:
		return ""
	case d.LeaseUntil.After(now):
		return "lease"
	case b == nil:
		return "no_backend"
	case !st.canSign(source, b):
		return "no_secret"
	case b.paused.Load():
		return "paused"
	case !b.breaker.Load().reopens().IsZero():
		return "breaker"
	case d.Due.After(now):
		return "backoff"
	case b.limiter.TokensAt(now) < 1:
		return "rate"
	}
	return "in_flight"
}

// canSign reports whether an event of a source that may have gone can still be signed for a backend.
func (st *state) canSign(source string, b *backend) bool {
	s := st.byName[source]
	return len(b.target.Load().secrets) > 0 || s != nil && len(s.secrets) > 0
}

// Backends returns how each backend does, by name.
func (g *Gateway) Backends() []BackendStatus {
	st := g.state.Load()
	out := make([]BackendStatus, 0, len(st.backends))
	for _, name := range slices.Sorted(maps.Keys(st.backends)) {
		out = append(out, st.backends[name].status())
	}
	return out
}

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
	LastFailure Attempt       // the attempt that LastError is of
	Errors      int           // failed attempts since the last success
	ErrorsSince time.Time     // the first of them
	Statuses    map[int]int64 // attempts by HTTP status since the start; 0: no answer
	Config      Backend       // what routes.yaml says; its Secrets print as "***"
}

type unobserved struct{}

func (unobserved) Answered(string, *Event, Result, time.Duration) {}
func (unobserved) Attempted(*Event, string, Attempt)              {}
func (unobserved) Verified(string, string, time.Duration)         {}
func (unobserved) HistoryDropped()                                {}

// Field names of the log. Dashboards and searches rest on them.
const (
	keyEventID   = "event_id"
	keyEventType = "event_type"
	keySource    = "source"
	keyBackend   = "backend"
	keyAttempt   = "attempt"
	keyStatus    = "status"
	keyOutcome   = "outcome"
)

func millis(d time.Duration) zap.Field {
	return zap.Float64("duration_ms", float64(d.Microseconds())/1000)
}
