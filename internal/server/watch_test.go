package server

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
)

// changedWithin reports whether w tells of a change.
func changedWithin(t *testing.T, w *watcher, limit time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return w.next(ctx) == nil
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatcher(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   bool
	}{
		"written in place": {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "routes.yaml"), "new, longer") }, true},
		"another file put in its place": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "tmp"), "new")
			if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "routes.yaml")); err != nil {
				t.Fatal(err)
			}
		}, true},
		"removed": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "routes.yaml")); err != nil {
				t.Fatal(err)
			}
		}, true},
		"Kubernetes swaps the link beside it": {func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "v2"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "v2", "secret"), "new")
			if err := os.Symlink("v2", filepath.Join(dir, "..tmp")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}, true},
		"a neighbour, such as the journal, is written": {func(t *testing.T, dir string) {
			for range 2000 {
				write(t, filepath.Join(dir, "breakwater.db-wal"), "frames")
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			files := []string{filepath.Join(dir, "routes.yaml"), filepath.Join(dir, "secret")}
			write(t, files[0], "old")
			if err := os.Mkdir(filepath.Join(dir, "v1"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "v1", "secret"), "old")
			for link, target := range map[string]string{"..data": "v1", "secret": "..data/secret"} {
				if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
					t.Fatal(err)
				}
			}
			w := newWatcher(zap.NewNop())
			defer w.close()
			w.expect(files)

			c.change(t, dir)
			limit := 10 * time.Second
			if !c.want {
				limit = 4 * steady
			}
			if got := changedWithin(t, w, limit); got != c.want {
				t.Errorf("told of a change: %v, want %v", got, c.want)
			}
		})
	}
}

// A change that comes while the files are read may or may not have been read: it is told of.
func TestAChangeWhileTheFilesAreRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "routes.yaml"), filepath.Join(dir, "key.pem")}
	write(t, files[0], "old")
	w := newWatcher(zap.NewNop())
	defer w.close()
	w.expect(files[:1])
	w.reading()
	write(t, files[0], "new, longer")
	write(t, files[1], "a file that the new one names")
	w.expect(files)
	if !changedWithin(t, w, 10*time.Second) {
		t.Error("it was taken for read")
	}
	w.reading()
	w.expect(files)
	if changedWithin(t, w, 4*steady) {
		t.Error("read again, nothing has changed")
	}
}
