package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func ask(h http.Handler, method, target string, edit ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "localhost:8421"
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestEventInJSON(t *testing.T) {
	t.Parallel()
	w := ask(newFakes().handler(""), "GET", "/api/v1/events/evt_1")
	want := `{
		"seq": 2, "id": "evt_1", "source": "main", "type": "invoice.paid", "created": "2026-11-21T10:00:00.000Z",
		"received_at": "2026-11-21T10:00:00.123Z", "account": "acct_1", "livemode": true, "api_version": "2023-10-16",
		"object": "in_1", "customer": "cus_1", "state": "pending", "reason": "", "size": 2048,
		"deliveries": [
			{"backend": "legacy", "state": "pending", "turn": 1, "attempts": 1, "next_attempt_at": "2026-11-21T10:01:00.123Z",
			 "why": "breaker", "last_status": 503, "last_error": "status_5xx",
			 "hint": "A proxy in front of the backend does not reach it, or it is in maintenance. The event is kept and tried again."},
			{"backend": "node", "state": "delivered", "turn": 1, "attempts": 1, "next_attempt_at": null, "why": "", "last_status": 200,
			 "last_error": "", "hint": ""}
		],
		"answered_at": null, "other_events": 3, "newer_delivered": 2, "needs_backend": false,
		"attempts": [{"backend": "legacy", "turn": 1, "n": 1, "started_at": "2026-11-21T10:00:00.123Z", "duration_ms": 1500,
			"status": 503, "outcome": "status_5xx", "error": "503 Service Unavailable", "trigger": "inline", "excerpt": "down",
			"hint": "A proxy in front of the backend does not reach it, or it is in maintenance. The event is kept and tried again."}]
	}`
	if diff := cmp.Diff(decoded(t, want), decoded(t, w.Body.String())); w.Code != 200 || diff != "" {
		t.Errorf("%d, (-want +got):\n%s", w.Code, diff)
	}
}

func decoded(t *testing.T, s string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %q", err, s)
	}
	return v
}

