package proxy

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// Quarantine keeps requests that come from Stripe's own addresses but verify with no secret: most likely a secret was
// rolled and we do not know it yet.
type Quarantine interface {
	// Keep puts a request on stable storage and returns true, or false when it does not want it: the client is not
	// Stripe, or a bound is reached.
	Keep(ctx context.Context, r Rejected) (bool, error)
}

// Rejected is a request that was not believed.
type Rejected struct {
	ID        int64 // set when read back
	Source    string
	Received  time.Time
	Client    netip.Addr // the right-most hop that is not a trusted proxy
	Reason    string     // of the failed verification
	Query     string
	Header    http.Header // as of an Event
	Forwarded http.Header
	Body      []byte
}

// quarantine offers a request that was not believed to the quarantine. ok says that it is kept: Stripe then gets a 2xx,
// so that a rolled secret does not disable the endpoint.
func (g *Gateway) quarantine(x *exchange, body []byte, reason string) (verdict, bool) {
	if g.keeper == nil || reason == stripe.MissingHeader || reason == stripe.MalformedHeader {
		return verdict{}, false
	}
	ctx, cancel := context.WithDeadline(context.Background(), x.start.Add(x.InlineTimeout))
	defer cancel()
	kept, err := g.keeper.Keep(ctx, Rejected{
		Source: x.source.name, Received: x.start, Client: x.client(), Reason: reason, Query: x.r.URL.RawQuery,
		Header: keptHeaders(x.r.Header), Forwarded: x.forwarded(), Body: body,
	})
	if err != nil {
		g.log.Error("quarantine: not kept, answered 400", zap.String(keySource, x.source.name), zap.Error(err))
	}
	if err != nil || !kept {
		return verdict{}, false
	}
	return verdict{
		result: ResultQuarantined, status: http.StatusOK, header: jsonHeader(), reason: reason,
		body: []byte(`{"status":"quarantined"}`),
	}, true
}

// client returns the address that the request came from: the right-most hop that is not a trusted proxy. What stands to
// the left of it anybody can write. It is invalid when that hop is no address.
func (x *exchange) client() netip.Addr {
	hop, _, err := net.SplitHostPort(x.r.RemoteAddr)
	if err != nil {
		hop = x.r.RemoteAddr
	}
	hops := strings.Split(joinList(append([]string{""}, x.r.Header["X-Forwarded-For"]...)), ",")
	for i := len(hops) - 1; i > 0 && x.trusts(hop); i-- {
		hop = strings.TrimSpace(hops[i])
	}
	addr, err := netip.ParseAddr(hop)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}
