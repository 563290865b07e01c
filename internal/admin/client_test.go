package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// contract is a handler that holds every request and answer against the API's own document.
type contract struct {
	http.Handler
	t      *testing.T
	doc    *openapi3.T
	router routers.Router

	mu   sync.Mutex
	seen map[string]bool // operations, by id
}

// newContract checks the document on its own first.
func newContract(t *testing.T, h http.Handler) *contract {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(ask(h, "GET", "/openapi.json", bearer).Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("OpenAPI %s, want 3.1.0", doc.OpenAPI)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Errorf("the document is not valid: %v", err)
	}
	doc.Servers = nil
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &contract{Handler: h, t: t, doc: doc, router: router, seen: map[string]bool{}}
}

func (c *contract) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, params, err := c.router.FindRoute(r)
	if err != nil {
		c.t.Errorf("%s %s is not in the document: %v", r.Method, r.URL, err)
		return
	}
	c.mu.Lock()
	c.seen[route.Operation.OperationID] = true
	c.mu.Unlock()
	options := &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
		c.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	if route.Operation.OperationID == "stream" {
		c.Handler.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	c.Handler.ServeHTTP(rec, r)
	err = openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: rec.Code, Header: rec.Header(), Body: io.NopCloser(bytes.NewReader(rec.Body.Bytes())), Options: options,
	})
	if err != nil {
		c.t.Errorf("answer to %s %s: %v\n%s", r.Method, r.URL, err, rec.Body)
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

const token = "s3cret-s3cret"

func bearer(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }

// newClient returns a client of the fakes, whose calls are held against the document.
func newClient(t *testing.T, f *fakes) (*Client, *contract) {
	t.Helper()
	srv := f.handler(token)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	c := newContract(t, srv)
	ts := httptest.NewServer(c)
	client, err := NewClient(ts.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		ts.CloseClientConnections()
		ts.Close()
		cancel()
		<-ended
	})
	return client, c
}

