package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

const (
	small  = 512
	window = small / windows
)

// openSmall opens a new journal with small segments.
func openSmall(t *testing.T) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{segment: small})
}

// walk lists all that f chooses, page by page, and checks what each page says about where it ended.
func walk(t *testing.T, d *DB, f journal.Filter, budget time.Duration) (seqs []int64) {
	t.Helper()
	for {
		p, _, err := d.page(t.Context(), f, budget)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range p.Events {
			seqs = append(seqs, k.Event.Seq)
		}
		switch {
		case p.Next == 0 && !p.LookedTo.IsZero():
			t.Fatalf("the last page says that it looked only to %v", p.LookedTo)
		case p.Next == 0:
			return seqs
		case f.Before != 0 && p.Next >= f.Before:
			t.Fatalf("the page after %d goes on at %d", f.Before, p.Next)
		case len(p.Events) < f.Limit && p.LookedTo.IsZero():
			t.Fatalf("the page after %d is short and does not say how far it looked", f.Before)
		}
		f.Before = p.Next
	}
}

// TestSearch asks for what bulk has written in every way there is, and compares with what its rules say, before and after
// segments are described, in another process, and after some events are gone.
func TestSearch(t *testing.T) {
	const n = 3*small + 500
	path := filepath.Join(t.TempDir(), "j.db")
	d, err := Open(t.Context(), path, Options{Reserve: -1, segment: small})
	if err != nil {
		t.Fatal(err)
	}
	t0 := time.Now().Add(-24 * time.Hour).Truncate(time.Millisecond)
	bulk(t, d, 1, n, stateDelivered, t0)
	pruned := int64(0) // Delivered events up to this number are gone
	ignored := func(i int64) bool { return i%499 == 0 }
	pending := func(i int64) bool { return !ignored(i) && i%997 == 0 }
	failed := func(i int64) bool { return !ignored(i) && !pending(i) && i%1013 == 0 }
	delivered := func(i int64) bool { return !ignored(i) && !pending(i) && !failed(i) }
	at := func(i int64) time.Time { return t0.Add(time.Duration(i) * time.Millisecond) }
	const border = small
	cases := []struct {
		name string
		f    journal.Filter
		want func(i int64) bool
	}{
		{"all", journal.Filter{}, func(int64) bool { return true }},
		{"pending", journal.Filter{State: proxy.Pending}, pending},
		{"pending of a backend", journal.Filter{State: proxy.Pending, Backend: "legacy"}, pending},
		{"of another backend", journal.Filter{State: proxy.Pending, Backend: "other"}, func(int64) bool { return false }},
		{"failed", journal.Filter{State: proxy.Failed}, failed},
		{"ignored", journal.Filter{State: proxy.Ignored}, ignored},
		{"delivered", journal.Filter{State: proxy.Delivered}, delivered},
		{"type", journal.Filter{Type: "*.t7"}, func(i int64) bool { return i%25 == 7 }},
		{"type and state", journal.Filter{Type: "*.t7", State: proxy.Ignored}, func(i int64) bool { return i%25 == 7 && ignored(i) }},
		{"account", journal.Filter{Account: "acct_7"}, func(i int64) bool { return i%1000 == 7 }},
		{"account and failed", journal.Filter{Account: "acct_13", State: proxy.Failed}, func(i int64) bool { return i%1000 == 13 && failed(i) }},
		{"object across a border", journal.Filter{Object: fmt.Sprint("in_", border/4)}, func(i int64) bool { return (i+2)/4 == border/4 }},
		{"object, not described yet", journal.Filter{Object: "in_505"}, func(i int64) bool { return (i+2)/4 == 505 }},
		{"customer across a border", journal.Filter{Customer: fmt.Sprint("cus_", border/16)}, func(i int64) bool { return (i+8)/16 == border/16 }},
		{"customer and type", journal.Filter{Customer: "cus_9", Type: "invoice.t3"}, func(i int64) bool { return (i+8)/16 == 9 && i%25 == 3 }},
		{"object of another customer", journal.Filter{Customer: "cus_9", Object: "in_90"}, func(int64) bool { return false }},
		{"id", journal.Filter{ID: "evt_513x"}, func(i int64) bool { return i == 513 }},
		{"id and state", journal.Filter{ID: "evt_513x", State: proxy.Failed}, func(int64) bool { return false }},
		{"since", journal.Filter{Since: at(n - 500)}, func(i int64) bool { return i >= n-500 }},
		{"until", journal.Filter{Until: at(500)}, func(i int64) bool { return i < 500 }},
		{"an hour", journal.Filter{Since: at(500), Until: at(530)}, func(i int64) bool { return i >= 500 && i < 530 }},
		{"an hour of pending", journal.Filter{Since: at(900), Until: at(1900), State: proxy.Pending}, func(i int64) bool { return i == 997 }},
		{"event id searched", journal.Filter{Query: "evt_1024x"}, func(i int64) bool { return i == 1024 }},
		{"object searched", journal.Filter{Query: "in_256"}, func(i int64) bool { return (i+2)/4 == 256 }},
		{"customer searched", journal.Filter{Query: "cus_64"}, func(i int64) bool { return (i+8)/16 == 64 }},
		{"account searched", journal.Filter{Query: "acct_999", State: proxy.Delivered}, func(i int64) bool { return i%1000 == 999 && delivered(i) }},
		{"text", journal.Filter{Query: "NEEDLE 40"}, func(i int64) bool { return strings.HasPrefix(fmt.Sprint(i), "40") }},
		{"text and state", journal.Filter{Query: "needle 1", State: proxy.Failed}, func(i int64) bool { return failed(i) && fmt.Sprint(i)[0] == '1' }},
		{"text that looks like an id", journal.Filter{Query: "pi_3N"}, func(int64) bool { return false }},
	}
	all := func(when string) {
		t.Helper()
		for _, c := range cases {
			var want []int64
			for i := int64(n); i > 0; i-- {
				if c.want(i) && (i > pruned || !delivered(i)) {
					want = append(want, i)
				}
			}
			for limit, budget := range map[int]time.Duration{300: 0, 2000: time.Minute} {
				c.f.Limit = limit
				if diff := cmp.Diff(want, walk(t, d, c.f, budget)); diff != "" {
					t.Errorf("%s: %s, %d a page (-want +got):\n%s", when, c.name, limit, diff)
				}
			}
			if got, err := d.Count(t.Context(), c.f); err != nil || got != int64(len(want)) {
				t.Errorf("%s: %s: counted %d, %v, want %d", when, c.name, got, err, len(want))
			}
		}
	}
	all("at first")
	poll(t, "segments are described", func() bool { return len(segments(t, d)) == 3 })
	all("described")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, Options{segment: small})
	pruned = 1200
	for now := at(pruned).Add(time.Hour); ; {
		if done, err := d.Prune(t.Context(), now, journal.Retention{Delivered: time.Hour}, 500); err != nil {
			t.Fatal(err)
		} else if done == 0 {
			break
		}
	}
	all("opened again and pruned")
	if diff := cmp.Diff([]int64{0, small, 2 * small}, segments(t, d)); diff != "" {
		t.Errorf("segments (-want +got):\n%s", diff)
	}
}

