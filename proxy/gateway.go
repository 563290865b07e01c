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
	journal   Journal
	log       *zap.Logger
	observers observers
	keeper    Quarantine // nil: none
	dial      dialFunc

	state      atomic.Pointer[state]
	flights    flights
	unrecorded *unrecorded
	memory     *semaphore.Weighted
	memoryOf   int64         // all of it, in bytes
	diagnose   *rate.Limiter // bounds the work done to explain a bad signature
	complain   *rate.Limiter // bounds what is said of events that no secret is left for
	refusals   *rate.Limiter // bounds the lines about requests that hold no event of Stripe's
	unlogged   atomic.Int64  // of those, since the last line

	life     context.Context // of attempts: ends when Run gives up waiting for them
	endLife  context.CancelFunc
	attempts *deadlines    // within life
	answers  *deadlines    // of what Stripe waits for
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

// New returns a Gateway for cfg. An error names every problem of cfg, not only the first.
func New(cfg Config) (*Gateway, error) {
	if cfg.Journal == nil {
		return nil, errors.New("new gateway: Config.Journal is nil; proxy/sqlite opens one")
	}
	cfg = cfg.WithDefaults()
	g := &Gateway{
		journal: cfg.Journal, log: cfg.Log, observers: cfg.Observers, keeper: cfg.Quarantine,
		dial:       (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		unrecorded: newUnrecorded(), diagnose: rate.NewLimiter(2, 10), complain: rate.NewLimiter(0.1, 3), refusals: rate.NewLimiter(10, 100),
		memory: semaphore.NewWeighted(cfg.BodyMemory), memoryOf: cfg.BodyMemory,
		stopping: make(chan struct{}), changed: make(chan struct{}, 1),
		known: map[string]*backend{}, sources: map[string]*sourceHealth{},
	}
	g.life, g.endLife = context.WithCancel(context.Background())
	g.attempts, g.answers = newDeadlines(g.life, errTimedOut), newDeadlines(context.Background(), context.DeadlineExceeded)
	return g, g.Reload(cfg)
}

// Reload takes new sources, backends, routes and timing, in one step; on error the old ones stay. What a backend has
// learned (breaker, limiter, pause) lives on by its name, a pause by a new name too.
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
	var before map[string]*backend
	if old := g.state.Load(); old != nil {
		before = old.backends
	}
	for name, t := range targets {
		b := g.known[name]
		if b == nil {
			b = newBackend(name, g)
			g.known[name] = b
		}
		b.takePauses(t.Was, before)
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

// takePauses has b paused where one of before that it takes over was: those deliveries are to wait on. What b was itself
// counts only if it was among them, not what it was when it last had this name.
func (b *backend) takePauses(was []string, before map[string]*backend) {
	paused, took := before[b.name] != nil && b.paused.Load(), false
	for _, name := range was {
		if old := before[name]; old != nil {
			paused, took = paused || old.paused.Load(), true
		}
	}
	if took {
		b.paused.Store(paused)
	}
}

// target returns what the configuration says of a backend. One that has not changed keeps its connections.
func (g *Gateway) target(name string, c Backend) (*target, error) {
	g.mu.Lock()
	b := g.known[name]
	g.mu.Unlock()
	if b != nil && c.CAFile == "" && c.Sender == nil { // a Sender is at work: nobody may look into it
		if t := b.target.Load(); reflect.DeepEqual(t.Backend, c) {
			return t, nil
		}
	}
	return newTarget(name, c, g.dial)
}

// Run delivers what is Pending until ctx ends. It then takes no more, lets attempts that were sent end for up to
// DrainTimeout, settles all of them and returns nil. Requests that wait for a backend at that moment are answered as
// if their time were up. A Gateway runs once.
func (g *Gateway) Run(ctx context.Context) error {
	var loops, settlers sync.WaitGroup
	running := map[string]context.CancelFunc{}
	settling := map[string]chan struct{}{}
	for ctx.Err() == nil {
		st := g.state.Load()
		for name, b := range st.backends {
			if running[name] == nil {
				loopCtx, cancel := context.WithCancel(ctx)
				running[name] = cancel
				loops.Go(func() { b.drain.run(loopCtx) })
			}
			if settling[name] == nil {
				stop := make(chan struct{})
				settling[name] = stop
				settlers.Go(func() { b.drain.settle(stop) })
			}
		}
		for name, cancel := range running {
			if st.backends[name] == nil {
				cancel()
				delete(running, name)
			}
		}
		select {
		case <-ctx.Done():
		case <-g.changed:
		}
	}
	for _, cancel := range running {
		cancel()
	}
	g.stop()
	loops.Wait()
	g.waitForWork()
	for _, stop := range settling {
		close(stop)
	}
	settlers.Wait()
	g.mu.Lock() // a reload may still come
	defer g.mu.Unlock()
	for _, b := range g.known {
		b.target.Load().close()
	}
	return nil
}

// begin runs f as work that Run waits for, unless the gateway has stopped.
func (g *Gateway) begin(f func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return false
	}
	g.work.Go(f)
	return true
}

// enter counts a request as work that Run waits for, so that attempts which outlive it are waited for too; leave ends it.
// stopping says that nothing is to be sent for it any more.
func (g *Gateway) enter() (stopping bool, leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return true, func() {}
	}
	g.work.Add(1)
	return false, g.work.Done
}

func (g *Gateway) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	close(g.stopping)
}

// waitForWork lets attempts end for DrainTimeout, then cuts them.
func (g *Gateway) waitForWork() {
	timer := time.AfterFunc(g.state.Load().DrainTimeout, g.endLife)
	g.work.Wait()
	timer.Stop()
	g.endLife()
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
		st.backend(name).drain.poke()
	}
	return res, nil
}

// ErrNoBackend: no backend of today's configuration has that name, or none was named and none is routed to.
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

// Pause stops deliveries to a backend until Resume: its events are stored, nothing is sent. What is being sent at that
// moment ends by itself. The error is ErrNoBackend.
func (g *Gateway) Pause(backend string) error { return g.setPaused(backend, true) }

// Resume ends a pause: what was stored meanwhile is delivered, oldest first. The error is ErrNoBackend.
func (g *Gateway) Resume(backend string) error { return g.setPaused(backend, false) }

func (g *Gateway) setPaused(name string, paused bool) error {
	b := g.state.Load().backends[name]
	if b == nil {
		return fmt.Errorf("%w: %q", ErrNoBackend, name)
	}
	b.paused.Store(paused)
	b.drain.poke()
	return nil
}

// canSign reports whether an event of a source that may have gone can still be signed for a backend.
func (st *state) canSign(source string, b *backend) bool {
	s := st.byName[source]
	return len(b.target.Load().secrets) > 0 || s != nil && len(s.secrets) > 0
}

// observers are told each in turn.
type observers []Observer

func (all observers) Answered(source string, ev *Event, r Result, took time.Duration) {
	for _, o := range all {
		o.Answered(source, ev, r, took)
	}
}

func (all observers) Attempted(ev *Event, backend string, a Attempt) {
	for _, o := range all {
		o.Attempted(ev, backend, a)
	}
}

func (all observers) Verified(source, reason string, age time.Duration) {
	for _, o := range all {
		o.Verified(source, reason, age)
	}
}

func (all observers) HistoryDropped() {
	for _, o := range all {
		o.HistoryDropped()
	}
}
