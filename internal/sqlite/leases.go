package sqlite

import (
	"cmp"
	"sync"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// leases are all leases there are: see schema/0001_journal.sql for why they are not in the file. The writer alone
// changes them; mu lets others look.
type leases struct {
	mu sync.Mutex
	by map[string]*shelf // by backend
}

// shelf holds one backend's leases.
type shelf struct {
	leased map[int64]lease // by event
	ends   time.Time       // no lease ends before
	from   place           // every Pending row up to and including this place is leased: where the search for more begins
}

// place is where a Pending row stands in the order of leasing.
type place struct{ due, seq int64 }

func (p place) after(q place) bool {
	return cmp.Or(cmp.Compare(p.due, q.due), cmp.Compare(p.seq, q.seq)) > 0
}

// lease is one lease, with what its row said when it was taken.
type lease struct {
	token    int64
	until    time.Time
	due      int64
	turn     int
	attempts int
}

// delivery is what the lease knows of its delivery.
func (l *lease) delivery(backend string) proxy.Delivery {
	return proxy.Delivery{
		Backend: backend, State: proxy.Pending, Turn: l.turn, Attempts: l.attempts, Due: timeOf(l.due), Token: l.token, LeaseUntil: l.until,
	}
}

func (l *leases) shelf(backend string) *shelf {
	s := l.by[backend]
	if s == nil {
		s = &shelf{leased: map[int64]lease{}}
		l.by[backend] = s
	}
	return s
}

// waits says that a Pending row stands at p and is not leased.
func (s *shelf) waits(p place) {
	if !p.after(s.from) {
		s.from = place{p.due, p.seq - 1}
	}
}

func (s *shelf) set(seq int64, h lease) {
	s.leased[seq] = h
	if s.ends.IsZero() || h.until.Before(s.ends) {
		s.ends = h.until
	}
}

// get returns the lease of a delivery.
func (l *leases) get(backend string, seq int64) (lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.by[backend]; s != nil {
		h, ok := s.leased[seq]
		return h, ok
	}
	return lease{}, false
}

// set notes a lease, and returns how to take that back.
func (l *leases) set(backend string, seq int64, h lease) (undo func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shelf(backend)
	before, had := s.leased[seq]
	s.set(seq, h)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if had {
			s.set(seq, before)
			return
		}
		delete(s.leased, seq)
		s.waits(place{h.due, seq})
	}
}

// drop ends a lease, if there is one, and returns how to take that back. When the delivery is still Pending, waits is to
// follow.
func (l *leases) drop(backend string, seq int64) (undo func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shelf(backend)
	h, ok := s.leased[seq]
	if !ok {
		return func() {}
	}
	delete(s.leased, seq)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.set(seq, h)
	}
}

// waits says that a delivery is Pending, due then, and not leased.
func (l *leases) waits(backend string, seq, due int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shelf(backend).waits(place{due, seq})
}

// begin returns where to begin the search for what can be leased now. A lease that is over can be taken by another,
// but until then its holder may still settle it.
func (l *leases) begin(backend string, now time.Time) place {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shelf(backend)
	if s.ends.After(now) {
		return s.from
	}
	s.ends = time.Time{}
	for seq, h := range s.leased {
		if !h.until.After(now) {
			s.waits(place{h.due, seq})
		}
		if s.ends.IsZero() || h.until.Before(s.ends) {
			s.ends = h.until
		}
	}
	return s.from
}

// bars reports whether a delivery is leased now.
func (l *leases) bars(backend string, seq int64, now time.Time) bool {
	h, ok := l.get(backend, seq)
	return ok && h.until.After(now)
}

// reached says that the search has come to p and every row before is leased.
func (l *leases) reached(backend string, p place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.shelf(backend); p.after(s.from) {
		s.from = p
	}
}

// next is the earliest end of a lease that the backend has now, or the due time of what is leased where that is later.
func (l *leases) next(backend string, now time.Time) (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.shelf(backend).leased {
		at := h.until
		if !at.After(now) {
			continue
		}
		if due := timeOf(h.due); due.After(at) {
			at = due
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// fill fills in the leases of an event's deliveries.
func (l *leases) fill(seq int64, ds []proxy.Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range ds {
		if s := l.by[ds[i].Backend]; s != nil && ds[i].State == proxy.Pending {
			if h, ok := s.leased[seq]; ok {
				ds[i].Token, ds[i].LeaseUntil = h.token, h.until
			}
		}
	}
}
