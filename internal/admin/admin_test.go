package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// fakes holds what the API asks for, and what it was asked.
type fakes struct {
	mu     sync.Mutex
	events []proxy.Known // newest first
	tries  []proxy.Attempt
	body   []byte
	err    error // of every read
	refuse error // of a resend
	ready  error
	reload error

	filter  proxy.Filter
	slow    bool      // counting takes for ever
	looked  time.Time // what a list looked to
	resent  []string
	paused  map[string]bool
	notes   map[string]string
	jobs    map[int64][]byte
	trail   []string
	backup  func(ctx context.Context, path string, progress func(done, total int64)) error
	resends func(k proxy.Known, backends []string) error
	kept    *fakeQuarantine
	feed    *Feed
}

func (f *fakes) Events(_ context.Context, filter proxy.Filter) (proxy.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter = filter
	if f.err != nil {
		return proxy.Page{}, f.err
	}
	limit := cmpOr(filter.Limit, 50)
	p := proxy.Page{LookedTo: f.looked}
	for _, k := range f.events {
		if filter.Before != 0 && k.Event.Seq >= filter.Before || filter.State != "" && k.State != filter.State ||
			!filter.Until.IsZero() && !k.Event.Received.Before(filter.Until) {
			continue
		}
		if len(p.Events) == limit {
			p.Next = p.Events[limit-1].Event.Seq
			break
		}
		p.Events = append(p.Events, k)
	}
	return p, nil
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

func (f *fakes) Count(ctx context.Context, filter proxy.Filter) (int64, error) {
	f.mu.Lock()
	slow := f.slow
	f.mu.Unlock()
	if slow {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	filter.Limit = 1 << 20
	p, err := f.Events(ctx, filter)
	return int64(len(p.Events)), err
}

func (f *fakes) Event(_ context.Context, seq int64) (proxy.Known, []proxy.Attempt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.events {
		if k.Event.Seq == seq {
			return k, f.tries, f.err
		}
	}
	return proxy.Known{}, nil, proxy.ErrNotFound
}

func (f *fakes) Lookup(_ context.Context, id string) (found []proxy.Known, err error) {
	for _, k := range f.events {
		if k.Event.ID == id {
			found = append(found, k)
		}
	}
	return found, f.err
}

func (f *fakes) Body(context.Context, int64) ([]byte, error) { return f.body, f.err }

func (f *fakes) Totals(context.Context) ([]proxy.Total, error) {
	return []proxy.Total{
		{Backend: "gone", State: proxy.Pending, Count: 2, Oldest: start.Add(-time.Hour)},
		{Backend: "legacy", State: proxy.Delivered, Count: 40},
		{Backend: "legacy", State: proxy.Failed, Count: 1},
		{Backend: "legacy", State: proxy.Pending, Count: 3, Oldest: start},
	}, f.err
}

func (f *fakes) Notes(_ context.Context, prefix string) (map[string]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]string{}
	for k, v := range f.notes {
		if strings.HasPrefix(k, prefix) {
			out[k] = v
		}
	}
	return out, f.err
}

func (f *fakes) SetNote(_ context.Context, key, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes[key] = value
	if value == "" {
		delete(f.notes, key)
	}
	return f.err
}

func (f *fakes) SaveJob(_ context.Context, id int64, doc []byte) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id == 0 {
		id = int64(len(f.jobs)) + 1
	}
	f.jobs[id] = slices.Clone(doc)
	return id, f.err
}

func (f *fakes) LoadJobs(context.Context) (map[int64][]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.jobs), f.err
}

func (f *fakes) Audit(_ context.Context, _ time.Time, actor, action, detail string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trail = append(f.trail, actor+": "+action+": "+detail)
	return f.err
}

func (f *fakes) audited() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.trail, "\n")
}

func (f *fakes) AuditTrail(context.Context, int) ([]proxy.AuditEntry, error) {
	return []proxy.AuditEntry{{At: start, Actor: "token", Action: "pause", Detail: "legacy"}}, f.err
}

func (f *fakes) Backup(ctx context.Context, path string, progress func(done, total int64)) error {
	return f.backup(ctx, path, progress)
}

