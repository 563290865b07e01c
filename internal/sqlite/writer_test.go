package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// TestAbandoned: what nobody waits for any more does not pile up before a writer that hangs.
func TestAbandoned(t *testing.T) {
	d := openNew(t)
	release := stall(t, d)
	queued := func() (n int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, o := range d.ops {
			if o.put != nil { // the journal has some of its own
				n++
			}
		}
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	const n = 10
	out := make(chan error)
	for i := range int64(n) {
		go func() {
			_, err := d.Append(ctx, entryOf(i, proxy.Pending))
			out <- err
		}()
	}
	poll(t, "all are queued", func() bool { return queued() == n })
	cancel()
	for range n {
		if err := <-out; !errors.Is(err, context.Canceled) {
			t.Errorf("Append whose context ended: %v", err)
		}
	}
	if left := queued(); left != 0 {
		t.Errorf("%d are still queued", left)
	}
	release()
	if _, err := d.Append(t.Context(), entryOf(n, proxy.Pending)); err != nil {
		t.Error(err)
	}
}

// TestLeaseThatFails: what an operation has leased before it failed can be leased again.
func TestLeaseThatFails(t *testing.T) {
	d := openNew(t)
	if _, err := d.Append(t.Context(), entryOf(1, proxy.Pending)); err != nil {
		t.Fatal(err)
	}
	now, bad := time.Now().Add(time.Second), errors.New("a row that cannot be read")
	err := d.do(t.Context(), &op{reads: true, run: func(tx *tx) error {
		if ls, _, err := tx.lease(proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 1, For: time.Hour}); err != nil || len(ls) != 1 {
			t.Errorf("leased %d, %v", len(ls), err)
		}
		return bad
	}})
	if !errors.Is(err, bad) {
		t.Fatal(err)
	}
	if ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 1, For: time.Hour}); err != nil || len(ls) != 1 {
		t.Errorf("leased %d, %v, want 1", len(ls), err)
	}
}

// TestHurtUnderLoad: what a checkpoint finds is acted on while the writer is never idle, once.
func TestHurtUnderLoad(t *testing.T) {
	d := openNew(t)
	var again func(*tx) error
	again = func(*tx) error {
		_ = d.enqueue(&op{run: again, done: make(chan error, 1)})
		return nil
	}
	if err := d.do(t.Context(), &op{run: again}); err != nil {
		t.Fatal(err)
	}
	d.hurt <- errors.New("disk on fire")
	poll(t, "the outage is seen", func() bool { return d.Ready(t.Context()) != nil })
	d.hurt <- errors.New("disk on fire, as was said")
	poll(t, "it is back", func() bool { return d.Ready(t.Context()) == nil })
	if err := d.barrier(t.Context()); err != nil {
		t.Errorf("it broke again by an old message: %v", err)
	}
}

// TestRecordInOutage: a full buffer that nobody empties is not worth waiting for.
func TestRecordInOutage(t *testing.T) {
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{HistoryEntries: 1})
	release := stall(t, d)
	if err := d.Record(entryOf(1, proxy.Delivered)); err != nil {
		t.Fatal(err)
	}
	set := func(o *journal.Outage) { d.mu.Lock(); defer d.mu.Unlock(); d.down = o }
	set(&journal.Outage{Since: time.Now(), Err: errors.New("disk on fire")})
	var out *journal.Outage
	if err := d.Record(entryOf(2, proxy.Delivered)); !errors.As(err, &out) || errors.Is(err, proxy.ErrBusy) {
		t.Errorf("Record into a full buffer: %v, want the outage", err)
	}
	set(nil)
	release()
}

// TestMarksTogether: answers that are noted together each go to their own event, the latest of one event wins, events
// between them keep what they have, and so does a turn that began after its answer.
func TestMarksTogether(t *testing.T) {
	d := openNew(t)
	at := time.UnixMilli(1_700_000_000_000).UTC()
	want := map[int64]time.Time{}
	for i := range int64(12) {
		e := entryOf(i, proxy.Pending)
		if i == 4 {
			e.Answered = at
		}
		seq, err := d.Append(t.Context(), e)
		if err != nil || seq != i+1 {
			t.Fatalf("event %d has number %d, %v", i, seq, err)
		}
		want[seq] = e.Answered
	}
	release := stall(t, d) // so that all are of one batch
	record := func(e proxy.Entry) {
		t.Helper()
		if err := d.Record(e); err != nil {
			t.Error(err)
		}
	}
	for i, seq := range []int64{3, 2, 12, 4, 6, 3, 99, 1, 11} { // 3 twice, the later time last; 5 lies between; 99 is none
		want[seq] = at.Add(time.Duration(i) * time.Second)
		record(proxy.Entry{Event: &proxy.Event{Seq: seq}, Answered: want[seq]})
	}
	record(proxy.Entry{Event: &proxy.Event{Seq: 6}, Answered: at}) // earlier than what it has
	turn := entryOf(10, proxy.Pending)                             // of number 11
	turn.Deliveries[0].Turn = 2
	record(turn)
	want[11] = time.Time{}
	release()
	if err := d.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range int64(12) {
		if k, err := d.Find(t.Context(), entryOf(i, proxy.Pending).Event.Key()); err != nil || !k.Answered.Equal(want[i+1]) {
			t.Errorf("event %d was answered at %v, %v; want %v", i+1, k.Answered, err, want[i+1])
		}
	}
}

// failingStmt is a statement that fails.
type failingStmt struct{ err error }

func (s failingStmt) ExecContext(context.Context, []driver.NamedValue) (driver.Result, error) {
	return nil, s.err
}

// TestBrokenRollback: a full disk does not hide that its transaction could not be rolled back.
func TestBrokenRollback(t *testing.T) {
	pool, err := open(filepath.Join(t.TempDir(), "missing", "j.db"), 1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, cannotOpen := pool.Conn(t.Context())
	if !broken(cannotOpen) {
		t.Fatal(cannotOpen)
	}
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{Log: zap.NewNop()})
	err = d.do(t.Context(), &op{run: func(tx *tx) error {
		tx.stmts["ROLLBACK"] = &stmt{exec: failingStmt{cannotOpen}, close: func() error { return nil }}
		if _, err := tx.exec(`PRAGMA max_page_count = 1`); err != nil {
			return err
		}
		_, err := tx.exec(`INSERT INTO bodies (event, body) VALUES (1, zeroblob(1000000))`)
		return err
	}})
	if err == nil || errors.Is(err, proxy.ErrFull) {
		t.Errorf("it was told %v", err)
	}
	poll(t, "it was opened anew", func() bool {
		_, err := d.Append(t.Context(), entryOf(1, proxy.Pending))
		return err == nil
	})
}
