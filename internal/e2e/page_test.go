package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

const adminToken = "an admin token of some length"

// shop is a gateway with a page, in front of backends that answer what they are told to.
type shop struct {
	site
	answers map[string]*atomic.Int64 // by backend: the status
}

func newShop(t *testing.T, backends ...string) *shop {
	t.Helper()
	s := &shop{site: site{dir: t.TempDir(), listen: freeAddr(t), admin: freeAddr(t)}, answers: map[string]*atomic.Int64{}}
	config := fmt.Sprintf("version: 1\nlisten: %s\nadmin: {listen: %s, token: %q}\njournal: sqlite:breakwater.db\n", s.listen, s.admin, adminToken)
	config += "sources:\n  main: {path: /stripe/webhook, signing_secrets: [\"${STRIPE_SIGNING_SECRET}\"], max_body: 16MiB}\n"
	config += "  connect: {path: /stripe/connect, signing_secrets: [\"whsec_of_another_endpoint_0123\"]}\nbackends:\n"
	for _, name := range backends {
		status := new(atomic.Int64)
		status.Store(http.StatusOK)
		s.answers[name] = status
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(int(status.Load()))
			text := http.StatusText(int(status.Load()))
			if status.Load() == http.StatusTeapot {
				text = strings.Join(hostile, "\n")
			}
			_, _ = io.WriteString(w, text)
		}))
		t.Cleanup(backend.Close)
		config += fmt.Sprintf("  %s: {url: \"%s/webhook\", retry: {initial: 1h, max: 1h}, breaker: {failures: 1000, open_for: 1s}}\n", name, backend.URL)
	}
	config += fmt.Sprintf("routes:\n  - {types: [\"*\"], to: [%s]}\nstripe_ips: [\"127.0.0.0/8\"]\n", strings.Join(backends, ", "))
	if err := os.WriteFile(s.config(), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	return s
}

// sell sends n events of a type.
func (s *shop) sell(t *testing.T, typ string, n int) (sent []toystripe.Event) {
	t.Helper()
	for range n {
		e := toystripe.New(typ, toystripe.Options{})
		if status, body := post(t, s.url(), e); status/100 != 2 {
			t.Fatalf("%d %s", status, body)
		}
		sent = append(sent, e)
	}
	return sent
}

// signIn opens the page and signs in, as far as the path that was asked for.
func (s *shop) signIn(t *testing.T, path string) *browser {
	t.Helper()
	b := newBrowser(t, "http://"+s.admin)
	b.open(path)
	b.text("h1", "Sign in")
	b.write("#token", adminToken+"\r")
	b.await("document.querySelector('.side')")
	return b
}

func TestSigningIn(t *testing.T) {
	s := newShop(t, "legacy")
	b := newBrowser(t, "http://"+s.admin)
	b.open("/events?state=failed")
	b.text("h1", "Sign in")
	b.write("#token", "a guess\r")
	b.text("[role=alert]", "That is not the token")
	b.write("#token", adminToken+"\r")
	b.text("h1", "Event deliveries")
	b.await("location.search === '?state=failed'")
	b.text("#pulse", "Live")
	b.click("form[action='/logout'] button")
	b.text("h1", "Sign in")
	b.open("/")
	b.text("h1", "Sign in")
}

func TestFilterAndResendWithoutReloading(t *testing.T) {
	s := newShop(t, "billing", "legacy")
	s.sell(t, "charge.succeeded", 3)
	s.answers["billing"].Store(404)
	sent := s.sell(t, "invoice.paid", 1)[0]

	b := s.signIn(t, "/")
	b.text(".attention", "billing has answered 404 once")
	b.open("/events")
	b.await("document.querySelectorAll('tbody.event').length === 4")
	b.write("#type", "invoice.*\r")
	b.await("location.search === '?type=invoice.*'")
	b.await("document.querySelectorAll('tbody.event').length === 1")
	b.text("tbody.event .c-answer", "404")
	b.text("tbody.event .c-next", "In ")
	b.click("tbody.event a[data-row]")
	b.text("h1", "invoice.paid")
	b.text("h1", "Pending")
	b.text(".body", sent.ID)
	b.text(".deliveries", "Next attempt in")
	b.text(".deliveries", "Is the backend's url right")

	b.await("document.querySelector('#pulse').dataset.state === 'live'")
	js[bool](b, "window.same = true")
	s.answers["billing"].Store(200)
	b.click(".title form button")
	b.text("#notice", "Resent")
	b.text("h1", "Delivered")
	b.text(".timeline", "attempt 2")
	if !js[bool](b, "window.same === true") {
		t.Error("the page was loaded again")
	}
}

