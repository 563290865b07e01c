package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

const (
	journalShare = 2 * time.Second        // of the inline timeout, kept for the journal
	memoryWait   = time.Second            // for body memory, before Stripe is asked to come again
	slotWait     = 500 * time.Millisecond // for a backend's slot, before the event is stored instead
	answerIn     = 5 * time.Second        // a 2xx written later than this may not have reached Stripe
)

// exchange is one request from Stripe and what is known of it so far.
type exchange struct {
	*state
	w         http.ResponseWriter
	r         *http.Request
	start     time.Time // Stripe's clock starts
	source    *source
	event     *Event
	free      func() // gives the body's memory back
	flight    *flight
	inline    bool // attempts may be made: the gateway was not stopping when the request came
	owed      bool // the event is Pending for a backend that this arrival does not call
	repeat    bool // Stripe had our 2xx to it before, and every backend has it
	lifted    bool // a hold was lifted, because the source gave no 2xx for too long
	elsewhere bool // verified elsewhere, for Accept
}

// ServeHTTP takes one request from Stripe: the way of an event from top to bottom. A 2xx leaves only under the promise.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{state: g.state.Load(), w: w, r: r, start: time.Now(), free: func() {}}
	defer g.enter(x)()
	defer g.abandon(x)
	v := g.take(x)
	answered := g.answer(x, v)
	if v.after != nil {
		v.after(answered)
	}
	g.note(x, v)
}

// take receives, verifies and reads an event, and has it accepted.
func (g *Gateway) take(x *exchange) verdict {
	if v, ok := g.admit(x); !ok {
		return v
	}
	body, v, ok := g.read(x)
	if !ok {
		return v
	}
	if v, ok := g.verify(x, body); !ok {
		x.free()
		return v
	}
	parsed := x.parse(body)
	return g.accept(x, parsed)
}

// Accept takes an event that was verified elsewhere the way that ServeHTTP takes a request. When it returns a nil error,
// the promise holds for the event. One that every backend has already is a duplicate, however long ago that was: nobody
// pressed Resend. An event without a Type is taken for one whose body could not be parsed.
func (g *Gateway) Accept(ctx context.Context, e *Event) (Result, error) {
	x := &exchange{state: g.state.Load(), start: time.Now(), event: e, free: func() {}, elsewhere: true}
	x.source = x.byName[e.Source]
	if x.source == nil {
		return ResultRefused, fmt.Errorf("accept %s: no source %q", e.ID, e.Source)
	}
	if err := ctx.Err(); err != nil {
		return ResultRefused, fmt.Errorf("accept %s: %w", e.ID, err)
	}
	defer g.enter(x)()
	defer g.abandon(x)
	var unparsed error
	if e.Type == "" {
		unparsed = errNoType
	}
	v := g.accept(x, unparsed)
	if v.after != nil {
		v.after(time.Now())
	}
	g.note(x, v)
	if v.status > 299 && v.result != ResultHeld {
		return v.result, fmt.Errorf("accept %s: %s", e.ID, v.reason)
	}
	return v.result, nil
}

var errNoType = errors.New("the event has no type")

// admit finds the source and refuses what needs no look at the body.
func (g *Gateway) admit(x *exchange) (verdict, bool) {
	x.source = x.byPath[x.r.URL.Path]
	if x.source == nil {
		return refuse(http.StatusNotFound, ResultRejected, "no source has this path"), false
	}
	if x.r.Method != http.MethodPost {
		v := refuse(http.StatusMethodNotAllowed, ResultRejected, "Stripe posts")
		v.header.Set("Allow", http.MethodPost)
		return v, false
	}
	if err := stripe.CheckHeader(x.r.Header["Stripe-Signature"]); err != nil {
		return g.reject(x, nil, err), false
	}
	if x.r.ContentLength > x.source.MaxBody {
		return x.tooLarge(), false
	}
	return verdict{}, true
}

func (x *exchange) tooLarge() verdict {
	return refuse(http.StatusRequestEntityTooLarge, ResultTooLarge,
		fmt.Sprintf("the body is longer than max_body (%d bytes) of source %s", x.source.MaxBody, x.source.name))
}

// read takes the body in, whole and within its limits. The bytes are never changed from here on.
func (g *Gateway) read(x *exchange) ([]byte, verdict, bool) {
	rc := http.NewResponseController(x.w)
	rc.SetReadDeadline(x.start.Add(x.ReadBody))
	body, err := g.gather(x)
	if err == nil {
		rc.SetReadDeadline(time.Time{})
		return body, verdict{}, true
	}
	x.free()
	switch {
	case errors.Is(err, errNoMemory):
		return nil, tryLater(err.Error()), false
	case errors.Is(err, errTooLarge):
		return nil, x.tooLarge(), false
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, ResultRejected, "the body did not arrive within limits.read_body"), false
	}
	return nil, refuse(http.StatusBadRequest, ResultRejected, "read body: "+err.Error()), false
}

var (
	errTooLarge = errors.New("too large")
	errNoMemory = errors.New("too many bodies at once (limits.body_memory)")
)

