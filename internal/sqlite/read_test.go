package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// put appends what n events are in turn: pending, delivered, failed, ignored, unrouted, unparseable.
func put(t *testing.T, d *DB, n int64, received time.Time) {
	t.Helper()
	for i := range n {
		e := entryOf(i, []proxy.State{proxy.Pending, proxy.Delivered, proxy.Failed}[i%3])
		if i%6 >= 3 {
			e.Deliveries, e.State = nil, proxy.Ignored
			e.Reason = []string{proxy.ReasonRule, proxy.ReasonNoRoute, proxy.ReasonUnparseable}[i%3]
		}
		if e.Reason == proxy.ReasonUnparseable {
			e.State = proxy.Failed
		}
		e.Event.Received = received.Add(time.Duration(i) * time.Second)
		for j := range e.Deliveries {
			if a := e.Deliveries[j].Attempt; a != nil {
				a.Started = e.Event.Received
			}
		}
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

// pages lists everything that f chooses, page by page.
func pages(t *testing.T, d *DB, f journal.Filter) (seqs []int64) {
	t.Helper()
	for calls := 0; ; calls++ {
		p, err := d.Events(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		next := p.Next
		for _, k := range p.Events {
			seqs = append(seqs, k.Event.Seq)
			if k.Size != int64(len(benchBody)) {
				t.Errorf("event %d has size %d", k.Event.Seq, k.Size)
			}
		}
		if next == 0 {
			return seqs
		}
		if f.Before != 0 && next >= f.Before || calls > 1000 {
			t.Fatalf("page after %d goes on at %d", f.Before, next)
		}
		f.Before = next
	}
}

func TestEvents(t *testing.T) {
	d := openNew(t)
	t0 := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	put(t, d, 60, t0)
	extra := entryOf(1000, proxy.Pending)
	extra.Event.Type, extra.Event.Source, extra.Event.Account, extra.Event.Object = "a[b]?c", "connect", "acct_1", "in_7"
	extra.Event.Received = t0.Add(2 * time.Hour)
	extra.Deliveries = append(extra.Deliveries, proxy.EntryDelivery{Delivery: proxy.Delivery{Backend: "other", State: proxy.Failed, Turn: 1}})
	if _, err := d.Append(t.Context(), extra); err != nil {
		t.Fatal(err)
	}
	every := func(start int64) (out []int64) { // every sixth from start on, newest first
		for s := start + 54; s > 0; s -= 6 {
			out = append(out, s)
		}
		return out
	}
	merge := func(lists ...[]int64) []int64 {
		out := slices.Concat(lists...)
		slices.Sort(out)
		slices.Reverse(out)
		return out
	}
	only := []int64{61}
	for name, c := range map[string]struct {
		f    journal.Filter
		want []int64
	}{
		"all":               {journal.Filter{}, merge(every(1), every(2), every(3), every(4), every(5), every(6), only)},
		"pending":           {journal.Filter{State: proxy.Pending}, every(1)},
		"delivered":         {journal.Filter{State: proxy.Delivered}, every(2)},
		"failed":            {journal.Filter{State: proxy.Failed}, merge(every(3), every(6), only)},
		"ignored":           {journal.Filter{State: proxy.Ignored}, merge(every(4), every(5))},
		"backend":           {journal.Filter{Backend: "other"}, only},
		"backend and state": {journal.Filter{Backend: "legacy", State: proxy.Pending}, merge(every(1), only)},
		"type":              {journal.Filter{Type: "a[b]?*"}, only},
		"type, star":        {journal.Filter{Type: "*.updated", State: proxy.Pending}, every(1)},
		"source":            {journal.Filter{Source: "connect"}, only},
		"account":           {journal.Filter{Account: "acct_1"}, only},
		"object":            {journal.Filter{Object: "in_7"}, only},
		"id":                {journal.Filter{ID: extra.Event.ID}, only},
		"id and state":      {journal.Filter{ID: extra.Event.ID, State: proxy.Ignored}, nil},
		"since":             {journal.Filter{Since: t0.Add(time.Hour)}, only},
		"until":             {journal.Filter{Until: t0.Add(3 * time.Second)}, []int64{3, 2, 1}},
		"before":            {journal.Filter{Before: 4}, []int64{3, 2, 1}},
		"nothing":           {journal.Filter{Account: "acct_2"}, nil},
	} {
		for _, limit := range []int{0, 1, 7} {
			c.f.Limit = limit
			if diff := cmp.Diff(c.want, pages(t, d, c.f)); diff != "" {
				t.Errorf("%s, %d a page (-want +got):\n%s", name, limit, diff)
			}
		}
	}
}

func TestEventsByIDAndBody(t *testing.T) {
	d := openNew(t)
	for _, source := range []string{"", "main", "connect", "z"} {
		e := entryOf(1, proxy.Pending)
		e.Event.Source, e.Event.Body = source, []byte("body of "+source)
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	found, err := withID(d, stripeID(1))
	if err != nil || len(found) != 4 {
		t.Fatalf("found %d, %v", len(found), err)
	}
	for _, k := range found {
		if body, err := d.Body(t.Context(), k.Event.Seq); err != nil || string(body) != "body of "+k.Event.Source {
			t.Errorf("body %q, %v", body, err)
		}
	}
	if found, err := withID(d, stripeID(2)); err != nil || len(found) != 0 {
		t.Errorf("found %d of what is not there, %v", len(found), err)
	}
	if _, err := d.Body(t.Context(), 99); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Body: %v", err)
	}
	if _, _, err := d.Event(t.Context(), 99); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Event: %v", err)
	}
	test := entryOf(3, proxy.Pending)
	test.Event.ID = "evt_00000000000000"
	for range 2 {
		if _, err := d.Append(t.Context(), test); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := withID(d, test.Event.ID); err != nil || len(found) != 2 {
		t.Errorf("found %d test events, %v", len(found), err)
	}
}

// withID are the events with Stripe's id, over all sources.
func withID(d *DB, id string) ([]journal.Stored, error) {
	p, err := d.Events(context.Background(), journal.Filter{ID: id})
	return p.Events, err
}

func TestTotals(t *testing.T) {
	d := openNew(t)
	t0 := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
	put(t, d, 18, t0) // 1, 7 and 13 are pending
	now := time.Now().Add(time.Second)
	oldest := func(want int64) {
		t.Helper()
		checkTotals(t, d)
		totals, err := d.Totals(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got time.Time
		for _, c := range totals {
			if c.State == proxy.Pending {
				got = c.Oldest
			} else if !c.Oldest.IsZero() {
				t.Errorf("%s has an oldest: %v", c.State, c.Oldest)
			}
		}
		at := t0.Add(time.Duration(want-1) * time.Second)
		if want == 0 {
			at = time.Time{}
		}
		if !got.Equal(at) {
			t.Errorf("the oldest Pending event was received at %v, want %v", got, at)
		}
	}
	oldest(1)
	ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 10, For: time.Minute})
	if err != nil || len(ls) != 3 {
		t.Fatalf("leased %d, %v", len(ls), err)
	}
	slices.SortFunc(ls, func(a, b proxy.Leased) int { return int(a.Event.Seq - b.Event.Seq) })
	for i, next := range []int64{7, 13, 0} {
		if err := d.Settle(t.Context(), proxy.SettleDelivered(ls[i], proxy.Attempt{Status: 200, Outcome: proxy.OutcomeDelivered})); err != nil {
			t.Fatal(err)
		}
		oldest(next)
	}
	for _, seq := range []int64{9, 2, 14} {
		if _, err := d.Resend(t.Context(), now, seq, []string{"legacy"}); err != nil {
			t.Fatal(err)
		}
	}
	oldest(2)
}

func TestPrune(t *testing.T) {
	d := openNew(t)
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	put(t, d, 60, t0)
	r := journal.Retention{Delivered: 7 * 24 * time.Hour, Failed: 90 * 24 * time.Hour, Ignored: 24 * time.Hour, Unrouted: 30 * 24 * time.Hour}
	left := func() string {
		var n []string
		for i, what := range []string{"pending", "delivered", "failed", "rule", "no_route", "unparseable"} {
			count := 0
			for _, seq := range pages(t, d, journal.Filter{}) {
				if seq%6 == int64(i+1)%6 {
					count++
				}
			}
			n = append(n, fmt.Sprintf("%d %s", count, what))
		}
		return strings.Join(n, ", ")
	}
	prune := func(now time.Time) {
		t.Helper()
		for {
			n, err := d.Prune(t.Context(), now, r, 7)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return
			}
			if n > 7 {
				t.Errorf("asked for 7, pruned %d", n)
			}
		}
	}
	day := 24 * time.Hour
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{time.Hour, "10 pending, 10 delivered, 10 failed, 10 rule, 10 no_route, 10 unparseable"},
		{25 * time.Hour, "10 pending, 10 delivered, 10 failed, 0 rule, 10 no_route, 10 unparseable"},
		{8 * day, "10 pending, 0 delivered, 10 failed, 0 rule, 10 no_route, 10 unparseable"},
		{31 * day, "10 pending, 0 delivered, 10 failed, 0 rule, 0 no_route, 10 unparseable"},
		{91 * day, "10 pending, 0 delivered, 0 failed, 0 rule, 0 no_route, 0 unparseable"},
	} {
		prune(t0.Add(c.after))
		if got := left(); got != c.want {
			t.Fatalf("after %v: %s, want %s", c.after, got, c.want)
		}
		checkTotals(t, d)
	}

	// A Pending event that is delivered long after it came is kept from then on.
	now := t0.Add(91 * day)
	ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: time.Now().Add(time.Hour), Most: 10, For: time.Minute})
	if err != nil || len(ls) != 10 {
		t.Fatalf("leased %d, %v", len(ls), err)
	}
	for _, l := range ls {
		a := proxy.Attempt{Started: now, Status: 200, Outcome: proxy.OutcomeDelivered}
		if err := d.Settle(t.Context(), proxy.SettleDelivered(l, a)); err != nil {
			t.Fatal(err)
		}
	}
	prune(now.Add(6 * day))
	if got := left(); !strings.HasPrefix(got, "10 pending") { // by number; they are Delivered now
		t.Errorf("six days after they were delivered: %s", got)
	}
	prune(now.Add(8 * day))
	if got := left(); !strings.HasPrefix(got, "0 pending") {
		t.Errorf("eight days after they were delivered: %s", got)
	}
	checkTotals(t, d)
	testSeen(t, d, now)
}

