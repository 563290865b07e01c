package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

const memoryWait = time.Second // for body memory, before Stripe is asked to come again

// Quarantine keeps requests that come from Stripe's own addresses but verify with no secret: most likely a secret was
// rolled and we do not know it yet.
type Quarantine interface {
	// Keep puts a request on stable storage and returns true, or false when it does not want it: the client is not
	// Stripe, a bound is reached, or awaited returns true. With false, or an error, the request is answered 400.
	//
	// awaited reports whether a 2xx would tell Stripe more than that the request is kept: that a real-time decision was
	// made, say, or that it may finalize an invoice whose route is answered by its backend. It parses the body: call it
	// after the cheaper checks.
	Keep(ctx context.Context, r Rejected, awaited func() bool) (bool, error)
}

// exchange is one request from Stripe and its answer.
type exchange struct {
	*state
	w         http.ResponseWriter
	r         *http.Request
	start     time.Time // Stripe's clock starts
	source    *source
	signature stripe.Header
	body      []byte
	memory    bodyMemory
	verified  bool // Stripe has signed it
}

// bodyMemory is what a body takes of limits.body_memory.
type bodyMemory struct {
	of    *semaphore.Weighted
	taken atomic.Int64 // bytes
}

// release gives it back. Further calls do nothing.
func (m *bodyMemory) release() {
	if n := m.taken.Swap(0); n > 0 {
		m.of.Release(n)
	}
}

// ServeHTTP takes one request from Stripe: it reads and verifies it, delivers or stores its event, and answers. A verified
// event gets a 2xx only under the promise.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The way of an event from top to bottom. Each step returns the answer, or nil to go on.
	x := &exchange{state: g.state.Load(), w: w, r: r, start: time.Now(), memory: bodyMemory{of: g.memory}}
	http.NewResponseController(w).SetReadDeadline(x.start.Add(x.ReadBody))
	stopping, leave := g.enter()
	defer leave()
	defer func() {
		if !x.verified {
			x.memory.release()
		}
	}()
	ans := g.admit(x)
	if ans == nil {
		ans = g.read(x)
	}
	if ans == nil {
		ans = g.verify(x)
	}
	if ans != nil {
		x.write(ans)
		g.reportRefusal(x, ans)
		return
	}
	a := x.arrival()
	a.stopping, x.verified = stopping, true // from here on the memory is the arrival's to give back
	ans = g.accept(a, x.write)
	g.report(x.source, a.event, x.start, ans)
}

// admit finds the source and refuses what needs no look at the body.
func (g *Gateway) admit(x *exchange) *answer {
	x.source = x.byPath[x.r.URL.Path]
	if x.source == nil {
		return refuse(http.StatusNotFound, ResultRejected, "no source has this path")
	}
	if x.r.Method != http.MethodPost {
		ans := refuse(http.StatusMethodNotAllowed, ResultRejected, "Stripe posts")
		ans.header.Set("Allow", http.MethodPost)
		return ans
	}
	var err error
	if x.signature, err = stripe.ParseHeader(x.r.Header["Stripe-Signature"]); err != nil {
		return g.reject(x, err)
	}
	if x.r.ContentLength > x.source.MaxBody {
		return x.tooLarge()
	}
	return nil
}

func (x *exchange) tooLarge() *answer {
	return refuse(http.StatusRequestEntityTooLarge, ResultTooLarge,
		fmt.Sprintf("the body is longer than max_body (%d bytes) of source %s", x.source.MaxBody, x.source.name))
}

// read takes the body in, whole and within its limits. The bytes are never changed from here on.
func (g *Gateway) read(x *exchange) *answer {
	err := g.gather(x)
	if err == nil {
		http.NewResponseController(x.w).SetReadDeadline(time.Time{})
		return nil
	}
	switch {
	case errors.Is(err, errNoMemory):
		return tryLater(err.Error())
	case errors.Is(err, errTooLarge):
		return x.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(http.StatusRequestTimeout, ResultRejected, "the body did not arrive within limits.read_body")
	}
	return refuse(http.StatusBadRequest, ResultRejected, "read body: "+err.Error())
}

var (
	errTooLarge = errors.New("too large")
	errNoMemory = errors.New("too many bodies at once (limits.body_memory)")
)

// firstRead is what a body may take before any of it has come: more than most events need, and little to lose to those
// who declare a long body and never send it.
const firstRead = 4 << 10

