package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"hash"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The peers are as good as we can write them with net/http: a gateway that is compared with less is flattered.

const (
	peerBody      = 1 << 20 // bytes read of a body
	peerTolerance = 5 * time.Minute
	// peerGC gives a peer about as much memory as the gateway takes. Its heap is so small that it would be collected all
	// the time.
	peerGC = 1000
)

// handlerRole is what a webhook is without a gateway.
func handlerRole(context.Context, []string) error {
	debug.SetGCPercent(peerGC)
	return serve(http.HandlerFunc(answerVerified))
}

// proxyRole is the least that a verifying gateway in Go can be: it keeps nothing, logs nothing and counts nothing.
func proxyRole(_ context.Context, args []string) error {
	f := flag.NewFlagSet("proxy", flag.ExitOnError)
	to := f.String("to", "", "URL of the backend")
	_ = f.Parse(args)
	u, err := url.Parse(*to)
	if err != nil {
		return err
	}
	debug.SetGCPercent(peerGC)
	return serve(forwardVerified(u))
}

var plainText = []string{"text/plain"} // shared, and nothing is left to sniff

// answerVerified reads, verifies and answers.
func answerVerified(w http.ResponseWriter, r *http.Request) {
	v := verifiers.Get().(*verifier)
	defer verifiers.Put(v)
	var err error
	if v.body, err = readBody(w, r, v.body); err != nil || !v.verifies(r.Header, v.body) {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	w.Header()["Content-Type"] = plainText
	_, _ = io.WriteString(w, "ok")
}

// forwardVerified reads, verifies and forwards to the host of u.
func forwardVerified(u *url.URL) http.Handler {
	rp := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = u.Scheme, u.Host, ""
			// ReverseProxy has wrapped the body. The transport writes header and body at once only if it sees that the
			// body is in memory.
			pr.Out.Body = pr.In.Body
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true, WriteBufferSize: 8 << 10},
		BufferPool: &copyBuffers{},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Not a pooled buffer: the transport may read the body for a while after the backend has answered.
		body, err := readBody(w, r, nil)
		if err == nil {
			v := verifiers.Get().(*verifier)
			if !v.verifies(r.Header, body) {
				err = errUnverified
			}
			verifiers.Put(v)
		}
		if err != nil {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		rp.ServeHTTP(w, r)
	})
}

var errUnverified = errors.New("not signed by Stripe")

// readBody reads all of a body, into buf when it fits. A known length is read at once.
func readBody(w http.ResponseWriter, r *http.Request, buf []byte) ([]byte, error) {
	n := r.ContentLength
	if n < 0 || n > peerBody {
		return io.ReadAll(http.MaxBytesReader(w, r.Body, peerBody))
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r.Body, buf)
	return buf, err
}

// verifier holds what verifying needs, so that it allocates nothing.
type verifier struct {
	mac  hash.Hash
	time []byte
	sum  [sha256.Size]byte
	body []byte
}

var verifiers = sync.Pool{New: func() any { return &verifier{mac: hmac.New(sha256.New, []byte(signingSecret))} }}

// verifies reports whether Stripe has signed body, and not long ago.
func (v *verifier) verifies(h http.Header, body []byte) bool {
	lines := h["Stripe-Signature"]
	if len(lines) != 1 {
		return false
	}
	v.time = v.time[:0]
	for element := range strings.SplitSeq(lines[0], ",") {
		if text, ok := strings.CutPrefix(element, "t="); ok {
			t, err := strconv.ParseInt(text, 10, 64)
			if err != nil || time.Since(time.Unix(t, 0)).Abs() > peerTolerance {
				return false
			}
			v.time = append(append(v.time, text...), '.')
			break
		}
	}
	if len(v.time) == 0 {
		return false
	}
	v.mac.Reset()
	_, _ = v.mac.Write(v.time)
	_, _ = v.mac.Write(body)
	want := v.mac.Sum(v.sum[:0])
	for element := range strings.SplitSeq(lines[0], ",") {
		text, ok := strings.CutPrefix(element, "v1=")
		if !ok || len(text) != 2*sha256.Size {
			continue
		}
		var digits [2 * sha256.Size]byte
		var got [sha256.Size]byte
		copy(digits[:], text)
		if _, err := hex.Decode(got[:], digits[:]); err == nil && hmac.Equal(got[:], want) {
			return true
		}
	}
	return false
}

// copyBuffers spares the proxy 32 KiB for each answer.
type copyBuffers struct{ pool sync.Pool }

func (b *copyBuffers) Get() []byte {
	if p, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return p[:]
	}
	return make([]byte, 32<<10)
}

func (b *copyBuffers) Put(buf []byte) { b.pool.Put((*[32 << 10]byte)(buf)) }
