package sqlite

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// next returns the next range of numbers to look at, newest first. It skips segments that cannot hold a match.
func (s *search) next(ctx context.Context) (*span, error) {
	size := s.db.opts.segment
	for {
		if s.calm != nil {
			s.before = s.calm.below(s.before)
		}
		newest, err := numbers(ctx, s.c, `SELECT seq FROM events WHERE seq < ? ORDER BY seq DESC LIMIT 1`, s.before)
		if err != nil {
			return nil, err
		}
		if s.done = len(newest) == 0; s.done {
			return nil, nil
		}
		hi := newest[0]
		at := &span{lo: max(1, hi&^(size/windows-1)), hi: hi}
		if s.calm != nil {
			calm, err := s.isCalm(ctx, hi&^(size-1))
			if err != nil {
				return nil, err
			}
			if calm {
				if s.before = max(1, hi&^(size-1)); s.late() {
					return s.nothing(), nil
				}
				continue
			}
		}
		if len(s.refs) == 0 && s.since == 0 && s.until == 0 {
			return at, nil
		}
		found, err := s.skip(ctx, at)
		if found || err != nil {
			return at, err
		}
		if s.late() {
			return s.nothing(), nil
		}
	}
}

func (s *search) late() bool { return !s.deadline.IsZero() && time.Now().After(s.deadline) }

// nothing is a span without numbers, for when the time is over: before says how far the search has come.
func (s *search) nothing() *span { return &span{lo: s.before, hi: s.before - 1} }

// skip goes past segments that cannot hold a match, from at.hi on down, and narrows at to the first that can. It returns
// false when the next range has to be looked for anew, below s.before.
func (s *search) skip(ctx context.Context, at *span) (found bool, err error) {
	q := `SELECT first, last, oldest, newest, x'' FROM segments WHERE first <= ? ORDER BY first DESC`
	if len(s.refs) > 0 {
		q = `SELECT first, last, oldest, newest, filter FROM segments WHERE first <= ? ORDER BY first DESC`
	}
	found = true // where no segment is described at stands as it is
	err = onDriver(ctx, s.c, func(c *conn) error {
		return c.query(q, func(r row) bool {
			first, last, oldest, newest := r.int(0), r.int(1), r.int(2), r.int(3)
			switch {
			case last < at.hi:
				at.lo = max(at.lo, last+1)
				return false
			case s.since != 0 && newest < s.since, s.until != 0 && oldest >= s.until, !mayHold(r.blob(4), s.refs):
				at.hi, s.before, found = first-1, first, false
				return !s.late()
			}
			at.lo, found = max(1, first), true
			return false
		}, at.hi)
	})
	return found, err
}

// learnCalm looks for calm segments ahead of the searches that will need them, a few milliseconds at a time.
func (d *DB) learnCalm(ctx context.Context) error {
	return d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		s, err := newSearch(ctx, d, c, journal.Filter{State: proxy.Pending}, time.Now().Add(listTime/2))
		if err == nil && s.calm != nil {
			_, err = s.run(ctx, 1)
		}
		return err
	})
}

// isCalm reports whether nothing is Pending in a full segment, and remembers that.
func (s *search) isCalm(ctx context.Context, first int64) (bool, error) {
	last := first + s.db.opts.segment - 1
	top, err := numbers(ctx, s.c, `SELECT coalesce(max(seq), 0) FROM events`)
	if err != nil || top[0] < last {
		return false, err
	}
	some, err := numbers(ctx, s.c, `SELECT event FROM deliveries NOT INDEXED WHERE event BETWEEN ? AND ? AND state = 1 LIMIT 1`, first, last)
	if err != nil || len(some) > 0 {
		return false, err
	}
	s.calm.learn(first, s.begun)
	return true, nil
}

// calm remembers full segments in which nothing is Pending. When a large backlog lies below a million events that were
// delivered since, each page of Pending events would otherwise look at that million first.
type calm struct {
	size     int64 // of a segment
	mu       sync.Mutex
	segments map[int64]bool // by first number
	changes  int64
}

// below returns where to go on below before, past segments that are calm.
func (m *calm) below(before int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	for before > 1 && m.segments[(before-1)&^(m.size-1)] {
		before = (before - 1) &^ (m.size - 1)
	}
	return max(before, 1)
}

// begin is to be called before the snapshot is taken from which learn is told.
func (m *calm) begin() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

// learn says that a segment is calm, unless something has changed since begin.
func (m *calm) learn(first, begin int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == begin {
		if m.segments == nil {
			m.segments = map[int64]bool{}
		}
		m.segments[first] = true
	}
}

// disturb says that an event that was there before is Pending again.
func (m *calm) disturb(seq int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	delete(m.segments, seq&^(m.size-1))
}