// testSeen: ids are kept after their events, those of Delivered ones are found, and all go after 31 days.
func testSeen(t *testing.T, d *DB, now time.Time) {
	t.Helper()
	find := func(n int64) error {
		_, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(n)})
		return err
	}
	if err := find(0); err != nil { // delivered last
		t.Errorf("the id of a Delivered event: %v", err)
	}
	if err := find(2); !errors.Is(err, proxy.ErrNotFound) { // failed
		t.Errorf("the id of a Failed event: %v", err)
	}
	r := journal.Retention{Delivered: time.Hour}
	for range 30 {
		if _, err := d.Prune(t.Context(), now.Add(60*24*time.Hour), r, 7); err != nil {
			t.Fatal(err)
		}
	}
	err := d.read(t.Context(), func(_ context.Context, c *sql.Conn) error {
		n, err := numbers(t.Context(), c, `SELECT count(*) FROM seen`)
		if err == nil && n[0] != 0 {
			t.Errorf("%d ids are still there after 60 days", n[0])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	seq, err := d.Append(t.Context(), entryOf(0, proxy.Pending))
	if err != nil || seq != 61 {
		t.Errorf("the event came again: number %d, %v", seq, err)
	}
}

// TestPlans: what runs often must walk an index from where it needs to, and sort nothing.
func TestPlans(t *testing.T) {
	d := openNew(t)
	fill(t, d, 100)
	for name, c := range map[string]struct {
		q    string
		want []string
	}{
		"lease":  {leaseQuery, []string{"deliveries_due (backend=? AND due>? AND due<?)"}},
		"failed": {classQueries[1], []string{"deliveries_failed"}},
		"oldest": {oldestQuery, []string{"PRIMARY KEY (event>?)"}},
		"kept":   {classQueries[4], []string{"events_kept (state=? AND seq>?)"}},
	} {
		var plan string
		if err := d.do(t.Context(), &op{run: func(tx *tx) error {
			s := strings.NewReplacer("?1", "'legacy'", "?2", "1", "?3", "1", "?4", "9", "?", "1").Replace(c.q)
			return tx.query("EXPLAIN QUERY PLAN "+s, func(r row) bool { plan += r.text(3) + "\n"; return true })
		}}); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(plan, want) {
				t.Errorf("%s: no %s in\n%s", name, want, plan)
			}
		}
		if strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s sorts:\n%s", name, plan)
		}
	}
}

