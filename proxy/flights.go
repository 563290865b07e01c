package proxy

import (
	"sync"
	"time"
)

// flights are the events in hand, by key: a second arrival waits for the first one's outcome. An entry lives until its
// attempts have ended and their result is committed, or visible to Find.
type flights struct {
	mu sync.Mutex
	m  map[Key]*flight
}

type flight struct {
	once    sync.Once
	decided chan struct{} // closed when fate is known
	fate    fate
}

// fate is what the promise rests on for an event.
type fate int

const (
	fateRefused   fate = iota // on nothing: Stripe keeps the event
	fateStored                // on stable storage
	fateDelivered             // on every backend's 2xx
	fateSettled               // on what the journal already said: suppressed or ignored
)

// join returns the flight of a key, and whether the caller is the one who opened it and must decide and end it.
func (f *flights) join(k Key) (fl *flight, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.m[k]; fl != nil {
		return fl, false
	}
	if f.m == nil {
		f.m = map[Key]*flight{}
	}
	fl = &flight{decided: make(chan struct{})}
	f.m[k] = fl
	return fl, true
}

// end takes a flight out. It is in nobody's hand any more.
func (f *flights) end(k Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.m, k)
}

// decide says what became of the event. Only the first call counts.
func (fl *flight) decide(ft fate) {
	fl.once.Do(func() {
		fl.fate = ft
		close(fl.decided)
	})
}

// recent is a bounded set of events that were delivered but that the journal does not know.
type recent struct {
	mu   sync.Mutex
	m    map[Key]delivered
	ring []Key
	next int
}

type delivered struct{ received, answered time.Time }

const recentSize = 4096

func newRecent() *recent { return &recent{m: map[Key]delivered{}, ring: make([]Key, recentSize)} }

func (r *recent) add(e *Event, answered time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := e.Key()
	if _, ok := r.m[k]; !ok {
		delete(r.m, r.ring[r.next])
		r.ring[r.next] = k
		r.next = (r.next + 1) % recentSize
	}
	r.m[k] = delivered{e.Received, answered}
}

// find returns what the journal would know of an event in the set.
func (r *recent) find(k Key) (Known, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.m[k]
	return Known{State: Delivered, Answered: d.answered, Event: Event{Received: d.received}}, ok
}
