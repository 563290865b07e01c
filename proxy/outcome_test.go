package proxy_test

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journaltest"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// deadPort is the URL of a port where nobody listens.
func deadPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return "http://" + l.Addr().String()
}

// raw is the URL of a backend that has read the request and then does as f says with the connection.
func raw(f func(c *net.TCPConn)) func(t *testing.T) string {
	return func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
						io.Copy(io.Discard, r.Body)
						f(c.(*net.TCPConn))
					}
				}()
			}
		}()
		return "http://" + l.Addr().String()
	}
}

// writes sends text and closes; resets sends text and has the connection reset.
func writes(text string) func(t *testing.T) string {
	return raw(func(c *net.TCPConn) { io.WriteString(c, text) })
}

func resets(text string) func(t *testing.T) string {
	return raw(func(c *net.TCPConn) {
		io.WriteString(c, text)
		c.SetLinger(0)
	})
}

// repeats sends first, and then again and again more until the gateway hangs up.
func repeats(first, more string, every time.Duration) func(t *testing.T) string {
	return raw(func(c *net.TCPConn) {
		io.WriteString(c, first)
		tick := time.NewTicker(max(every, 1))
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(c, more); err != nil {
				return
			}
		}
	})
}

func handles(h http.HandlerFunc) func(t *testing.T) string {
	return func(t *testing.T) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
}

