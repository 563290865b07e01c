package journaltest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

const day = 24 * time.Hour

// prune prunes, a few at a time, until nothing is left to do, and returns how many went.
func (h *harness) prune(now time.Time, keep journal.Retention) (all int) {
	h.t.Helper()
	for {
		n, err := h.Prune(context.Background(), now, keep, 7)
		if err != nil || n > 7 {
			h.t.Fatalf("Prune: %d, %v, asked for 7", n, err)
		}
		if all += n; n == 0 {
			return all
		}
	}
}

func testPruneRetention(t *testing.T, h *harness) {
	entries := h.search()[:36] // 6 of each kind
	index := map[int64]int{}
	for i, e := range entries {
		index[e.Event.Seq] = i
	}
	left := func() (n [len(kinds)]int) {
		for _, k := range h.pages(journal.Filter{}) {
			if i, ok := index[k.Event.Seq]; ok {
				n[i%len(kinds)]++
			}
		}
		return n
	}
	keep := journal.Retention{Delivered: 7 * day, Failed: 90 * day, Ignored: day, Unrouted: 30 * day}
	if n := h.prune(t0.Add(900*day), journal.Retention{}); n != 0 {
		t.Errorf("without a retention %d were pruned", n)
	}
	for _, c := range []struct {
		after time.Duration
		want  [len(kinds)]int // pending, delivered, failed, rule, no route, unparseable
	}{
		{time.Hour, [...]int{6, 6, 6, 6, 6, 6}},
		{25 * time.Hour, [...]int{6, 6, 6, 0, 6, 6}},
		{8 * day, [...]int{6, 0, 6, 0, 6, 6}},
		{31 * day, [...]int{6, 0, 6, 0, 0, 6}},
		{91 * day, [...]int{6, 0, 0, 0, 0, 0}},
	} {
		h.prune(t0.Add(c.after), keep)
		if got := left(); got != c.want {
			t.Fatalf("after %v: %v are left, want %v", c.after, got, c.want)
		}
		h.totals()
	}

	// A Pending event that is delivered long after it came is kept from then on.
	now := t0.Add(91 * day)
	ls, _ := h.lease(now, legacy, 6)
	for _, l := range ls {
		a := attempt(1, 200)
		a.Started = now
		h.settle(proxy.SettleDelivered(l, *a))
	}
	h.prune(now.Add(6*day), keep)
	if got := left(); got[0] != 6 {
		t.Errorf("six days after they were delivered %d are left", got[0])
	}
	h.prune(now.Add(8*day), keep)
	if got := left(); got[0] != 0 {
		t.Errorf("eight days after they were delivered %d are left", got[0])
	}

	find := func(e proxy.Entry) error { _, err := h.Find(context.Background(), e.Event.Key()); return err }
	if k, err := h.Find(context.Background(), entries[0].Event.Key()); err != nil || k.State != proxy.Delivered || k.Event.Seq != 0 {
		t.Errorf("the id of a Delivered event that was pruned: %+v, %v", k, err)
	}
	if err := find(entries[2]); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("the id of a Failed event that was pruned: %v", err)
	}
	for range 30 { // ids go in small steps too
		if _, err := h.Prune(context.Background(), now.Add(60*day), keep, 7); err != nil {
			t.Fatal(err)
		}
	}
	if err := find(entries[0]); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("an id that is older than 31 days: %v", err)
	}
	if seq := h.append(event(0), pending(legacy, t0)); seq <= entries[35].Event.Seq {
		t.Errorf("the event came again: number %d was used before", seq)
	}
}

// testPruneClockAhead: an event that was received while the clock was ahead does not keep those after it.
func testPruneClockAhead(t *testing.T, h *harness) {
	keep := journal.Retention{Delivered: time.Hour}
	for i, ahead := range []time.Duration{365 * day, 89 * minute} { // still ahead, no longer ahead
		start := t0.Add(time.Duration(i) * 1000 * day)
		for n := range 10 {
			e := event(100*i + n)
			if e.Received = start; n < 3 {
				e.Received = start.Add(ahead)
			}
			a := attempt(1, 200)
			a.Started = e.Received
			h.append(e, ended(legacy, proxy.Delivered, 1, a))
		}
		now := start.Add(90 * minute)
		if n := h.prune(now, keep); n != 7 {
			t.Errorf("ahead by %v: pruned %d, want 7", ahead, n)
		}
		if n := h.prune(now.Add(2*ahead), keep); n != 3 {
			t.Errorf("ahead by %v: pruned %d later, want 3", ahead, n)
		}
	}
}

func testQuarantine(t *testing.T, h *harness) {
	ctx := context.Background()
	if n, size, oldest, err := h.RejectedSize(ctx); n != 0 || size != 0 || !oldest.IsZero() || err != nil {
		t.Errorf("an empty one: %d requests, %d bytes, oldest %v, %v", n, size, oldest, err)
	}
	want := []proxy.Rejected{
		{
			Source: src, Received: t0.Add(time.Second), Client: netip.MustParseAddr("2001:db8::1"), Reason: "too_old", Query: "a=%zz",
			Header: http.Header{"Stripe-Signature": {"t=1,v1=00"}}, Body: []byte("\x00\xff{"),
		},
		{Source: src, Received: t0, Reason: "no_match", Forwarded: http.Header{"X-Forwarded-For": {"192.0.2.1"}}, Body: []byte("{}")},
	}
	for i := len(want) - 1; i >= 0; i-- {
		var err error
		if want[i].ID, err = h.KeepRejected(ctx, want[i]); err != nil {
			t.Fatalf("KeepRejected: %v", err)
		}
	}
	list := func(before int64, limit int, want ...proxy.Rejected) {
		t.Helper()
		got, err := h.ListRejected(ctx, before, limit)
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Fatalf("before %d, %d at most (-want +got):\n%s%v", before, limit, d, err)
		}
	}
	list(0, 10, want...)
	list(0, 1, want[0])
	list(want[0].ID, 10, want[1])
	list(want[1].ID, 10)
	if n, size, oldest, err := h.RejectedSize(ctx); n != 2 || size < 5 || !oldest.Equal(t0) || err != nil {
		t.Errorf("%d requests, %d bytes, oldest %v, %v", n, size, oldest, err)
	}
	if n, err := h.DropRejected(ctx, want[0].ID, 99, want[0].ID); n != 1 || err != nil {
		t.Errorf("dropped %d, %v; want 1", n, err)
	}
	list(0, 10, want[1])
	if id, err := h.KeepRejected(ctx, want[0]); id <= want[0].ID || err != nil {
		t.Errorf("number %d again, %v", id, err)
	}
}