func TestListGoesOnByCursor(t *testing.T) {
	t.Parallel()
	h := newFakes().handler("")
	var ids []string
	target := "/api/v1/events?limit=3"
	for pages := 0; ; pages++ {
		if pages > 4 {
			t.Fatal("the list has no end")
		}
		w := ask(h, "GET", target)
		var page struct {
			Events []struct {
				Seq int
				ID  string
			}
			Next string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 {
			t.Fatalf("%d %v: %s", w.Code, err, w.Body)
		}
		for _, e := range page.Events {
			ids = append(ids, e.ID)
		}
		if page.Next == "" {
			break
		}
		target = "/api/v1/events?limit=3&cursor=" + page.Next
	}
	if want := []string{"evt_twice", "evt_twice", "evt_1", "evt_0"}; !slices.Equal(ids, want) {
		t.Errorf("got %v, want %v", ids, want)
	}
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	day := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	for query, want := range map[string]journal.Filter{
		"":                           {Limit: 50},
		"state=failed&backend=b":     {State: proxy.Failed, Backend: "b", Limit: 50},
		"type=invoice.*&source=s":    {Type: "invoice.*", Source: "s", Limit: 50},
		"account=acct_1&object=o":    {Account: "acct_1", Object: "o", Limit: 50},
		"since=2026-11-21T00:00:00Z": {Since: day, Limit: 50},
		"until=2026-11-21T00:00:00Z": {Until: day, Limit: 50},
		"limit=500":                  {Limit: 500},
		"q=evt_1":                    {Query: "evt_1", Limit: 50},
		"q=some+text&customer=cus_1": {Query: "some text", Customer: "cus_1", Limit: 50},
	} {
		f := newFakes()
		w := ask(f.handler(""), "GET", "/api/v1/events?"+query)
		if diff := cmp.Diff(want, f.filter); w.Code != 200 || diff != "" {
			t.Errorf("%s: %d, (-want +got):\n%s", query, w.Code, diff)
		}
	}
	for _, query := range []string{
		"state=lost", "limit=0", "limit=501", "limit=x", "since=yesterday", "cursor=!", "cursor=YmVmb3JlOi0x",
	} {
		w := ask(newFakes().handler(""), "GET", "/api/v1/events?"+query)
		if w.Code != 422 || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s %s, want a problem 422", query, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
	}
}

func TestAnIDOfSeveralEvents(t *testing.T) {
	t.Parallel()
	f := newFakes()
	w := ask(f.handler(""), "POST", "/api/v1/events/evt_twice/resend")
	if w.Code != 409 || !strings.Contains(w.Body.String(), `"seq:4"`) || !strings.Contains(w.Body.String(), `"seq:3"`) {
		t.Errorf("%d %s, want 409 naming both", w.Code, w.Body)
	}
	if f.resent != nil {
		t.Errorf("one of them was resent: %v", f.resent)
	}
	if w := ask(f.handler(""), "POST", "/api/v1/events/seq:3/resend"); w.Code != 200 || !slices.Equal(f.resent, []string{"evt_twice"}) {
		t.Errorf("by seq: %d, resent %v", w.Code, f.resent)
	}
}

func TestResend(t *testing.T) {
	t.Parallel()
	f := newFakes()
	w := ask(f.handler(""), "POST", "/api/v1/events/evt_1/resend", func(r *http.Request) {
		r.Body = io.NopCloser(strings.NewReader(`{"backends":["legacy","node"]}`))
	})
	if want := []string{"evt_1", "legacy", "node"}; w.Code != 200 || !slices.Equal(f.resent, want) {
		t.Fatalf("%d %s, resent %v, want %v", w.Code, w.Body, f.resent, want)
	}
	want := `{"seq":2,"id":"evt_1","deliveries":[{"backend":"legacy","turn":2,"result":"new_turn"}]}`
	if diff := cmp.Diff(decoded(t, want), decoded(t, w.Body.String())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	w = ask(f.handler(""), "POST", "/api/v1/events/evt_1/resend", func(r *http.Request) {
		r.Body = io.NopCloser(strings.NewReader(`{"backend":"legacy"}`))
	})
	if w.Code != 422 {
		t.Errorf("a misspelt key: %d, want 422, not a resend to all", w.Code)
	}
	f.refuse = fmt.Errorf("resend evt_1: %w: %q; there are legacy, node", proxy.ErrNoBackend, "legcy")
	w = ask(f.handler(""), "POST", "/api/v1/events/evt_1/resend")
	if w.Code != 422 || !strings.Contains(w.Body.String(), "there are legacy, node") {
		t.Errorf("no such backend: %d %s, want 422 saying which there are", w.Code, w.Body)
	}
}

func TestBodyDoesNoHarm(t *testing.T) {
	t.Parallel()
	f := newFakes()
	w := ask(f.handler(""), "GET", "/api/v1/events/seq:2/body")
	if w.Code != 200 || !slices.Equal(w.Body.Bytes(), f.body) {
		t.Fatalf("%d %q, want the very bytes", w.Code, w.Body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff",
		"Content-Disposition": `attachment; filename="event-2.json"`,
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for name, c := range map[string]struct {
		token        proxy.Secret
		method, path string
		edit         []func(*http.Request)
		want         int
	}{
		"loopback needs no token":              {"", "GET", "/api/v1/events", nil, 200},
		"loopback by address":                  {"", "GET", "/api/v1/events", []func(*http.Request){host("127.0.0.1:8421")}, 200},
		"loopback by IPv6":                     {"", "GET", "/api/v1/events", []func(*http.Request){host("[::1]:8421")}, 200},
		"a name pointed at us":                 {"", "GET", "/api/v1/events", []func(*http.Request){host("evil.example:8421")}, 421},
		"a name that begins like ours":         {"", "GET", "/metrics", []func(*http.Request){host("localhost.evil.example")}, 421},
		"no host":                              {"", "GET", "/metrics", []func(*http.Request){host("")}, 421},
		"probes by any name":                   {"", "GET", "/readyz", []func(*http.Request){host("10.0.0.7:8421")}, 200},
		"no token given":                       {"s3cret", "GET", "/api/v1/events", nil, 401},
		"no token for metrics":                 {"s3cret", "GET", "/metrics", nil, 401},
		"no token for the API's description":   {"s3cret", "GET", "/openapi.json", nil, 401},
		"no token for the probes":              {"s3cret", "GET", "/livez", nil, 200},
		"wrong token":                          {"s3cret", "GET", "/metrics", []func(*http.Request){header("Authorization", "Bearer s3cre")}, 401},
		"wrong scheme":                         {"s3cret", "GET", "/metrics", []func(*http.Request){header("Authorization", "Basic s3cret")}, 401},
		"right token":                          {"s3cret", "GET", "/metrics", []func(*http.Request){header("Authorization", "bearer s3cret")}, 200},
		"through a proxy, by X-Forwarded-For":  {"", "GET", "/", []func(*http.Request){header("X-Forwarded-For", "198.51.100.7")}, 403},
		"through a proxy, by X-Forwarded-Port": {"", "GET", "/metrics", []func(*http.Request){header("X-Forwarded-Port", "")}, 403},
		"through a proxy, by X-Real-IP":        {"", "GET", "/api/v1/events", []func(*http.Request){header("X-Real-IP", "198.51.100.7")}, 403},
		"through a proxy, by Forwarded":        {"", "POST", "/api/v1/reload", []func(*http.Request){header("Forwarded", "for=198.51.100.7")}, 403},
		"through a proxy, by Via":              {"", "GET", "/openapi.json", []func(*http.Request){header("Via", "1.1 proxy")}, 403},
		"through nginx as it comes": {
			"", "GET", "/api/v1/events",
			[]func(*http.Request){func(r *http.Request) { r.Proto, r.ProtoMinor = "HTTP/1.0", 0 }},
			403,
		},
		"a probe through a proxy": {"", "GET", "/readyz", []func(*http.Request){header("X-Forwarded-For", "198.51.100.7")}, 200},
		"through a proxy with the token": {
			"s3cret", "GET", "/api/v1/events",
			[]func(*http.Request){header("X-Forwarded-For", "198.51.100.7"), header("Authorization", "Bearer s3cret")},
			200,
		},
		"right token by any name": {
			"s3cret", "GET", "/metrics",
			[]func(*http.Request){header("Authorization", "Bearer s3cret"), host("bw.example")},
			200,
		},
		"another site's page reloads": {
			"", "POST", "/api/v1/reload",
			[]func(*http.Request){header("Sec-Fetch-Site", "cross-site")},
			403,
		},
		"another site's page, older browser": {
			"", "POST", "/api/v1/reload",
			[]func(*http.Request){header("Origin", "https://evil.example")},
			403,
		},
		"a tool reloads": {"", "POST", "/api/v1/reload", nil, 200},
		"unknown path":   {"", "GET", "/api/v1/nothing", nil, 404},
		"wrong method":   {"", "DELETE", "/api/v1/events", nil, 405},
		"unknown event":  {"", "GET", "/api/v1/events/evt_none", nil, 404},
		"unknown number": {"", "GET", "/api/v1/events/seq:99", nil, 404},
		"not a number":   {"", "GET", "/api/v1/events/seq:x/body", nil, 404},
		"the index":      {"", "GET", "/", nil, 200},
	} {
		w := ask(newFakes().handler(c.token), c.method, c.path, c.edit...)
		if w.Code != c.want {
			t.Errorf("%s: got %d %s, want %d", name, w.Code, w.Body, c.want)
		}
		if c.want >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %s, want problem details", name, w.Header().Get("Content-Type"))
		}
		for _, h := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Cache-Control"} {
			if w.Header().Get(h) == "" {
				t.Errorf("%s: no %s", name, h)
			}
		}
	}
}

// Behind a proxy as Go, Caddy and Traefik make them, a visitor is told what the operator has to do.
func TestAProxyMakesNobodyAnOperator(t *testing.T) {
	t.Parallel()
	f := newFakes()
	gateway := httptest.NewServer(f.handler(""))
	defer gateway.Close()
	target, err := url.Parse(gateway.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.SetXForwarded()
	}})
	defer proxy.Close()
	for url, want := range map[string]int{gateway.URL: 200, proxy.URL: 403} {
		res, err := http.Post(url+"/api/v1/backends/legacy/pause", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || want == 403 && !strings.Contains(string(body), "set admin.token") {
			t.Errorf("%s: %d %s, want %d", url, res.StatusCode, body, want)
		}
	}
	if want := []string{DeniedProxied}; !slices.Equal(f.denied, want) {
		t.Errorf("counted %v, want %v", f.denied, want)
	}
}

func TestDeniedRequestsAreCounted(t *testing.T) {
	t.Parallel()
	f := newFakes()
	open, closed := f.handler(""), f.handler(token)
	wrong := func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }
	ask(open, "GET", "/", func(r *http.Request) { r.Host = "evil.example" })
	ask(open, "GET", "/", func(r *http.Request) { r.Header.Set("Via", "x") })
	ask(open, "POST", "/api/v1/reload", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
	ask(closed, "GET", "/metrics")
	ask(closed, "GET", "/metrics", wrong)
	signIn(closed, "x", "/")
	f.ready = errors.New("stopping")
	ask(closed, "GET", "/readyz", wrong)
	want := []string{DeniedHost, DeniedProxied, DeniedCrossSite, DeniedNoToken, DeniedToken, DeniedToken, DeniedToken}
	if diff := cmp.Diff(want, f.denied); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, reason := range f.denied {
		if !slices.Contains(DeniedReasons, reason) {
			t.Errorf("%s is no reason that the metric knows", reason)
		}
	}
}

// Strangers learn from a probe that events cannot be taken, not why.
func TestProbes(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.ready = errors.New("disk I/O error at /var/lib/breakwater/journal.db")
	proxied := func(r *http.Request) { r.Header.Set("X-Forwarded-For", "198.51.100.7") }
	elsewhere := func(r *http.Request) { r.Host = "10.0.0.7:8421" }
	wrong := func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }
	for name, c := range map[string]struct {
		token proxy.Secret
		edit  func(*http.Request)
		tells bool
	}{
		"loopback":                {"", func(*http.Request) {}, true},
		"loopback behind a proxy": {"", proxied, false},
		"by another name":         {"", elsewhere, false},
		"no token":                {token, func(*http.Request) {}, false},
		"wrong token":             {token, wrong, false},
		"right token":             {token, bearer, true},
	} {
		w := ask(f.handler(c.token), "GET", "/readyz", c.edit)
		want := "not ready\n"
		if c.tells {
			want = "not ready: " + f.ready.Error() + "\n"
		}
		if w.Code != 503 || w.Body.String() != want {
			t.Errorf("%s: %d %q, want %q", name, w.Code, w.Body, want)
		}
	}
	if w := ask(f.handler(""), "GET", "/livez"); w.Code != 200 {
		t.Errorf("livez: %d", w.Code)
	}
}