// gather reads the body into memory that grows with what has come: at most four times as much is taken from
// limits.body_memory.
func (g *Gateway) gather(x *exchange) error {
	size := x.r.ContentLength
	most := size
	if size < 0 {
		most = x.source.MaxBody + 1
	}
	var body []byte
	for {
		if len(body) == cap(body) {
			if int64(len(body)) == most {
				break
			}
			room := min(max(firstRead, 4*int64(len(body))), most)
			if err := g.reserve(x, min(room, g.memoryOf)-x.memory.taken.Load()); err != nil {
				return err
			}
			body = append(make([]byte, 0, room), body...)
		}
		n, err := x.r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			if size > int64(len(body)) {
				return io.ErrUnexpectedEOF
			}
			x.body = body
			return nil
		}
		if err != nil {
			return err
		}
	}
	if size < 0 {
		return errTooLarge
	}
	x.body = body
	return nil
}

// reserve takes n bytes of limits.body_memory, and waits for them for a moment.
func (g *Gateway) reserve(x *exchange, n int64) error {
	if !g.memory.TryAcquire(n) {
		ctx, cancel := context.WithTimeout(x.r.Context(), memoryWait)
		defer cancel()
		if g.memory.Acquire(ctx, n) != nil {
			return errNoMemory
		}
	}
	x.memory.taken.Add(n)
	return nil
}

// verify checks the signature over the raw bytes.
func (g *Gateway) verify(x *exchange) *answer {
	sig, err := x.signature.Verify(x.body, x.source.secrets, x.source.Tolerance, x.start)
	if err != nil {
		return g.reject(x, err)
	}
	x.source.matchedNow(sig.Secret, x.start)
	g.observers.Verified(x.source.name, "", x.start.Sub(sig.Time))
	return nil
}

// arrival returns the event that a verified request brings, on its way to its answer.
func (x *exchange) arrival() *arrival {
	ev := &Event{
		Source: x.source.name, Received: x.start, Query: x.r.URL.RawQuery, Body: x.body,
		Header: keptHeaders(x.r.Header), Forwarded: x.forwarded(),
	}
	unreadable := ev.parse()
	return &arrival{
		state: x.state, event: ev, source: x.source, start: x.start, trigger: TriggerInline, unreadable: unreadable,
		fromStripe: true, replay: x.source.health.answeredTo.has(x.signature.String()), memory: &x.memory,
	}
}

// reject answers a request whose signature is not good: a short reason for the sender, the diagnosis for the operator.
func (g *Gateway) reject(x *exchange, err error) *answer {
	var f *stripe.Failure
	if !errors.As(err, &f) {
		f = &stripe.Failure{Reason: stripe.MalformedHeader, Err: err}
	}
	g.observers.Verified(x.source.name, f.Reason, f.Age)
	x.source.failedNow(f.Reason, x.start)
	ans := g.quarantine(x, f.Reason)
	if ans == nil {
		ans = refuse(http.StatusBadRequest, ResultRejected, f.Reason)
	}
	ans.fields = append(ans.fields, zap.NamedError("diagnosis", err))
	if f.Age != 0 {
		ans.fields = append(ans.fields, zap.Int64("age_seconds", int64(f.Age/time.Second)))
	}
	if f.Reason == stripe.NoMatch && g.diagnose.Allow() {
		for _, name := range slices.Sorted(maps.Keys(x.byName)) {
			if name != x.source.name && stripe.MatchesAny(x.body, x.r.Header["Stripe-Signature"], x.byName[name].secrets) >= 0 {
				ans.fields = append(ans.fields, zap.String("hint", "matches the secret of source "+name+": is Stripe's URL the right one?"))
			}
		}
	}
	return ans
}

// quarantine offers a request that did not verify to the quarantine. When it is kept Stripe gets a 2xx, so that a rolled
// secret does not disable the endpoint; otherwise there is no answer yet.
func (g *Gateway) quarantine(x *exchange, reason string) *answer {
	if g.keeper == nil || reason == stripe.MissingHeader || reason == stripe.MalformedHeader {
		return nil
	}
	ctx, cancel := context.WithDeadline(context.Background(), x.start.Add(x.InlineTimeout))
	defer cancel()
	r := Rejected{
		Source: x.source.name, Received: x.start, Client: x.client(), Reason: reason, Query: x.r.URL.RawQuery,
		Header: keptHeaders(x.r.Header), Forwarded: x.forwarded(), Body: x.body,
	}
	kept, err := g.keeper.Keep(ctx, r, func() bool { return x.awaited(&r) })
	if err != nil {
		g.log.Error("quarantine: not kept, answered 400", zap.String(keySource, x.source.name), zap.Error(err))
	}
	if err != nil || !kept {
		return nil
	}
	return &answer{
		result: ResultQuarantined, status: http.StatusOK, header: jsonHeader(), reason: reason,
		body: []byte(`{"status":"quarantined"}`),
	}
}

