package sqlite

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	lib "modernc.org/sqlite/lib"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// slow is true under the race detector.
var slow bool

// TestHealsUnderLoad: a disk that fills with small events, most of them Delivered, heals while more of them come in than
// it has room for. The log stays small, Settle never fails, and the journal opens again.
func TestHealsUnderLoad(t *testing.T) {
	size, reserve, total := "size=300m", int64(128<<20), int64(60_000) // of about 4 KB each: half as much again as there is room for
	if slow {
		size, reserve, total = "size=128m", 48<<20, 16_000
	}
	dir := mount(t, "-t", "tmpfs", "-o", size, "tmpfs")
	path := filepath.Join(dir, "j.db")
	o := Options{Reserve: reserve, Log: zap.NewNop()}
	d := openAt(t, path, o)
	poll(t, "there is ballast", func() bool { _, err := os.Stat(d.space.ballast); return err == nil })

	var next, refused, settled atomic.Int64
	var mu sync.Mutex
	acked, done := map[int64]bool{}, map[int64]bool{} // Pending events
	var worst, refusing time.Duration
	var largest, least int64 = 0, 1 << 40
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var senders, others sync.WaitGroup
	for range 16 {
		senders.Go(func() {
			for n := next.Add(1); n <= total; n = next.Add(1) {
				state := proxy.Delivered
				if n%20 == 0 {
					state = proxy.Pending
				}
				var since time.Time
				for {
					seq, err := d.Append(ctx, entryOf(n, state))
					if err == nil {
						if state == proxy.Pending {
							mu.Lock()
							acked[seq] = true
							mu.Unlock()
						}
						break
					}
					if !errors.Is(err, proxy.ErrFull) || ctx.Err() != nil {
						t.Errorf("Append: %v, %v", err, ctx.Err())
						cancel()
						return
					}
					if refused.Add(1); since.IsZero() {
						since = time.Now()
					}
					time.Sleep(5 * time.Millisecond)
				}
				if !since.IsZero() {
					mu.Lock()
					worst = max(worst, time.Since(since))
					refusing += time.Since(since) / 16
					mu.Unlock()
				}
			}
		})
	}
	stop := make(chan struct{})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			now := time.Now().Add(time.Second)
			ls, _, err := d.Lease(ctx, proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 10, For: time.Minute})
			for _, l := range ls {
				a := proxy.Attempt{N: 1, Started: now, Status: 200, Outcome: proxy.OutcomeDelivered}
				if err = d.Settle(ctx, proxy.SettleDelivered(l, a)); err != nil {
					break
				}
				mu.Lock()
				done[l.Event.Seq] = true
				mu.Unlock()
				settled.Add(1)
			}
			if err != nil {
				t.Errorf("Lease or Settle: %v", err)
				cancel()
				return
			}
		}
	})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if s, err := os.Stat(path + "-wal"); err == nil {
				largest = max(largest, s.Size())
			}
			if free, err := freeBytes(dir); err == nil {
				least = min(least, free)
			}
		}
	})
	senders.Wait()
	close(stop)
	others.Wait()
	t.Logf("refused %d times, at most for %v, %v in all; settled %d; log %d MiB at most, free %d MiB at least",
		refused.Load(), worst, refusing, settled.Load(), largest>>20, least>>20)
	if refused.Load() == 0 {
		t.Error("the disk was never full")
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	d = openAt(t, path, o)
	for seq := range acked {
		if done[seq] {
			continue
		}
		if e, _, err := d.Event(t.Context(), seq); err != nil || e.State != proxy.Pending && e.State != proxy.Delivered {
			t.Fatalf("event %d was acknowledged: %v, %v", seq, e.State, err)
		}
	}
	checkTotals(t, d)
}

// TestLogThatCannotBeCopied: a log that finds no room in the file is not taken for one that was emptied.
func TestLogThatCannotBeCopied(t *testing.T) {
	dir := mount(t, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
	d := openAt(t, filepath.Join(dir, "j.db"), Options{Reserve: -1, Log: zap.NewNop()})
	e := entryOf(1, proxy.Pending)
	e.Event.Body = make([]byte, 3<<20)
	if _, err := d.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	d.wal.written.Store(0) // so that nobody copies it before
	filled := fillDisk(t, dir)
	if err := d.truncateLog(t.Context()); code(err) != lib.SQLITE_FULL {
		t.Errorf("a log without room in the file: %v, want SQLITE_FULL", err)
	}
	if err := d.Ready(t.Context()); !errors.Is(err, proxy.ErrFull) {
		t.Errorf("Ready: %v, want ErrFull", err)
	}
	if err := os.Remove(filled); err != nil {
		t.Fatal(err)
	}
	if err := d.truncateLog(t.Context()); err != nil || d.logSize() != 0 {
		t.Errorf("with room again: %v, %d bytes of log", err, d.logSize())
	}
}

// TestOpenWithoutRoom: where even the ballast is gone it says what to do, and does it once that was done.
func TestOpenWithoutRoom(t *testing.T) {
	from := filepath.Join(t.TempDir(), "j.db")
	d := openAt(t, from, Options{})
	e := entryOf(1, proxy.Pending)
	e.Event.Body = make([]byte, 3<<20)
	if _, err := d.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	d.wal.written.Store(0) // so that it stays in the log
	dir := mount(t, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
	path := filepath.Join(dir, "j.db")
	if out, err := exec.Command("cp", from, from+"-wal", dir).CombinedOutput(); err != nil { // as a kill leaves them
		t.Fatalf("%v: %s", err, out)
	}
	o := Options{Reserve: -1, Log: zap.NewNop()}
	filled := fillDisk(t, dir)
	if _, err := Open(t.Context(), path, o); err == nil || !strings.Contains(err.Error(), "make 3") || !strings.Contains(err.Error(), "MiB of room") {
		t.Fatalf("Open on a full disk: %v", err)
	}
	if err := os.Remove(filled); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, o)
	if body, err := d.Body(t.Context(), 1); err != nil || len(body) != 3<<20 {
		t.Errorf("what was acknowledged: %d bytes, %v", len(body), err)
	}
}
