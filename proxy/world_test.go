package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journaltest"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// world is a gateway and its backends inside a synctest bubble: time is fake, the network is pipes, and the journal is
// memory.
type world struct {
	*proxy.Gateway
	t       testing.TB
	cfg     proxy.Config
	journal *journaltest.Memory
	seen    *counter
	net     *pipes
	cancel  context.CancelFunc
	ended   chan error
}

// apps are backends by name.
type apps map[string]*app

// inBubble runs f against a gateway in front of backends. Every event goes to all of them, unless change says otherwise.
func inBubble(t *testing.T, backends apps, change func(*proxy.Config), f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, backends, change)
		w.run()
		f(t, w)
	})
}

// newWorld is not running yet.
func newWorld(t testing.TB, backends apps, change func(*proxy.Config)) *world {
	t.Helper()
	w := &world{t: t, journal: journaltest.NewMemory(), seen: newCounter(), net: newPipes()}
	w.cfg = proxy.Config{
		Sources:  map[string]proxy.Source{"main": {Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{secret}}},
		Backends: map[string]proxy.Backend{},
		Journal:  w.journal, Observers: []proxy.Observer{w.seen},
	}
	names := slices.Sorted(maps.Keys(backends))
	for _, name := range names {
		w.serve(name, backends[name])
		w.cfg.Backends[name] = proxy.Backend{URL: "http://" + name + ".test/hook"}
	}
	w.cfg.Routes = proxy.Routes{{To: names}}
	if change != nil {
		change(&w.cfg)
	}
	g, err := proxy.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Gateway = g
	g.DialWith(w.net.dial)
	return w
}

// serve puts a backend on the network as name.test.
func (w *world) serve(name string, a *app) {
	l := w.net.listen(name + ".test:80")
	srv := &http.Server{Handler: a}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(l) }()
	w.t.Cleanup(func() { srv.Close(); <-served })
}

// run starts the deliveries; they are stopped when the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan error, 1)
	go func() { w.ended <- w.Run(ctx); close(w.ended) }()
	w.t.Cleanup(w.stop)
}

// stop ends Run and waits for it. Only the first call does something.
func (w *world) stop() {
	w.cancel()
	if err := <-w.ended; err != nil {
		w.t.Error(err)
	}
}

// reload takes the configuration that change makes of the present one.
func (w *world) reload(change func(*proxy.Config)) error {
	cfg := w.cfg
	cfg.Sources, cfg.Backends, cfg.Routes = maps.Clone(cfg.Sources), maps.Clone(cfg.Backends), slices.Clone(cfg.Routes)
	change(&cfg)
	err := w.Reload(cfg)
	if err == nil {
		w.cfg = cfg
	}
	return err
}

func (w *world) post(body []byte) *httptest.ResponseRecorder { return post(w.t, w, body) }

// posted is what answers a request that is under way.
func (w *world) posted(body []byte) <-chan *httptest.ResponseRecorder {
	c := make(chan *httptest.ResponseRecorder, 1)
	go func() { c <- w.post(body) }()
	return c
}

// known is what the journal knows of an event of source main.
func (w *world) known(id string) proxy.Known {
	w.t.Helper()
	for _, k := range w.journal.All() {
		if k.Event.ID == id {
			return k
		}
	}
	w.t.Fatalf("the journal does not know %s", id)
	return proxy.Known{}
}

// delivery is what the journal says of an event's delivery to a backend.
func (w *world) delivery(id, backend string) proxy.Delivery {
	w.t.Helper()
	for _, d := range w.known(id).Deliveries {
		if d.Backend == backend {
			return d
		}
	}
	w.t.Fatalf("the journal has no delivery of %s to %s", id, backend)
	return proxy.Delivery{}
}

// attempts are those that the journal has of an event, as "trigger outcome".
func (w *world) attempts(id string) []string {
	w.t.Helper()
	_, all, err := w.journal.Event(w.t.Context(), w.known(id).Event.Seq)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, a := range all {
		out = append(out, string(a.Trigger)+" "+a.Outcome)
	}
	return out
}

func (w *world) why(id, backend string) string {
	w.t.Helper()
	return w.Why("main", w.delivery(id, backend), time.Now())
}

func (w *world) status(backend string) proxy.BackendStatus {
	w.t.Helper()
	for _, s := range w.Backends() {
		if s.Name == backend {
			return s
		}
	}
	w.t.Fatalf("no backend %s", backend)
	return proxy.BackendStatus{}
}

