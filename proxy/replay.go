package proxy

import (
	"hash/maphash"
	"sync"
	"time"
)

// signatures are those of a source that Stripe had a 2xx for, as long as they still verify: Stripe signs each arrival
// afresh, so the same one again is a replay. There are two generations of them, each at most signaturesSize and for as
// long as a signature is good; beyond that the older one is forgotten early, and a replay is weighed as any other arrival.
type signatures struct {
	mu         sync.Mutex
	young, old map[uint64]struct{} // by hash: it is short, and no secret
	since      time.Time           // when young began
}

const signaturesSize = 1 << 16

var signatureSeed = maphash.MakeSeed()

// add remembers a signature, which is good for at most d.
func (s *signatures) add(signature string, now time.Time, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.young == nil || len(s.young) >= signaturesSize || now.Sub(s.since) >= d {
		s.old, s.young, s.since = s.young, map[uint64]struct{}{}, now
	}
	s.young[maphash.String(signatureSeed, signature)] = struct{}{}
}

// has reports whether a signature is remembered.
func (s *signatures) has(signature string) bool {
	h := maphash.String(signatureSeed, signature)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, young := s.young[h]
	_, old := s.old[h]
	return young || old
}
