package proxy

import (
	"context"
	"sync"
	"time"
)

// liveWindow is how long after its last event live traffic is held to go on.
const liveWindow = time.Second

// slots bounds how many attempts a backend gets at once, inline and late together. After an outage the bound starts
// at one and grows with each success, so that a backend that just came up is not knocked down by its own backlog.
type slots struct {
	mu       sync.Mutex
	max      int // what is configured
	limit    int // what is allowed now; below max only while the backend recovers
	used     int // of which lateUsed are by late deliveries
	lateUsed int
	looking  int // of lateUsed: taken while the drain asks the journal; live attempts take them away
	lastLive time.Time
	wanted   time.Time       // when the drain last found no slot free
	few      time.Time       // since when the drain has been offered less than a batch
	waiting  []chan struct{} // live attempts, first come first served; they go before the drain
	freed    func()          // called, without the lock, when a slot became free
}

func newSlots(n int, freed func()) *slots { return &slots{max: n, limit: n, freed: freed} }

// acquire takes a slot for a live attempt, and waits for one until ctx ends.
func (s *slots) acquire(ctx context.Context, now time.Time) bool {
	if s.tryAcquire(now) {
		return true
	}
	got := make(chan struct{})
	s.mu.Lock()
	s.waiting = append(s.waiting, got)
	s.grant()
	s.mu.Unlock()
	select {
	case <-got:
		return true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.waiting {
		if w == got {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return false
		}
	}
	return true // granted at the last moment
}

// tryAcquire takes a slot for a live attempt if one is free and nobody waits.
func (s *slots) tryAcquire(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastLive = now
	return len(s.waiting) == 0 && s.claim()
}

// claim takes a slot for a live attempt, if need be one that the drain only looks with. The lock is held.
func (s *slots) claim() bool {
	reserved := s.reserved(time.Now())
	switch {
	case s.used+reserved < s.limit:
		s.used++
	case reserved == 0 && s.used-s.looking < s.limit:
		s.looking--
		s.lateUsed--
	default:
		return false
	}
	return true
}

// reserved is how many free slots are left to the drain: while it finds none, live attempts leave it a quarter, so that
// events that were acknowledged are delivered however many come in. The lock is held.
func (s *slots) reserved(now time.Time) int {
	if now.Sub(s.wanted) >= liveWindow {
		return 0
	}
	return max(0, max(1, s.limit/4)-s.lateUsed)
}

// batchWait is how long the drain waits for slots to come free together, so that deliveries are leased in batches.
const batchWait = 5 * time.Millisecond

// acquireLate takes up to n slots for late deliveries and returns how many it got: none while live attempts wait, and no
// more than half of the slots while live events arrive. Few slots are not taken at once; short then says that asking
// again after batchWait will take them. owing says that something is due for certain: see reserved.
func (s *slots) acquireLate(n int, now time.Time, owing bool) (got int, short bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	allowed := s.limit
	if now.Sub(s.lastLive) < liveWindow {
		allowed = max(1, s.limit/2)
	}
	free := s.limit - s.used
	free = min(n, allowed-s.lateUsed, max(free-len(s.waiting), min(free, s.reserved(now))))
	switch {
	case free <= 0:
		s.few = time.Time{}
		if owing && s.lateUsed < allowed {
			s.wanted = now
		}
		return 0, false
	case free >= min(n, allowed/4):
	case s.few.IsZero():
		s.few = now
		return 0, true
	case now.Sub(s.few) < batchWait:
		return 0, true
	}
	s.few = time.Time{}
	s.used += free
	s.lateUsed += free
	s.looking += free
	return free, false
}

// confirm ends the drain's look: it returns on how many of n leased deliveries there still are slots, and gives back the
// rest. It wakes nobody: the drain is who asks.
func (s *slots) confirm(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.looking)
	s.used -= s.looking - n
	s.lateUsed -= s.looking - n
	s.looking = 0
	s.grant()
	return n
}

// late is how many slots late deliveries hold.
func (s *slots) late() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lateUsed
}

// release gives n slots back that nothing was sent on.
func (s *slots) release(n int, late bool) { s.done(n, late, func() {}) }

// succeeded gives a slot back after the backend answered well: while it recovers it is allowed one more.
func (s *slots) succeeded(late bool) {
	s.done(1, late, func() { s.limit = min(s.max, s.limit+1) })
}

// failed gives a slot back after a failure: while the backend recovers it is allowed half.
func (s *slots) failed(late bool) {
	s.done(1, late, func() {
		if s.limit < s.max {
			s.limit = max(1, s.limit/2)
		}
	})
}

func (s *slots) done(n int, late bool, adjust func()) {
	s.mu.Lock()
	s.used -= n
	if late {
		s.lateUsed -= n
	}
	adjust()
	s.grant()
	s.mu.Unlock()
	s.freed()
}

// recovering starts over: the breaker has just closed again, and the success that closed it brings the first slot.
func (s *slots) recovering() {
	s.mu.Lock()
	s.limit = 0
	s.mu.Unlock()
}

// resize sets what is configured.
func (s *slots) resize(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit == s.max || s.limit > n {
		s.limit = n
	}
	s.max = n
	s.grant()
}

// grant hands free slots to those who wait. The lock is held.
func (s *slots) grant() {
	for len(s.waiting) > 0 && s.claim() {
		close(s.waiting[0])
		s.waiting = s.waiting[1:]
	}
}

func (s *slots) state() (used, limit, maximum int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used - s.looking, s.limit, s.max
}
