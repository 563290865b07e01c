package sqlite

import "sync"

// calm remembers full segments in which nothing is Pending, so that searches pass what was delivered since a large
// backlog came to be without looking at it again and again.
type calm struct {
	size     int64 // of a segment
	mu       sync.Mutex
	segments map[int64]bool // by first number
	changes  int64
}

// below returns where to go on below before, passing segments that are calm.
func (m *calm) below(before int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	for before > 1 && m.segments[(before-1)&^(m.size-1)] {
		before = (before - 1) &^ (m.size - 1)
	}
	return max(before, 1)
}

// begin is to be called before a snapshot is taken that learn rests on.
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

// lower says that an event that was there before is Pending again.
func (m *calm) lower(seq int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	delete(m.segments, seq&^(m.size-1))
}
