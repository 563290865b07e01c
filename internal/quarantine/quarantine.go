// Package quarantine keeps requests that come from Stripe's addresses and verify with no secret. Most likely a signing
// secret was rolled and routes.yaml does not know it yet: refusing would cost the events, and after nine days the
// endpoint.
//
// What it adds to the promise: a 2xx to such a request means that it is on stable storage, shown and alerted, and stays
// there until a secret of its source matches (it is then released, whatever its time, and goes the way of every event),
// until an operator drops it, or until max_age has passed. It is delivered to nobody before it verifies.
//
// Anybody with a Stripe account can make Stripe send something to our URL. That is why there are bounds, in bytes and
// in rate, and why a request that they leave no room for is refused as if there were no quarantine.
package quarantine

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Options are what New needs.
type Options struct {
	Store journal.Quarantine
	// Accept takes a released event; with a nil error the promise holds for it. It is proxy.Gateway's.
	Accept func(context.Context, *proxy.Event) (proxy.Result, error)
	// Sources says what the sources have seen. It is proxy.Gateway's.
	Sources func() []proxy.SourceStatus
	Log     *zap.Logger
}

// Config is what routes.yaml says. With no Addresses nothing new is kept.
type Config struct {
	Addresses []netip.Prefix // that Stripe sends from
	MaxBytes  int64          // of all that is kept
	MaxAge    time.Duration
	Rate      float64 // requests kept a second
	Sources   map[string]proxy.Source
}

// Quarantine is a proxy.Quarantine. Make one with New, configure it with Use.
type Quarantine struct {
	Options
	config  atomic.Pointer[Config]
	limiter atomic.Pointer[rate.Limiter]
	recheck chan struct{} // tells Run that something kept may verify now

	rechecking chan struct{}  // full while a recheck is under way
	refused    map[int64]bool // the recheck's own: what was not accepted when it was last released

	// counting is locked for reading while a request is stored or removed and the figures below are adjusted, and for
	// writing while they are read from the store anew.
	counting sync.RWMutex

	mu         sync.Mutex
	items      int64 // in the store, and on their way there
	bytes      int64
	oldest     time.Time
	turnedAway time.Time           // when a request from Stripe last found no room, or came too fast
	diagnosed  map[string][]string // by source: the reasons that the log has a diagnosis of

	tooFast, full rate.Sometimes // each is logged at most once a minute
}

// New returns a quarantine over what the store holds already.
func New(ctx context.Context, o Options) (*Quarantine, error) {
	q := &Quarantine{
		Options: o, diagnosed: map[string][]string{},
		recheck: make(chan struct{}, 1), rechecking: make(chan struct{}, 1),
		tooFast: rate.Sometimes{Interval: time.Minute}, full: rate.Sometimes{Interval: time.Minute},
	}
	q.config.Store(&Config{})
	q.limiter.Store(rate.NewLimiter(0, 0))
	n, err := q.count(ctx)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		o.Log.Warn("quarantine: requests wait for a secret that matches", zap.Int64("items", n))
	}
	return q, nil
}

// Use takes a configuration. When it has other secrets than the one before, Run rechecks what is kept.
func (q *Quarantine) Use(c Config) {
	old := q.config.Swap(&c)
	if c.Rate != old.Rate {
		q.limiter.Store(rate.NewLimiter(rate.Limit(c.Rate), max(1, int(math.Ceil(c.Rate)))))
	}
	changed := false
	q.mu.Lock()
	for name, s := range c.Sources {
		if !slices.Equal(s.SigningSecrets, old.Sources[name].SigningSecrets) {
			changed = true
			delete(q.diagnosed, name) // whatever is wrong from here on is new
		}
	}
	q.mu.Unlock()
	if changed {
		q.poke()
	}
}

func (q *Quarantine) poke() {
	select {
	case q.recheck <- struct{}{}:
	default:
	}
}

// Keep implements proxy.Quarantine.
func (q *Quarantine) Keep(ctx context.Context, r proxy.Rejected, awaited func() bool) (bool, error) {
	c := q.config.Load()
	if !c.fromStripe(r.Client) || awaited() {
		return false, nil
	}
	if !q.limiter.Load().Allow() {
		q.turnAway(&q.tooFast, &r, "quarantine: more requests than quarantine.rate, the rest is answered 400")
		return false, nil
	}
	q.counting.RLock()
	defer q.counting.RUnlock()
	if !q.reserve(&r, c.MaxBytes) {
		q.turnAway(&q.full, &r, "quarantine: full (quarantine.max_bytes), requests are answered 400; add the secret that is missing, "+
			"or drop what nobody needs")
		return false, nil
	}
	if _, err := q.Store.KeepRejected(ctx, r); err != nil {
		q.giveBack(&r)
		return false, fmt.Errorf("keep request: %w", err)
	}
	if c := q.config.Load(); stripe.MatchesAny(r.Body, r.Header[signature], c.secrets(r.Source)) >= 0 && r.Reason == stripe.NoMatch {
		q.poke() // the secret came while the request was on its way here
	}
	q.logDiagnosis(c, &r)
	return true, nil
}

