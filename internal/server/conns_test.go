package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// dial opens a connection to one of a gateway's URLs and sends nothing.
func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// isClosed waits for the gateway to close conn, for as long as that.
func isClosed(conn net.Conn, within time.Duration) bool {
	_ = conn.SetReadDeadline(time.Now().Add(within))
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	return err != nil && !(errors.As(err, &timeout) && timeout.Timeout())
}

// keeping returns a client with connections of its own, which it keeps.
func keeping(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 4 * time.Second} // read_header would make room by then
}

// Strangers who only hold connections open keep no event out.
func TestIdleStrangersMakeRoom(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, "limits: {connections: 3, read_header: 1m}"))
	g := start(t, dir)
	var strangers []net.Conn
	for range 3 {
		strangers = append(strangers, dial(t, g.Webhook))
	}
	if _, err := io.WriteString(strangers[0], "POST /stripe/webhook HTTP/1.1\r\nHost: x\r\n"); err != nil { // and goes on for ever
		t.Fatal(err)
	}
	if _, status, _ := g.send(t, keeping(t), secret); status != 200 {
		t.Errorf("an event: %d", status)
	}
	if !isClosed(strangers[0], 4*time.Second) {
		t.Error("the first stranger is still there")
	}
	if isClosed(strangers[2], 50*time.Millisecond) {
		t.Error("the last one had to go too")
	}
}

// Of those who hold connections, Stripe is the last to lose one.
func TestWhoHasVerifiedKeepsTheConnection(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, "limits: {connections: 2, read_header: 1m}"))
	g := start(t, dir)
	stripe := keeping(t)
	g.send(t, stripe, secret)
	for range 4 {
		stranger := dial(t, g.Webhook)
		next := dial(t, g.Webhook)
		if !isClosed(stranger, 4*time.Second) {
			t.Fatal("no stranger made room for the next one")
		}
		next.Close()
	}
	ev := toystripe.New("invoice.paid", toystripe.Options{})
	req, err := toystripe.Request(t.Context(), g.Webhook+"/stripe/webhook", ev, []string{secret}, toystripe.Sending{})
	if err != nil {
		t.Fatal(err)
	}
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	res, err := stripe.Do(req.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || !reused {
		t.Errorf("%s, on the same connection: %t", res.Status, reused)
	}
}

// With a request under way on each connection the next one waits, and no longer than for one of them.
func TestAConnectionWaitsForRoom(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	b.hang = make(chan struct{})
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, "limits: {connections: 1}"))
	g := start(t, dir)
	statuses := make(chan int, 2)
	send := func() {
		_, status, _ := g.send(t, keeping(t), secret)
		statuses <- status
	}
	go send()
	eventually(t, "the backend has the first event", func() bool { return len(b.got()) == 1 })
	go send()
	select {
	case status := <-statuses:
		t.Fatalf("answered %d while the backend hangs", status)
	case <-time.After(100 * time.Millisecond):
	}
	close(b.hang)
	for range 2 {
		select {
		case status := <-statuses:
			if status != 200 {
				t.Errorf("answered %d", status)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the second one waits although the first has ended")
		}
	}
}

// arrivals is a listener whose connections are made up.
type arrivals chan net.Conn

func (a arrivals) Accept() (net.Conn, error) {
	if conn, ok := <-a; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (a arrivals) Close() error { close(a); return nil }
func (arrivals) Addr() net.Addr { return nil }

// A connection that waits for room while the gateway stops was accepted: it is served.
func TestStopWhileAConnectionWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, made := newConnections(1), make(arrivals, 2)
		l := bounded{made, c}
		first, second := &net.TCPConn{}, &net.TCPConn{}
		made <- first
		if _, err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		c.changed(first, http.StateActive)
		made <- second
		var accepted net.Conn
		go func() { accepted, _ = l.Accept() }()
		synctest.Wait()
		if accepted != nil {
			t.Fatal("there was room")
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if accepted != second {
			t.Errorf("accepted %v", accepted)
		}
	})
}

// The admin listener has a bound of its own, and operators get through to it.
func TestIdleStrangersAtTheAdminListener(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)
	var strangers []net.Conn
	for range adminConnections + 20 {
		strangers = append(strangers, dial(t, g.Admin))
	}
	res, err := keeping(t).Get(g.Admin + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	for i, conn := range strangers[:21] {
		if !isClosed(conn, time.Second) {
			t.Errorf("stranger %d is still there", i)
		}
	}
	if last := strangers[len(strangers)-1]; isClosed(last, 10*time.Millisecond) {
		t.Error("the last one had to go too")
	}
}

func TestConnectionsLeaveDescriptorsForTheRest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		connections, others int
		files               uint64
		want                int
	}{
		{4096, 300, 1 << 20, 4096},
		{4096, 300, 4396, 4096},
		{4096, 300, 4395, 4095},
		{4096, 300, 1024, 724},
		{4096, 300, 256, 16},
		{4, 300, 256, 4},
		{4096, 300, 1<<64 - 1, 4096},
	} {
		if got := fitting(c.connections, c.others, c.files); got != c.want {
			t.Errorf("%d among %d files with %d others: %d, want %d", c.connections, c.files, c.others, got, c.want)
		}
	}
}
