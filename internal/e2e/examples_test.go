package e2e

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// handler is one of the handlers in deploy/examples: real ones, that know nothing of the gateway.
type handler struct {
	name string
	addr string
	path string
	log  string                                // where PHP appends what it has handled; Node says it
	cmd  func(addr string) (*exec.Cmd, string) // and one more environment variable
	run  *process                              // nil while it is down
}

// handlers returns PHP and Node, both down, by name.
var handlers = map[string]func(t *testing.T) *handler{
	"php": func(t *testing.T) *handler {
		h := &handler{name: "php", addr: freeAddr(t), path: "/webhook.php", log: filepath.Join(t.TempDir(), "processed")}
		h.cmd = func(addr string) (*exec.Cmd, string) {
			return exec.Command("php", "-S", addr, "-t", filepath.Join(root, "deploy/examples/php")), "PROCESSED_LOG=" + h.log
		}
		return h
	},
	"node": func(t *testing.T) *handler {
		h := &handler{name: "node", addr: freeAddr(t), path: "/"}
		h.cmd = func(addr string) (*exec.Cmd, string) {
			_, port, _ := net.SplitHostPort(addr)
			return exec.Command("node", filepath.Join(root, "deploy/examples/node/server.js")), "PORT=" + port
		}
		return h
	},
}

// forEachHandler runs a test in front of PHP and in front of Node.
func forEachHandler(t *testing.T, test func(t *testing.T, h *handler)) {
	for name, fresh := range handlers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, name)
			test(t, fresh(t))
		})
	}
}

func (h *handler) url() string { return "http://" + h.addr + h.path }

func (h *handler) start(t *testing.T) {
	t.Helper()
	cmd, env := h.cmd(h.addr)
	h.run = start(t, cmd, env)
	eventually(t, 15*time.Second, h.name+" listens", func() bool {
		if h.run.ended() {
			t.Fatal("it has ended by itself")
		}
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

// processed returns the ids that the handler says it has handled, in order.
func (h *handler) processed(t *testing.T) []string {
	t.Helper()
	text := h.run.out.String()
	if h.log != "" {
		b, err := os.ReadFile(h.log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		text = string(b)
	}
	ids := strings.Fields(text)
	return slices.DeleteFunc(ids, func(s string) bool { return !strings.HasPrefix(s, "evt_") })
}

// What the handlers accept and refuse without a gateway is what the other tests rest on.
func TestHandlersCheckTheSignature(t *testing.T) {
	t.Parallel()
	forEachHandler(t, func(t *testing.T, h *handler) {
		h.start(t)
		ask := func(req *http.Request, want int) {
			t.Helper()
			status, body, err := do(http.DefaultClient, req)
			if err != nil || status != want {
				t.Errorf("answered %d %q (%v), want %d", status, body, err, want)
			}
		}
		good := invoicePaid()
		ask(signed(t, h.url(), good, time.Now()), http.StatusOK)
		ask(signed(t, h.url(), invoicePaid(), time.Now().Add(-10*time.Minute)), http.StatusBadRequest)

		forged := signed(t, h.url(), invoicePaid(), time.Now())
		forged.Header.Set("Stripe-Signature", strings.Replace(forged.Header.Get("Stripe-Signature"), "v1=", "v1=0", 1))
		ask(forged, http.StatusBadRequest)

		if got := h.processed(t); !slices.Equal(got, []string{good.ID}) {
			t.Errorf("handled %v, want only %s", got, good.ID)
		}
	})
}

func TestInlineDeliveryKeepsStripesSignature(t *testing.T) {
	t.Parallel()
	forEachHandler(t, func(t *testing.T, h *handler) {
		h.start(t)
		tap := newTap(t, h.url())
		s := newSite(t, "", backend{h.name, tap.URL})
		s.start(t)

		e := invoicePaid()
		req := signed(t, s.url(), e, time.Now().Add(-3*time.Second))
		status, body, err := do(http.DefaultClient, req)
		if err != nil || status != http.StatusOK || !strings.Contains(body, `"received":"`+e.ID+`"`) {
			t.Errorf("Stripe was answered %d %q (%v), want the handler's own answer", status, body, err)
		}
		if got := h.processed(t); !slices.Equal(got, []string{e.ID}) {
			t.Errorf("handled %v, want %s once", got, e.ID)
		}
		got := tap.only(t)
		if got.body != string(e.Body) {
			t.Error("the body was changed on the way")
		}
		if got, want := got.header.Get("Stripe-Signature"), req.Header.Get("Stripe-Signature"); got != want {
			t.Errorf("signature %q, want Stripe's own, %q", got, want)
		}
	})
}

// Ten minutes after Stripe signed it, each handler refuses the event by itself (see above): 300 s is their tolerance.
func TestOldEventIsSignedAfresh(t *testing.T) {
	t.Parallel()
	forEachHandler(t, func(t *testing.T, h *handler) {
		h.start(t)
		tap := newTap(t, h.url())
		s := newSite(t, "resign_after: 1s", backend{h.name, tap.URL})
		s.start(t)

		e := invoicePaid()
		req := signed(t, s.url(), e, time.Now().Add(-10*time.Minute))
		status, body, err := do(http.DefaultClient, req)
		if err != nil || status != http.StatusOK {
			t.Errorf("Stripe was answered %d %q (%v), want 200", status, body, err)
		}
		if got := h.processed(t); !slices.Equal(got, []string{e.ID}) {
			t.Errorf("handled %v, want %s once", got, e.ID)
		}
		got := tap.only(t)
		if got.body != string(e.Body) {
			t.Error("the body was changed on the way")
		}
		stripes := req.Header.Get("Stripe-Signature")
		if got := got.header.Get("Stripe-Signature"); got == stripes {
			t.Error("Stripe's stale signature was passed on")
		}
		if got := got.header.Get("Breakwater-Original-Signature"); got != stripes {
			t.Errorf("original signature %q, want %q", got, stripes)
		}
	})
}

func TestBackendThatIsDownGetsItsEventsLater(t *testing.T) {
	t.Parallel()
	forEachHandler(t, func(t *testing.T, h *handler) {
		s := newSite(t, "resign_after: 1s", backend{h.name, h.url()})
		s.start(t)

		var want []string
		for range 12 { // more than open the breaker
			e := invoicePaid()
			if status, body := post(t, s.url(), e); status != http.StatusOK || !strings.Contains(body, `"stored"`) {
				t.Fatalf("with the backend down Stripe was answered %d %q, want a 200 that says stored", status, body)
			}
			want = append(want, e.ID)
		}

		h.start(t)
		eventually(t, 20*time.Second, "all events are handled", func() bool { return len(h.processed(t)) >= len(want) })
		got := h.processed(t)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("handled %v, want each of %v once", got, want)
		}

		// It goes down again, and comes back, while the gateway runs.
		h.run.kill()
		e := invoicePaid()
		if status, body := post(t, s.url(), e); status != http.StatusOK {
			t.Fatalf("Stripe was answered %d %q, want 200", status, body)
		}
		h.start(t)
		eventually(t, 20*time.Second, "the last event is handled", func() bool { return slices.Contains(h.processed(t), e.ID) })
	})
}