// wantState fails the test when an event is not in this state.
func (w *world) wantState(id string, want proxy.State) {
	w.t.Helper()
	if k := w.known(id); k.State != want {
		w.t.Errorf("%s is %s, want %s: %+v", id, k.State, want, k.Deliveries)
	}
}

func wantAnswer(t testing.TB, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || w.Body.String() != body {
		t.Errorf("answer = %d %s, want %d %s", w.Code, w.Body, status, body)
	}
}

// says is the answer of the gateway's own for an event.
func says(result proxy.Result, id string) string {
	return fmt.Sprintf(`{"status":"%s","event":"%s"}`, result, id)
}

// app is a backend: it remembers what it got, and answers as do says, by default with 200 and nothing.
type app struct {
	do func(w http.ResponseWriter, r *http.Request)

	mu     sync.Mutex
	got    []request
	inHand int
	most   int
}

type request struct {
	at     time.Time
	url    string
	host   string
	header http.Header
	body   []byte
}

func (r request) id() string { return r.header.Get("Breakwater-Event-Id") }

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	a.got = append(a.got, request{time.Now(), r.RequestURI, r.Host, r.Header, body})
	a.inHand++
	a.most = max(a.most, a.inHand)
	do := a.do
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.inHand--
		a.mu.Unlock()
	}()
	if do != nil {
		do(w, r)
	}
}

// then changes what the backend does from now on.
func (a *app) then(do http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.do = do
}

func (a *app) requests() []request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got)
}

func (a *app) count() int { return len(a.requests()) }

// ids are the events that the backend got, in order.
func (a *app) ids() []string {
	var out []string
	for _, r := range a.requests() {
		out = append(out, r.id())
	}
	return out
}

// busiest is how many requests the backend had at once since the last call.
func (a *app) busiest() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.most
	a.most = a.inHand
	return n
}

// wantCount fails the test when the backend was not called this often.
func (a *app) wantCount(t *testing.T, want int) {
	t.Helper()
	if got := a.ids(); len(got) != want {
		t.Errorf("the backend was called %d times, want %d: %v", len(got), want, got)
	}
}

// What backends do.

func answers(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// takes answers 200 after d.
func takes(d time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	}
}

func hangs(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func cuts(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// counter counts what it is told.
type counter struct {
	mu       sync.Mutex
	answered map[string]int // "source result"
	attempts map[string]int // "backend outcome"
	verified map[string]int // "source reason"
	dropped  int
}

func newCounter() *counter {
	return &counter{answered: map[string]int{}, attempts: map[string]int{}, verified: map[string]int{}}
}

func (o *counter) Answered(source string, _ *proxy.Event, result proxy.Result, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answered[source+" "+string(result)]++
}

func (o *counter) Attempted(_ *proxy.Event, backend string, a proxy.Attempt) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attempts[backend+" "+a.Outcome]++
}

func (o *counter) Verified(source, reason string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.verified[source+" "+reason]++
}

func (o *counter) HistoryDropped() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropped++
}

// counts are copies of what was counted.
func (o *counter) counts() (answered, attempts, verified map[string]int, dropped int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.answered), maps.Clone(o.attempts), maps.Clone(o.verified), o.dropped
}

// hooks makes a journal fail, or wait, in the methods named.
type hooks struct {
	mu sync.Mutex
	m  map[string]func() error
}

// hook is set before the gateway runs.
func hook(j *journaltest.Memory) *hooks {
	h := &hooks{m: map[string]func() error{}}
	j.Fail = func(op string) error {
		h.mu.Lock()
		f := h.m[op]
		h.mu.Unlock()
		if f == nil {
			return nil
		}
		return f()
	}
	return h
}

// on sets what the method does first; nil makes it work again.
func (h *hooks) on(op string, f func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.m[op] = f
}

func (h *hooks) fail(op string, err error) { h.on(op, func() error { return err }) }

var errDisk = errors.New("input/output error")

// signed is a request as Stripe sends it.
func signed(body []byte, secrets ...string) *http.Request {
	if len(secrets) == 0 {
		secrets = []string{secret}
	}
	r := httptest.NewRequest(http.MethodPost, "/stripe/webhook", bytes.NewReader(body))
	r.Header.Set("Stripe-Signature", stripe.Sign(body, time.Now(), secrets...))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
	return r
}

func do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
