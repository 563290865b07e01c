package proxy

import (
	"context"
	"net"
	"net/http"
	"net/url"
)

// DialWith makes every backend be reached through dial, so that tests can run in a synctest bubble, where loopback
// sockets do not count as waiting. It is called before the gateway is used.
func (g *Gateway) DialWith(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	g.dial = dial
	for _, b := range g.state.Load().backends {
		if t := b.target.Load(); t.http != nil {
			t.http.transport.DialContext = dial
		}
	}
}

// PanicIn makes every attempt panic while it is being made.
func (g *Gateway) PanicIn() {
	for _, b := range g.state.Load().backends {
		b.target.Load().http.transport.Proxy = func(*http.Request) (*url.URL, error) { panic("in the transport") }
	}
}

// Exported for tests.
var (
	GlobMatch = globMatch
	JoinQuery = joinQuery
)

// Backoff is Retry.backoff, for tests.
func (r Retry) Backoff(n int) int64 { return int64(r.backoff(n)) }
