package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// errMoved means that what is written goes into a file that nobody will find: the next start opens another one.
var errMoved = errors.New("nothing more is acknowledged: save what the gateway still has open with `breakwater backup`, before it is " +
	"stopped, or put the file back in its place")

// origin knows which files are open: those that were at the journal's path, and at its log's, when it was opened.
type origin struct {
	mu     sync.Mutex
	files  []opened
	looked time.Time
}

type opened struct {
	path string
	os.FileInfo
}

func (p *origin) remember(path string) error {
	var files []opened
	for _, path := range []string{path, path + "-wal"} {
		is, err := os.Stat(path)
		if err != nil {
			return err
		}
		files = append(files, opened{path, is})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files = files
	return nil
}

// look compares the files that are open with what is at their paths. Its error is an errMoved.
func (p *origin) look() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looked = time.Now()
	for _, was := range p.files {
		is, err := os.Stat(was.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s was deleted or moved away while it was open: %w", was.path, errMoved)
		case err != nil:
			return fmt.Errorf("%w: %w", err, errMoved)
		case !os.SameFile(was.FileInfo, is):
			return fmt.Errorf("%s was replaced by another file while it was open: %w", was.path, errMoved)
		}
	}
	return nil
}

// lookAgain looks when it did not within a second: it is asked before each acknowledgement.
func (p *origin) lookAgain() error {
	p.mu.Lock()
	fresh := time.Since(p.looked) < time.Second
	p.mu.Unlock()
	if fresh {
		return nil
	}
	return p.look()
}

// awaitFile keeps the connections, and with them what is in the file, until it is back, which returns true. It returns
// false when the file has to be opened anew: when all of a log that is gone is in the file, and when the journal is closed.
func (d *DB) awaitFile(c *connection) bool {
	for {
		if d.saveLog(c) {
			return false
		}
		select {
		case <-d.stop:
			return false
		case <-time.After(time.Second):
		}
		if d.origin.look() == nil {
			d.recovered()
			return true
		}
	}
}

// saveLog copies a log that was deleted into the file, where that is still in its place. It reports whether it did.
func (d *DB) saveLog(c *connection) bool {
	d.origin.mu.Lock()
	file := d.origin.files[0]
	d.origin.mu.Unlock()
	is, err := os.Stat(file.path)
	if err != nil || !os.SameFile(file.FileInfo, is) {
		return false
	}
	if _, err := os.Lstat(file.path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	d.file.gap(0, func() { err = truncate(context.Background(), c.conn) })
	if err != nil {
		d.log.Error("copy the log that was deleted into the file", zap.Error(err))
	}
	return err == nil
}