// TestMillion: a million Pending events neither slow a lease nor an opening.
func TestMillion(t *testing.T) {
	million(t)
	path := t.TempDir() + "/j.db"
	d := openAt(t, path, Options{})
	fill(t, d, 1_000_000)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	d = openAt(t, path, Options{})
	opened := time.Since(start)
	now := time.Now().Add(time.Hour)
	start = time.Now()
	const leases = 2000
	for range leases {
		ls, _, err := d.Lease(context.Background(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 4, For: time.Hour})
		if err != nil || len(ls) != 4 {
			t.Fatalf("leased %d, %v", len(ls), err)
		}
	}
	each := time.Since(start) / leases
	start = time.Now()
	totals, err := d.Totals(t.Context())
	first := time.Since(start)
	if err != nil || len(totals) != 1 || totals[0].Count != 1_000_000 {
		t.Errorf("totals %+v, %v", totals, err)
	}
	start = time.Now()
	if _, err := d.Totals(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("opened in %v; a lease of 4 beside up to %d leased: %v; totals %v, then %v", opened, 4*leases, each, first, time.Since(start))
	if opened > time.Second || each > 5*time.Millisecond {
		t.Errorf("opened in %v, a lease takes %v", opened, each)
	}
}

// TestIDs: the filter never says of a key in the file that it is new, and rarely of a new one that it may be there.
func TestIDs(t *testing.T) {
	d := openNew(t)
	fill(t, d, 2000)
	load := func(s *ids) {
		t.Helper()
		if err := s.load(t.Context(), d.readers.Load(), d.barrier); err != nil {
			t.Fatal(err)
		}
	}
	s := newIDs()
	if !s.has(proxy.Key{Source: "main", ID: "evt_1"}) {
		t.Error("before it has read the file it says that a key is new")
	}
	load(s)
	wrong := 0
	for n := range int64(20_000) {
		if has := s.has(proxy.Key{Source: "main", ID: stripeID(n)}); n < 2000 && !has {
			t.Fatalf("key %d is in the file", n)
		} else if n >= 2000 && has {
			wrong++
		}
	}
	if wrong > 400 {
		t.Errorf("of 18,000 new keys %d may be there", wrong)
	}
	for n := int64(2000); !s.crowded(); n++ {
		s.add(proxy.Key{Source: "main", ID: fmt.Sprint(n)})
	}
	load(s)
	if s.crowded() {
		t.Error("it did not grow")
	}
	if !s.has(proxy.Key{Source: "main", ID: stripeID(5)}) {
		t.Error("a key was lost as it grew")
	}
}