func handlesTLS(t *testing.T) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	const soon, late = 300 * time.Millisecond, 30 * time.Second
	location := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://user:pw@example.com/login?token=canary")
		w.WriteHeader(302)
	}
	cases := []struct {
		name    string
		backend func(t *testing.T) string
		timeout time.Duration
		outcome string
		status  int
		text    string // within the error
	}{
		{"dead port", deadPort, late, proxy.OutcomeDial, 0, "refused"},
		{"accept, then close", writes(""), late, proxy.OutcomeReset, 0, "EOF"},
		{"accept, then reset", resets(""), late, proxy.OutcomeReset, 0, "reset"},
		{"half a status line", writes("HTTP/1.1 20"), late, proxy.OutcomeReset, 0, ""},
		{"half a header", resets("HTTP/1.1 200 OK\r\nContent-Le"), late, proxy.OutcomeReset, 0, ""},
		{"half a body of a 200, then reset", resets("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), late, proxy.OutcomeDelivered, 200, ""},
		{"half a chunk of a 200", writes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf"), late, proxy.OutcomeDelivered, 200, ""},
		{"half a body of a 500, then reset", resets("HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\nhalf"), late, proxy.OutcomeStatus5xx, 500, "answered 500"},
		{"garbage", writes("SSH-2.0-OpenSSH\r\n"), late, proxy.OutcomeReset, 0, "malformed"},
		{"a lot of garbage", writes(strings.Repeat("\xff<\x00", 20_000) + "\r\n"), late, proxy.OutcomeReset, 0, ""},
		{"garbage for a status", writes("HTTP/1.1 OK 200\r\n\r\n"), late, proxy.OutcomeReset, 0, "malformed"},
		{"endless headers", repeats("HTTP/1.1 200 OK\r\n", "X-A: "+strings.Repeat("a", 1000)+"\r\n", 0), late, proxy.OutcomeReset, 0, "exceeded"},
		{"redirect", handles(location), late, proxy.OutcomeRedirect, 302, `to "https://example.com/login"; redirects are not followed`},
		{"not modified", handles(answers(304)), late, proxy.OutcomeRedirect, 304, ""},
		{"not found", handles(answers(404)), late, proxy.OutcomeStatus4xx, 404, "answered 404"},
		{"gone", handles(answers(410)), late, proxy.OutcomeStatus4xx, 410, ""},
		{"too many requests", handles(answers(429)), late, proxy.OutcomeStatus429, 429, ""},
		{"error", handles(answers(500)), late, proxy.OutcomeStatus5xx, 500, ""},
		{"a status of nobody's", writes("HTTP/1.1 999 What\r\n\r\n"), late, proxy.OutcomeStatus5xx, 999, ""},
		{"wrong authority", func(t *testing.T) string { return handlesTLS(t).URL }, late, proxy.OutcomeTLS, 0, "certificate"},
		{"https to a plain port", func(t *testing.T) string {
			return strings.Replace(handles(answers(200))(t), "http:", "https:", 1)
		}, late, proxy.OutcomeTLS, 0, ""},
		{"hang", handles((&app{do: hangs}).ServeHTTP), soon, proxy.OutcomeTimeout, 0, "within the backend's timeout"},
		{"drip of headers", repeats("HTTP/1.1 200 OK\r\n", "X: y\r\n", 20*time.Millisecond), soon, proxy.OutcomeTimeout, 0, ""},
		{"drip of a body", repeats("HTTP/1.1 200 OK\r\n\r\n", ".", 20*time.Millisecond), soon, proxy.OutcomeDelivered, 200, ""},
		{"1xx flood", repeats("", "HTTP/1.1 102 Processing\r\n\r\n", 0), soon, proxy.OutcomeTimeout, 0, ""},
		{"hints first", writes("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), late, proxy.OutcomeDelivered, 200, ""},
		{"switching protocols", writes("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), late, proxy.OutcomeReset, 0, "switched protocols"},
		{"100 MB", handles(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(100<<20))
			chunk := make([]byte, 1<<20)
			for range 100 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
			t.Error("100 MB were read")
		}), late, proxy.OutcomeDelivered, 200, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j := journaltest.NewMemory()
			cfg := config(c.backend(t), j)
			cfg.Backends["legacy"] = proxy.Backend{URL: cfg.Backends["legacy"].URL, Timeout: c.timeout, Retry: hardlyEver}
			seen := newCounter()
			cfg.Observers = []proxy.Observer{seen}
			got := post(t, start(t, cfg), event("evt_1", "invoice.paid"))
			if got.Code > 299 {
				t.Errorf("answered %d %s", got.Code, got.Body)
			}
			_, attempts, err := j.Event(t.Context(), 1)
			if err != nil || len(attempts) != 1 {
				t.Fatalf("%d attempts, %v", len(attempts), err)
			}
			a := attempts[0]
			if a.Outcome != c.outcome || a.Status != c.status || !strings.Contains(a.Error, c.text) {
				t.Errorf("got %s %d %q, want %s %d ...%s...", a.Outcome, a.Status, a.Error, c.outcome, c.status, c.text)
			}
			if len(a.Error) > 1024 || strings.Contains(a.Error, "canary") || strings.Contains(a.Error, "pw@") {
				t.Errorf("the error has %d bytes: %.300q", len(a.Error), a.Error)
			}
			if brokeOff := strings.Contains(a.Error, "then the answer broke off"); (a.Error == "" || brokeOff) != (a.Outcome == proxy.OutcomeDelivered) {
				t.Errorf("%s with error %q", a.Outcome, a.Error)
			}
			if c.timeout == late && a.Duration > 10*time.Second || c.timeout == soon && a.Duration > 5*time.Second {
				t.Errorf("it took %v", a.Duration)
			}
			if _, n, _, _ := seen.counts(); n["legacy "+c.outcome] != 1 || len(n) != 1 {
				t.Errorf("observed %v", n)
			}
		})
	}
}

func TestOwnAuthority(t *testing.T) {
	t.Parallel()
	s := handlesTLS(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config(s.URL, journaltest.NewMemory())
	cfg.Backends["legacy"] = proxy.Backend{URL: s.URL, CAFile: ca}
	if got := post(t, start(t, cfg), event("evt_1", "invoice.paid")); got.Code != 200 || got.Body.Len() != 0 {
		t.Errorf("answered %d %s, want the backend's own", got.Code, got.Body)
	}
}

func TestExcerptOfTheAnswer(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"short", "no such table", "no such table"},
		{"long", strings.Repeat("0123456789", 200), strings.Repeat("0123456789", 200)[:1024]},
		{"not text", "a\xff\xfeb", "a\uFFFDb"},
		{"cut within a letter", strings.Repeat("x", 1023) + "é", strings.Repeat("x", 1023)},
		{"grows when it is made text", strings.Repeat("a\xff", 600), strings.Repeat("a\uFFFD", 256)},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{do: func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(500)
				io.WriteString(w, c.body)
			}}
			inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }), func(t *testing.T, w *world) {
				w.post(event("evt_1", "invoice.paid"))
				_, attempts, err := w.journal.Event(t.Context(), 1)
				if err != nil || len(attempts) != 1 || attempts[0].Excerpt != c.want {
					t.Errorf("excerpt = %q (%d bytes), want %q", attempts[0].Excerpt, len(attempts[0].Excerpt), c.want)
				}
			})
		})
	}
}
