package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// segments returns the first numbers of the segments that are described.
func segments(t *testing.T, d *DB) (firsts []int64) {
	t.Helper()
	if err := d.file.read(t.Context(), func(_ context.Context, c *sql.Conn) (err error) {
		firsts, err = numbers(t.Context(), c, `SELECT first FROM segments ORDER BY first`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return firsts
}

// TestSegmentsFromMemory: events that this process has taken are found by what they name, and little else is looked at.
func TestSegmentsFromMemory(t *testing.T) {
	t.Parallel()
	d := openSmall(t)
	for i := range int64(3 * small) {
		e := entryOf(i, proxy.Delivered)
		e.Event.Object, e.Event.Customer, e.Event.Account = fmt.Sprint("in_", i), fmt.Sprint("cus_", i), fmt.Sprint("acct_", i)
		if err := d.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	described(t, d)
	for _, i := range []int{0, small - 2, small - 1, 2 * small} {
		for _, f := range []journal.Filter{
			{Object: fmt.Sprint("in_", i)}, {Customer: fmt.Sprint("cus_", i)}, {Account: fmt.Sprint("acct_", i)}, {Query: fmt.Sprint("cus_", i)},
		} {
			p, looked, err := d.page(t.Context(), f, time.Minute)
			if err != nil || len(p.Events) != 1 || p.Events[0].Event.Seq != int64(i+1) || looked > 2*(small+window) {
				t.Errorf("%+v: %d events of %d looked at, %v", f, len(p.Events), looked, err)
			}
		}
	}
}

// TestSegmentsGo: a segment without events is forgotten.
func TestSegmentsGo(t *testing.T) {
	t.Parallel()
	d := openSmall(t)
	bulk(t, d, 1, 3*small+1, stateDelivered, time.Now())
	described(t, d)
	if err := d.do(t.Context(), &op{run: func(t *tx) error {
		_, err := t.exec(`DELETE FROM events WHERE seq BETWEEN ? AND ?`, int64(small), int64(2*small-1))
		return err
	}}); err != nil {
		t.Fatal(err)
	}
	poll(t, "the empty segment is forgotten", func() bool {
		return cmp.Equal(segments(t, d), []int64{0, 2 * small})
	})
	if got := walk(t, d, journal.Filter{Object: "in_2", Limit: 10}, time.Minute); len(got) != 4 {
		t.Errorf("below it %d events are found, want 4", len(got))
	}
}

// TestFilters: a filter holds all that was put into it and little else, and hashes are those of the files that exist.
func TestFilters(t *testing.T) {
	t.Parallel()
	if got := hashRef("cus_9s6XKzkNRiz8i3"); got != 0xc0ca154903773d52 {
		t.Errorf("the hash is now %#x: segments that were written before are searched in vain", got)
	}
	refs := map[uint64]bool{}
	for i := range 5000 {
		refs[hashRef(fmt.Sprint("cus_", i))] = true
	}
	filter, wrong := newRefs(refs), 0
	for i := range 100_000 {
		has := mayHold(filter, []uint64{hashRef(fmt.Sprint("cus_", i))})
		if i < 5000 && !has {
			t.Fatalf("it does not hold cus_%d", i)
		}
		if i >= 5000 && has {
			wrong++
		}
	}
	if wrong > 95_000/200 {
		t.Errorf("of 95,000 others it may hold %d", wrong)
	}
	if mayHold(newRefs(nil), []uint64{1}) {
		t.Error("an empty filter holds something")
	}
}
