package proxy

import (
	"errors"
	"sync"
	"time"
)

const (
	recordWait = time.Second // for room in the journal's buffer of history
	recordPoll = 5 * time.Millisecond
)

// record gives the journal an entry of history, to be written behind. When the journal is too busy for longer than
// recordWait, the entry is dropped and only the event's id is kept, in memory, so that a repeat is still known.
func (g *Gateway) record(entry Entry) {
	for until := time.Now().Add(recordWait); ; {
		err := g.journal.Record(entry)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrBusy) || time.Now().After(until) {
			break
		}
		time.Sleep(recordPoll)
	}
	g.observers.HistoryDropped()
	if entry.Event.Unique() && len(entry.Deliveries) > 0 {
		g.unrecorded.add(entry.Event, entry.Answered)
	}
}

// markAnswered says that Stripe has our 2xx for a stored event. It is history: lost in a crash, a repeat from Stripe is
// taken for Stripe's own retry.
func (g *Gateway) markAnswered(ev *Event, seq int64, answered time.Time) {
	if answered.IsZero() {
		return
	}
	mark := &Event{Seq: seq, Source: ev.Source, ID: ev.ID}
	g.record(Entry{Event: mark, Answered: answered})
}

// unrecorded is a bounded set of events that were delivered and whose history was dropped: the journal cannot know them.
type unrecorded struct {
	mu   sync.Mutex
	m    map[Key]Known
	ring []Key
	next int
}

const unrecordedSize = 4096

func newUnrecorded() *unrecorded {
	return &unrecorded{m: map[Key]Known{}, ring: make([]Key, unrecordedSize)}
}

func (u *unrecorded) add(e *Event, answered time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := e.Key()
	if _, ok := u.m[k]; !ok {
		delete(u.m, u.ring[u.next])
		u.ring[u.next] = k
		u.next = (u.next + 1) % unrecordedSize
	}
	u.m[k] = Known{State: Delivered, Answered: answered, Event: Event{Received: e.Received}}
}

// find returns what the journal would know of an event in the set; the zero Known when it is not in it.
func (u *unrecorded) find(k Key) Known {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.m[k]
}
