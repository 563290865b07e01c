package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// poll waits until ok, at most 10 seconds.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// stall keeps the writer busy until release.
func stall(t *testing.T, d *DB) (release func()) {
	t.Helper()
	busy, gate := make(chan struct{}), make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	go func() { _ = d.do(context.Background(), &op{run: func(*tx) error { close(busy); <-gate; return nil }}) }()
	<-busy
	return release
}

// mount mounts a small filesystem for one test.
func mount(t *testing.T, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small filesystem")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// ext4 is a small disk of its own.
func ext4(t *testing.T, megabytes int64) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, megabytes<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", img).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v: %s", err, out)
	}
	return mount(t, "-o", "loop", img)
}

// TestBatchNeighbours: an operation that fails for a reason of its own takes nothing with it, and leaves nothing.
func TestBatchNeighbours(t *testing.T) {
	d := openNew(t)
	release := stall(t, d) // so that the rest is one batch
	var wg sync.WaitGroup
	var errs [5]error
	for i := range errs {
		wg.Go(func() {
			if i == 2 {
				errs[i] = d.do(t.Context(), &op{run: func(tx *tx) error {
					if _, err := tx.put(ready(entryOf(99, proxy.Pending))); err != nil {
						return err
					}
					_, err := tx.exec(`INSERT INTO bodies (event, body) SELECT max(event), 'x' FROM bodies`)
					return err
				}})
				return
			}
			_, errs[i] = d.Append(t.Context(), entryOf(int64(i), proxy.Pending))
		})
	}
	poll(t, "all are queued", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.ops) >= len(errs) })
	release()
	wg.Wait()
	for i, err := range errs {
		_, found := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(int64(i))})
		if wrong := i == 2; (err != nil) != wrong || (found != nil) != wrong {
			t.Errorf("operation %d: %v, and then found: %v", i, err, found)
		}
	}
	if _, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(99)}); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("an operation that failed left an event: %v", err)
	}
	now := time.Now().Add(time.Second)
	if ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 10, For: time.Minute}); err != nil || len(ls) != 4 {
		t.Errorf("leased %d, %v, want 4", len(ls), err)
	}
	checkTotals(t, d)
}

// checkTotals compares the counters with what there is.
func checkTotals(t *testing.T, d *DB) {
	t.Helper()
	totals, err := d.Totals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[total]int64{}
	for _, c := range totals {
		got[total{c.Backend, stateCode(c.State, "")}] = c.Count
	}
	err = d.file.read(t.Context(), func(_ context.Context, c *sql.Conn) error {
		return each(t.Context(), c, func(r row) error {
			k := total{r.text(0), r.int(1)}
			if got[k] != r.int(2) {
				t.Errorf("%v: counted %d, there are %d", k, got[k], r.int(2))
			}
			delete(got, k)
			return nil
		}, `SELECT backend, state, count(*) FROM deliveries GROUP BY backend, state
			UNION ALL SELECT '', 3, count(*) FROM events WHERE state = 3 HAVING count(*) > 0`)
	})
	if err != nil || len(got) > 0 {
		t.Errorf("counted and not there: %v, %v", got, err)
	}
}

// TestLeaseAbandoned: what is leased for a caller who has gone is given back at once.
func TestLeaseAbandoned(t *testing.T) {
	d := openNew(t)
	now := time.Now().Add(time.Second)
	if _, err := d.Append(t.Context(), entryOf(1, proxy.Pending)); err != nil {
		t.Fatal(err)
	}
	started, gate := make(chan struct{}), make(chan struct{})
	var out []proxy.Leased
	o := &op{reads: true, run: func(tx *tx) (err error) {
		out, _, err = tx.lease(proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 1, For: time.Hour})
		close(started)
		<-gate
		return err
	}, lost: func() { d.release(out) }}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if err := d.do(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(gate)
	poll(t, "the lease is given back", func() bool {
		ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 1, For: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return len(ls) == 1
	})
}

