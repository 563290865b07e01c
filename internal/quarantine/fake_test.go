package quarantine

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/internal/toystripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

const (
	known  = "whsec_that_we_know"
	rolled = "whsec_that_we_do_not_know"
	other  = "whsec_of_the_other_source"
)

var stripeAddr = netip.MustParseAddr("3.18.12.63")

// store is a Store in memory.
type store struct {
	mu     sync.Mutex
	last   int64
	items  []proxy.Rejected
	fail   map[string]error // by method
	onSize func()           // called by RejectedSize once it has read
}

func (s *store) KeepRejected(_ context.Context, r proxy.Rejected) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["Keep"]; err != nil {
		return 0, err
	}
	s.last++
	r.ID = s.last
	s.items = append(s.items, r)
	return r.ID, nil
}

func (s *store) ListRejected(_ context.Context, before int64, limit int) ([]proxy.Rejected, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var page []proxy.Rejected
	for _, r := range slices.Backward(s.items) {
		if (before == 0 || r.ID < before) && len(page) < limit {
			page = append(page, r)
		}
	}
	return page, s.fail["List"]
}

func (s *store) DropRejected(_ context.Context, ids ...int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["Drop"]; err != nil {
		return 0, err
	}
	n := len(s.items)
	s.items = slices.DeleteFunc(s.items, func(r proxy.Rejected) bool { return slices.Contains(ids, r.ID) })
	return n - len(s.items), nil
}

func (s *store) RejectedSize(context.Context) (n, bytes int64, oldest time.Time, err error) {
	s.mu.Lock()
	if s.onSize != nil {
		defer s.onSize()
	}
	defer s.mu.Unlock()
	for _, r := range s.items {
		n++
		bytes += size(&r)
		if oldest.IsZero() || r.Received.Before(oldest) {
			oldest = r.Received
		}
	}
	return n, bytes, oldest, s.fail["Size"]
}

// gateway takes what is released.
type gateway struct {
	mu       sync.Mutex
	accepted []proxy.Event
	fail     func(*proxy.Event) error
	sources  []proxy.SourceStatus
}

func (g *gateway) Accept(_ context.Context, ev *proxy.Event) (proxy.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		if err := g.fail(ev); err != nil {
			return proxy.ResultRefused, err
		}
	}
	g.accepted = append(g.accepted, *ev)
	return proxy.ResultStored, nil
}

func (g *gateway) ids() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := []string{}
	for _, ev := range g.accepted {
		ids = append(ids, ev.ID)
	}
	return ids
}

func (g *gateway) Sources() []proxy.SourceStatus { return g.sources }

// bench is a quarantine with what stands around it.
type bench struct {
	*Quarantine
	t       *testing.T
	store   *store
	gateway *gateway
	cfg     Config
	logs    *observer.ObservedLogs
}

func newBench(t *testing.T) *bench {
	t.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	b := &bench{t: t, store: &store{fail: map[string]error{}}, gateway: &gateway{}, logs: logs}
	b.gateway.sources = []proxy.SourceStatus{{Name: "main", LastAnswered: time.Now()}}
	q, err := New(t.Context(), Options{Store: b.store, Accept: b.gateway.Accept, Sources: b.gateway.Sources, Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	b.Quarantine = q
	b.cfg = Config{
		Addresses: StripeIPs(), MaxBytes: 1 << 20, MaxAge: 30 * 24 * time.Hour, Rate: 1000,
		Sources: map[string]proxy.Source{
			"main":    {SigningSecrets: []proxy.Secret{known}, Tolerance: 5 * time.Minute},
			"connect": {SigningSecrets: []proxy.Secret{other}, Tolerance: 5 * time.Minute},
		},
	}
	q.Use(b.cfg)
	return b
}

// use takes secrets for source main.
func (b *bench) use(secrets ...proxy.Secret) {
	b.cfg.Sources = map[string]proxy.Source{"connect": b.cfg.Sources["connect"], "main": {SigningSecrets: secrets, Tolerance: 5 * time.Minute}}
	b.Use(b.cfg)
}

// keep has a new event kept, or not.
func (b *bench) keep(r proxy.Rejected) bool {
	b.t.Helper()
	kept, err := b.Keep(b.t.Context(), r, never)
	if err != nil {
		b.t.Fatal(err)
	}
	return kept
}

// request is one from Stripe that is signed with a secret that is not known.
func request(body []byte) proxy.Rejected { return signedWith(rolled, body, time.Now()) }

func signedWith(secret string, body []byte, signed time.Time) proxy.Rejected {
	return proxy.Rejected{
		Source: "main", Received: time.Now(), Client: stripeAddr, Reason: stripe.NoMatch, Query: "a=1", Body: body,
		Header:    http.Header{signature: {stripe.Sign(body, signed, secret)}, "User-Agent": {"Stripe/1.0"}},
		Forwarded: http.Header{"X-Forwarded-Proto": {"https"}},
	}
}

func invoice() []byte { return toystripe.New("invoice.paid", toystripe.Options{}).Body }

var errDisk = errors.New("disk")

// never: nobody waits for an answer.
func never() bool { return false }