// awaited reports whether a 2xx to a request would say more than "kept". What the body claims is not verified; a false
// claim gains nothing.
func (x *exchange) awaited(r *Rejected) bool {
	ev, _ := r.Event()
	match := x.Routes.Match(ev)
	return match.Answer == AnswerRelay || match.held(ev, r.Received, unixNano(x.source.health.refused.Load())) == holding
}

// forwarded returns the X-Forwarded-* headers of every attempt. A trusted proxy's are passed on; from anyone else they
// are ours to say, and Proto is https: a legacy application behind us must not redirect to what Stripe already used.
func (x *exchange) forwarded() http.Header {
	peer := x.peer()
	h := http.Header{
		"X-Forwarded-For": {peer}, "X-Forwarded-Host": {x.r.Host}, "X-Forwarded-Proto": {"https"},
	}
	if !x.trusts(peer) {
		return h
	}
	if prior := x.r.Header["X-Forwarded-For"]; len(prior) > 0 {
		h["X-Forwarded-For"] = []string{strings.Join(prior, ", ") + ", " + peer}
	}
	for _, k := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := x.r.Header[k]; len(v) > 0 {
			h[k] = v[:1]
		}
	}
	return h
}

// client returns the address that the request came from: the right-most hop that is not a trusted proxy. What stands to
// the left of it anybody can write. It is invalid when that hop is no address.
func (x *exchange) client() netip.Addr {
	hop := x.peer()
	hops := strings.Split(strings.Join(append([]string{""}, x.r.Header["X-Forwarded-For"]...), ","), ",")
	for i := len(hops) - 1; i > 0 && x.trusts(hop); i-- {
		hop = strings.TrimSpace(hops[i])
	}
	addr, _ := hopAddr(hop)
	return addr
}

// hopAddr reads an address as proxies write it: plain, in brackets, or with a port.
func hopAddr(hop string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(hop, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(hop)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone(""), true
}

// peer is the address at the other end of the connection.
func (x *exchange) peer() string {
	host, _, err := net.SplitHostPort(x.r.RemoteAddr)
	if err != nil {
		return x.r.RemoteAddr
	}
	return host
}

func (x *exchange) trusts(peer string) bool {
	if len(x.TrustedProxies) == 0 {
		return false
	}
	addr, ok := hopAddr(peer)
	return ok && slices.ContainsFunc(x.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// source is a Source at work.
type source struct {
	Source
	name    string
	secrets []string
	matched []*atomic.Int64 // by secret: when it last matched, unix nanoseconds
	health  *sourceHealth
}

// sourceHealth is what a source has seen. It outlives a reload.
type sourceHealth struct {
	answered atomic.Int64 // when Stripe last got a 2xx, unix nanoseconds; the start counts as one
	refused  atomic.Int64 // when Stripe first got another answer since then, likewise; 0: it got none
	verified atomic.Int64 // when a signature was last good, likewise

	answeredTo signatures

	mu           sync.Mutex
	matched      map[string]*atomic.Int64
	failures     map[string]int64
	failed       time.Time
	reason       string
	noMatchSince time.Time
}

func newSourceHealth(now time.Time) *sourceHealth {
	h := &sourceHealth{matched: map[string]*atomic.Int64{}, failures: map[string]int64{}}
	h.answered.Store(now.UnixNano())
	return h
}

func newSource(name string, c Source, h *sourceHealth) *source {
	s := &source{Source: c, name: name, secrets: plain(c.SigningSecrets), health: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, secret := range s.secrets {
		if h.matched[secret] == nil {
			h.matched[secret] = &atomic.Int64{}
		}
		s.matched = append(s.matched, h.matched[secret])
	}
	return s
}

// called is the source's name; "" for none.
func (s *source) called() string {
	if s == nil {
		return ""
	}
	return s.name
}

func (s *source) matchedNow(secret int, now time.Time) {
	s.matched[secret].Store(now.UnixNano())
	s.health.verified.Store(now.UnixNano())
}

func (s *source) failedNow(reason string, now time.Time) {
	h := s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures[reason]++
	h.failed, h.reason = now, reason
	if reason == stripe.NoMatch && h.noMatchSince.UnixNano() <= h.verified.Load() {
		h.noMatchSince = now
	}
}
