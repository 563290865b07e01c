package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
)

const (
	steady   = 200 * time.Millisecond // how long files must stay as they are before they are read
	lookOver = 30 * time.Second       // files are looked at this often anyway: network filesystems tell nobody
)

// watcher tells when one of some files changed. It watches their folders: Kubernetes swaps a symbolic link beside the
// file, editors put a new file in the old one's place.
//
// The journal may live in such a folder and be written a thousand times a second. So an event only says that a look is
// due, looks are steady apart, and what counts is what stat says of the files.
type watcher struct {
	notify *fsnotify.Watcher // nil where the system gives us none
	log    *zap.Logger

	mu    sync.Mutex
	files []string
	seen  string // what stat said of the files when they were last read
}

func newWatcher(log *zap.Logger) *watcher {
	w := &watcher{log: log}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("folders cannot be watched: changes of files are seen every 30s", zap.Error(err))
		return w
	}
	w.notify = notify
	return w
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// next returns when a file is not as next or expect last saw it, or an error when ctx ends.
func (w *watcher) next(ctx context.Context) error {
	tick := time.NewTicker(lookOver)
	defer tick.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if w.notify != nil {
		events, errs = w.notify.Events, w.notify.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-events:
		case <-errs: // such as an overflow of the queue: a look tells all the same
		case <-tick.C:
		}
		if changed, err := w.look(ctx); changed || err != nil {
			return err
		}
	}
}

// expect is told which files there are, and takes them as they are now for seen.
func (w *watcher) expect(files []string) {
	w.mu.Lock()
	w.files, w.seen = files, fingerprint(files)
	w.mu.Unlock()
	if w.notify == nil {
		return
	}
	for _, f := range files {
		folders := []string{filepath.Dir(f)}
		if target, err := filepath.EvalSymlinks(f); err == nil {
			folders = append(folders, filepath.Dir(target))
		}
		for _, folder := range folders {
			if err := w.notify.Add(folder); err != nil {
				w.log.Warn("a folder cannot be watched: changes in it are seen every 30s", zap.String("folder", folder), zap.Error(err))
			}
		}
	}
}

// look waits until the files stay as they are for a moment, and reports whether they have changed.
func (w *watcher) look(ctx context.Context) (bool, error) {
	for before := ""; ; {
		w.mu.Lock()
		now := fingerprint(w.files)
		changed := now != w.seen
		if changed && now == before {
			w.seen = now
		}
		w.mu.Unlock()
		if now == before {
			return changed, nil
		}
		before = now
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(steady):
		}
	}
}

func fingerprint(files []string) string {
	var b strings.Builder
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil {
			var inode uint64 // a file of the same size, put in place with the old time, has another
			if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
				inode = sys.Ino
			}
			fmt.Fprintf(&b, "%s %d %d %d\n", f, fi.Size(), fi.ModTime().UnixNano(), inode)
		} else {
			fmt.Fprintf(&b, "%s -\n", f)
		}
	}
	return b.String()
}