func TestPauseAndResume(t *testing.T) {
	s := newShop(t, "legacy")
	b := s.signIn(t, "/backends")
	b.text("#legacy", "No traffic yet")
	b.click("#legacy form button")
	b.text("#legacy h2", "Paused")
	s.sell(t, "invoice.paid", 2)
	b.text("#legacy", "2 events")
	b.open("/events?state=pending")
	b.text("tbody.event .c-next", "Paused")
	b.open("/")
	b.text(".attention", "legacy is paused since")
	b.text(".attention", "2 events wait; nothing is lost.")
	b.open("/backends")
	b.click("#legacy form button")
	b.text("#notice", "Resumed")
	b.text("#legacy h2", "Working")
	b.text("#legacy", "Nothing")
	b.open("/events?state=delivered")
	b.await("document.querySelectorAll('tbody.event').length === 2")
}

func TestBulkResendCountsFirst(t *testing.T) {
	s := newShop(t, "legacy")
	s.answers["legacy"].Store(500)
	s.sell(t, "invoice.paid", 7)
	s.sell(t, "charge.succeeded", 2)
	b := s.signIn(t, "/events?type=invoice.*&state=pending")
	s.answers["legacy"].Store(200)
	b.click(".bar > a.button")
	b.text("h1", "Resend 7 events?")
	b.text("main", "invoice.*")
	b.click("main form .primary")
	b.text("h1", "Resend of 7 events")
	b.text("h1", "Done")
	b.text(".what", "7 of 7")
	b.open("/events?state=delivered")
	b.await("document.querySelectorAll('tbody.event').length === 7")
	b.open("/events?state=pending")
	b.await("document.querySelectorAll('tbody.event').length === 2")
}

func TestLiveListHoldsStill(t *testing.T) {
	s := newShop(t, "legacy")
	s.answers["legacy"].Store(500)
	s.sell(t, "invoice.paid", 3)
	b := s.signIn(t, "/events?state=pending")
	b.await("document.querySelector('#pulse').dataset.state === 'live'")
	row := js[string](b, "document.querySelector('tbody.event').id")
	places := "JSON.stringify([...document.querySelectorAll('tbody.event')].map(e => [e.id, e.getBoundingClientRect().top, e.getBoundingClientRect().bottom]))"
	before := js[string](b, places)

	s.sell(t, "invoice.paid", 4)
	b.text(".newer", "4 new events")
	if after := js[string](b, places); after != before {
		t.Errorf("rows moved from %v to %v", before, after)
	}
	// What no longer matches the filter changes in its place, and stays there.
	s.answers["legacy"].Store(200)
	seq := strings.TrimPrefix(row, "e-")
	req, _ := http.NewRequest(http.MethodPost, "http://"+s.admin+"/api/v1/events/seq:"+seq+"/resend", nil)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	if status, body, err := do(http.DefaultClient, req); err != nil || status != 200 {
		t.Fatalf("%d %s %v", status, body, err)
	}
	b.text("#"+row, "Delivered")
	if after := js[string](b, places); after != before {
		t.Errorf("rows moved from %v to %v", before, after)
	}
	b.click(".newer a")
	b.await("document.querySelectorAll('tbody.event').length === 6")
}