const signature = "Stripe-Signature"

func (c *Config) fromStripe(a netip.Addr) bool {
	return slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// secrets are those of a source, none when it is gone.
func (c *Config) secrets(source string) []string {
	var out []string
	for _, s := range c.Sources[source].SigningSecrets {
		out = append(out, string(s))
	}
	return out
}

func statusOf(sources []proxy.SourceStatus, name string) proxy.SourceStatus {
	for _, s := range sources {
		if s.Name == name {
			return s
		}
	}
	return proxy.SourceStatus{}
}

// reserve counts a request that is about to be stored, if there is room for it.
func (q *Quarantine) reserve(r *proxy.Rejected, most int64) bool {
	n := size(r)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+n > most {
		return false
	}
	q.items++
	q.bytes += n
	if q.oldest.IsZero() {
		q.oldest = r.Received
	}
	return true
}

// giveBack undoes reserve. What the store has is known at the next count.
func (q *Quarantine) giveBack(r *proxy.Rejected) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= size(r)
	if q.items--; q.items == 0 {
		q.oldest = time.Time{}
	}
}

// size is about the room that a request takes in the store.
func size(r *proxy.Rejected) int64 {
	n := 512 + len(r.Body) + len(r.Query)
	for _, h := range []http.Header{r.Header, r.Forwarded} {
		for k, values := range h {
			for _, v := range values {
				n += len(k) + len(v) + 8
			}
		}
	}
	return int64(n)
}

// count reads how much is kept from the store, which may have to look at all of it: too much work for each view of a page.
func (q *Quarantine) count(ctx context.Context) (items int64, err error) {
	q.counting.Lock()
	defer q.counting.Unlock()
	items, bytes, oldest, err := q.Store.RejectedSize(ctx)
	if err != nil {
		return 0, fmt.Errorf("read quarantine's size: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items, q.bytes, q.oldest = items, bytes, oldest
	if items == 0 {
		q.oldest = time.Time{}
		clear(q.diagnosed)
	}
	return items, nil
}

// Drop removes requests for good and returns how many there were.
func (q *Quarantine) Drop(ctx context.Context, ids ...int64) (int, error) {
	n, err := q.Store.DropRejected(ctx, ids...)
	if n > 0 {
		q.Log.Warn("quarantine: dropped", zap.Int("items", n))
	}
	if err == nil {
		_, err = q.count(ctx)
	}
	return n, err
}

// Stats is how the quarantine stands.
type Stats struct {
	On         bool // something new would be kept
	Items      int64
	Bytes      int64
	MaxBytes   int64
	Oldest     time.Time // when it was received; zero when there is none
	Expires    time.Time // when the oldest is dropped, likewise
	TurnedAway time.Time // when a request from Stripe last found no room, or came too fast, and got a 400; zero: never
}

// Stats says how the quarantine stands. It does not ask the store.
func (q *Quarantine) Stats() Stats {
	c := q.config.Load()
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{
		On: len(c.Addresses) > 0, Items: q.items, Bytes: q.bytes, MaxBytes: c.MaxBytes, Oldest: q.oldest, TurnedAway: q.turnedAway,
	}
	if s.Items > 0 {
		s.Expires = s.Oldest.Add(c.MaxAge)
	}
	return s
}

// turnAway remembers that a request is answered 400, and logs why.
func (q *Quarantine) turnAway(sometimes *rate.Sometimes, r *proxy.Rejected, why string) {
	q.mu.Lock()
	q.turnedAway = r.Received
	q.mu.Unlock()
	sometimes.Do(func() { q.Log.Error(why, zap.String("source", r.Source)) })
}

// logDiagnosis logs what is most likely wrong, once for each reason and source: not for each request that is kept.
func (q *Quarantine) logDiagnosis(c *Config, r *proxy.Rejected) {
	q.mu.Lock()
	before := slices.Contains(q.diagnosed[r.Source], r.Reason)
	if !before {
		q.diagnosed[r.Source] = append(q.diagnosed[r.Source], r.Reason)
	}
	q.mu.Unlock()
	if before {
		return
	}
	q.Log.Error("quarantine: Stripe's requests do not verify; they are kept and answered 2xx, and delivered once they verify",
		zap.String("source", r.Source), zap.String("reason", r.Reason), zap.Stringer("client", r.Client),
		zap.String("diagnosis", diagnose(c, statusOf(q.Sources(), r.Source), r, time.Now())))
}
