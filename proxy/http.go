package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	passedBody    = 4 << 10  // of a success, passed on to Stripe
	judgedBody    = 64 << 10 // looked at by success rules
	relayedBody   = 1 << 20  // of a relayed answer
	discardedBody = 1 << 20  // read and thrown away, so that a backend that still writes is not cut off
	excerptLen    = 1 << 10

	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	idleConnTimeout  = 90 * time.Second
	maxAnswerHeader  = 64 << 10
)

var (
	errTimedOut = errors.New("no complete answer within the backend's timeout")
	errUpgrade  = errors.New("the backend switched protocols")
	errEnough   = errors.New("enough of the body was read")
	quiet       = log.New(io.Discard, "", 0)
	copyBuffers = bufferPool{}
)

// httpSender posts events to a URL.
type httpSender struct {
	*Backend
	url       *url.URL
	transport *http.Transport
}

// handshakeError marks a TLS handshake that did not succeed, so that it is not taken for a dial.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "tls handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// dialFunc is net.Dialer.DialContext.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func newHTTPSender(c *Backend, dial dialFunc) (*httpSender, error) {
	u, err := url.Parse(c.URL)
	if err != nil { // its text would quote the URL, which may hold a password
		return nil, errors.New("url is not a URL")
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s: no certificate in it, PEM is expected", c.CAFile)
		}
	}
	transport := &http.Transport{
		DialContext: dial,
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			raw, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
			defer cancel()
			conn := tls.Client(raw, tc)
			if err := conn.HandshakeContext(ctx); err != nil {
				raw.Close()
				return nil, &handshakeError{err}
			}
			return conn, nil
		},
		MaxIdleConnsPerHost:    c.MaxInFlight,
		IdleConnTimeout:        idleConnTimeout,
		DisableCompression:     true, // an answer is passed on as it came
		MaxResponseHeaderBytes: maxAnswerHeader,
		WriteBufferSize:        16 << 10, // headers and a usual body leave in one write
	}
	return &httpSender{c, u, transport}, nil
}

// Send implements Sender. A status line decides, as at Stripe; the body after it matters only to success rules that look
// at it.
func (s *httpSender) Send(ctx context.Context, e *Event, header http.Header) Outcome {
	most := passedBody
	if len(s.Success.BodyNot) > 0 {
		most = judgedBody
	}
	rec := s.post(ctx, e, header, most)
	switch {
	case rec.status == 0 && rec.err == nil:
		return rec.outcome(OutcomeReset, "the backend did not answer")
	case rec.status == 0, len(s.Success.BodyNot) > 0 && rec.err != nil:
		return rec.outcome(classify(ctx, rec.err))
	}
	class, text := s.Success.judge(rec.status, rec.header, rec.body)
	if class == OutcomeDelivered && rec.err != nil {
		text = "answered " + strconv.Itoa(rec.status) + ", then the answer broke off: " + rec.err.Error()
	}
	return rec.outcome(class, text)
}

// relay sends an event whose answer goes on to Stripe, and so must be whole.
func (s *httpSender) relay(ctx context.Context, e *Event, header http.Header) Outcome {
	rec := s.post(ctx, e, header, relayedBody)
	switch {
	case rec.status == 0 && rec.err == nil:
		return rec.outcome(OutcomeReset, "the backend did not answer")
	case rec.err != nil:
		return rec.outcome(classify(ctx, rec.err))
	case rec.discarded > 0:
		return rec.outcome(OutcomeSoftFailure, fmt.Sprintf("the answer is longer than %d bytes", relayedBody))
	}
	return rec.outcome(s.Success.judge(rec.status, rec.header, rec.body))
}