func TestKeys(t *testing.T) {
	s := newShop(t, "legacy")
	s.sell(t, "invoice.paid", 3)
	b := s.signIn(t, "/events")
	focused := "document.activeElement.closest('tbody')?.rowIndex ?? [...document.querySelectorAll('tbody.event')].indexOf(document.activeElement.closest('tbody'))"
	for keys, want := range map[string]int{"j": 0, "jj": 1, "jjj": 2, "jjjj": 2, "jjk": 0} {
		js[bool](b, "(document.activeElement.blur(), true)")
		b.do(chromedp.KeyEvent(keys))
		if got := js[int](b, focused); got != want {
			t.Errorf("%s: row %d, want %d", keys, got, want)
		}
	}
	b.do(chromedp.KeyEvent("/"))
	b.await("document.activeElement.id === 'q'")
	js[bool](b, "(document.activeElement.value = '', true)") // a key from here is typed though the page took it
	b.do(chromedp.KeyEvent("j?"))
	if got := js[string](b, "document.activeElement.value"); got != "j?" {
		t.Errorf("typed %q", got)
	}
	js[bool](b, "(document.activeElement.blur(), true)")
	b.do(chromedp.KeyEvent("?"))
	b.await("document.querySelector('#help').open")
	b.click("#help button")
	b.await("!document.querySelector('#help').open")
	b.do(chromedp.KeyEvent("j"))
	b.await("document.activeElement.matches('[data-row]')")
	b.do(chromedp.KeyEvent("\r"))
	b.text("h1", "invoice.paid")
	b.do(chromedp.KeyEvent("gb"))
	b.text("h1", "Backends")
}

// hostile is what somebody else may have written into an event's metadata.
var hostile = []string{
	`<script>window.pwned = 1</script>`,
	`"><img src=x onerror="window.pwned = 1">`,
	`javascript:window.pwned=1`,
	`</pre></main><svg onload=window.pwned=1>`,
	`' autofocus onfocus='window.pwned=1`,
	`{{.Version}}`,
	`<div hx-get="/logout" hx-trigger="load"></div>`,
	"\u202etxt.exe\u202c",
	"\u2066isolated\u2069\u200b",
	"\x1b[31mred\x1b[0m\x07\x00",
	"a\u2028b\ufeff",
}