// must is for calls that have to succeed.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestClientAndDocument calls every operation of the document through the client.
func TestClientAndDocument(t *testing.T) {
	t.Parallel()
	f := newFakes()
	f.looked = start.Add(-time.Hour)
	copied := make(chan string, 1)
	f.backup = func(_ context.Context, path string, progress func(done, total int64)) error {
		progress(3, 3)
		copied <- path
		return nil
	}
	c, contract := newClient(t, f)
	ctx := t.Context()

	list := must(c.Events(ctx, Filter{Type: "invoice.*", Since: start.Add(-time.Hour), Q: "a b"}, "", 2))(t)
	if len(list.Events) != 2 || list.Next == "" || !list.LookedTo.Equal(f.looked) {
		t.Errorf("events: %+v", list)
	}
	if f.filter.Type != "invoice.*" || f.filter.Query != "a b" || !f.filter.Since.Equal(start.Add(-time.Hour)) {
		t.Errorf("the filter came as %+v", f.filter)
	}
	if more := must(c.Events(ctx, Filter{}, list.Next, 0))(t); len(more.Events) != 2 || more.Next != "" {
		t.Errorf("the rest: %+v", more)
	}
	if e := must(c.Event(ctx, "evt_1"))(t); e.Seq != 2 || len(e.Attempts) != 1 || !e.Created.Equal(start) || e.OtherEvents != 3 {
		t.Errorf("event: %+v", e)
	}
	if body := must(c.Body(ctx, "seq:2"))(t); !bytes.Equal(body, f.body) {
		t.Errorf("body: %q", body)
	}
	if r := must(c.Resend(ctx, "evt_1", "legacy"))(t); r.ID != "evt_1" || r.Deliveries[0].Result != proxy.ResentNewTurn {
		t.Errorf("resend: %+v", r)
	}
	if r := must(c.BulkResend(ctx, BulkResend{Filter: &Filter{State: "delivered"}, DryRun: true}))(t); r.Count != 2 || r.Job != nil {
		t.Errorf("dry run: %+v", r)
	}
	c.checkJobs(t, copied)
	backends := must(c.Backends(ctx))(t).Backends
	if len(backends) != 3 || backends[1].Name != "legacy" || backends[1].URL != "https://legacy.example/hook" || backends[0].Configured {
		t.Errorf("backends: %+v", backends)
	}
	if cs := must(c.Conditions(ctx))(t).Conditions; len(cs) < 4 || cs[1].ID != conditions.Quarantine || cs[1].Severity != conditions.Warn ||
		!cs[1].Since.Equal(start) || cs[1].Count != 2 {
		t.Errorf("conditions: %+v", cs)
	}
	if b := must(c.Pause(ctx, "legacy"))(t); !b.Paused || b.PausedAt.IsZero() {
		t.Errorf("pause: %+v", b)
	}
	if b := must(c.Resume(ctx, "legacy"))(t); b.Paused {
		t.Errorf("resume: %+v", b)
	}
	if s := must(c.Sources(ctx))(t).Sources; len(s) != 1 || s[0].Secrets[0].Hint != "abcd" || !s[0].Secrets[1].LastMatchedAt.IsZero() {
		t.Errorf("sources: %+v", s)
	}
	if s := must(c.Stats(ctx))(t); s.Pending != 5 || !s.OldestPendingAt.Equal(start.Add(-time.Hour)) || len(s.Minutes) != 60 {
		t.Errorf("stats: %+v", s)
	}
	if cfg := must(c.Config(ctx))(t); cfg.Path != "routes.yaml" || cfg.NeedsRestart[0] != "listen" {
		t.Errorf("config: %+v", cfg)
	}
	if r := must(c.Reload(ctx))(t); len(r.Notes) != 1 {
		t.Errorf("reload: %+v", r)
	}
	if a := must(c.Audit(ctx, 10))(t); a.Entries[0].Action != "pause" {
		t.Errorf("audit: %+v", a)
	}
	if q := must(c.Quarantine(ctx, "", 1))(t); len(q.Items) != 1 || q.Next == "" || q.Count != 2 {
		t.Errorf("quarantine: %+v", q)
	}
	if r := must(c.RecheckQuarantine(ctx))(t); r.Released != 1 {
		t.Errorf("recheck: %+v", r)
	}
	if r := must(c.DropQuarantine(ctx, 7, 8))(t); r.Dropped != 2 {
		t.Errorf("drop: %+v", r)
	}
	enough := errors.New("enough")
	if err := c.Stream(ctx, []string{"stats"}, func(RawMessage) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("stream: %v", err)
	}

	for path, item := range contract.doc.Paths.Map() {
		for method, op := range item.Operations() {
			if !contract.seen[op.OperationID] {
				t.Errorf("%s %s (%s) has no method of the client, or it is not tested", method, path, op.OperationID)
			}
		}
	}
}

