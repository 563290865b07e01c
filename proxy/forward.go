package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

const (
	passedBody  = 4 << 10  // of a success, passed on to Stripe
	judgedBody  = 64 << 10 // looked at by success rules
	relayedBody = 1 << 20  // of a relayed answer
	drainedBody = 1 << 20  // read and thrown away, so that a backend that still writes is not cut off
	excerptLen  = 1 << 10
)

// outcome is how one attempt ended, with what the backend asked for and answered.
type outcome struct {
	Attempt
	retryAfter time.Duration
	header     http.Header
	body       []byte
}

// verdict is what the breaker learns: nil says that the backend is alive, be it with a 4xx.
func (o *outcome) verdict() error {
	switch o.Outcome {
	case OutcomeDial, OutcomeTLS, OutcomeReset, OutcomeTimeout, OutcomeStatus429, OutcomeStatus5xx:
		return errors.New(o.Outcome)
	case OutcomeInterrupted, OutcomePanic:
		return errNotCounted
	}
	return nil
}

var (
	errTimedOut = errors.New("no complete answer within the backend's timeout")
	errUpgrade  = errors.New("the backend switched protocols")
	errEnough   = errors.New("enough of the body was read")
	quiet       = log.New(io.Discard, "", 0)
	copyBuffers = bufferPool{}
)

// forward sends an event to the backend once, and says how that ended. It is the only place from where events leave,
// inline and later. ctx must derive from the Gateway's lifetime, not from a server's request: ReverseProxy panics with
// http.ErrAbortHandler when a copy fails under a server's context.
func (b *backend) forward(ctx context.Context, ev *Event, t try) (o outcome) {
	target := b.target.Load()
	ctx, cancel := context.WithTimeoutCause(ctx, target.Timeout, errTimedOut)
	defer cancel()
	c := &call{target: target, ev: ev, try: t, started: time.Now(), header: http.Header{}}
	c.keep = passedBody
	if t.trigger == triggerRelay {
		c.keep = relayedBody
	} else if len(target.Success.BodyNot) > 0 {
		c.keep = judgedBody
	}
	defer func() {
		if p := recover(); p != nil {
			o = c.outcome(OutcomePanic, fmt.Sprint("panic: ", p))
		}
	}()
	rp := httputil.ReverseProxy{
		Transport: target.transport, BufferPool: &copyBuffers, ErrorLog: quiet,
		Rewrite: c.rewrite, ModifyResponse: c.inspect, ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { c.err = err },
	}
	rp.ServeHTTP(c, c.request(ctx))
	return c.judge(ctx)
}

// triggerRelay marks a relayed event inside this package: it is never stored, so no journal ever sees the word.
const triggerRelay Trigger = "relay"

// call is one attempt under way. It is the ResponseWriter that ReverseProxy answers to.
type call struct {
	try
	target  *target
	ev      *Event
	started time.Time
	keep    int // bytes of the answer's body to keep

	err     error // no answer, or no whole one
	status  int
	header  http.Header
	body    []byte
	drained int
}

// request builds the request that ReverseProxy takes in. Its headers are complete but for X-Forwarded-*.
func (c *call) request(ctx context.Context) *http.Request {
	u := *c.target.url
	u.RawQuery = joinQuery(u.RawQuery, c.ev.Query)
	h := make(http.Header, len(c.ev.Header)+len(c.target.Headers)+8)
	maps.Copy(h, c.ev.Header)
	c.sign(h)
	h["Accept-Encoding"] = []string{"identity"}
	h["Breakwater-Event-Id"] = []string{c.ev.ID}
	h["Breakwater-Attempt"] = []string{strconv.Itoa(c.n)}
	h["Breakwater-Received-At"] = []string{c.ev.Received.UTC().Format(time.RFC3339Nano)}
	h["Breakwater-Trigger"] = []string{string(c.trigger)}
	for k, v := range c.target.Headers {
		h[http.CanonicalHeaderKey(k)] = []string{string(v)}
	}
	host := c.target.Host
	if host == "" {
		host = u.Host
	}
	// GetBody lets the Transport send again on a new connection when a kept-alive one turns out to be dead before
	// anything was written; that is no failed attempt.
	body := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.ev.Body)), nil }
	first, _ := body()
	r := &http.Request{
		Method: http.MethodPost, URL: &u, Host: host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(c.ev.Body)), Body: first, GetBody: body,
	}
	return r.WithContext(ctx)
}

// sign keeps Stripe's own signature on a fresh event, and signs afresh an old one, or one for a backend with secrets of
// its own: Stripe's libraries refuse what is older than five minutes.
func (c *call) sign(h http.Header) {
	secrets := c.target.secrets
	if len(secrets) == 0 {
		at, ok := stripe.Timestamp(h.Get("Stripe-Signature"))
		if ok && c.started.Sub(at) <= c.resignAfter {
			return
		}
		secrets = c.secrets
	}
	if len(secrets) == 0 {
		return
	}
	if was := h["Stripe-Signature"]; len(was) > 0 {
		h["Breakwater-Original-Signature"] = was
	}
	h["Stripe-Signature"] = []string{stripe.Sign(c.ev.Body, c.started, secrets[:min(2, len(secrets))]...)}
}

