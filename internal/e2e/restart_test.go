package e2e

import (
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is a backend that notes the bodies it has answered 2xx, by event id. It fails every third request or so.
type ledger struct {
	*httptest.Server
	mu  sync.Mutex
	got map[string]string
}

func newLedger(t *testing.T) *ledger {
	l := &ledger{got: map[string]string{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || rand.IntN(3) == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.got[r.Header.Get("Breakwater-Event-Id")] = string(body)
	}))
	t.Cleanup(l.Close)
	return l
}

// missing returns those of the events that have not arrived byte for byte.
func (l *ledger) missing(events map[string]string) (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, body := range events {
		if l.got[id] != body {
			ids = append(ids, id)
		}
	}
	return ids
}

// load sends events over fresh connections, n at a time, until stop is called. stop returns the bodies of those that
// were answered 2xx, by id, and how many were not.
func load(t *testing.T, to string, n int) (acked func() int, stop func() (bodies map[string]string, refused []string)) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	var (
		mu      sync.Mutex
		bodies  = map[string]string{}
		refused []string
		wg      sync.WaitGroup
		end     = make(chan struct{})
	)
	one := func() {
		e := invoicePaid()
		status, body, err := do(c, signed(t, to, e, time.Now()))
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			refused = append(refused, err.Error())
		case status/100 != 2:
			refused = append(refused, strconv.Itoa(status)+" "+body)
		default:
			bodies[e.ID] = string(e.Body)
		}
	}
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					one()
				}
			}
		})
	}
	finish := sync.OnceFunc(func() { close(end); wg.Wait() })
	t.Cleanup(finish)
	acked = func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(bodies)
	}
	return acked, func() (map[string]string, []string) { finish(); return bodies, refused }
}

func TestStopUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	s := newSite(t, "", backend{"ledger", l.URL})
	p := s.start(t)
	acked, stop := load(t, s.url(), 8)
	eventually(t, 30*time.Second, "300 events are answered 2xx", func() bool { return acked() >= 300 })
	if code := p.stop(); code != 0 {
		t.Errorf("the gateway ended with %d, want 0", code)
	}
	bodies, _ := stop()
	t.Logf("%d events were answered 2xx, %d of them are not at the backend yet", len(bodies), len(l.missing(bodies)))

	s.start(t)
	eventually(t, 60*time.Second, "each event that was answered 2xx is at the backend, byte for byte", func() bool {
		return len(l.missing(bodies)) == 0
	})
}

// As under breakwater.socket: the listening socket outlives the process, and connections wait in it.
func TestRestartBehindASocketRefusesNoConnection(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	s := newSite(t, "shutdown_delay: 0s", backend{"ledger", l.URL})
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); socket.Close() })
	startOn := func() *process {
		// The process id must be known before the program starts: the shell becomes the gateway.
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`, binary, "serve", "--config", s.config())
		cmd.ExtraFiles = []*os.File{socket}
		p := start(t, cmd)
		s.awaitReady(t, p)
		return p
	}

	p := startOn()
	acked, stop := load(t, s.url(), 8)
	for range 3 {
		before := acked()
		eventually(t, 30*time.Second, "events flow", func() bool { return acked() >= before+50 })
		if code := p.stop(); code != 0 {
			t.Errorf("the gateway ended with %d, want 0", code)
		}
		p = startOn()
	}
	bodies, refused := stop()
	if len(refused) > 0 {
		t.Errorf("%d of %d requests were refused, the first: %s", len(refused), len(refused)+len(bodies), refused[0])
	}
	eventually(t, 60*time.Second, "each event that was answered 2xx is at the backend, byte for byte", func() bool {
		return len(l.missing(bodies)) == 0
	})
}

func TestSecondGatewayOnAJournalIsRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", backend{"nobody", "http://" + freeAddr(t)})
	first := s.start(t)

	second := site{dir: s.dir, listen: freeAddr(t), admin: freeAddr(t)}
	config, err := os.ReadFile(s.config())
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.NewReplacer(s.listen, second.listen, s.admin, second.admin).Replace(string(config))
	other := s.dir + "/second.yaml"
	if err := os.WriteFile(other, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, exec.Command(binary, "serve", "--config", other))
	if code := p.wait(45 * time.Second); code != 1 { // it waits 30 s for the first to end
		t.Errorf("the second gateway ended with %d, want 1", code)
	}
	said := p.out.String()
	for _, want := range []string{"breakwater.db", strconv.Itoa(first.cmd.Process.Pid)} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not name %s:\n%s", want, said)
		}
	}
	if status, _ := post(t, s.url(), invoicePaid()); status != http.StatusOK {
		t.Errorf("the first gateway answers %d, want 200", status)
	}
}
