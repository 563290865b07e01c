package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// A segment is a range of event numbers. Once it is full, no event of it ever gets another object, customer, account or
// time of receipt, so its row is written once and stays until its last event is pruned.
const (
	segmentSize  = 4096 // numbers, a power of two; tests have smaller ones
	segmentRest  = 500 * time.Millisecond
	segmentPause = 20 * time.Millisecond // when there is more to do: others come first
	segmentDrop  = 64                    // segments that one look for empty ones passes
)

// Sizes of a segment's filter: with 12 bits a reference and 8 probes, one segment in three hundred is searched in vain.
const (
	refBits   = 12
	refProbes = 8
)

// hashRef is FNV-1a, spread. It is the same in every process: it is in the file.
func hashRef(ref string) uint64 {
	n := uint64(0xcbf29ce484222325)
	for i := range len(ref) {
		n = (n ^ uint64(ref[i])) * 0x100000001b3
	}
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

func newRefs(refs map[uint64]bool) []byte {
	words := make([]uint64, len(refs)*refBits/64+1)
	for h := range refs {
		for i := range uint64(refProbes) {
			n := refBit(h, i, len(words))
			words[n/64] |= 1 << (n % 64)
		}
	}
	b := make([]byte, 0, len(words)*8)
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// mayHold reports whether a filter may hold all of refs.
func mayHold(filter []byte, refs []uint64) bool {
	if len(filter) < 8 {
		return true
	}
	for _, h := range refs {
		for i := range uint64(refProbes) {
			n := refBit(h, i, len(filter)/8)
			if filter[n/8]&(1<<(n%8)) == 0 {
				return false
			}
		}
	}
	return true
}

func refBit(h, i uint64, words int) uint64 { return (h + i*(h>>32|1)) % uint64(words*64) }

// describeSegments describes segments as they fill, and forgets those whose events are gone, until the journal is closed.
func (d *DB) describeSegments() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.done.Go(func() { <-d.stop; cancel() })
	for dropped := int64(0); ; {
		pause := segmentPause
		if more, err := d.describe(ctx); err != nil || !more { // a segment that is not described yet is searched
			pause = segmentRest
			dropped, _ = d.dropSegments(ctx, dropped)
			_ = d.learnCalm(ctx)
		}
		select {
		case <-d.stop:
			return
		case <-time.After(pause):
		}
	}
}

// segment is a row of segments.
type segment struct {
	first, last, oldest, newest int64
	filter                      []byte
}

// describe writes the row of the oldest full segment that has none, and reports whether there was one.
func (d *DB) describe(ctx context.Context) (more bool, err error) {
	var s segment
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		ns, err := numbers(ctx, c, `SELECT coalesce(max(seq), 0) FROM events UNION ALL
			SELECT coalesce((SELECT last FROM segments ORDER BY first DESC LIMIT 1), 0)`)
		if err != nil {
			return err
		}
		next, err := numbers(ctx, c, `SELECT seq FROM events WHERE seq > ? ORDER BY seq LIMIT 1`, ns[1])
		if err != nil || len(next) == 0 {
			return err
		}
		s.first = next[0] &^ (d.opts.segment - 1)
		if s.last = s.first + d.opts.segment - 1; s.last > ns[0] {
			return nil
		}
		more = true
		events, ok := d.newest.events(&s)
		if !ok {
			if events, err = s.stored(ctx, c); err != nil {
				return err
			}
		}
		s.sum(events)
		return nil
	})
	if err != nil || !more {
		return false, err
	}
	return true, d.do(ctx, &op{size: int64(len(s.filter)), run: func(t *tx) error {
		_, err := t.exec(`INSERT OR REPLACE INTO segments (first, last, oldest, newest, filter) VALUES (?, ?, ?, ?, ?)`, s.first,
			s.last, s.oldest, s.newest, s.filter)
		return err
	}})
}

// named is what a segment's row needs to know of an event.
type named struct {
	seq, received int64
	refs          [4]uint64 // hashes; 0 where there is none
}

// newest remembers the newest events, so that they need not be read again when their segment is full, which costs ten
// times as much.
type newest struct {
	mu sync.Mutex
	of []named // by number, of 8 segments
}

// add is told of each event that is inserted. When that is undone its number goes to another, or to none.
func (f *newest) add(seq int64, e *proxy.Event) {
	n := named{seq: seq, received: millis(e.Received)}
	for i, ref := range []string{e.Object, e.Customer, e.Account} {
		if ref != "" {
			n.refs[i] = hashRef(ref)
		}
	}
	if !e.Unique() {
		n.refs[3] = hashRef(e.ID)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of[seq%int64(len(f.of))] = n
}

// events returns all of a segment, or false where some came before this process.
func (f *newest) events(s *segment) ([]named, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := s.first % int64(len(f.of))
	out := slices.Clone(f.of[at : at+s.last-s.first+1])
	for i := range out {
		if seq := s.first + int64(i); seq > 0 && out[i].seq != seq {
			return nil, false
		}
	}
	return out[max(0, 1-s.first):], true
}

// stored reads a segment's events.
func (s *segment) stored(ctx context.Context, c *sql.Conn) (out []named, err error) {
	out = make([]named, 0, s.last-s.first+1)
	err = onDriver(ctx, c, func(c *conn) error {
		return c.query(`SELECT received, object, customer, account, CASE WHEN dedupe_key IS NULL THEN id END FROM events
			WHERE seq BETWEEN ? AND ?`, func(r row) bool {
			n := named{received: r.int(0)}
			for i := range n.refs {
				if ref := r.text(i + 1); ref != "" {
					n.refs[i] = hashRef(ref)
				}
			}
			out = append(out, n)
			return true
		}, s.first, s.last)
	})
	return out, err
}

// sum makes the row say what its events are.
func (s *segment) sum(events []named) {
	refs := make(map[uint64]bool, len(events))
	s.oldest = math.MaxInt64
	for i := range events {
		s.oldest, s.newest = min(s.oldest, events[i].received), max(s.newest, events[i].received)
		for _, h := range events[i].refs {
			if h != 0 {
				refs[h] = true
			}
		}
	}
	s.filter = newRefs(refs)
}

// onDriver runs f on the driver's connection below c, which costs a row much less.
func onDriver(ctx context.Context, c *sql.Conn, f func(c *conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.Raw(func(raw any) error {
		w := &conn{raw: raw.(driver.Conn), stmts: map[string]*stmt{}}
		defer w.close()
		return f(w)
	})
}

// dropSegments deletes the rows of some segments beyond after whose events are gone, and returns where to go on.
func (d *DB) dropSegments(ctx context.Context, after int64) (last int64, err error) {
	var gone []int64
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return each(ctx, c, func(r row) error {
			if last = r.int(1); r.int(2) == 0 {
				gone = append(gone, r.int(0))
			}
			return nil
		}, `SELECT first, last, EXISTS (SELECT 1 FROM events WHERE seq BETWEEN first AND last) FROM segments WHERE first > ?
			ORDER BY first LIMIT ?`, after, segmentDrop)
	})
	if err == nil && len(gone) > 0 {
		err = d.do(ctx, &op{size: 512, run: func(t *tx) error {
			for _, first := range gone {
				if _, err := t.exec(`DELETE FROM segments WHERE first = ?`, first); err != nil {
					return fmt.Errorf("drop segment: %w", err)
				}
			}
			return nil
		}})
	}
	return last, err
}