// TestRecordFull: history waits for the writer in a bounded buffer.
func TestRecordFull(t *testing.T) {
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{HistoryEntries: 10})
	release := stall(t, d)
	for n := range int64(10) {
		if err := d.Record(entryOf(n, proxy.Delivered)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Record(entryOf(10, proxy.Delivered)); !errors.Is(err, proxy.ErrBusy) {
		t.Errorf("Record into a full buffer: %v", err)
	}
	release()
	poll(t, "there is room again", func() bool { return d.Record(entryOf(10, proxy.Delivered)) == nil })
	if err := d.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(10)}); err != nil || k.Event.Seq == 0 {
		t.Errorf("after Flush: %+v, %v", k, err)
	}
	if n := d.HistoryDropped(); n != 0 {
		t.Errorf("%d entries dropped", n)
	}
}

// fsShutdown is FS_IOC_SHUTDOWN: the filesystem forgets what was not synced, and fails from then on.
const fsShutdown = 0x8004587d

// TestDeadDisk: a disk that dies gives errors, never a success, and what was acknowledged before is there when it is back.
func TestDeadDisk(t *testing.T) {
	dir := ext4(t, 64)
	path := filepath.Join(dir, "j.db")
	d, err := Open(t.Context(), path, Options{Reserve: -1, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(50) {
		if _, err := d.Append(t.Context(), entryOf(n, proxy.Pending)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	how := 2 // NOLOGFLUSH
	if err := unix.IoctlSetPointerInt(int(f.Fd()), fsShutdown, how); err != nil {
		_ = f.Close()
		_ = d.Close()
		t.Skipf("this kernel cannot shut a filesystem down: %v", err)
	}
	_ = f.Close()
	if _, err := d.Append(t.Context(), entryOf(1000, proxy.Pending)); err == nil {
		t.Error("Append to a dead disk succeeded")
	}
	poll(t, "not ready", func() bool { return d.Ready(t.Context()) != nil })
	start := time.Now()
	_, errAppend := d.Append(t.Context(), entryOf(1001, proxy.Pending))
	_, _, errLease := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: time.Now(), Most: 1, For: time.Minute})
	_, errFind := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(1)})
	for what, err := range map[string]error{"Append": errAppend, "Lease": errLease, "Find": errFind, "Ready": d.Ready(t.Context())} {
		var out *journal.Outage
		if !errors.As(err, &out) || out.Since.IsZero() || errors.Is(err, proxy.ErrNotFound) {
			t.Errorf("%s while the journal is unavailable: %v", what, err)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the errors took %v", took)
	}
	_ = d.Close()
}

// TestComesBack: after the file was found broken, the journal is opened again and goes on, with its leases.
func TestComesBack(t *testing.T) {
	d := openNew(t)
	now := time.Now()
	for n := range int64(20) {
		if _, err := d.Append(t.Context(), entryOf(n, proxy.Pending)); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Second)
	ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 5, For: time.Minute})
	if err != nil || len(ls) != 5 {
		t.Fatalf("leased %d, %v", len(ls), err)
	}
	d.hurt <- errors.New("disk on fire")
	poll(t, "the outage is seen", func() bool { return d.Ready(t.Context()) != nil })
	if err := d.Record(entryOf(100, proxy.Delivered)); err != nil {
		t.Errorf("Record during an outage: %v", err)
	}
	if _, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(1)}); err == nil || errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Find during an outage: %v", err)
	}
	poll(t, "it is back", func() bool { return d.Ready(t.Context()) == nil })
	if seq, err := d.Append(t.Context(), entryOf(21, proxy.Pending)); err != nil || seq <= 20 {
		t.Errorf("Append after an outage: number %d, %v", seq, err)
	}
	if err := d.Settle(t.Context(), proxy.SettleRelease(ls[0], now)); err != nil {
		t.Errorf("a lease from before: %v", err)
	}
	if ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now.Add(time.Second), Most: 100, For: time.Minute}); err != nil || len(ls) != 17 {
		t.Errorf("leased %d, %v, want 17: all but the four that are leased", len(ls), err)
	}
	if err := d.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(100)}); err != nil || k.Event.Seq == 0 {
		t.Errorf("what Record took during the outage: %+v, %v", k, err)
	}
	checkTotals(t, d)
}