func TestPayloadsAreInert(t *testing.T) {
	s := newShop(t, "legacy")
	metadata := map[string]string{}
	for i, h := range hostile {
		metadata[fmt.Sprintf("m%d%s", i, h)] = h
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	err := enc.Encode(map[string]any{
		"id": "evt_hostile", "type": `invoice.<b onmouseover=window.pwned=1>`, "api_version": `"><script>window.pwned=1</script>`,
		"created": time.Now().Unix(), "account": `acct_"><img src=x onerror=window.pwned=1>`,
		"data": map[string]any{"object": map[string]any{
			"id": `in_"><script>window.pwned=1</script>`, "customer": "cus_\u202eevil", "metadata": metadata,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	// encoding/json escapes this one although JSON need not.
	raw := strings.ReplaceAll(body.String(), `\u2028`, "\u2028")
	big := fmt.Sprintf(`{"id":"evt_big","type":"invoice.paid","data":{"object":{"id":"in_big","text":"%s"}}}`, strings.Repeat("<script>", 5<<20/8))
	s.answers["legacy"].Store(http.StatusTeapot) // what it answers is somebody else's text, too
	for id, text := range map[string]string{"evt_hostile": raw, "evt_big": big} {
		if status, answer := post(t, s.url(), toystripe.Event{ID: id, Body: []byte(text)}); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	b := s.signIn(t, "/events")
	b.text("#content", "invoice.<b onmouseover=window.pwned=1>")
	for _, path := range []string{"/", "/events", "/events/evt_hostile", "/events?q=%3Cscript%3E", "/events?object=%22%3E%3Cscript%3E", "/events/evt_big", "/config?type=%3Cscript%3E"} {
		b.open(path)
		b.await("document.querySelector('#content h1')")
		if js[bool](b, "'pwned' in window || document.querySelector('main script, main img, main b, main [onload], main [onfocus]') !== null") {
			t.Errorf("%s: what was written into an event runs", path)
		}
	}
	b.open("/events/evt_hostile")
	for _, text := range []string{"<script>window.pwned = 1</script>", "U+202E", "U+2066", "U+200B", "U+FEFF", "U+2028", "{{.Version}}"} {
		b.text(".body", text)
	}
	for _, text := range []string{"<script>window.pwned = 1</script>", "U+001B[31mred", "U+0000", "U+202Etxt.exe"} {
		b.text(".timeline .code", text)
	}
	b.open("/events/evt_big")
	b.text("p.cut", "Download all 5.0 MiB")
	if n := js[int](b, "document.querySelector('.body').textContent.length"); n > 70<<10 {
		t.Errorf("%d characters of 5 MiB are shown", n)
	}
	for id, want := range map[string]string{"evt_hostile": raw, "evt_big": big} {
		got := js[string](b, fmt.Sprintf("fetch('/api/v1/events/%s/body').then(r => r.text())", id))
		if got != want {
			t.Errorf("%s: the download has %d bytes, want the %d that were sent", id, len(got), len(want))
		}
	}
}

// TestEachPage looks at every page in both themes, wide and narrow: accessible, nothing wider than the screen, and a
// picture of it for people.
func TestEachPage(t *testing.T) {
	s := newShop(t, "billing", "crm", "legacy")
	for _, typ := range []string{"invoice.paid", "customer.subscription.updated", "checkout.session.completed", "charge.refunded"} {
		s.sell(t, typ, 4)
	}
	s.answers["billing"].Store(404)
	s.sell(t, "invoice.payment_failed", 6)
	s.answers["crm"].Store(503)
	s.sell(t, "customer.created", 3)
	unknown := toystripe.New("account.updated", toystripe.Options{})
	if status, _ := post(t, "http://"+s.listen+"/stripe/connect", unknown); status != 200 {
		t.Fatalf("%d for what the quarantine takes", status)
	}
	b := s.signIn(t, "/")
	pages := []struct{ name, path, text string }{
		{"overview", "/", "billing has answered 404 since"},
		{"events", "/events", "invoice.payment_failed"},
		{"events-none", "/events?type=nothing.like.this", "No event matches"},
		{"event", "/events/17", "Timeline"},
		{"backends", "/backends", "billing"},
		{"sources", "/sources", "connect"},
		{"quarantine", "/quarantine", "account.updated"},
		{"configuration", "/config?type=invoice.paid&source=main", "goes to"},
		{"resend", "/resend?state=pending", "Resend 9 events?"},
		{"problem", "/events/4711", "no such event"},
	}
	for _, scheme := range []string{"light", "dark"} {
		for width, name := range map[int64]string{1280: "wide", 390: "narrow", 360: "narrowest"} {
			b.look(width, scheme)
			for _, p := range pages {
				b.open(p.path)
				b.text("main", p.text)
				if name == "wide" && p.name != "problem" {
					b.await("document.querySelector('#pulse').dataset.state === 'live'")
				}
				label := p.name + "-" + scheme + "-" + name
				b.accessible(label)
				if got := js[int64](b, "document.documentElement.scrollWidth"); got > width {
					t.Errorf("%s: %d wide, the screen is %d", label, got, width)
				}
				if name != "narrowest" {
					b.screenshot(label)
				}
			}
		}
	}
	b.do(chromedp.Navigate(b.base + "/events/17"))
	for _, scheme := range []string{"light", "dark"} { // what is closed at first
		b.look(1280, scheme)
		js[bool](b, "(document.querySelectorAll('main details').forEach(d => d.open = true), true)")
		b.accessible("event-open-" + scheme)
		b.screenshot("event-open-" + scheme + "-wide")
	}
	b.click("form[action='/logout'] button")
	for _, scheme := range []string{"light", "dark"} {
		b.look(1280, scheme)
		b.text("h1", "Sign in")
		b.accessible("login-" + scheme)
		b.screenshot("login-" + scheme + "-wide")
	}
	slices.Sort(b.said) // a missing event is a 404, which the browser's console says
	b.said = slices.DeleteFunc(b.said, func(s string) bool { return strings.Contains(s, "404") && strings.Contains(s, "/events/4711") })
}