// TestReceivedOutOfOrder: what came out of quarantine is found by when it was received, wherever it stands.
func TestReceivedOutOfOrder(t *testing.T) {
	t.Parallel()
	d := openSmall(t)
	t0 := time.Now().Add(-24 * time.Hour).Truncate(time.Millisecond)
	bulk(t, d, 1, small, stateDelivered, t0)
	late := entryOf(1, proxy.Delivered)
	late.Event.Received = t0.Add(-time.Hour)
	if _, err := d.Append(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	bulk(t, d, small+2, small, stateDelivered, t0)
	described(t, d)
	got := walk(t, d, journal.Filter{Until: t0, Limit: 10}, time.Minute)
	if diff := cmp.Diff([]int64{small + 1}, got); diff != "" {
		t.Errorf("before the first (-want +got):\n%s", diff)
	}
}

// TestTestEventsAreFound: the dashboard's test events have one id and no place in the index of ids.
func TestTestEventsAreFound(t *testing.T) {
	t.Parallel()
	d := openSmall(t)
	for range 2 {
		e := entryOf(1, proxy.Delivered)
		e.Event.ID = "evt_00000000000000"
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	bulk(t, d, 3, 2*small, stateDelivered, time.Now())
	described(t, d)
	if found := walk(t, d, journal.Filter{ID: "evt_00000000000000", Limit: 50}, listTime); len(found) != 2 {
		t.Errorf("found %d", found)
	}
}

// TestWalkWhileItChanges: a walk by cursors sees each event that is there all the time exactly once.
func TestWalkWhileItChanges(t *testing.T) {
	const n = 6 * small
	d := openSmall(t)
	t0 := time.Now().Add(-24 * time.Hour).Truncate(time.Millisecond)
	bulk(t, d, 1, n, stateDelivered, t0)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	stop := appending(t, d, 500)
	wg.Go(func() { // Delivered events of the first half go meanwhile
		for ctx.Err() == nil {
			if _, err := d.Prune(ctx, t0.Add(time.Hour+n/2*time.Millisecond), journal.Retention{Delivered: time.Hour}, 64); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for _, f := range []journal.Filter{{Limit: 20}, {Limit: 7, Type: "invoice.t1*"}, {Limit: 3, State: proxy.Ignored}, {Limit: 7, Account: "acct_44"}} {
		seen := map[int64]int{}
		for _, seq := range walk(t, d, f, 0) {
			if seen[seq]++; seen[seq] > 1 {
				t.Fatalf("%+v: event %d was seen twice", f, seq)
			}
		}
		for i := int64(n/2 + 1); i <= n; i++ {
			wanted := (f.Type == "" || strings.HasPrefix(fmt.Sprint(i%25), "1")) && (f.State == "" || i%499 == 0) &&
				(f.Account == "" || i%1000 == 44)
			if wanted && seen[i] != 1 {
				t.Fatalf("%+v: event %d was missed", f, i)
			}
		}
	}
	cancel()
	wg.Wait()
	stop()
}

// TestPageEndsInTime: a page that finds nothing in time says how far it has come, and a page looks at one step at least.
func TestPageEndsInTime(t *testing.T) {
	t.Parallel()
	d := openSmall(t)
	t0 := time.Now().Add(-24 * time.Hour).Truncate(time.Millisecond)
	bulk(t, d, 1, 3*window, stateDelivered, t0)
	for name, c := range map[string]struct {
		f    journal.Filter
		next int64
	}{
		"type":         {journal.Filter{Type: "none"}, 3 * window},
		"text":         {journal.Filter{Query: "none"}, 3 * window},
		"go on":        {journal.Filter{Type: "none", Before: 3 * window}, 2 * window},
		"body by body": {journal.Filter{Query: "none", Before: 2 * window}, 2*window - 1},
	} {
		p, looked, err := d.page(t.Context(), c.f, 0)
		if err != nil {
			t.Fatal(err)
		}
		if want := t0.Add(time.Duration(c.next) * time.Millisecond); p.Next != c.next || !p.LookedTo.Equal(want) || looked > window {
			t.Errorf("%s: looked at %d, to %v, goes on at %d; want %v, %d", name, looked, p.LookedTo, p.Next, want, c.next)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Count(ctx, journal.Filter{Query: "none"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Count with a context that has ended: %v", err)
	}
}

// TestPendingBelowMuch: Pending events below many that were delivered since are found again at once, and those that
// become Pending in between are not passed over.
func TestPendingBelowMuch(t *testing.T) {
	t.Parallel()
	d := openSmall(t)
	t0 := time.Now().Add(-24 * time.Hour)
	bulk(t, d, 1, small-1, statePending, t0)
	if err := d.do(t.Context(), &op{run: func(t *tx) error { // as if there were very many
		t.delta[total{"legacy", statePending}] += listPending
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	bulk(t, d, small, 9*small, stateDelivered, t0)
	if err := d.do(t.Context(), &op{run: func(t *tx) error {
		_, err := t.exec(`UPDATE deliveries SET state = 2 WHERE event >= ? AND state = 1`, int64(small))
		return err
	}}); err != nil {
		t.Fatal(err)
	}
	f := journal.Filter{State: proxy.Pending, Limit: 10}
	newest := func() (int64, int64) {
		t.Helper()
		p, looked, err := d.page(t.Context(), f, time.Minute)
		if err != nil || len(p.Events) != 10 {
			t.Fatalf("found %d, %v", len(p.Events), err)
		}
		return p.Events[0].Event.Seq, looked
	}
	if seq, looked := newest(); seq != small-1 || looked > 4*window {
		t.Errorf("the newest is %d, looked at %d", seq, looked)
	}
	if err := d.file.read(t.Context(), func(_ context.Context, c *sql.Conn) error {
		s, err := newSearch(t.Context(), d, c, f, time.Time{})
		if err == nil && s.calm.below(10*small) != small {
			t.Errorf("it has not learned where nothing is Pending, only down to %d", s.calm.below(10*small))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	const again = 5*small + 7
	if _, err := d.Resend(t.Context(), time.Now(), again, []string{"legacy"}); err != nil {
		t.Fatal(err)
	}
	if seq, _ := newest(); seq != again {
		t.Errorf("the newest is %d, want %d, which was resent", seq, again)
	}
}

// TestPlansOfLists: each list goes along the index, or the range of numbers, that was meant for it.
func TestPlansOfLists(t *testing.T) {
	t.Parallel()
	d := openSmall(t)
	bulk(t, d, 1, 2*small, stateDelivered, time.Now())
	described(t, d)
	for name, c := range map[string]struct {
		f    journal.Filter
		want string // in the plan of the candidates
	}{
		"all":                  {journal.Filter{}, "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"},
		"delivered":            {journal.Filter{State: proxy.Delivered}, "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"},
		"source":               {journal.Filter{Source: "main", Type: "a*", Backend: "b"}, "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"},
		"object":               {journal.Filter{Object: "in_5"}, "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"},
		"id":                   {journal.Filter{ID: "evt_5x"}, "SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"},
		"pending":              {journal.Filter{State: proxy.Pending}, "USING COVERING INDEX deliveries_due"},
		"pending of a backend": {journal.Filter{State: proxy.Pending, Backend: "legacy"}, "USING COVERING INDEX deliveries_due (backend=?)"},
		"failed":               {journal.Filter{State: proxy.Failed}, "USING COVERING INDEX deliveries_failed (event>? AND event<?)"},
		"ignored":              {journal.Filter{State: proxy.Ignored}, "USING COVERING INDEX events_kept (state=? AND seq>? AND seq<?)"},
	} {
		err := d.file.read(t.Context(), func(_ context.Context, c2 *sql.Conn) error {
			s, err := newSearch(t.Context(), d, c2, c.f, time.Time{})
			if err != nil {
				return err
			}
			at, err := s.step(t.Context(), 10)
			if err != nil {
				return err
			}
			rows, candidates := plan(t, c2, `SELECT e.seq`+at.from(s)+` ORDER BY e.seq DESC`, at.all(s)), ""
			if s.index != "" {
				candidates = plan(t, c2, s.index, append([]any{1, 9, 9}, s.indexArgs...))
			}
			if !strings.Contains(rows+candidates, c.want) {
				t.Errorf("%s: no %q in\n%s%s", name, c.want, candidates, rows)
			}
			if s.index != pendingIndex && s.index != pendingOfIndex && strings.Contains(rows+candidates, "TEMP B-TREE") {
				t.Errorf("%s: sorts in\n%s%s", name, candidates, rows)
			}
			for _, scan := range []string{"SCAN e", "SCAN events", "SCAN d", "SCAN bodies"} {
				for line := range strings.Lines(rows + candidates) {
					if strings.HasPrefix(line, scan) && !strings.Contains(line, "deliveries_due") {
						t.Errorf("%s: %s", name, line)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func plan(t *testing.T, c *sql.Conn, q string, args []any) (text string) {
	t.Helper()
	if err := each(t.Context(), c, func(r row) error { text += r.text(3) + "\n"; return nil }, "EXPLAIN QUERY PLAN "+q, args...); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestNeedle(t *testing.T) {
	t.Parallel()
	body := "{\"Name\": \"Åse @[`{Z} K\u212a\", \"x\": \"\x00\xff\xc5\"}"
	for text, want := range map[string]bool{
		"name": true, "NAME": true, "åse": true, "ÅSE": true, "@[`{z": true, "z}": true, "`[": false, "nam ": false, "\x00": true,
		"\": \"": true, "x\": \"\x00": true, body: true, body + " ": false,
	} {
		if got := newNeedle(text).in([]byte(body)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	for c := range 256 {
		x := []byte{byte(c), 'A', byte(c), 'Z', 'a', byte(c), '[', byte(c), byte(c)}
		n := newNeedle("az")
		n.in(x)
		for i, b := range x {
			want := b
			if 'A' <= b && b <= 'Z' {
				want += 'a' - 'A'
			}
			if n.buf[i] != want {
				t.Fatalf("byte %d of %q became %q, want %q", i, x, n.buf[i], want)
			}
		}
	}
}