// TestDiskFull fills a real disk to the last block. Nothing is acknowledged that is not stored, and draining heals it.
func TestDiskFull(t *testing.T) {
	var plenty atomic.Bool // housekeep is blind until a write finds no room
	dir := mount(t, "-t", "tmpfs", "-o", "size=96m", "tmpfs")
	free := func(dir string) (int64, error) {
		if _, err := os.Stat(filepath.Join(dir, "j.db.ballast")); err == nil && plenty.Load() {
			return 1 << 40, nil
		}
		return freeBytes(dir)
	}
	d := openAt(t, filepath.Join(dir, "j.db"), Options{Reserve: 8 << 20, Log: zap.NewNop(), free: free})
	poll(t, "there is ballast", func() bool { _, err := os.Stat(d.space.ballast); return err == nil })
	plenty.Store(true)
	body := make([]byte, 256<<10)
	stored := int64(0)
	for ; ; stored++ {
		e := entryOf(stored, proxy.Pending)
		e.Event.Body = body
		_, err := d.Append(t.Context(), e)
		if errors.Is(err, proxy.ErrFull) {
			break
		}
		if err != nil {
			t.Fatalf("event %d: %v", stored, err)
		}
		if stored > 1000 {
			t.Fatal("the disk does not fill")
		}
	}
	if _, err := os.Stat(d.space.ballast); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the ballast is still there: %v", err)
	}
	now := time.Now().Add(time.Second)
	settled := int64(0)
	for {
		ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 10, For: time.Minute})
		if err != nil {
			t.Fatalf("Lease on a full disk: %v", err)
		}
		if len(ls) == 0 {
			break
		}
		for _, l := range ls {
			a := proxy.Attempt{N: 1, Started: now, Status: 200, Outcome: proxy.OutcomeDelivered}
			if err := d.Settle(t.Context(), proxy.SettleDelivered(l, a)); err != nil {
				t.Fatalf("Settle on a full disk: %v", err)
			}
			settled++
		}
	}
	if settled != stored {
		t.Errorf("acknowledged %d, delivered %d", stored, settled)
	}
	for { // as housekeep does when it knows
		n, err := d.dropEarly(t.Context(), now, earlyStep)
		if err != nil {
			t.Fatalf("dropping Delivered events on a full disk: %v", err)
		}
		if n == 0 {
			break
		}
	}
	poll(t, "it takes events again", func() bool {
		_, err := d.Append(t.Context(), entryOf(10_000, proxy.Pending))
		return err == nil
	})
	checkTotals(t, d)
}

// TestReserve: below the reserve new events are refused, the rest goes on, and the oldest Delivered ones make room.
func TestReserve(t *testing.T) {
	d := openAt(t, filepath.Join(mount(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs"), "j.db"), Options{Reserve: 24 << 20})
	body := make([]byte, 256<<10)
	if _, err := d.Append(t.Context(), entryOf(0, proxy.Pending)); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for n := int64(1); n < 1000; n++ {
		e := entryOf(n, proxy.Delivered)
		e.Event.Body = body
		if _, err := d.Append(t.Context(), e); errors.Is(err, proxy.ErrFull) {
			refused++
			poll(t, "there is room again", func() bool { return !d.space.full.Load() })
		} else if err != nil {
			t.Fatal(err)
		}
		if n%8 == 0 {
			d.copyLog(t.Context())
			d.checkSpace(t.Context())
		}
	}
	first, _, err := d.Event(t.Context(), 1)
	if err != nil || first.State != proxy.Pending {
		t.Errorf("the Pending event, oldest of all: %+v, %v", first.State, err)
	}
	if _, _, err := d.Event(t.Context(), 2); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("the oldest Delivered event is still there: %v", err)
	}
	if k, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(1)}); err != nil || k.State != proxy.Delivered || k.Event.Seq != 0 {
		t.Errorf("the id of an event that was dropped: %+v, %v", k, err)
	}
	checkTotals(t, d)
}