// When the journal does not answer, that is what wants a person first, and the rest is still told.
func TestConditionsWithoutAJournal(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.err = errors.New("disk I/O error at /var/lib/breakwater/journal.db")
	w := ask(f.handler(""), "GET", "/api/v1/conditions")
	var list ConditionList
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 || strings.Contains(w.Body.String(), "/var/lib") {
		t.Fatalf("%d %v: %s", w.Code, err, w.Body)
	}
	var ids []string
	for _, c := range list.Conditions {
		ids = append(ids, c.ID)
	}
	want := []string{conditions.JournalUnavailable, conditions.Quarantine, conditions.BackendFailing, conditions.NeedsRestart}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConditionsCountWhatNoRouteTook(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.feed.Answered("main", nil, proxy.ResultUnrouted, time.Second)
	f.feed.Answered("main", nil, proxy.ResultIgnored, time.Second)
	if w := ask(f.handler(""), "GET", "/api/v1/conditions"); !strings.Contains(w.Body.String(), "No route took 1 event of the last hour.") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestFailuresSayNothingOfTheInside(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.err = errors.New("disk I/O error at /var/lib/breakwater/journal.db")
	for _, target := range []string{"/api/v1/events", "/api/v1/events/evt_1", "/api/v1/events/seq:2/body"} {
		w := ask(f.handler(""), "GET", target)
		if w.Code != 503 || strings.Contains(w.Body.String(), "/var/lib") {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	f.err, f.reload = nil, errors.New("routes.yaml:3:7: unknown key")
	if w := ask(f.handler(""), "POST", "/api/v1/reload"); w.Code != 422 || !strings.Contains(w.Body.String(), "routes.yaml:3:7") {
		t.Errorf("a bad file: %d %s, want 422 naming the place", w.Code, w.Body)
	}
}
