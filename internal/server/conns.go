package server

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// arriving is how long a connection that was accepted may take to bring its first request while we stop.
const arriving = time.Second

// connections are those of an http.Server, at most limit at once. It knows what they do. So when there are too many, the
// one goes that nothing is lost with: strangers who hold connections open keep nobody out. And the server can stop without
// dropping a request: http.Server.Shutdown closes a connection whose first request it is just reading, unanswered.
type connections struct {
	limit int

	mu      sync.Mutex
	changes sync.Cond
	all     map[net.Conn]*connection
	open    int       // of all, those that we are not closing
	unknown list.List // connections that no request is under way on, longest idle first: nobody has verified there
	known   list.List // the same where somebody has
	stopped bool      // nothing more is accepted
}

type connection struct {
	net.Conn
	state   http.ConnState
	known   bool // a request on it was verified
	closing bool // we have closed it
	in      *list.List
	at      *list.Element
}

func newConnections(limit int) *connections {
	c := &connections{limit: limit, all: map[net.Conn]*connection{}}
	c.changes.L = &c.mu
	return c
}

// bounded accepts no more connections than there may be.
type bounded struct {
	net.Listener
	conns *connections
}

// Accept makes room for the connection that it returns, or waits for some.
func (b bounded) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if err == nil {
		b.conns.admit(conn)
	}
	return conn, err
}

// Close lets an Accept that waits for room return what it has: it was accepted, so it is served.
func (b bounded) Close() error {
	b.conns.mu.Lock()
	b.conns.stopped = true
	b.conns.changes.Broadcast()
	b.conns.mu.Unlock()
	return b.Listener.Close()
}

func (c *connections) admit(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.open >= c.limit && !c.closeIdle() && !c.stopped {
		c.changes.Wait()
	}
	c.open++
	p := &connection{Conn: conn, state: http.StateNew}
	c.all[conn] = p
	c.list(p)
}

// closeIdle closes the connection that was idle for longest, of those that nobody verified on while there is one.
func (c *connections) closeIdle() bool {
	first := c.unknown.Front()
	if first == nil {
		first = c.known.Front()
	}
	if first == nil {
		return false
	}
	p := first.Value.(*connection)
	c.unlist(p)
	p.closing = true
	c.open--
	_ = p.Close()
	return true
}

func (c *connections) list(p *connection) {
	p.in = &c.unknown
	if p.known {
		p.in = &c.known
	}
	p.at = p.in.PushBack(p)
}

func (c *connections) unlist(p *connection) {
	if p.in != nil {
		p.in.Remove(p.at)
		p.in = nil
	}
}

// beneath is what the listener has accepted.
func beneath(conn net.Conn) net.Conn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		return t.NetConn()
	}
	return conn
}

// changed is the server's ConnState.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.all[beneath(conn)]
	if p == nil {
		return
	}
	p.state = state
	c.unlist(p)
	switch {
	case state == http.StateClosed || state == http.StateHijacked:
		delete(c.all, p.Conn)
		if !p.closing {
			c.open--
		}
	case state != http.StateActive && !p.closing:
		c.list(p)
	}
	c.changes.Signal()
}

type connectionKey struct{}

// context is the server's ConnContext.
func (c *connections) context(ctx context.Context, conn net.Conn) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return context.WithValue(ctx, connectionKey{}, c.all[beneath(conn)])
}

// verified is told of a request, by its context, that somebody made who we know.
func (c *connections) verified(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx.Value(connectionKey{}).(*connection).known = true
}

// wait returns when no request is under way, or ctx's error. No more connections may be accepted by then.
func (c *connections) wait(ctx context.Context) error {
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.busy(time.Since(began) < arriving) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// busy reports whether a request is under way, or a connection may still bring its first one.
func (c *connections) busy(newOnes bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.all {
		if p.state == http.StateActive || newOnes && p.state == http.StateNew {
			return true
		}
	}
	return false
}
