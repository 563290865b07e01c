package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
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

// earlyStep is how many Delivered events are dropped at a time to make room, at most, and dropWrites what dropping one
// writes: it may change a page in each of eight trees.
const (
	earlyStep  = 512
	dropWrites = 8 * pageSize
)

// space watches the disk: below the reserve no new events are taken.
type space struct {
	dir, ballast string
	reserve      int64
	log          *zap.Logger
	free         func(dir string) (int64, error)

	giving sync.Mutex // of the ballast
	full   atomic.Bool
	spent  atomic.Bool // the ballast was given up: its room is not for new events
	since  atomic.Pointer[time.Time]
}

func (s *space) init(path string, o Options) {
	s.dir, s.ballast, s.reserve, s.log, s.free = filepath.Dir(path), path+".ballast", o.Reserve, o.Log, o.free
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
	s.giving.Lock() // who comes second finds the room that the first has made
	defer s.giving.Unlock()
	err := os.Remove(s.ballast)
	s.set(true, 0)
	if err == nil {
		s.spent.Store(true)
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

// makeBallast makes it, when there is plenty of room for it.
func (s *space) makeBallast() {
	if free, err := s.free(s.dir); s.reserve <= 0 || err != nil || free < s.reserve+2*ballastSize {
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
		return
	}
	s.spent.Store(false)
}

// checkSpace compares what is free, on the disk and within the file, with the reserve. When that is too little it drops
// the oldest Delivered events until there is enough.
func (d *DB) checkSpace(ctx context.Context) {
	s := &d.space
	if s.reserve <= 0 {
		d.checkRoom(ctx)
		return
	}
	free, err := d.room(ctx, s.again())
	if err != nil {
		s.log.Warn("look at the disk's free space", zap.Error(err))
		return
	}
	if free < s.reserve || s.full.Load() || s.tight(0) {
		if err := d.emptyLog(ctx); err != nil {
			s.log.Warn("the write-ahead log cannot be emptied yet", zap.Int64("bytes", d.logSize()), zap.Error(err))
		}
		if free, err = d.room(ctx, s.again()); err != nil {
			return
		}
	}
	enough := s.reserve
	if s.full.Load() || s.spent.Load() {
		enough = s.again()
	}
	s.set(free < enough || s.tight(0), free)
	if !s.full.Load() {
		s.makeBallast()
		return
	}
	d.makeRoom(ctx, free)
}

// makeRoom drops Delivered events until there is enough. What is dropped goes through the write-ahead log and makes room
// within the file only, while the log takes it of the disk: so the log is emptied after each step, and where it cannot be
// the rest stays.
func (d *DB) makeRoom(ctx context.Context, free int64) {
	s := &d.space
	dropped := 0
	var err error
	for n := 1; free < s.again() && n > 0 && err == nil; {
		if n, err = d.dropEarly(ctx, time.Now(), s.step(d.logSize())); err == nil && n > 0 {
			err = d.emptyLog(ctx)
		}
		dropped += n
		if err == nil {
			free, err = d.room(ctx, s.again())
		}
	}
	if dropped > 0 || err != nil {
		s.log.Warn("dropped Delivered events early", zap.Int("events", dropped), zap.Error(err))
	}
	s.set(free < s.again() || s.tight(0), free)
}

// again is how much makes a full journal take events again: more than the reserve, so that it does not change its mind with
// every event.
func (s *space) again() int64 {
	if s.spent.Load() {
		return s.reserve + s.reserve/8 + ballastSize
	}
	return s.reserve + s.reserve/8
}

// floor is what must be free on the disk itself, for the log and for what copying it adds to the file.
func (s *space) floor() int64 { return min(max(s.reserve, 0)/2, ballastSize) }

// tight reports whether the disk has too little room for what the log, of that size, may yet add to the file.
func (s *space) tight(log int64) bool {
	free, err := s.free(s.dir)
	return err == nil && free < log+s.floor()
}

// short reports whether less than the reserve would be free on the disk after size more was written.
func (s *space) short(size int64) bool {
	free, err := s.free(s.dir)
	return s.reserve > 0 && err == nil && free-size < s.again()
}

// step is how many events to drop at a time: what that writes must fit on the disk beside the log.
func (s *space) step(log int64) int {
	free, err := s.free(s.dir)
	if err != nil || free < log {
		return 0
	}
	return int(min((free-log)/dropWrites, earlyStep))
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

// room is what may still be written: the disk's free bytes, and the file's own free pages where those are not enough.
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

// dropEarly deletes up to most of the oldest Delivered events, whatever their retention.
func (d *DB) dropEarly(ctx context.Context, now time.Time, most int) (int, error) {
	if most <= 0 {
		return 0, nil
	}
	d.prune.mu.Lock()
	defer d.prune.mu.Unlock()
	l := &d.prune.early
	at := l.at
	n, err := d.prune.class(ctx, now, journal.Retention{Delivered: time.Nanosecond}, 0, l, most)
	if l.at == at {
		*l = lap{} // at the end: begin again
	}
	if err != nil {
		return n, fmt.Errorf("drop Delivered events: %w", err)
	}
	return n, nil
}
