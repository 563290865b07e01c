package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// site is the folder of one gateway: routes.yaml, the journal beside it, and where it listens.
type site struct {
	dir    string
	listen string // host:port
	admin  string // host:port
}

// patient is the retry policy of tests in which a backend is away for a moment: fast, and with a breaker as usual.
const patient = "retry: {initial: 100ms, max: 500ms}, breaker: {failures: 5, open_for: 300ms}"

// newSite writes a routes.yaml for these backends (each a line of YAML: `name: {url: ...}`), all of which get every
// event. top is further top-level YAML.
func newSite(t *testing.T, top string, backends ...backend) site {
	t.Helper()
	s := site{dir: t.TempDir(), listen: freeAddr(t), admin: freeAddr(t)}
	config := fmt.Sprintf("version: 1\nlisten: %s\nadmin: {listen: %s}\njournal: sqlite:breakwater.db\n", s.listen, s.admin)
	config += "sources:\n  main: {path: /stripe/webhook, signing_secrets: [\"${STRIPE_SIGNING_SECRET}\"], tolerance: 1h}\n"
	config += "backends:\n"
	to := ""
	for _, b := range backends {
		config += fmt.Sprintf("  %s: {url: %s, timeout: 5s, %s}\n", b.name, b.url, patient)
		to += b.name + ", "
	}
	config += "routes:\n  - {types: [\"*\"], to: [" + to + "]}\n" + top + "\n"
	if err := os.WriteFile(s.config(), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s site) config() string { return filepath.Join(s.dir, "routes.yaml") }

// start starts the gateway and waits until it is ready.
func (s site) start(t *testing.T, env ...string) *process {
	t.Helper()
	p := start(t, exec.Command(binary, "serve", "--config", s.config()), env...)
	s.awaitReady(t, p)
	return p
}

func (s site) awaitReady(t *testing.T, p *process) {
	t.Helper()
	eventually(t, 15*time.Second, "the gateway is ready", func() bool {
		if p.ended() {
			t.Fatal("the gateway has ended by itself")
		}
		res, err := http.Get("http://" + s.admin + "/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func (s site) url() string { return "http://" + s.listen + "/stripe/webhook" }

// invoicePaid returns a new event.
func invoicePaid() toystripe.Event { return toystripe.New("invoice.paid", toystripe.Options{}) }

// signed returns the request that Stripe makes for e, signed at a time.
func signed(t *testing.T, to string, e toystripe.Event, at time.Time) *http.Request {
	t.Helper()
	req, err := toystripe.Request(context.Background(), to, e, []string{secret}, toystripe.Sending{SignedAt: at})
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// do sends a request and returns the answer; an error is there when there was none.
func do(c *http.Client, req *http.Request) (status int, body string, err error) {
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// post sends e as Stripe does, at this moment, and returns the answer.
func post(t *testing.T, to string, e toystripe.Event) (status int, body string) {
	t.Helper()
	status, body, err := do(http.DefaultClient, signed(t, to, e, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

// backend is one that the gateway is told of.
type backend struct{ name, url string }

// tap stands before a backend and notes each request that it lets through.
type tap struct {
	*httptest.Server
	mu   sync.Mutex
	seen []seen
}

type seen struct {
	header http.Header
	body   string
}

func newTap(t *testing.T, target string) *tap {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	tp := &tap{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL = u }}
	tp.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		tp.mu.Lock()
		tp.seen = append(tp.seen, seen{r.Header.Clone(), string(body)})
		tp.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(tp.Close)
	return tp
}

// only returns the one request that came.
func (tp *tap) only(t *testing.T) seen {
	t.Helper()
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if len(tp.seen) != 1 {
		t.Fatalf("the backend got %d requests, want 1", len(tp.seen))
	}
	return tp.seen[0]
}
