package admin

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Feed is a proxy.Observer that counts events by the minute and tells who listens. It never blocks the gateway: a
// listener that does not keep up is dropped.
type Feed struct {
	started time.Time

	mu      sync.Mutex
	minutes [60]minute // by number of the minute, modulo
	totals  resultCounts

	listening atomic.Int32
	listeners map[*listener]struct{} // under mu
}

type minute struct {
	number int64 // since 1970
	counts resultCounts
}

type resultCounts [16]int64

var resultIndex = func() map[proxy.Result]int {
	m := map[proxy.Result]int{}
	for i, r := range proxy.Results {
		m[r] = i
	}
	return m
}()

var _ proxy.Observer = (*Feed)(nil)

// NewFeed returns a Feed that counts from now on.
func NewFeed() *Feed {
	return &Feed{started: time.Now(), listeners: map[*listener]struct{}{}}
}

// Answered implements proxy.Observer.
func (f *Feed) Answered(source string, ev *proxy.Event, result proxy.Result, took time.Duration) {
	now := time.Now()
	f.count(now.Unix()/60, resultIndex[result])
	if f.listening.Load() == 0 {
		return
	}
	m := StreamEvent{At: jsontime.At(now), Source: source, Result: string(result), DurationMS: took.Milliseconds()}
	if ev != nil {
		m.ID, m.Type, m.Account, m.Object, m.Livemode = ev.ID, ev.Type, ev.Account, ev.Object, ev.Livemode
	}
	f.tell(Message{Event: MessageEvent, Data: m})
}

// Attempted implements proxy.Observer.
func (f *Feed) Attempted(ev *proxy.Event, backend string, a proxy.Attempt) {
	if f.listening.Load() == 0 {
		return
	}
	a.Backend = backend
	f.tell(Message{Event: MessageAttempt, Data: StreamAttempt{ID: ev.ID, Source: ev.Source, Type: ev.Type, Attempt: wireAttempt(a)}})
}

// Verified implements proxy.Observer.
func (*Feed) Verified(string, string, time.Duration) {}

// HistoryDropped implements proxy.Observer.
func (*Feed) HistoryDropped() {}

func (f *Feed) count(number int64, result int) {
	f.mu.Lock()
	m := &f.minutes[number%int64(len(f.minutes))]
	if m.number != number {
		*m = minute{number: number}
	}
	m.counts[result]++
	f.totals[result]++
	f.mu.Unlock()
}

// lastHour calls see with each of the last 60 minutes, oldest first; f.mu is locked.
func (f *Feed) lastHour(now time.Time, see func(began time.Time, counts *resultCounts)) {
	n := int64(len(f.minutes))
	for number := now.Unix()/60 - n + 1; number <= now.Unix()/60; number++ {
		counts := new(resultCounts)
		if m := &f.minutes[number%n]; m.number == number {
			counts = &m.counts
		}
		see(time.Unix(number*60, 0), counts)
	}
}

// fill adds what the feed has counted to s.
func (f *Feed) fill(s *Stats, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.StartedAt, s.Results = jsontime.At(f.started), f.totals.byName()
	f.lastHour(now, func(began time.Time, counts *resultCounts) {
		s.Minutes = append(s.Minutes, Minute{At: jsontime.At(began), Results: counts.byName()})
	})
}

// unrouted counts the events of the last hour that no route took, and says in which minute the first of them came.
func (f *Feed) unrouted(now time.Time) (n int64, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastHour(now, func(began time.Time, counts *resultCounts) {
		c := counts[resultIndex[proxy.ResultUnrouted]]
		if n == 0 && c > 0 {
			since = began
		}
		n += c
	})
	return n, since
}

func (c *resultCounts) byName() map[string]int64 {
	m := map[string]int64{}
	for i, r := range proxy.Results {
		if c[i] > 0 {
			m[string(r)] = c[i]
		}
	}
	return m
}

// listener is who gets the feed's messages. The channel is closed when it does not keep up.
type listener struct{ messages chan Message }

const (
	listenerBuffer = 512
	maxListeners   = 64
)

// listen returns a new listener, nil when there are too many.
func (f *Feed) listen() *listener {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.listeners) >= maxListeners {
		return nil
	}
	l := &listener{make(chan Message, listenerBuffer)}
	f.listeners[l] = struct{}{}
	f.listening.Store(int32(len(f.listeners)))
	return l
}

func (f *Feed) leave(l *listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listeners, l)
	f.listening.Store(int32(len(f.listeners)))
}

func (f *Feed) tell(m Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.listeners {
		select {
		case l.messages <- m:
		default:
			close(l.messages)
			delete(f.listeners, l)
			f.listening.Store(int32(len(f.listeners)))
		}
	}
}
