package sqlite

import (
	"database/sql/driver"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// bulk writes events from one number on, without the care that Append takes: a delivery each in state, but every 997th is
// Pending, every 1013th Failed and every 499th ignored. An object has 4 events and a customer 16, one after the other;
// there are 1,000 accounts. One event is received each millisecond from t0 on.
func bulk(tb testing.TB, d *DB, from, n int64, state int64, t0 time.Time) {
	tb.Helper()
	const step = 10_000
	for at := from; at < from+n; at += step {
		end := min(at+step, from+n)
		err := d.do(tb.Context(), &op{size: step * 4096, run: func(t *tx) error {
			const series = `WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2 - 1) `
			for q, third := range map[string]driver.Value{
				`INSERT INTO events SELECT i, 'main', 'evt_' || i || 'x', 'evt_' || i || 'x', 'invoice.t' || (i % 25), 'acct_' || (i % 1000),
					1, '2024-06-20', 'in_' || ((i + 2) / 4), 'cus_' || ((i + 8) / 16), ?3 + i, ?3 + i, iif(i % 499 = 0, 4, 0), iif(i % 499 = 0, 'rule', NULL),
					?3 + i, NULL, zeroblob(380), zeroblob(60), zeroblob(32) FROM n`: millis(t0),
				`INSERT INTO bodies SELECT i, CAST('needle ' || i || ' ' || ?3 AS BLOB) FROM n`: string(benchBody),
				`INSERT INTO deliveries SELECT i, 'legacy', CASE WHEN i % 997 = 0 THEN 1 WHEN i % 1013 = 0 THEN 3 ELSE ?3 END, 1, 1, i, i, 200,
					'delivered', i, 1, 'inline' FROM n WHERE i % 499 <> 0`: state,
			} {
				if _, err := t.exec(series+q, at, end, third); err != nil {
					return err
				}
			}
			t.delta[total{"legacy", state}] += end - at
			d.seq = end - 1
			return nil
		}})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// described waits until every full segment is described.
func described(tb testing.TB, d *DB) {
	tb.Helper()
	for {
		more, err := d.describe(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		if !more {
			return
		}
	}
}

// figures are times, for a report.
type figures []time.Duration

func (f figures) String() string {
	slices.Sort(f)
	at := func(p int) time.Duration { return f[min(len(f)-1, len(f)*p/100)].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v", at(50), at(99))
}

// appending appends so many events a second until stop.
func appending(tb testing.TB, d *DB, rate int64) (stop func() (took figures)) {
	var took figures
	var mu sync.Mutex
	var wg sync.WaitGroup
	quit := make(chan struct{})
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := int64(0); ; {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			for range rate / 100 {
				n++
				e := entryOf(n+1<<40, proxy.Delivered)
				wg.Go(func() {
					start := time.Now()
					if _, err := d.Append(tb.Context(), e); err != nil {
						tb.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					took = append(took, time.Since(start))
				})
			}
		}
	})
	return func() figures { close(quit); wg.Wait(); return took }
}

// TestListsOfMillion: what a page of a list looks at does not depend on how many events there are. Times are for the
// reader: they say more about the machine.
func TestListsOfMillion(t *testing.T) {
	million(t)
	for _, state := range []proxy.State{proxy.Delivered, proxy.Pending} {
		t.Run(string(state), func(t *testing.T) { listsOfMillion(t, state) })
	}
}

func listsOfMillion(t *testing.T, state proxy.State) {
	const n = 1_000_000
	d := openNew(t)
	t0 := time.Now().Add(-time.Hour)
	bulk(t, d, 1, n, stateCode(state, ""), t0)
	start := time.Now()
	described(t, d)
	t.Logf("%d segments described in %v", n/segmentSize, time.Since(start))
	const few = 8 * segmentSize // where filters err, and what is not described yet
	kinds := []struct {
		name   string
		f      journal.Filter
		events int   // on the first page
		looked int64 // at most; 0: as many as time allows
	}{
		{"newest", journal.Filter{}, 50, segmentSize},
		{"pending", journal.Filter{State: proxy.Pending}, 50, few},
		{"pending of a backend", journal.Filter{State: proxy.Pending, Backend: "legacy"}, 50, few},
		{"failed", journal.Filter{State: proxy.Failed}, 50, 200},
		{"failed of a backend", journal.Filter{State: proxy.Failed, Backend: "legacy"}, 50, 200},
		{"ignored", journal.Filter{State: proxy.Ignored}, 50, 200},
		{"type", journal.Filter{Type: "invoice.t7"}, 50, 0},
		{"no such type", journal.Filter{Type: "charge.*"}, 0, 0},
		{"account", journal.Filter{Account: "acct_77"}, 50, 0},
		{"object", journal.Filter{Object: "in_125000"}, 4, few},
		{"customer and failed", journal.Filter{Customer: "cus_5", State: proxy.Failed}, 0, few},
		{"event, searched", journal.Filter{Query: "evt_4711x"}, 1, 1},
		{"customer, searched", journal.Filter{Query: "cus_11"}, 16, few},
		{"text", journal.Filter{Query: "Needle 999"}, 50, 0},
		{"no such text", journal.Filter{Query: "no such"}, 0, 0},
		{"an hour ago", journal.Filter{Since: t0.Add(time.Second), Until: t0.Add(2 * time.Second)}, 50, few},
	}
	alone := appending(t, d, 2000)
	time.Sleep(3 * time.Second)
	t.Logf("Append alone: %v", alone())
	stop := appending(t, d, 2000)
	for _, k := range kinds {
		var took figures
		for range 100 {
			start := time.Now()
			_, _, err := d.page(t.Context(), k.f, listTime)
			if took = append(took, time.Since(start)); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%-22s %v", k.name, took)
		if k.looked == 0 {
			continue
		}
		p, looked, err := d.page(t.Context(), k.f, time.Minute)
		if err != nil || len(p.Events) != k.events || looked > k.looked {
			t.Errorf("%s: %d events of %d looked at, %v; want %d of %d at most", k.name, len(p.Events), looked, err, k.events, k.looked)
		}
	}
	t.Logf("Append meanwhile: %v", stop())
	for _, k := range kinds {
		start := time.Now()
		n, err := d.Count(t.Context(), k.f)
		t.Logf("count %-22s %8d in %v", k.name, n, time.Since(start))
		if err != nil {
			t.Error(err)
		}
	}
}

// million skips a test with a million events, which takes minutes, unless it is asked for.
func million(t *testing.T) {
	t.Helper()
	if os.Getenv("BREAKWATER_MILLION") == "" {
		t.Skip("a million events take minutes: make million")
	}
}
