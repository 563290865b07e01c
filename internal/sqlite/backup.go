package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Backup writes a copy of the journal, as it is at this moment, to a file that must not exist yet, and returns once the
// copy is on stable storage. Events go on being taken meanwhile; the write-ahead log cannot be emptied until the copy is
// done, so it grows by what is written in that time: when the disk has no more room for that, the copy ends. progress, which may be nil, is told of bytes about once a second.
// It copies the file that is open, also when that is no longer at its path.
func (d *DB) Backup(ctx context.Context, path string, progress func(done, total int64)) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backup to %s: %w", path, err)
		}
	}()
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	// Made here, so that it is private from the start, and so that nothing is ever overwritten.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return errors.New("there is a file of that name; choose another, it is not overwritten")
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	d.copying.Add(1)
	err = d.file.use(ctx, func(ctx context.Context) error { return d.copyTo(ctx, path, progress) })
	d.copying.Add(-1)
	if errors.Is(err, errAside) {
		err = errors.New("the journal's disk has no room left for the write-ahead log that grows meanwhile")
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncFiles(path, filepath.Dir(path)) // VACUUM INTO does not sync what it writes
}

// errOwnDisk: a copy beside the journal must not be what makes that refuse events, and drop some to make room.
var errOwnDisk = errors.New("the journal's own disk has no room for a copy: journal_limits.reserve must stay free; write it to another disk")

// sameDisk reports whether two files are on the same filesystem.
func sameDisk(a, b string) (bool, error) {
	var of [2]unix.Stat_t
	for i, path := range []string{a, b} {
		if err := unix.Stat(filepath.Dir(path), &of[i]); err != nil {
			return false, err
		}
	}
	return of[0].Dev == of[1].Dev, nil
}

func (d *DB) copyTo(ctx context.Context, path string, progress func(done, total int64)) error {
	pool := d.file.copies.Load()
	var pages int64
	if err := pool.QueryRowContext(ctx, "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count").Scan(&pages); err != nil {
		return err
	}
	own, err := sameDisk(path, d.path)
	if err != nil {
		return err
	}
	if own && d.space.short(pages*pageSize) {
		return errOwnDisk
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- vacuumInto(ctx, pool, path) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return err
		case <-tick.C:
			if own && d.space.short(0) {
				cancel(errOwnDisk)
			}
			if s, err := os.Stat(path); err == nil && progress != nil {
				progress(min(s.Size(), pages*pageSize), pages*pageSize)
			}
		}
	}
}

func vacuumInto(ctx context.Context, pool *sql.DB, path string) error {
	_, err := pool.ExecContext(ctx, "VACUUM INTO ?", path)
	return err
}
