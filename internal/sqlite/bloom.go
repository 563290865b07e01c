package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// ids tells of most events that come in for the first time that they are new, without a query: it is a Bloom filter over
// all keys in the file. It never takes a key for new that is there, and until the file has been read, none at all.
type ids struct {
	seed   maphash.Seed
	mu     sync.RWMutex // locked for writing only to swap filters
	cur    *filter
	next   *filter // being filled from the file; keys added meanwhile go to both
	loaded atomic.Bool
}

// Sizes of a filter: with 10 bits a key and 4 probes, about one new key in a hundred has to be looked up.
const (
	minFilter  = 2 << 20  // bytes; 1.6 million keys
	maxFilter  = 16 << 20 // bytes; beyond 13 million keys lookups grow more frequent, nothing else
	bitsPerKey = 10
	probes     = 4
)

type filter struct {
	words []atomic.Uint64
	keys  atomic.Int64
}

func newFilter(keys int64) *filter {
	size := int64(minFilter)
	for size < maxFilter && size*8 < keys*bitsPerKey {
		size *= 2
	}
	return &filter{words: make([]atomic.Uint64, size/8)}
}

func newIDs() *ids { return &ids{seed: maphash.MakeSeed(), cur: newFilter(0)} }

func (f *filter) add(h uint64) {
	f.keys.Add(1)
	for i := range uint64(probes) {
		w, bit := f.at(h, i)
		if w.Load()&bit == 0 {
			w.Or(bit)
		}
	}
}

func (f *filter) has(h uint64) bool {
	for i := range uint64(probes) {
		if w, bit := f.at(h, i); w.Load()&bit == 0 {
			return false
		}
	}
	return true
}

func (f *filter) at(h, i uint64) (*atomic.Uint64, uint64) {
	n := (h + i*(h>>32|1)) % uint64(len(f.words)*64)
	return &f.words[n/64], 1 << (n % 64)
}

// crowded reports whether a larger filter would serve better.
func (f *filter) crowded() bool {
	return int64(len(f.words))*64 < f.keys.Load()*bitsPerKey && len(f.words) < maxFilter/8
}

func (s *ids) hash(k proxy.Key) uint64 { return maphash.Comparable(s.seed, k) }

func (s *ids) add(k proxy.Key) {
	h := s.hash(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.cur.add(h)
	if s.next != nil {
		s.next.add(h)
	}
}

// has reports whether the file may hold the key.
func (s *ids) has(k proxy.Key) bool {
	if !s.loaded.Load() {
		return true
	}
	h := s.hash(k)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cur.has(h)
}

// crowded reports whether load should run again.
func (s *ids) crowded() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cur.crowded()
}

// load fills a filter of a fitting size with every key in the file, and then uses it. barrier returns when the batch that
// is being written now is committed: a key of it that was added before next was there is in the file by then. Without
// that, neither what is read nor next would have it.
func (s *ids) load(ctx context.Context, db *sql.DB, barrier func(context.Context) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read ids: %w", err)
		}
	}()
	var rows int64
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(seq) - min(seq), 0) FROM events`).Scan(&rows); err != nil {
		return err
	}
	s.mu.Lock()
	f := newFilter(2 * max(rows, s.cur.keys.Load()))
	s.next = f
	s.mu.Unlock()
	if err := barrier(ctx); err != nil {
		return err
	}
	for _, q := range []string{
		`SELECT source, dedupe_key FROM events WHERE dedupe_key IS NOT NULL`,
		`SELECT source, id FROM seen`,
	} {
		if err := s.read(ctx, db, f, q); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.cur, s.next = f, nil
	s.mu.Unlock()
	s.loaded.Store(true)
	return nil
}

func (s *ids) read(ctx context.Context, db *sql.DB, f *filter, q string) error {
	rows, err := db.QueryContext(ctx, q)
	if err != nil {
		return err
	}
	defer rows.Close()
	var k proxy.Key
	for rows.Next() {
		if err := rows.Scan(&k.Source, &k.ID); err != nil {
			return err
		}
		f.add(s.hash(k))
	}
	return rows.Err()
}
