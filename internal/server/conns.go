package server

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// arriving is how long a connection that was accepted may take to bring its first request while we stop.
const arriving = time.Second

// connections knows what the connections of an http.Server do, so that it can stop without dropping a request:
// http.Server.Shutdown closes a connection whose first request it is just reading, unanswered.
type connections struct {
	mu    sync.Mutex
	state map[net.Conn]http.ConnState
}

// changed is the server's ConnState.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(c.state, conn)
		return
	}
	if c.state == nil {
		c.state = map[net.Conn]http.ConnState{}
	}
	c.state[conn] = state
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
	for _, state := range c.state {
		if state == http.StateActive || newOnes && state == http.StateNew {
			return true
		}
	}
	return false
}
