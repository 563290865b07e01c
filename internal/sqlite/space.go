package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	lib "modernc.org/sqlite/lib"

	"github.com/breakwater-gateway/breakwater/internal/journal"
)

// ballastSize is how much is set aside in a file beside the journal, which is deleted when the disk is truly full. A full
// disk must heal by draining, and even settling and deleting need some room: the write-ahead log may grow, and the file
// may grow by as much when the log is copied into it. So this is more than the log usually is: see walRestart.
const ballastSize = 32 << 20

// earlyStep is how many Delivered events are dropped at a time to make room.
const earlyStep = 512

// space watches the disk: below the reserve no new events are taken.
type space struct {
	dir, ballast string
	reserve      int64
	log          *zap.Logger
	free         func(dir string) (int64, error)

	full  atomic.Bool
	since atomic.Pointer[time.Time]
}

func (s *space) init(path string, o Options) {
	*s = space{dir: filepath.Dir(path), ballast: path + ".ballast", reserve: o.Reserve, log: o.Log, free: o.free}
}

// set notes whether the journal is full, and logs when that changes.
func (s *space) set(full bool, free int64) {
	if s.full.Swap(full) == full {
		return
	}
	if !full {
		s.log.Info("the journal takes new events again", zap.Int64("free_bytes", free))
		return
	}
	now := time.Now()
	s.since.Store(&now)
	s.log.Error("journal full: new events are refused until there is room; deliver or delete, or give it more disk",
		zap.Int64("free_bytes", free), zap.Int64("reserve_bytes", s.reserve))
}

// exhausted is called when a write found no room at all. It gives up the ballast, and reports whether that made some.
func (s *space) exhausted() bool {
	s.set(true, 0)
	err := os.Remove(s.ballast)
	if err == nil {
		s.log.Warn("gave up the ballast to make room for settling")
	} else if !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("give up the ballast", zap.Error(err))
	}
	return err == nil
}

// blames reports whether a full disk was the cause of err. Of a file that it cannot map into memory for want of room
// SQLite says no more than that there was an I/O error.
func (s *space) blames(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || code(err) == lib.SQLITE_FULL {
		return true
	}
	if code(err) != lib.SQLITE_IOERR {
		return false
	}
	free, freeErr := s.free(s.dir)
	return freeErr == nil && free < mapped
}

// mapped is more than the index of the log, which SQLite maps into memory, usually takes.
const mapped = 1 << 20

// makeBallast makes the ballast, unless it is there or there is not plenty of room.
func (s *space) makeBallast(free int64) {
	if s.reserve <= 0 || free < s.reserve+2*ballastSize {
		return
	}
	f, err := os.OpenFile(s.ballast, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return
	}
	if err == nil {
		err = errors.Join(allocate(f, ballastSize), f.Close())
	}
	if err != nil {
		s.log.Warn("make the ballast", zap.Error(err), zap.NamedError("removed", os.Remove(s.ballast)))
	}
}

// checkSpace compares what is free, on the disk and within the file, with the reserve. When that is too little it drops
// the oldest Delivered events until there is enough.
func (d *DB) checkSpace(ctx context.Context) {
	s := &d.space
	if s.reserve <= 0 {
		d.checkRoom(ctx)
		return
	}
	free, err := d.room(ctx, s.reserve)
	if err != nil {
		s.log.Warn("look at the disk's free space", zap.Error(err))
		return
	}
	if free < s.reserve {
		if free, err = d.cutLog(ctx); err != nil {
			s.log.Warn("cut the write-ahead log", zap.Error(err))
		}
	}
	enough := s.reserve
	if s.full.Load() {
		enough += s.reserve / 8 // so that it does not change its mind with every event
	}
	s.set(free < enough, free)
	if !s.full.Load() {
		s.makeBallast(free)
		return
	}
	for dropped := 0; free < s.reserve+s.reserve/8; {
		n, err := d.dropEarly(ctx, time.Now())
		if dropped += n; err != nil || n == 0 {
			if dropped > 0 || err != nil {
				s.log.Warn("dropped Delivered events early", zap.Int("events", dropped), zap.Error(err))
			}
			return
		}
		if free, err = d.room(ctx, s.reserve); err != nil {
			return
		}
	}
	s.set(false, free)
}

// checkRoom is what checkSpace does where there is no reserve: after a write found no room, it looks whether there is
// enough again for a log of its usual size.
func (d *DB) checkRoom(ctx context.Context) {
	if !d.space.full.Load() {
		return
	}
	if free, err := d.room(ctx, walRestart); err == nil {
		d.space.set(free < walRestart, free)
	}
}

// cutLog gives what the write-ahead log takes back to the disk, and returns what is free then.
func (d *DB) cutLog(ctx context.Context) (int64, error) {
	d.wal.cut()
	for range 2 { // the log is cut after the first batch, before the second
		if err := d.barrier(ctx); err != nil {
			return 0, err
		}
	}
	return d.room(ctx, d.space.reserve)
}

// room is how much may still be written: what is free on the disk and, where that is not enough, the free pages within
// the file too.
func (d *DB) room(ctx context.Context, enough int64) (int64, error) {
	free, err := d.space.free(d.space.dir)
	if err != nil || free >= enough {
		return free, err
	}
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		var pages, size int64
		if err := c.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&pages); err != nil {
			return err
		}
		if err := c.QueryRowContext(ctx, "PRAGMA page_size").Scan(&size); err != nil {
			return err
		}
		free += pages * size
		return nil
	})
	return free, err
}

// dropEarly deletes some of the oldest Delivered events, whatever their retention.
func (d *DB) dropEarly(ctx context.Context, now time.Time) (int, error) {
	d.prune.mu.Lock()
	defer d.prune.mu.Unlock()
	l := &d.prune.early
	at := l.at
	n, err := d.prune.class(ctx, now, journal.Retention{Delivered: time.Nanosecond}, 0, l, earlyStep)
	if l.at == at {
		*l = lap{} // at the end: begin again
	}
	if err != nil {
		return n, fmt.Errorf("drop Delivered events: %w", err)
	}
	return n, nil
}
