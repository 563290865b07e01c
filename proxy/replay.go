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
	young, old map[signatureHash]struct{}
	since      time.Time // when young began
}

const signaturesSize = 1 << 16

// signatureHash is short, and no secret; it has 128 bits, since two signatures with one hash would cost an event.
type signatureHash [2]uint64

var signatureSeeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func hashOf(signature string) signatureHash {
	return signatureHash{maphash.String(signatureSeeds[0], signature), maphash.String(signatureSeeds[1], signature)}
}

// add remembers a signature, which is good for at most d.
func (s *signatures) add(signature string, now time.Time, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.young == nil || len(s.young) >= signaturesSize || now.Sub(s.since) >= d {
		s.old, s.young, s.since = s.young, map[signatureHash]struct{}{}, now
	}
	s.young[hashOf(signature)] = struct{}{}
}

// has reports whether a signature is remembered.
func (s *signatures) has(signature string) bool {
	h := hashOf(signature)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, young := s.young[h]
	_, old := s.old[h]
	return young || old
}
