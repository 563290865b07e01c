package proxy

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// relay hands a real-time event to its backend and the backend's answer to Stripe. Nothing is kept: the decision is
// worth nothing a moment later.
func (g *Gateway) relay(x *exchange, match Match) verdict {
	if len(match.To) == 0 {
		return fallback(match, "no route takes it to a backend")
	}
	b := x.backend(match.To[0].Backend)
	now := time.Now()
	limit, _ := stripe.RealTime(x.event.Type)
	if limit == 0 {
		limit = x.InlineTimeout
	}
	switch {
	case b == nil:
		return fallback(match, "no such backend")
	case b.paused.Load():
		return fallback(match, "the backend is paused")
	case !b.breaker.Load().reopens().IsZero():
		return fallback(match, "the breaker is open")
	case !x.canSign(x.event.Source, b):
		return fallback(match, "no signing secret")
	case !b.slots.tryAcquire(now):
		return fallback(match, "all slots of the backend are taken")
	}
	ctx, cancel := context.WithDeadline(g.life, x.start.Add(limit))
	defer cancel()
	o, ok := b.attempt(ctx, x.event, try{n: 1, trigger: triggerRelay, secrets: x.source.secrets, resignAfter: x.ResignAfter})
	switch {
	case !ok:
		return fallback(match, "the breaker is open")
	case o.Outcome != OutcomeDelivered && (match.Fallback != nil || o.Status <= 299): // a 2xx that was cut off is none
		return fallback(match, fmt.Sprintf("%s: %s", o.Outcome, o.Error))
	}
	o.header.Del("Content-Length")
	o.header.Del("Trailer")
	return verdict{result: ResultRelayed, status: o.Status, header: o.header, body: o.body}
}

// fallback answers a relayed event without its backend: as the route says, else 503, never a 2xx of our own.
func fallback(match Match, reason string) verdict {
	f := match.Fallback
	if f == nil {
		v := tryLater("no answer from the backend")
		v.result, v.reason = ResultRelayed, reason
		return v
	}
	h := f.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	return verdict{result: ResultRelayed, status: f.Status, header: h, body: []byte(f.Body), reason: "fallback: " + reason}
}