func testJobs(t *testing.T, h *harness) {
	ctx := context.Background()
	var last int64
	for n := range 105 {
		id, err := h.SaveJob(ctx, 0, fmt.Appendf(nil, "%d", n))
		if err != nil || id <= last {
			t.Fatalf("job %d: id %d after %d, %v", n, id, last, err)
		}
		last = id
	}
	if id, err := h.SaveJob(ctx, last, []byte("changed")); id != last || err != nil {
		t.Fatalf("saved again: %d, %v; want %d", id, err, last)
	}
	jobs, err := h.LoadJobs(ctx)
	if err != nil || len(jobs) != 100 || string(jobs[last]) != "changed" || string(jobs[last-1]) != "103" {
		t.Errorf("%d jobs, the last are %q and %q, %v", len(jobs), jobs[last-1], jobs[last], err)
	}
}

func testNotes(t *testing.T, h *harness) {
	ctx := context.Background()
	set := func(key, value string) {
		t.Helper()
		if err := h.SetNote(ctx, key, value); err != nil {
			t.Fatalf("SetNote: %v", err)
		}
	}
	for _, kv := range [][2]string{{"paused/a", "1"}, {"paused/b_%", "2"}, {"source/main", "x"}, {"pausex", "no"}, {"paused/a", "3"}, {"paused/ü", "4"}} {
		set(kv[0], kv[1])
	}
	got, err := h.Notes(ctx, "paused/")
	if want := map[string]string{"paused/a": "3", "paused/b_%": "2", "paused/ü": "4"}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("notes = %v, %v; want %v", got, err, want)
	}
	set("paused/a", "")
	set("paused/none", "")
	if got, err := h.Notes(ctx, "paused/a"); len(got) != 0 || err != nil {
		t.Errorf("an emptied note is still there: %v, %v", got, err)
	}
	if got, err := h.Notes(ctx, ""); len(got) != 4 || err != nil {
		t.Errorf("all notes: %v, %v", got, err)
	}
}

func testAudit(t *testing.T, h *harness) {
	ctx := context.Background()
	entry := func(action string) journal.AuditEntry {
		return journal.AuditEntry{At: t0, Actor: "token", Action: action, Detail: "legacy"}
	}
	for _, action := range []string{"pause", "resend", "resume"} {
		if err := h.Audit(ctx, entry(action)); err != nil {
			t.Fatalf("Audit: %v", err)
		}
	}
	got, err := h.AuditTrail(ctx, 2)
	if want := []journal.AuditEntry{entry("resume"), entry("resend")}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("trail: %v, %v; want %v", got, err, want)
	}
}

// testBackup: a journal copies itself to a new file, or says that it cannot. What the copy holds is its own test's.
func testBackup(t *testing.T, h *harness) {
	h.append(event(1), pending(legacy, t0))
	path := filepath.Join(t.TempDir(), "copy")
	err := h.Backup(context.Background(), path, nil)
	if errors.Is(err, errors.ErrUnsupported) {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is not supported and left a file: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatalf("Backup: %v", err)
	}
	if s, err := os.Stat(path); err != nil || s.Size() == 0 || s.Mode().Perm() != 0o600 {
		t.Errorf("the copy: %+v, %v; want mode 0600", s, err)
	}
	if err := h.Backup(context.Background(), path, nil); err == nil {
		t.Error("a second backup to the same file: no error; want it refused")
	}
}

// testClose: a journal that is well says so; one that is closed takes nothing, and does not say that it has nothing.
func testClose(t *testing.T, h *harness) {
	ctx := context.Background()
	e := event(1)
	h.record(proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Delivered, 1, attempt(1, 200))}})
	h.flush()
	if err := h.Ready(ctx); err != nil || h.HistoryDropped() != 0 {
		t.Errorf("Ready: %v; %d entries of history dropped", err, h.HistoryDropped())
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	for name, call := range map[string]func() error{
		"Ready":  func() error { return h.Ready(ctx) },
		"Append": func() error { _, err := h.Append(ctx, proxy.Entry{Event: e, State: proxy.Ignored}); return err },
		"Record": func() error { return h.Record(proxy.Entry{Event: e, Answered: t0}) },
		"Find":   func() error { _, err := h.Find(ctx, e.Key()); return err },
		"Events": func() error { _, err := h.Events(ctx, journal.Filter{}); return err },
		"Event":  func() error { _, _, err := h.Event(ctx, 1); return err },
		"Lease": func() error {
			_, _, err := h.Lease(ctx, proxy.LeaseRequest{Backend: legacy, Now: t0, Most: 1, For: minute})
			return err
		},
		"Notes": func() error { _, err := h.Notes(ctx, ""); return err },
	} {
		if err := call(); err == nil || errors.Is(err, proxy.ErrNotFound) {
			t.Errorf("%s when it is closed: %v", name, err)
		}
	}
}
