package admin

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// fakes holds what the API asks for, and what it was asked.
type fakes struct {
	unreadable int64
	mu         sync.Mutex
	events     []journal.Stored // newest first
	tries      []proxy.Attempt
	body       []byte
	err        error // of every read
	refuse     error // of a resend
	ready      error
	reload     error

	filter  journal.Filter
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
	denied  []string
	log     *zap.Logger
}

func (f *fakes) Events(_ context.Context, filter journal.Filter) (journal.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter = filter
	if f.err != nil {
		return journal.Page{}, f.err
	}
	limit := cmpOr(filter.Limit, 50)
	p := journal.Page{LookedTo: f.looked}
	for _, k := range f.events {
		if filter.Before != 0 && k.Event.Seq >= filter.Before || filter.State != "" && k.State != filter.State || filter.ID != "" && k.Event.ID != filter.ID ||
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

func (f *fakes) Count(ctx context.Context, filter journal.Filter) (int64, error) {
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

func (f *fakes) Event(_ context.Context, seq int64) (journal.Stored, []proxy.Attempt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.events {
		if k.Event.Seq == seq {
			return k, f.tries, f.err
		}
	}
	return journal.Stored{}, nil, proxy.ErrNotFound
}

func (f *fakes) Body(context.Context, int64) ([]byte, error) { return f.body, f.err }

func (f *fakes) Ready(context.Context) error { return f.ready }

func (f *fakes) Totals(context.Context) ([]journal.Total, error) {
	if f.err != nil {
		return nil, f.err
	}
	return []journal.Total{
		{State: proxy.Failed, Count: f.unreadable},
		{Backend: "gone", State: proxy.Pending, Count: 2, Oldest: start.Add(-time.Hour)},
		{Backend: "legacy", State: proxy.Delivered, Count: 40},
		{Backend: "legacy", State: proxy.Failed, Count: 1},
		{Backend: "legacy", State: proxy.Pending, Count: 3, Oldest: start},
	}, nil
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

func (f *fakes) Audit(_ context.Context, e journal.AuditEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trail = append(f.trail, e.Actor+": "+e.Action+": "+e.Detail)
	return f.err
}

func (f *fakes) audited() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.trail, "\n")
}

func (f *fakes) AuditTrail(context.Context, int) ([]journal.AuditEntry, error) {
	return []journal.AuditEntry{{At: start, Actor: "token", Action: "pause", Detail: "legacy"}}, f.err
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
type fakeQuarantine struct{ items []quarantine.Rejected }

func (q *fakeQuarantine) List(_ context.Context, before int64, limit int) ([]quarantine.Rejected, error) {
	list := []quarantine.Rejected{}
	for _, i := range q.items {
		if (before == 0 || i.ID < before) && len(list) < limit {
			list = append(list, i)
		}
	}
	return list, nil
}

func (q *fakeQuarantine) Recheck(context.Context) (quarantine.Report, error) {
	return quarantine.Report{Checked: 2, Released: 1, Left: 1}, nil
}

func (q *fakeQuarantine) Drop(_ context.Context, ids ...int64) (int, error) {
	before := len(q.items)
	q.items = slices.DeleteFunc(q.items, func(i quarantine.Rejected) bool { return slices.Contains(ids, i.ID) })
	return before - len(q.items), nil
}

func (q *fakeQuarantine) Stats() quarantine.Stats {
	return quarantine.Stats{On: true, Items: int64(len(q.items)), Bytes: 99, MaxBytes: 64 << 20, Oldest: start, Expires: start.Add(30 * 24 * time.Hour)}
}

func (f *fakes) handler(token proxy.Secret) *Server {
	o := Options{
		Journal: f, Gateway: f, Token: token, Version: "v1.2.3", Feed: f.feed, Log: f.log,
		Denied: func(reason string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.denied = append(f.denied, reason)
		},
		Sources: func() []proxy.SourceStatus {
			return []proxy.SourceStatus{{
				Name: "main", Path: "/hook", Secrets: []proxy.SecretStatus{{Hint: "abcd", LastMatched: start}, {Hint: "wxyz"}},
				LastVerified: start, LastAnswered: start, Failures: map[string]int64{"no_match": 7},
			}}
		},
		Match: func(*proxy.Event) proxy.Match { return proxy.Match{} },
		Ready: func(context.Context) error { return f.ready },
		Config: func() Configuration {
			return Configuration{Path: "routes.yaml", Text: "version: 1\n", LoadedAt: jsontime.At(start), NeedsRestart: []string{"listen"}}
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
		kept: &fakeQuarantine{items: []quarantine.Rejected{
			{ID: 8, Source: "main", Received: jsontime.At(at), Client: "3.18.12.63", Reason: "no_match", Diagnosis: "rolled?", Size: 3},
			{ID: 7, Source: "main", Received: jsontime.At(at), Client: "3.18.12.63", Reason: "no_match", Diagnosis: "rolled?", Size: 3},
		}},
		body: []byte("{\"id\": \"<script>\"}\x00\xff"),
		tries: []proxy.Attempt{{
			Backend: "legacy", Turn: 1, N: 1, Started: at, Duration: 1500 * time.Millisecond, Status: 503, Outcome: "status_5xx",
			Error: "503 Service Unavailable", Trigger: proxy.TriggerInline, Excerpt: "down",
		}},
		events: []journal.Stored{
			{Known: proxy.Known{Event: proxy.Event{Seq: 4, Source: "other", ID: "evt_twice", Received: at}, State: proxy.Delivered}},
			{Known: proxy.Known{Event: proxy.Event{Seq: 3, Source: "main", ID: "evt_twice", Received: at}, State: proxy.Delivered}},
			{Size: 2048, Known: proxy.Known{
				Event: proxy.Event{
					Seq: 2, Source: "main", ID: "evt_1", Type: "invoice.paid", Account: "acct_1", APIVersion: "2023-10-16",
					Object: "in_1", Customer: "cus_1", Livemode: true, Created: at.Truncate(time.Second), Received: at,
				},
				State: proxy.Pending,
				Deliveries: []proxy.Delivery{
					{Backend: "legacy", State: proxy.Pending, Turn: 1, Attempts: 1, Due: at.Add(time.Minute), Status: 503, Outcome: "status_5xx"},
					{Backend: "node", State: proxy.Delivered, Turn: 1, Attempts: 1, Status: 200, Outcome: "delivered"},
				},
			}},
			{Known: proxy.Known{Event: proxy.Event{Seq: 1, Source: "main", ID: "evt_0"}, State: proxy.Ignored, Reason: proxy.ReasonRule}},
		},
	}
}
