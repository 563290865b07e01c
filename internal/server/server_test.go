package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const secret = "whsec_abcdefghijklmnop"

// backend is a legacy backend: it keeps what it gets, and answers what it is told to.
type backend struct {
	*httptest.Server

	mu     sync.Mutex
	bodies []string
	hang   chan struct{} // when set, it does not answer before this is closed
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		b.bodies = append(b.bodies, string(body))
		hang := b.hang
		b.mu.Unlock()
		if hang != nil {
			<-hang
		}
		io.WriteString(w, "thanks")
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) got() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.bodies)
}

// gateway is a running gateway.
type gateway struct {
	Started
	path  string // of routes.yaml
	stop  func() // begins to stop
	ended chan error
}

// configuration is a small routes.yaml; more is put at its end.
func configuration(backendURL, more string) string {
	return fmt.Sprintf(`version: 1
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
journal: sqlite:breakwater.db
journal_limits: {reserve: 1MiB}
sources: {main: {path: /stripe/webhook, signing_secrets: [%s]}}
backends: {legacy: {url: %q, retry: {initial: 50ms, max: 100ms}}}
routes: [{types: ["*"], to: [legacy]}]
%s
`, secret, backendURL, more)
}

// start runs a gateway on the routes.yaml in dir and stops it at the end of the test.
func start(t *testing.T, dir string) *gateway {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	g := &gateway{path: filepath.Join(dir, "routes.yaml"), stop: cancel, ended: make(chan error, 1)}
	started := make(chan Started, 1)
	go func() {
		g.ended <- Run(ctx, Options{ConfigPath: g.path, Version: "test", Started: func(s Started) { started <- s }})
	}()
	select {
	case g.Started = <-started:
	case err := <-g.ended:
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		select {
		case <-g.ended:
		case <-time.After(30 * time.Second):
			t.Error("the gateway does not stop")
		}
	})
	return g
}

// wait returns how Run ended; the gateway stays ended for the cleanup.
func (g *gateway) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-g.ended:
		g.ended <- err
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("the gateway does not stop")
		return nil
	}
}