func (f *fakes) Resend(_ context.Context, k proxy.Known, backends ...string) ([]proxy.Resent, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.resends != nil {
		return nil, f.resends(k, backends)
	}
	f.resent = append([]string{k.Event.ID}, backends...)
	return []proxy.Resent{{Backend: "legacy", Turn: 2, Result: proxy.ResentNewTurn}}, f.refuse
}

func (f *fakes) Why(string, proxy.Delivery, time.Time) string { return "breaker" }

func (f *fakes) Backends() []proxy.BackendStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []proxy.BackendStatus{{
		Name: "legacy", Breaker: "open", Paused: f.paused["legacy"], InFlight: 1, MaxInFlight: 16, Slots: 4,
		LastSuccess: start, LastError: "answered 404", LastErrorAt: start, Errors: 23, ErrorsSince: start,
		LastFailure: proxy.Attempt{Outcome: proxy.OutcomeStatus4xx, Status: 404, Error: "answered 404"},
		Statuses:    map[int]int64{0: 2, 200: 40},
		Config: proxy.Backend{
			URL: "https://legacy.example/hook?key=s3cret", Timeout: 30 * time.Second, Headers: map[string]proxy.Secret{"Authorization": "s3cret"},
		},
	}, {Name: "node", Breaker: "closed"}}
}

func (f *fakes) Pause(name string) error  { return f.setPaused(name, true) }
func (f *fakes) Resume(name string) error { return f.setPaused(name, false) }

func (f *fakes) setPaused(name string, paused bool) error {
	if name != "legacy" && name != "node" {
		return proxy.ErrNoBackend
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused[name] = paused
	return nil
}

// fakeQuarantine holds one item until it is dropped.
type fakeQuarantine struct{ items []QuarantineItem }

func (q *fakeQuarantine) List(_ context.Context, before int64, limit int) ([]QuarantineItem, error) {
	list := []QuarantineItem{}
	for _, i := range q.items {
		if (before == 0 || i.ID < before) && len(list) < limit {
			list = append(list, i)
		}
	}
	return list, nil
}

func (q *fakeQuarantine) Recheck(context.Context) (QuarantineReport, error) {
	return QuarantineReport{Checked: 2, Released: 1, Left: 1}, nil
}

func (q *fakeQuarantine) Drop(_ context.Context, ids ...int64) (int, error) {
	before := len(q.items)
	q.items = slices.DeleteFunc(q.items, func(i QuarantineItem) bool { return slices.Contains(ids, i.ID) })
	return before - len(q.items), nil
}

func (q *fakeQuarantine) Stats(context.Context) (QuarantineStats, error) {
	return QuarantineStats{On: true, Items: int64(len(q.items)), Bytes: 99, MaxBytes: 64 << 20, Oldest: start}, nil
}

func (f *fakes) handler(token proxy.Secret) *Server {
	o := Options{
		Journal: f, Gateway: f, Token: token, Version: "v1.2.3", Feed: f.feed,
		Sources: func() []proxy.SourceStatus {
			return []proxy.SourceStatus{{
				Name: "main", Path: "/hook", Secrets: []proxy.SecretStatus{{Hint: "abcd", LastMatched: start}, {Hint: "wxyz"}},
				LastVerified: start, LastAnswered: start, Failures: map[string]int64{"no_match": 7},
			}}
		},
		Match: func(*proxy.Event) proxy.Match { return proxy.Match{} },
		Ready: func(context.Context) error { return f.ready },
		Config: func() Configuration {
			return Configuration{Path: "routes.yaml", Text: "version: 1\n", LoadedAt: Time{start}, NeedsRestart: []string{"listen"}}
		},
		Reload:  func() ([]string, error) { return []string{"listen: needs a restart"}, f.reload },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "breakwater_up 1\n") }),
	}
	if f.kept != nil {
		o.Quarantine = f.kept
	}
	return New(o)
}

var start = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

