package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// Outcome is how one attempt ended. An error is an outcome too: a reset, a timeout, a panic.
type Outcome struct {
	// Of the Attempt a Sender sets Status, Outcome and Error; the rest is filled in for it.
	Attempt
	RetryAfter time.Duration // what the backend asked for; 0: nothing
	Header     http.Header   // of the answer; nil without one
	Body       []byte        // the beginning of the answer's body
}

// Sender hands events over to one backend. A Backend with a URL needs none: its events are posted there.
type Sender interface {
	// Send sends e once, with these headers beside its body, and says how that ended, in the words of Outcomes. It is called
	// by many goroutines at once. When ctx ends it returns: with OutcomeTimeout, or, when ctx was cancelled because Run
	// stops, with OutcomeInterrupted, which does not count against the backend. ctx may go on after Send has returned. The
	// headers are Send's own, to keep and to change; the event is not.
	Send(ctx context.Context, e *Event, header http.Header) Outcome
}

// failure is what the breaker learns: nil says that the backend is alive, even if it answered with a 4xx.
func (o *Outcome) failure() error {
	switch o.Outcome {
	case OutcomeDial, OutcomeTLS, OutcomeReset, OutcomeTimeout, OutcomeStatus429, OutcomeStatus5xx:
		return errors.New(o.Outcome)
	case OutcomeInterrupted, OutcomePanic:
		return errNotCounted
	}
	return nil
}

// triggerRelay marks a relayed event inside this package: it is never stored, so no journal ever sees the word.
const triggerRelay Trigger = "relay"

// forward sends an event to the backend once, and says how that ended. It is the only place from which events leave,
// inline and later. Its context derives from the Gateway's lifetime, not from a server's request: ReverseProxy panics with
// http.ErrAbortHandler when a copy fails under a server's context.
func (b *backend) forward(a attempt) (o Outcome) {
	t, started := b.target.Load(), time.Now()
	deadline := started.Add(t.Timeout)
	if !a.deadline.IsZero() && a.deadline.Before(deadline) {
		deadline = a.deadline
	}
	ctx := b.g.attempts.at(deadline)
	defer func() {
		if p := recover(); p != nil {
			o = Outcome{Attempt: Attempt{Outcome: OutcomePanic, Error: fmt.Sprint("panic: ", p)}}
		}
		o.mask(t.masked)
		o.mask(a.secrets)
		o.N, o.Trigger, o.Started, o.Duration = a.n, a.trigger, started, time.Since(started)
		o.Error = excerpt([]byte(o.Error)) // net/http quotes what is not HTTP, however long it is
		o.Excerpt = excerpt(o.Body)
	}()
	header := t.header(a, started)
	if a.trigger == triggerRelay {
		return t.http.relay(ctx, a.event, header)
	}
	if t.http != nil {
		return t.http.Send(ctx, a.event, header)
	}
	o = t.send.Send(ctx, a.event, header.Clone()) // the values in header are the event's
	o.Header = o.Header.Clone()                   // for pass to change
	if !slices.Contains(Outcomes, o.Outcome) {
		o.Outcome, o.Error = OutcomePanic, fmt.Sprintf("the sender returned the outcome %q, which is none of Outcomes", o.Outcome)
	}
	return o
}

// header returns the headers of an attempt. Their values are shared with the event.
func (t *target) header(a attempt, now time.Time) http.Header {
	h := make(http.Header, len(a.event.Header)+len(a.event.Forwarded)+len(t.Headers)+8)
	copyForwarded(h, a.event.Header) // one that was stored by an earlier version, or comes by Accept, may have others
	maps.Copy(h, a.event.Forwarded)
	if t.ForwardedProto != "" {
		h["X-Forwarded-Proto"] = []string{t.ForwardedProto}
	}
	t.sign(h, a, now)
	h["Breakwater-Event-Id"] = []string{a.event.ID}
	h["Breakwater-Attempt"] = []string{strconv.Itoa(a.n)}
	h["Breakwater-Received-At"] = []string{a.event.Received.UTC().Format(time.RFC3339Nano)}
	h["Breakwater-Trigger"] = []string{string(a.trigger)}
	for k, v := range t.Headers {
		h[http.CanonicalHeaderKey(k)] = []string{string(v)}
	}
	return h
}

// sign keeps Stripe's own signature on a fresh event, and signs afresh an old one, or one for a backend with secrets of
// its own: Stripe's libraries refuse what is older than five minutes.
func (t *target) sign(h http.Header, a attempt, now time.Time) {
	secrets := t.secrets
	if len(secrets) == 0 {
		at, ok := stripe.Timestamp(h.Get("Stripe-Signature"))
		if ok && now.Sub(at) <= a.resignAfter {
			return
		}
		secrets = a.secrets
	}
	if len(secrets) == 0 {
		return
	}
	if was := h["Stripe-Signature"]; len(was) > 0 {
		h["Breakwater-Original-Signature"] = was
	}
	h["Stripe-Signature"] = []string{stripe.Sign(a.event.Body, now, secrets[:min(2, len(secrets))]...)}
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