// firstRead is what a body may take before any of it has come: more than most events, and little for those who declare
// a long body and never send it.
const firstRead = 4 << 10

// gather reads the body into memory that grows with what has come: at most four times as much is taken from
// limits.body_memory. x.free gives it back.
func (g *Gateway) gather(x *exchange) ([]byte, error) {
	size := x.r.ContentLength
	most := size
	if size < 0 {
		most = x.source.MaxBody + 1
	}
	held := int64(0)
	x.free = sync.OnceFunc(func() { g.memory.Release(held) })
	var body []byte
	for {
		if len(body) == cap(body) {
			if int64(len(body)) == most {
				break
			}
			room := min(max(firstRead, 4*int64(len(body))), most)
			more := min(room, g.memoryOf) - held
			if err := g.reserve(x.r.Context(), more); err != nil {
				return nil, err
			}
			held += more
			body = append(make([]byte, 0, room), body...)
		}
		n, err := x.r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			if size > int64(len(body)) {
				return nil, io.ErrUnexpectedEOF
			}
			return body, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if size < 0 {
		return nil, errTooLarge
	}
	return body, nil
}

// reserve takes n bytes of limits.body_memory, and waits for them for a moment.
func (g *Gateway) reserve(ctx context.Context, n int64) error {
	if g.memory.TryAcquire(n) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	if g.memory.Acquire(ctx, n) != nil {
		return errNoMemory
	}
	return nil
}

// verify checks the signature over the raw bytes.
func (g *Gateway) verify(x *exchange, body []byte) (verdict, bool) {
	sig, err := stripe.Verify(body, x.r.Header["Stripe-Signature"], x.source.secrets, x.source.Tolerance, x.start)
	if err != nil {
		return g.reject(x, body, err), false
	}
	x.source.good(sig.Secret, x.start)
	g.observer.Verified(x.source.name, "", x.start.Sub(sig.Time))
	return verdict{}, true
}

// parse makes the event of a verified body. The error says why it could not be read; such an event is known by its
// hash.
func (x *exchange) parse(body []byte) error {
	x.event = &Event{
		Source: x.source.name, Received: x.start, Query: x.r.URL.RawQuery, Body: body,
		Header: keptHeaders(x.r.Header), Forwarded: x.forwarded(),
	}
	env, err := stripe.Parse(body)
	if err != nil {
		sum := sha256.Sum256(body)
		x.event.ID = "sha256:" + hex.EncodeToString(sum[:])
		return err
	}
	e := x.event
	e.ID, e.Type, e.Account, e.APIVersion = env.ID, env.Type, env.Account, env.APIVersion
	e.Object, e.Customer, e.Livemode, e.Created = env.Object, env.Customer, env.Livemode, env.Created
	return nil
}

// dropped headers are not passed on to backends: those of the connection, those that are ours to say, and two that would
// make net/http repeat a POST by itself.
var droppedHeaders = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Expect": true, "Content-Length": true, "Host": true,
	"Cookie": true, "Authorization": true, "Proxy-Authorization": true, "Proxy-Authenticate": true,
	"Accept-Encoding": true, "Idempotency-Key": true, "X-Idempotency-Key": true,
	"Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true,
	"Breakwater-Event-Id": true, "Breakwater-Attempt": true, "Breakwater-Received-At": true,
	"Breakwater-Trigger": true, "Breakwater-Original-Signature": true,
}

func keptHeaders(in http.Header) http.Header {
	out := make(http.Header, len(in))
	for k, v := range in {
		if !droppedHeaders[k] {
			out[k] = v
		}
	}
	for _, names := range in["Connection"] { // further headers of the connection (RFC 9110, section 7.6.1)
		for name := range strings.SplitSeq(names, ",") {
			delete(out, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	return out
}

// forwarded returns the X-Forwarded-* headers of every attempt. A trusted proxy's are passed on; from anyone else they
// are ours to say, and Proto is https: a legacy application behind us must not redirect to what Stripe already used.
func (x *exchange) forwarded() http.Header {
	peer, _, err := net.SplitHostPort(x.r.RemoteAddr)
	if err != nil {
		peer = x.r.RemoteAddr
	}
	h := http.Header{
		"X-Forwarded-For": {peer}, "X-Forwarded-Host": {x.r.Host}, "X-Forwarded-Proto": {"https"},
	}
	if !x.trusts(peer) {
		return h
	}
	if prior := x.r.Header["X-Forwarded-For"]; len(prior) > 0 {
		h["X-Forwarded-For"] = []string{joinList(prior) + ", " + peer}
	}
	for _, k := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := x.r.Header[k]; len(v) > 0 {
			h[k] = v[:1]
		}
	}
	return h
}

func joinList(values []string) string {
	all := values[0]
	for _, v := range values[1:] {
		all += ", " + v
	}
	return all
}

func (x *exchange) trusts(peer string) bool {
	if len(x.TrustedProxies) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(peer)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	for _, p := range x.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
