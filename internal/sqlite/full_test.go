package sqlite

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// fillDisk writes a file until the disk of dir has no room for another byte.
func fillDisk(t *testing.T, dir string) (name string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filled"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for chunk := make([]byte, size); err == nil; {
			_, err = f.Write(chunk)
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return f.Name()
}

// TestOpensOnFullDisk: with the ballast to use up, a journal opens on a full disk, and again after an outage, so that
// what waits there can be delivered.
func TestOpensOnFullDisk(t *testing.T) {
	for name, disk := range map[string]func(t *testing.T) string{
		"tmpfs": func(t *testing.T) string { return mount(t, "-t", "tmpfs", "-o", "size=112m", "tmpfs") },
		"ext4":  func(t *testing.T) string { return ext4(t, 144) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := disk(t)
			path := filepath.Join(dir, "j.db")
			var blind atomic.Bool // while the disk fills the log is not copied
			o := Options{Reserve: 8 << 20, Log: zap.NewNop(), free: func(dir string) (int64, error) {
				if blind.Load() {
					return 1 << 40, nil
				}
				return freeBytes(dir)
			}}
			d := openAt(t, path, o)
			ballast := func() bool { _, err := os.Stat(d.space.ballast); return err == nil }
			poll(t, "there is ballast", ballast)
			e := entryOf(1, proxy.Pending)
			e.Event.Body = make([]byte, 2<<20) // in the log it is; the file has yet to grow by it
			blind.Store(true)
			if _, err := d.Append(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			d.wal.written.Store(0)
			filled := fillDisk(t, dir)
			blind.Store(false)
			d.hurt <- errors.New("disk on fire")
			poll(t, "the outage is seen", func() bool {
				var out *journal.Outage
				return errors.As(d.barrier(t.Context()), &out)
			})
			poll(t, "it is back", func() bool { return d.barrier(t.Context()) == nil })
			if ballast() {
				t.Error("it came back without the ballast: the disk was not full")
			}
			if err := os.Remove(filled); err != nil {
				t.Fatal(err)
			}
			poll(t, "there is ballast again", ballast)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			fillDisk(t, dir)
			d = openAt(t, path, o)
			if ballast() {
				t.Error("it opened without the ballast: the disk was not full")
			}
			now := time.Now().Add(time.Second)
			ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 1, For: time.Minute})
			if err != nil || len(ls) != 1 {
				t.Fatalf("leased %d, %v", len(ls), err)
			}
			a := proxy.Attempt{N: 1, Started: now, Status: 200, Outcome: proxy.OutcomeDelivered}
			if err := d.Settle(t.Context(), proxy.SettleDelivered(ls[0], a)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFullWithoutReserve: where no reserve is kept, the journal takes events again when there is room again.
func TestFullWithoutReserve(t *testing.T) {
	var free atomic.Int64
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{Reserve: -1, free: func(string) (int64, error) { return free.Load(), nil }})
	d.space.exhausted()
	d.checkSpace(t.Context())
	if _, err := d.Append(t.Context(), entryOf(1, proxy.Pending)); !errors.Is(err, proxy.ErrFull) {
		t.Errorf("Append without room: %v", err)
	}
	free.Store(1 << 30)
	poll(t, "it takes events again", func() bool {
		_, err := d.Append(t.Context(), entryOf(1, proxy.Pending))
		return err == nil
	})
}

// TestRecordWhileFull: what Record has taken is written, whatever becomes of the disk; what it cannot keep it refuses.
func TestRecordWhileFull(t *testing.T) {
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{free: func(string) (int64, error) { return 0, nil }})
	seq, err := d.Append(t.Context(), entryOf(1, proxy.Pending))
	if err != nil {
		t.Fatal(err)
	}
	release := stall(t, d)
	if err := d.Record(entryOf(2, proxy.Delivered)); err != nil {
		t.Fatal(err)
	}
	d.space.exhausted()
	if err := d.Record(entryOf(3, proxy.Delivered)); !errors.Is(err, proxy.ErrFull) {
		t.Errorf("Record of an event: %v, want ErrFull", err)
	}
	answered := time.Now().UTC().Truncate(time.Millisecond)
	if err := d.Record(proxy.Entry{Event: &proxy.Event{Seq: seq}, Answered: answered}); err != nil {
		t.Errorf("Record of an answer: %v", err)
	}
	release()
	if err := d.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(1)}); err != nil || !k.Answered.Equal(answered) {
		t.Errorf("the answer was not written: %v, %v", k.Answered, err)
	}
	if k, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(2)}); err != nil || k.Event.Seq == 0 {
		t.Errorf("what was taken before was not written: %+v, %v", k, err)
	}
	if n := d.HistoryDropped(); n != 0 {
		t.Errorf("%d entries dropped", n)
	}
}
