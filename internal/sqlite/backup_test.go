package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// A backup holds everything that was acknowledged before it began, while events go on coming in.
func TestBackupWhileServing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openAt(t, filepath.Join(dir, "j.db"), Options{Reserve: -1})
	add := func(n int) {
		e := &proxy.Event{Source: "main", ID: fmt.Sprintf("evt_1b%d", n), Type: "invoice.paid", Received: time.Now(), Body: make([]byte, 4000)}
		e.Body[0] = byte(n)
		entry := proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{{Delivery: proxy.Delivery{Backend: "b", State: proxy.Pending, Turn: 1, Due: time.Now()}}}}
		if _, err := d.Append(context.Background(), entry); err != nil {
			t.Error(err)
		}
	}
	const before = 500
	for n := range before {
		add(n)
	}
	stop := make(chan struct{})
	var more sync.WaitGroup
	more.Go(func() {
		for n := before; ; n++ {
			select {
			case <-stop:
				return
			default:
				add(n)
			}
		}
	})
	file := filepath.Join(dir, "backup.db")
	err := d.Backup(t.Context(), file, nil)
	close(stop)
	more.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := os.Stat(file); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode: %v, %v; want 0600", s.Mode(), err)
	}
	if err := d.Backup(t.Context(), file, nil); err == nil {
		t.Error("a second backup to the same file: no error; want it refused")
	}
	copied := openAt(t, file, Options{Reserve: -1})
	for n := range before {
		k, err := copied.Find(t.Context(), proxy.Key{Source: "main", ID: fmt.Sprintf("evt_1b%d", n)})
		if err != nil {
			t.Fatalf("event %d is not in the backup: %v", n, err)
		}
		if body, err := copied.Body(t.Context(), k.Event.Seq); err != nil || len(body) != 4000 || body[0] != byte(n) {
			t.Fatalf("event %d in the backup: body of %d bytes, %v", n, len(body), err)
		}
	}
	if _, err := copied.Append(t.Context(), proxy.Entry{Event: &proxy.Event{Source: "main", ID: "evt_1new", Type: "x"}, State: proxy.Ignored}); err != nil {
		t.Errorf("the backup takes no new events: %v", err)
	}
}

// TestBackupLeaves: a copy that is being made ends with the connection too.
func TestBackupLeaves(t *testing.T) {
	d := openNew(t)
	for n := range int64(64) {
		e := entryOf(n, proxy.Pending)
		e.Event.Body = make([]byte, 1<<20)
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Backup(t.Context(), filepath.Join(t.TempDir(), "copy.db"), nil) }()
	poll(t, "it copies", func() bool { d.file.mu.Lock(); defer d.file.mu.Unlock(); return len(d.file.cancels) > 0 })
	d.hurt <- errors.New("disk on fire")
	poll(t, "the outage is seen", func() bool { return d.barrier(t.Context()) != nil || len(ended) > 0 })
	var out *journal.Outage
	if err := <-ended; err != nil && !errors.As(err, &out) {
		t.Errorf("the backup ended with %v", err)
	}
	poll(t, "it is back", func() bool { return d.barrier(t.Context()) == nil })
}

// TestBackupOnOwnDisk: a copy for which the journal's disk has no room beside the reserve is refused, and makes the journal
// refuse and drop nothing.
func TestBackupOnOwnDisk(t *testing.T) {
	dir := mount(t, "-t", "tmpfs", "-o", "size=160m", "tmpfs")
	d := openAt(t, filepath.Join(dir, "j.db"), Options{Reserve: 64 << 20, Log: zap.NewNop()})
	for n := range int64(50) {
		e := entryOf(n, proxy.Delivered)
		e.Event.Body = make([]byte, 1<<20)
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if n%8 == 0 {
			if err := d.emptyLog(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	copied := filepath.Join(dir, "copy.db")
	if err := d.Backup(t.Context(), copied, nil); !errors.Is(err, errOwnDisk) {
		t.Errorf("Backup: %v", err)
	}
	d.checkSpace(t.Context())
	if err := d.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
	if _, _, err := d.Event(t.Context(), 1); err != nil {
		t.Errorf("the oldest event: %v", err)
	}
	if _, err := os.Stat(copied); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy was left: %v", err)
	}
	if err := d.Backup(t.Context(), filepath.Join(t.TempDir(), "copy.db"), nil); err != nil {
		t.Errorf("Backup to another disk: %v", err)
	}
}