// checkJobs calls what has to do with jobs.
func (c *Client) checkJobs(t *testing.T, copied <-chan string) {
	t.Helper()
	ctx := t.Context()
	job := must(c.BulkResend(ctx, BulkResend{IDs: []string{"evt_1", "seq:1"}, Backends: []string{"legacy"}}))(t).Job
	done := ended(t, c, job.ID)
	if done.State != "done" || done.Done != 2 || done.Total != 2 || done.Actor != "token" {
		t.Errorf("bulk resend: %+v", done)
	}
	if _, err := c.StopJob(ctx, job.ID); !errors.Is(err, ErrConflict) {
		t.Errorf("stop a job that has ended: %v", err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if job := must(c.Backup(ctx, path))(t); ended(t, c, job.ID).State != "done" || <-copied != path {
		t.Errorf("backup: %+v", job)
	}
	if jobs := must(c.Jobs(ctx))(t).Jobs; len(jobs) != 2 || jobs[0].Kind != "backup" {
		t.Errorf("jobs: %+v", jobs)
	}
}

// ended waits for a job's end.
func ended(t *testing.T, c *Client, id int64) Job {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		job := must(c.Job(t.Context(), id))(t)
		if job.State != "running" && !job.EndedAt.IsZero() || time.Now().After(deadline) {
			return job
		}
	}
}

func TestClientErrors(t *testing.T) {
	t.Parallel()
	f := newFakes()
	c, _ := newClient(t, f)
	wrong, err := NewClient(c.base.String(), "wrong")
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	away, err := NewClient("http://127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, tt := range map[string]struct {
		call func() error
		want error
		text string
	}{
		"nobody listens": {func() error { _, err := away.Stats(ctx); return err }, ErrUnreachable, "connection refused"},
		"stream":         {func() error { return away.Stream(ctx, nil, nil) }, ErrUnreachable, "connection refused"},
		"wrong token":    {func() error { _, err := wrong.Stats(ctx); return err }, ErrUnauthorized, "token"},
		"no such event":  {func() error { _, err := c.Event(ctx, "evt_none"); return err }, ErrNotFound, "no such event"},
		"several events": {func() error { _, err := c.Event(ctx, "evt_twice"); return err }, ErrAmbiguous, "seq:4: source other"},
		"no such backend": {
			func() error { _, err := c.Pause(ctx, "../legacy"); return err }, ErrNotFound, "there are legacy, node",
		},
		"resend to none": {
			func() error {
				_, err := c.BulkResend(ctx, BulkResend{Filter: &Filter{State: "failed"}, Backends: []string{"legcy"}})
				return err
			}, nil, `no such backend: "legcy"; there are legacy, node`,
		},
		"resend everything": {
			func() error { _, err := c.BulkResend(ctx, BulkResend{Filter: &Filter{}}); return err }, nil, "every event",
		},
		"backup over a file": {func() error { _, err := c.Backup(ctx, "/dev/null"); return err }, ErrConflict, "overwrites nothing"},
		"backup to here":     {func() error { _, err := c.Backup(ctx, "copy.db"); return err }, nil, "absolute"},
		"backup to nowhere":  {func() error { _, err := c.Backup(ctx, "/nowhere/copy.db"); return err }, nil, "/nowhere"},
		"drop nothing":       {func() error { _, err := c.DropQuarantine(ctx, 99); return err }, ErrNotFound, "none of these"},
		"no such job":        {func() error { _, err := c.StopJob(ctx, 99); return err }, ErrNotFound, "no such job"},
	} {
		err := tt.call()
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v, want %v with %q", name, err, tt.want, tt.text)
		}
	}
	none := newFakes()
	none.kept = nil
	c, _ = newClient(t, none)
	if _, err := c.Quarantine(ctx, "", 0); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "stripe_ips") {
		t.Errorf("quarantine off: got %v, want a hint", err)
	}
	for _, base := range []string{"", "127.0.0.1:8421", "ftp://x", "http://"} {
		if _, err := NewClient(base, ""); err == nil {
			t.Errorf("NewClient(%q) takes it", base)
		}
	}
}

// A gateway that is asked through a proxy of another kind, or is none.
func TestClientOfSomethingElse(t *testing.T) {
	t.Parallel()
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/jobs") {
			io.WriteString(w, "<html>")
			return
		}
		if r.URL.Path == "/elsewhere" {
			t.Error("the client followed a redirect, and took the token there")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer ts.Close()
	c, err := NewClient(ts.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Jobs(t.Context()); err == nil || !strings.Contains(err.Error(), "not the API's") {
		t.Errorf("HTML: %v", err)
	}
	var e *Error
	if _, err := c.Stats(t.Context()); !errors.As(err, &e) || e.Status != 302 {
		t.Errorf("redirect: %v", err)
	}
}

func TestFilterValuesAndJSON(t *testing.T) {
	t.Parallel()
	f := Filter{
		State: "failed", Type: "a.*", Backend: "b", Source: "s", Account: "acct", Object: "o", Customer: "c",
		Since: start, Until: start.Add(time.Hour), Q: "x y",
	}
	v := f.Values()
	if len(v) != 10 || v.Get("q") != "x y" || v.Get("until") != "2026-11-21T11:00:00Z" {
		t.Errorf("values: %v", v)
	}
	b, err := json.Marshal(Filter{State: "failed"})
	if err != nil || string(b) != `{"state":"failed"}` {
		t.Errorf("JSON: %s %v", b, err)
	}
	var names []string
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "account backend customer object q since source state type until" {
		t.Errorf("names: %s", got)
	}
}