func joinQuery(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "&" + b
}

// rewrite puts back what ReverseProxy takes out of a request that comes from outside: this one does not.
func (c *call) rewrite(pr *httputil.ProxyRequest) {
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery
	maps.Copy(pr.Out.Header, c.ev.Forwarded)
	if c.target.ForwardedProto != "" {
		pr.Out.Header["X-Forwarded-Proto"] = []string{c.target.ForwardedProto}
	}
}

// inspect sees the answer before its body is copied.
func (c *call) inspect(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errUpgrade
	}
	res.Body = &noticingBody{res.Body, c}
	return nil
}

// noticingBody remembers why a body could not be read to its end.
type noticingBody struct {
	io.ReadCloser
	c *call
}

func (b *noticingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.c.err = err
	}
	return n, err
}

// Header is the answer's until its status is there; what comes after that are trailers, which are not passed on.
func (c *call) Header() http.Header {
	if c.status != 0 {
		return http.Header{}
	}
	return c.header
}

func (c *call) WriteHeader(status int) {
	if status >= 200 {
		c.status = status
	}
}

func (c *call) Write(p []byte) (int, error) {
	kept := min(len(p), c.keep-len(c.body))
	c.body = append(c.body, p[:kept]...)
	c.drained += len(p) - kept
	if c.drained > drainedBody {
		return kept, errEnough
	}
	return len(p), nil
}

// judge turns what came back into an outcome. A status line decides, as at Stripe; what happens to the body after it
// matters only to success rules that look at the body, and to a relayed answer, which must be whole.
func (c *call) judge(ctx context.Context) outcome {
	needBody := len(c.target.Success.BodyNot) > 0 || c.trigger == triggerRelay
	switch {
	case c.status == 0 && c.err == nil:
		return c.outcome(OutcomeReset, "the backend did not answer")
	case c.status == 0, needBody && c.err != nil:
		return c.outcome(classify(ctx, c.err))
	case c.trigger == triggerRelay && c.drained > 0:
		return c.outcome(OutcomeSoftFailure, fmt.Sprintf("the answer is longer than %d bytes", relayedBody))
	}
	class, text := c.target.Success.judge(c.status, c.header, c.body)
	if class == OutcomeDelivered && c.err != nil {
		text = "answered " + strconv.Itoa(c.status) + ", then the answer broke off: " + c.err.Error()
	}
	return c.outcome(class, text)
}

func (c *call) outcome(class, text string) outcome {
	o := outcome{
		Attempt: Attempt{
			N: c.n, Started: c.started, Duration: time.Since(c.started), Status: c.status, Outcome: class, Trigger: c.trigger,
		},
		header: c.header, body: c.body,
	}
	o.Error = excerpt([]byte(text)) // net/http quotes what is not HTTP, however long it is
	o.Excerpt = excerpt(c.body)
	o.retryAfter = retryAfter(c.header, c.started.Add(o.Duration))
	return o
}

// judge says which class a status and body are, and what to tell an operator.
func (s *Success) judge(status int, h http.Header, body []byte) (class, text string) {
	ok := status >= 200 && status <= 299
	if len(s.Status) > 0 {
		ok = false
		for _, r := range s.Status {
			ok = ok || status >= r.From && status <= r.To
		}
	}
	if ok {
		for _, not := range s.BodyNot {
			if bytes.Contains(body, []byte(not)) {
				return OutcomeSoftFailure, fmt.Sprintf("answered %d, but the body holds %q (success.body_not)", status, not)
			}
		}
		return OutcomeDelivered, ""
	}
	text = "answered " + strconv.Itoa(status)
	switch {
	case status <= 299:
		return OutcomeSoftFailure, text + ", which success.status does not accept"
	case status <= 399:
		return OutcomeRedirect, text + " to " + strconv.Quote(withoutQuery(h.Get("Location"))) + "; redirects are not followed, set the final URL"
	case status == http.StatusTooManyRequests:
		return OutcomeStatus429, text
	case status <= 499:
		return OutcomeStatus4xx, text
	}
	return OutcomeStatus5xx, text
}

func withoutQuery(location string) string {
	u, err := url.Parse(location)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// classify says why there was no answer.
func classify(ctx context.Context, err error) (class, text string) {
	var op *net.OpError
	var tlsErr *handshakeError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return OutcomeInterrupted, "cut short: the gateway was stopping"
	case errors.As(err, &op) && op.Op == "dial":
		return OutcomeDial, err.Error()
	case errors.As(err, &tlsErr):
		return OutcomeTLS, err.Error()
	case ctx.Err() != nil:
		return OutcomeTimeout, errTimedOut.Error()
	}
	return OutcomeReset, err.Error()
}

// excerpt returns the beginning of a body as text.
func excerpt(body []byte) string {
	s := strings.ToValidUTF8(string(body[:min(len(body), excerptLen+utf8.UTFMax)]), "\uFFFD")
	n := min(len(s), excerptLen)
	for n < len(s) && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// bufferPool lends ReverseProxy its copy buffers.
type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 16<<10)
}

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }
