package server

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
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
	seen  map[string]string // what stat said of each before it was last read
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

// reading is told that the files are about to be read: what changes from now on is a change.
func (w *watcher) reading() {
	w.mu.Lock()
	w.seen = fingerprints(w.files)
	w.mu.Unlock()
}

// next returns when a file is not as next, reading or expect last saw it, or an error when ctx ends.
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

// expect is told which files there are, and takes those that are new to it as they are now for seen.
func (w *watcher) expect(files []string) {
	w.mu.Lock()
	seen := fingerprints(files)
	for f := range seen {
		if before, ok := w.seen[f]; ok {
			seen[f] = before
		}
	}
	w.files, w.seen = files, seen
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
	for before := map[string]string(nil); ; {
		w.mu.Lock()
		now := fingerprints(w.files)
		changed, still := !maps.Equal(now, w.seen), maps.Equal(now, before)
		if changed && still {
			w.seen = now
		}
		w.mu.Unlock()
		if still {
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

// fingerprints is what stat says of each file.
func fingerprints(files []string) map[string]string {
	all := make(map[string]string, len(files))
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			all[f] = "-"
			continue
		}
		var inode uint64 // a file of the same size, put in place with the old time, has another
		if sys, ok := fi.Sys().(*syscall.Stat_t); ok {
			inode = sys.Ino
		}
		all[f] = fmt.Sprintf("%d %d %d", fi.Size(), fi.ModTime().UnixNano(), inode)
	}
	return all
}
