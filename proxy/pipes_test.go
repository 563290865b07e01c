package proxy_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing/synctest"
)

// pipes is a network in memory.
type pipes struct {
	mu    sync.Mutex
	hosts map[string]*pipeListener
	ends  []net.Conn // the backends' ends
	dials int
	sent  int // writes towards the backends
}

// countedConn counts the writes of the gateway.
type countedConn struct {
	net.Conn
	p *pipes
}

func (c countedConn) Write(b []byte) (int, error) {
	c.p.mu.Lock()
	c.p.sent++
	c.p.mu.Unlock()
	return c.Conn.Write(b)
}

func newPipes() *pipes { return &pipes{hosts: map[string]*pipeListener{}} }

func (p *pipes) listen(addr string) *pipeListener {
	l := &pipeListener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hosts[addr] = l
	return l
}

func (p *pipes) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p.mu.Lock()
	p.dials++
	l := p.hosts[addr]
	p.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
	if l == nil {
		return nil, refused
	}
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ends = append(p.ends, there)
		return countedConn{here, p}, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
}

// cut ends every connection and waits until that is known.
func (p *pipes) cut() {
	p.mu.Lock()
	for _, c := range p.ends {
		c.Close()
	}
	p.ends = nil
	p.mu.Unlock()
	synctest.Wait()
}

type pipeListener struct {
	addr   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.addr) }

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }
