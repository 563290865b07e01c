package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

const (
	windows     = 4      // steps through all events that a segment is
	batch       = 4096   // events that one step through an index takes, at most
	listPending = 10_000 // with more Pending than this, they are found by walking all events
)

// search looks for the events that a filter chooses, newest first, step by step. It narrows down where to look, by an
// index or by the segments, and then applies every condition.
type search struct {
	c        *sql.Conn
	db       *DB
	deadline time.Time // when to stop; zero: never

	where string // conditions on e and its deliveries
	args  []any
	text  *needle // what the body must contain

	list         []int64  // the only candidates, when narrowed
	narrowed     bool     //
	index        string   // a query for candidates between ? and ?, at most ?, newest first; empty: all events
	indexArgs    []any    // what it takes before these
	refs         []uint64 // hashes of what an event must name
	since, until int64
	calm         *calm // knows where nothing is Pending; nil: of no use here
	begun        int64 // see calm.begin

	before int64 // everything from here on was looked at
	done   bool  // and there is nothing below
	looked int64 // numbers and index entries that were looked at, at most
}

// span is where one step looks.
type span struct {
	lo, hi int64
	where  string
	args   []any
}

var (
	idShape   = regexp.MustCompile(`^([a-z][a-z0-9]*_[A-Za-z0-9_]+|sha256:[0-9a-f]{64})$`)
	globTypes = strings.NewReplacer(`[`, `[[]`, `?`, `[?]`)
)

func newSearch(ctx context.Context, d *DB, c *sql.Conn, f journal.Filter, deadline time.Time) (*search, error) {
	s := &search{c: c, db: d, deadline: deadline, before: f.Before, since: millis(f.Since), until: millis(f.Until)}
	s.begun = d.oldest.calm.begin() // BEGIN takes no snapshot yet, the first query does
	if s.before <= 0 {
		s.before = 1 << 62
	}
	s.conditions(&f)
	if err := s.choose(ctx, &f); err != nil {
		return nil, err
	}
	return s, s.chooseQuery(ctx, &f)
}

// conditions are all that a filter asks for but Query and Before.
func (s *search) conditions(f *journal.Filter) {
	for _, eq := range []struct{ column, v string }{
		{"id", f.ID}, {"source", f.Source}, {"account", f.Account}, {"object", f.Object}, {"customer", f.Customer},
	} {
		if eq.v != "" {
			s.and(`e.`+eq.column+` = ?`, eq.v)
		}
	}
	if f.Type != "" {
		s.and(`e.type GLOB ?`, globTypes.Replace(f.Type))
	}
	if s.since != 0 {
		s.and(`e.received >= ?`, s.since)
	}
	if s.until != 0 {
		s.and(`e.received < ?`, s.until)
	}
	const of = `SELECT 1 FROM deliveries d WHERE d.event = e.seq`
	switch state := stateCode(f.State, ""); {
	case f.Backend != "" && state != 0:
		s.and(`EXISTS (`+of+` AND d.backend = ? AND d.state = ?)`, f.Backend, state)
	case f.Backend != "":
		s.and(`EXISTS (`+of+` AND d.backend = ?)`, f.Backend)
	case f.State == proxy.Pending:
		s.and(`e.state = 0 AND EXISTS (` + of + ` AND d.state = 1) AND NOT EXISTS (` + of + ` AND d.state = 3)`)
	case f.State == proxy.Delivered:
		s.and(`e.state = 0 AND NOT EXISTS (` + of + ` AND d.state <> 2)`)
	case f.State == proxy.Failed:
		s.and(`(e.state = 3 OR EXISTS (` + of + ` AND d.state = 3))`)
	case f.State == proxy.Ignored:
		s.and(`e.state IN (4, 5)`)
	}
}

func (s *search) and(condition string, args ...any) {
	s.where += ` AND ` + condition
	s.args = append(s.args, args...)
}

// Candidates by state. Each index is in order of event numbers, but that of what is Pending: it is read whole.
const (
	failedIndex = `SELECT event AS seq FROM deliveries INDEXED BY deliveries_failed WHERE state = 3 AND event BETWEEN ?1 AND ?2
		UNION SELECT seq FROM events INDEXED BY events_kept WHERE state = 3 AND state <> 0 AND seq BETWEEN ?1 AND ?2
		ORDER BY seq DESC LIMIT ?3`
	ignoredIndex = `SELECT seq FROM events INDEXED BY events_kept WHERE state = 4 AND state <> 0 AND seq BETWEEN ?1 AND ?2
		UNION SELECT seq FROM events INDEXED BY events_kept WHERE state = 5 AND state <> 0 AND seq BETWEEN ?1 AND ?2
		ORDER BY seq DESC LIMIT ?3`
	pendingIndex = `SELECT DISTINCT event FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND event BETWEEN ?1 AND ?2
		ORDER BY event DESC LIMIT ?3`
	pendingOfIndex = `SELECT event FROM deliveries INDEXED BY deliveries_due WHERE backend = ?4 AND state = 1
		AND event BETWEEN ?1 AND ?2 ORDER BY event DESC LIMIT ?3`
)

// choose finds out where to look.
func (s *search) choose(ctx context.Context, f *journal.Filter) (err error) {
	for _, ref := range []string{f.Object, f.Customer, f.Account} {
		if ref != "" {
			s.refs = append(s.refs, hashRef(ref))
		}
	}
	if f.ID != "" {
		if (&proxy.Event{ID: f.ID}).Unique() {
			s.narrowed = true
			s.list, err = lookup(ctx, s.c, f.ID)
			return err
		}
		s.refs = append(s.refs, hashRef(f.ID))
	}
	switch f.State {
	case proxy.Failed:
		s.index = failedIndex
	case proxy.Ignored:
		s.index = ignoredIndex
	case proxy.Pending:
		return s.choosePending(ctx, f.Backend)
	}
	return nil
}

func (s *search) choosePending(ctx context.Context, backend string) error {
	n, err := numbers(ctx, s.c, `SELECT coalesce(sum(count), 0) FROM totals WHERE state = 1 AND (?1 = '' OR backend = ?1)`, backend)
	switch {
	case err != nil:
		return err
	case n[0] > listPending:
		s.calm = &s.db.oldest.calm
	case backend != "":
		s.index, s.indexArgs = pendingOfIndex, []any{backend}
	default:
		s.index = pendingIndex
	}
	return nil
}

// chooseQuery takes Query for an id where it looks like one and some event has it or names it, else for text.
func (s *search) chooseQuery(ctx context.Context, f *journal.Filter) error {
	if f.Query == "" {
		return nil
	}
	if idShape.MatchString(f.Query) {
		seqs, err := lookup(ctx, s.c, f.Query)
		if err != nil {
			return err
		}
		if len(seqs) > 0 {
			s.and(`e.id = ?`, f.Query)
			s.narrowed, s.list = true, seqs
			return nil
		}
		named := &search{c: s.c, db: s.db, before: 1 << 62, refs: []uint64{hashRef(f.Query)}}
		if !s.deadline.IsZero() {
			named.deadline = time.Now().Add(nameTime)
		}
		const names = `? IN (e.object, e.customer, e.account)`
		named.and(names, f.Query)
		seqs, err = named.run(ctx, 1)
		s.looked += named.looked
		if err != nil {
			return err
		}
		if len(seqs) > 0 || !named.done {
			s.and(names, f.Query)
			s.refs, s.before = append(s.refs, named.refs...), min(s.before, named.before+1)
			return nil
		}
	}
	s.text = newNeedle(f.Query)
	return nil
}

// run returns up to n events. It stops when its time is over, but takes one step at least.
func (s *search) run(ctx context.Context, n int) (out []int64, err error) {
	for first := true; len(out) < n && (first || !s.late()); first = false {
		at, err := s.step(ctx, min(batch, max(2*n, int(s.looked))))
		if err != nil || s.done {
			return out, err
		}
		found, err := s.matches(ctx, at, n-len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// count returns how many events there are.
func (s *search) count(ctx context.Context) (n int64, err error) {
	for {
		at, err := s.step(ctx, batch)
		if err != nil || s.done {
			return n, err
		}
		if s.text != nil {
			found, err := s.matches(ctx, at, 1<<30)
			if err != nil {
				return n, err
			}
			n += int64(len(found))
			continue
		}
		found, err := numbers(ctx, s.c, `SELECT count(*)`+at.from(s), at.all(s)...)
		if err != nil {
			return n, err
		}
		n += found[0]
		s.before = at.lo
	}
}

// from is the part of a query that chooses events. Without NOT INDEXED SQLite may prefer to read all events of a source.
func (at *span) from(s *search) string {
	return ` FROM events e NOT INDEXED WHERE ` + at.where + s.where
}

func (at *span) all(s *search) []any { return append(append([]any{}, at.args...), s.args...) }

// matches returns up to n events of a span that meet all conditions, and sets before to where it came.
func (s *search) matches(ctx context.Context, at *span, n int) (out []int64, err error) {
	if s.text != nil {
		return s.contains(ctx, at, n)
	}
	out, err = numbers(ctx, s.c, `SELECT e.seq`+at.from(s)+` ORDER BY e.seq DESC LIMIT ?`, append(at.all(s), n)...)
	if s.before = at.lo; len(out) == n {
		s.before = out[n-1]
	}
	return out, err
}

// contains is matches for those with the text in their bodies. It keeps an eye on the time, since bodies are large.
func (s *search) contains(ctx context.Context, at *span, n int) (out []int64, err error) {
	q := `SELECT e.seq, (SELECT body FROM bodies WHERE event = e.seq)` + at.from(s) + ` ORDER BY e.seq DESC`
	args := at.all(s)
	if s.where == "" && s.index == "" && !s.narrowed {
		q, args = `SELECT event, body FROM bodies WHERE event BETWEEN ? AND ? ORDER BY event DESC`, at.args
	}
	values := make([]driver.Value, len(args))
	for i, v := range args {
		values[i] = v
	}
	s.before = at.lo
	err = onDriver(ctx, s.c, func(c *conn) error {
		return c.query(q, func(r row) bool {
			if s.text.in(r.blob(1)) {
				out = append(out, r.int(0))
			}
			if len(out) == n || s.late() {
				s.before = r.int(0)
				return false
			}
			return true
		}, values...)
	})
	return out, err
}

// step returns the next span to look at, or sets done. From an index it takes at most n events.
func (s *search) step(ctx context.Context, n int) (*span, error) {
	if s.done = s.before <= 1; s.done {
		return nil, nil
	}
	if s.narrowed {
		return s.listed()
	}
	at := &span{lo: 1, hi: s.before - 1}
	if len(s.refs) > 0 || s.since != 0 || s.until != 0 || s.index == "" {
		var err error
		if at, err = s.next(ctx); err != nil || s.done {
			return at, err
		}
	}
	if s.index == "" {
		s.looked += at.hi - at.lo + 1
		at.where, at.args = `e.seq BETWEEN ? AND ?`, []any{at.lo, at.hi}
		return at, nil
	}
	seqs, err := numbers(ctx, s.c, s.index, append([]any{at.lo, at.hi, n}, s.indexArgs...)...)
	if err != nil {
		return nil, err
	}
	s.looked += int64(len(seqs))
	if len(seqs) == n {
		at.lo = seqs[n-1]
	}
	return at, at.of(seqs)
}

// of makes a span one of some events only.
func (at *span) of(seqs []int64) error {
	list, err := json.Marshal(seqs)
	at.where, at.args = `e.seq IN (SELECT value FROM json_each(?))`, []any{string(list)}
	return err
}

// listed is step when the candidates are known.
func (s *search) listed() (*span, error) {
	for len(s.list) > 0 && s.list[0] >= s.before {
		s.list = s.list[1:]
	}
	if s.done = len(s.list) == 0; s.done {
		return nil, nil
	}
	at := &span{lo: s.list[len(s.list)-1], hi: s.list[0]}
	s.looked += int64(len(s.list))
	return at, at.of(s.list)
}

// needle is a text to look for whatever its case.
type needle struct {
	lower []byte
	ascii bool
	buf   []byte
}

func newNeedle(s string) *needle {
	n := &needle{lower: bytes.ToLower([]byte(s)), ascii: true}
	for _, b := range n.lower {
		n.ascii = n.ascii && b < utf8.RuneSelf
	}
	return n
}

// in reports whether b contains the text. It is most of what a search costs, so ASCII goes 8 bytes at a time.
func (n *needle) in(b []byte) bool {
	if !n.ascii {
		return bytes.Contains(bytes.ToLower(b), n.lower)
	}
	n.buf = append(n.buf[:0], b...)
	b = n.buf
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, lower8(binary.LittleEndian.Uint64(b)))
		b = b[8:]
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return bytes.Contains(n.buf, n.lower)
}

// lower8 lowers those of 8 bytes that are ASCII capitals. A byte's top bit serves as its flag.
func lower8(x uint64) uint64 {
	const each, top = 0x0101010101010101, 0x8080808080808080
	low := x &^ top
	fromA := low + each*(0x80-'A')
	aboveZ := low + each*(0x7f-'Z')
	return x | (fromA&^aboveZ&^x&top)>>2
}