// post makes the request, and returns what came back: up to most bytes of the body.
func (s *httpSender) post(ctx context.Context, e *Event, header http.Header, most int) *recorder {
	u := *s.url
	u.RawQuery = joinQuery(u.RawQuery, e.Query)
	host := s.Host
	if host == "" {
		host = u.Host
	}
	header["Accept-Encoding"] = []string{"identity"}
	// GetBody lets the Transport send again on a new connection when a kept-alive one turns out to be dead before
	// anything was written; that is no failed attempt.
	body := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e.Body)), nil }
	first, _ := body()
	r := &http.Request{
		Method: http.MethodPost, URL: &u, Host: host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(e.Body)), Body: first, GetBody: body,
	}
	rec := &recorder{header: http.Header{}, most: most}
	rp := httputil.ReverseProxy{
		Transport: s.transport, BufferPool: &copyBuffers, ErrorLog: quiet,
		Rewrite: rewrite, ModifyResponse: rec.inspect, ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { rec.err = err },
	}
	rp.ServeHTTP(rec, r.WithContext(ctx))
	return rec
}

// joinQuery adds the raw query of a request to that of a backend's URL, but for keys that the URL has: the operator's word
// counts, whichever of two values a backend takes. Nothing is encoded anew.
func joinQuery(own, sent string) string {
	if own == "" || sent == "" {
		return own + sent
	}
	keys := map[string]bool{}
	for pair := range strings.SplitSeq(own, "&") {
		keys[queryKey(pair)] = true
	}
	for pair := range strings.SplitSeq(sent, "&") {
		if pair == "" || !keys[queryKey(pair)] {
			own += "&" + pair
		}
	}
	return own
}

// queryKey is the key of a pair as the most lenient backend reads it: PHP makes one key of "a.b", "a b" and "a_b", and takes
// "a[]" for a list named a.
func queryKey(pair string) string {
	key, _, _ := strings.Cut(pair, "=")
	if plain, err := url.QueryUnescape(key); err == nil {
		key = plain
	}
	key, _, _ = strings.Cut(strings.TrimLeft(key, " "), "[")
	return strings.NewReplacer(".", "_", " ", "_").Replace(key)
}

// rewrite puts back what ReverseProxy takes out, as it should of a request that comes from outside; this one does not. It
// puts the body back too: ReverseProxy hides that it is in memory, and the Transport would then write the headers in a
// packet of their own.
func rewrite(pr *httputil.ProxyRequest) {
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery
	if pr.Out.Body != nil { // nil says that it is empty: any other reader without a length is sent in chunks
		pr.Out.Body = pr.In.Body
	}
	for _, k := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := pr.In.Header[k]; v != nil {
			pr.Out.Header[k] = v
		}
	}
}

// recorder is the ResponseWriter that ReverseProxy answers to.
type recorder struct {
	most      int   // bytes of the body to keep
	err       error // no answer, or no whole one
	status    int
	header    http.Header
	body      []byte
	discarded int // bytes of the body that were not kept
}

// inspect sees the answer before its body is copied.
func (rec *recorder) inspect(res *http.Response) error {
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errUpgrade
	}
	res.Body = &noticingBody{res.Body, rec}
	return nil
}

// noticingBody remembers why a body could not be read to its end.
type noticingBody struct {
	io.ReadCloser
	rec *recorder
}

func (b *noticingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.rec.err = err
	}
	return n, err
}

// Header is the answer's until its status is there; what comes after that are trailers, which are not passed on.
func (rec *recorder) Header() http.Header {
	if rec.status != 0 {
		return http.Header{}
	}
	return rec.header
}

func (rec *recorder) WriteHeader(status int) {
	if status >= 200 {
		rec.status = status
	}
}

func (rec *recorder) Write(p []byte) (int, error) {
	kept := min(len(p), rec.most-len(rec.body))
	rec.body = append(rec.body, p[:kept]...)
	rec.discarded += len(p) - kept
	if rec.discarded > discardedBody {
		return kept, errEnough
	}
	return len(p), nil
}

func (rec *recorder) outcome(class, text string) Outcome {
	return Outcome{
		Attempt: Attempt{Status: rec.status, Outcome: class, Error: text}, RetryAfter: retryAfter(rec.header, time.Now()),
		Header: rec.header, Body: rec.body,
	}
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

// bufferPool lends ReverseProxy its copy buffers.
type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 16<<10)
}

func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }
