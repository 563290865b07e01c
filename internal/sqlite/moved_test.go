package sqlite

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// TestMovedFile: a file that is no longer at its path takes nothing more, and what was acknowledged can be saved from it.
func TestMovedFile(t *testing.T) {
	for name, c := range map[string]struct {
		move func(path string) error
		says string
	}{
		"deleted":    {os.Remove, "j.db was deleted or moved away"},
		"moved away": {func(path string) error { return os.Rename(path, path+".old") }, "j.db was deleted or moved away"},
		"replaced": {func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("another"), 0o600), os.Rename(path+".new", path))
		}, "j.db was replaced"},
		"log replaced": {func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("another"), 0o600), os.Rename(path+".new", path+"-wal"))
		}, "j.db-wal was replaced"},
		"all deleted": {func(path string) error {
			return errors.Join(os.Remove(path), os.Remove(path+"-wal"), os.Remove(path+"-shm"))
		}, "j.db was deleted or moved away"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "j.db")
			d := openAt(t, path, Options{Log: zap.NewNop()})
			next := int64(0)
			add := func() error {
				_, err := d.Append(t.Context(), entryOf(next, proxy.Pending))
				if err == nil {
					next++
				}
				return err
			}
			for range 200 {
				if err := add(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.move(path); err != nil {
				t.Fatal(err)
			}
			moved, err := time.Now(), error(nil)
			for err == nil && time.Since(moved) < 5*time.Second {
				err = add()
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "breakwater backup") {
				t.Fatalf("Append after %v: %v", time.Since(moved), err)
			}
			if took := time.Since(moved); took > 2*time.Second {
				t.Errorf("acknowledged for %v more", took)
			}
			var out *journal.Outage
			poll(t, "not ready", func() bool { return errors.As(d.Ready(t.Context()), &out) })
			if err := add(); !errors.As(err, &out) {
				t.Errorf("Append: %v", err)
			}
			copied := filepath.Join(t.TempDir(), "copy.db")
			if err := d.Backup(t.Context(), copied, nil); err != nil {
				t.Fatal(err)
			}
			if s, err := os.Stat(path); err == nil && !strings.Contains(name, "replaced") {
				t.Errorf("the file was made again: %v", s.Size())
			}
			saved := openAt(t, copied, Options{})
			for n := range next {
				if _, err := saved.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(n)}); err != nil {
					t.Fatalf("event %d of %d was acknowledged: %v", n, next, err)
				}
			}
		})
	}
}

// TestMovedWhileQuiet: it is noticed when nothing comes, and is over when the file is back.
func TestMovedWhileQuiet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	d := openAt(t, path, Options{Log: zap.NewNop()})
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	poll(t, "not ready", func() bool { return d.Ready(t.Context()) != nil })
	if err := os.Rename(path+".old", path); err != nil {
		t.Fatal(err)
	}
	poll(t, "it takes events again", func() bool {
		_, err := d.Append(t.Context(), entryOf(1, proxy.Pending))
		return err == nil
	})
}

// TestDeletedLog: what was in a log that is gone is copied into the file, and the journal goes on with another log.
func TestDeletedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	d := openAt(t, path, Options{Log: zap.NewNop()})
	for n := range int64(200) {
		if _, err := d.Append(t.Context(), entryOf(n, proxy.Pending)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path + "-wal"); err != nil {
		t.Fatal(err)
	}
	poll(t, "there is a log again", func() bool { _, err := os.Stat(path + "-wal"); return !errors.Is(err, fs.ErrNotExist) })
	poll(t, "it takes events", func() bool {
		_, err := d.Append(t.Context(), entryOf(200, proxy.Pending))
		return err == nil
	})
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := d.Backup(t.Context(), copied, nil); err != nil {
		t.Fatal(err)
	}
	for _, file := range []*DB{d, openAt(t, copied, Options{})} {
		for n := range int64(201) {
			if _, err := file.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(n)}); err != nil {
				t.Fatalf("event %d in %s: %v", n, file.path, err)
			}
		}
	}
}