func newFakes() *fakes {
	at := time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.UTC)
	return &fakes{
		paused: map[string]bool{}, notes: map[string]string{}, jobs: map[int64][]byte{}, feed: NewFeed(),
		kept: &fakeQuarantine{items: []QuarantineItem{
			{ID: 8, Source: "main", Received: at, Client: netip.MustParseAddr("3.18.12.63"), Reason: "no_match", Diagnosis: "rolled?", Size: 3},
			{ID: 7, Source: "main", Received: at, Client: netip.MustParseAddr("3.18.12.63"), Reason: "no_match", Diagnosis: "rolled?", Size: 3},
		}},
		body: []byte("{\"id\": \"<script>\"}\x00\xff"),
		tries: []proxy.Attempt{{
			Backend: "legacy", Turn: 1, N: 1, Started: at, Duration: 1500 * time.Millisecond, Status: 503, Outcome: "status_5xx",
			Error: "503 Service Unavailable", Trigger: proxy.TriggerInline, Excerpt: "down",
		}},
		events: []proxy.Known{
			{Event: proxy.Event{Seq: 4, Source: "other", ID: "evt_twice", Received: at}, State: proxy.Delivered},
			{Event: proxy.Event{Seq: 3, Source: "main", ID: "evt_twice", Received: at}, State: proxy.Delivered},
			{
				Event: proxy.Event{
					Seq: 2, Source: "main", ID: "evt_1", Type: "invoice.paid", Account: "acct_1", APIVersion: "2023-10-16",
					Object: "in_1", Customer: "cus_1", Livemode: true, Created: at.Truncate(time.Second), Received: at,
				},
				Size: 2048, State: proxy.Pending,
				Deliveries: []proxy.Delivery{
					{Backend: "legacy", State: proxy.Pending, Turn: 1, Attempts: 1, Due: at.Add(time.Minute), Status: 503, Outcome: "status_5xx"},
					{Backend: "node", State: proxy.Delivered, Turn: 1, Attempts: 1, Status: 200, Outcome: "delivered"},
				},
			},
			{Event: proxy.Event{Seq: 1, Source: "main", ID: "evt_0"}, State: proxy.Ignored, Reason: proxy.ReasonRule},
		},
	}
}

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
		"answered_at": null, "other_events": 3, "newer_delivered": 2,
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
	for query, want := range map[string]proxy.Filter{
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
		"loopback needs no token":            {"", "GET", "/api/v1/events", nil, 200},
		"loopback by address":                {"", "GET", "/api/v1/events", []func(*http.Request){host("127.0.0.1:8421")}, 200},
		"loopback by IPv6":                   {"", "GET", "/api/v1/events", []func(*http.Request){host("[::1]:8421")}, 200},
		"a name pointed at us":               {"", "GET", "/api/v1/events", []func(*http.Request){host("evil.example:8421")}, 421},
		"a name that begins like ours":       {"", "GET", "/metrics", []func(*http.Request){host("localhost.evil.example")}, 421},
		"no host":                            {"", "GET", "/metrics", []func(*http.Request){host("")}, 421},
		"probes by any name":                 {"", "GET", "/readyz", []func(*http.Request){host("10.0.0.7:8421")}, 200},
		"no token given":                     {"s3cret", "GET", "/api/v1/events", nil, 401},
		"no token for metrics":               {"s3cret", "GET", "/metrics", nil, 401},
		"no token for the API's description": {"s3cret", "GET", "/openapi.json", nil, 401},
		"no token for the probes":            {"s3cret", "GET", "/livez", nil, 200},
		"wrong token":                        {"s3cret", "GET", "/metrics", []func(*http.Request){header("Authorization", "Bearer s3cre")}, 401},
		"wrong scheme":                       {"s3cret", "GET", "/metrics", []func(*http.Request){header("Authorization", "Basic s3cret")}, 401},
		"right token":                        {"s3cret", "GET", "/metrics", []func(*http.Request){header("Authorization", "bearer s3cret")}, 200},
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

func TestProbes(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.ready = errors.New("stopping")
	if w := ask(f.handler(""), "GET", "/readyz"); w.Code != 503 || !strings.Contains(w.Body.String(), "stopping") {
		t.Errorf("readyz: %d %s", w.Code, w.Body)
	}
	if w := ask(f.handler(""), "GET", "/livez"); w.Code != 200 {
		t.Errorf("livez: %d", w.Code)
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