// send sends a new event as Stripe does, and returns it with the answer.
func (g *gateway) send(t *testing.T, client *http.Client, signedWith string) (toystripe.Event, int, string) {
	t.Helper()
	ev := toystripe.New("invoice.paid", toystripe.Options{})
	req, err := toystripe.Request(t.Context(), g.Webhook+"/stripe/webhook", ev, []string{signedWith}, toystripe.Sending{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return ev, res.StatusCode, string(body)
}

func (g *gateway) get(t *testing.T, path string) (int, string) {
	t.Helper()
	return call(t, http.MethodGet, g.Admin+path)
}

func call(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAnEventGoesThrough(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)

	ev, status, answer := g.send(t, http.DefaultClient, secret)
	if status != 200 || answer != "thanks" {
		t.Errorf("Stripe got %d %q, want the backend's answer", status, answer)
	}
	if got := b.got(); len(got) != 1 || got[0] != string(ev.Body) {
		t.Errorf("the backend got %q", got)
	}
	eventually(t, "the event is in the list", func() bool {
		_, list := g.get(t, "/api/v1/events?state=delivered")
		return strings.Contains(list, ev.ID)
	})
	if status, body := g.get(t, "/api/v1/events/"+ev.ID+"/body"); status != 200 || body != string(ev.Body) {
		t.Errorf("body: %d %q", status, body)
	}
	_, status, _ = g.send(t, http.DefaultClient, "whsec_somebody_else")
	if status != 400 {
		t.Errorf("a forged event: %d, want 400", status)
	}
	var figures string
	eventually(t, "the refusal is counted, after its answer", func() bool {
		_, figures = g.get(t, "/metrics")
		return strings.Contains(figures, `breakwater_events_total{result="rejected",source="main"} 1`)
	})
	for _, line := range []string{
		`breakwater_events_total{result="delivered",source="main"} 1`,
		`breakwater_events_total{result="rejected",source="main"} 1`,
		`breakwater_attempts_total{backend="legacy",outcome="delivered"} 1`,
		`breakwater_attempts_total{backend="legacy",outcome="timeout"} 0`,
		`breakwater_signature_failures_total{reason="no_match",source="main"} 1`,
		`breakwater_breaker_state{backend="legacy"} 0`,
		`breakwater_deliveries_pending{backend="legacy"} 0`,
		`breakwater_oldest_pending_seconds{backend="legacy"} 0`,
		`breakwater_config_last_reload_successful 1`,
		`breakwater_history_dropped_total 0`,
		`breakwater_admin_denied_total{reason="wrong_token"} 0`,
		`breakwater_admin_denied_total{reason="proxied"} 0`,
	} {
		if !strings.Contains(figures, line+"\n") {
			t.Errorf("metrics: no %s", line)
		}
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	first, second, dir := newBackend(t), newBackend(t), t.TempDir()
	path := filepath.Join(dir, "routes.yaml")
	write(t, path, configuration(first.URL, ""))
	g := start(t, dir)

	write(t, path, configuration(second.URL, ""))
	eventually(t, "a changed file is taken by itself", func() bool {
		g.send(t, http.DefaultClient, secret)
		return len(second.got()) > 0
	})

	write(t, path, configuration(first.URL, "inline_timeot: 3s"))
	status, problem := call(t, "POST", g.Admin+"/api/v1/reload")
	if status != 422 || !strings.Contains(problem, "inline_timeot") {
		t.Errorf("a bad file: %d %s", status, problem)
	}
	before := len(second.got())
	g.send(t, http.DefaultClient, secret)
	if len(second.got()) != before+1 {
		t.Error("after a bad file the old routes no longer run")
	}
	if _, figures := g.get(t, "/metrics"); !strings.Contains(figures, "breakwater_config_last_reload_successful 0\n") {
		t.Error("the metric does not say that the file was not taken")
	}

	write(t, path, strings.Replace(configuration(first.URL, ""), "listen: 127.0.0.1:0", "listen: 127.0.0.1:1", 1))
	status, answer := call(t, "POST", g.Admin+"/api/v1/reload")
	if status != 200 || !strings.Contains(answer, "listen was changed: this needs a restart") {
		t.Errorf("a changed listen: %d %s", status, answer)
	}
	before = len(first.got())
	g.send(t, http.DefaultClient, secret)
	if len(first.got()) != before+1 {
		t.Error("the rest of the file was not taken")
	}
}

func TestASecretFileIsRolled(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "secret"), secret+"\n")
	file := filepath.Join(dir, "secret")
	write(t, filepath.Join(dir, "routes.yaml"), strings.Replace(configuration(b.URL, ""), "["+secret+"]", `["${file:`+file+`}"]`, 1))
	g := start(t, dir)
	if _, status, _ := g.send(t, http.DefaultClient, secret); status != 200 {
		t.Fatalf("before: %d", status)
	}
	write(t, file, "whsec_the_new_one_abcdef\n")
	eventually(t, "the new secret is believed", func() bool {
		_, status, _ := g.send(t, http.DefaultClient, "whsec_the_new_one_abcdef")
		return status == 200
	})
	if _, status, _ := g.send(t, http.DefaultClient, secret); status != 400 {
		t.Errorf("the old secret: %d, want 400", status)
	}
}

func TestStopInOrder(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	b.hang = make(chan struct{})
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, "shutdown_delay: 1s\ndrain_timeout: 500ms"))
	g := start(t, dir)

	type answer struct {
		ev     toystripe.Event
		status int
	}
	answers := make(chan answer, 1)
	go func() {
		ev, status, _ := g.send(t, http.DefaultClient, secret)
		answers <- answer{ev, status}
	}()
	eventually(t, "the backend has the event", func() bool { return len(b.got()) == 1 })

	g.stop()
	eventually(t, "readyz says 503", func() bool { status, _ := g.get(t, "/readyz"); return status == 503 })
	if status, _ := g.get(t, "/livez"); status != 200 {
		t.Errorf("livez while stopping: %d", status)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.Webhook, "http://"))
	if err != nil {
		t.Errorf("within shutdown_delay no connection is taken: %v", err)
	} else {
		conn.Close()
	}
	// The backend still hangs. Stripe is not left waiting for it: the event is kept.
	select {
	case a := <-answers:
		if a.status != 200 {
			t.Errorf("Stripe got %d, want 200", a.status)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Stripe was left waiting")
	}
	if err := g.wait(t); err != nil {
		t.Errorf("stop: %v", err)
	}
	close(b.hang)
	b.mu.Lock()
	b.hang = nil
	b.mu.Unlock()

	again := start(t, dir)
	eventually(t, "the event is delivered after the start", func() bool { return len(b.got()) == 2 })
	eventually(t, "nothing is owed any more", func() bool {
		_, list := again.get(t, "/api/v1/events?state=pending")
		return strings.Contains(list, `"events":[]`)
	})
}

// A connection that was accepted is served, even when its request is still on the way as the gateway stops.
func TestStopServesWhatWasAccepted(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)

	address := strings.TrimPrefix(g.Webhook, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ev := toystripe.New("invoice.paid", toystripe.Options{})
	req, err := toystripe.Request(t.Context(), g.Webhook+"/stripe/webhook", ev, []string{secret}, toystripe.Sending{})
	if err != nil {
		t.Fatal(err)
	}
	var raw strings.Builder
	if err := req.Write(&raw); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, raw.String()[:100]); err != nil {
		t.Fatal(err)
	}
	g.send(t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, secret) // accepted after conn was

	g.stop()
	eventually(t, "no more connections are taken", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(conn, raw.String()[100:]); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatalf("unanswered: %v", err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || !res.Close {
		t.Errorf("got %s, close %t; want 200 and the connection's end", res.Status, res.Close)
	}
	if err := g.wait(t); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestOpenAPIOfTheRunningGateway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration("http://127.0.0.1:1", ""))
	g := start(t, dir)
	var doc struct{ Info struct{ Version string } }
	if _, body := g.get(t, "/openapi.json"); json.Unmarshal([]byte(body), &doc) != nil || doc.Info.Version != "test" {
		t.Errorf("openapi.json: %s", body)
	}
}

func TestABadFileIsNotStarted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), "version: 1\nroutes: 3\n")
	err := Run(t.Context(), Options{ConfigPath: filepath.Join(dir, "routes.yaml")})
	if err == nil || !strings.Contains(err.Error(), "routes.yaml:2:9") {
		t.Errorf("got %v, want the place", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "breakwater.db")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a journal was made all the same")
	}
}
