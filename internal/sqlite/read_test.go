package sqlite

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

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
		if err := s.load(t.Context(), d.file.readers.Load(), d.barrier); err != nil {
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
