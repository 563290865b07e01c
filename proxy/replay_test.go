package proxy

import (
	"strconv"
	"testing"
	"time"
)

func TestSignaturesAreBounded(t *testing.T) {
	t.Parallel()
	const good = 10 * time.Minute
	var s signatures
	now := time.Unix(0, 0)
	for i := range 5 * signaturesSize {
		s.add("burst"+strconv.Itoa(i), now, good)
	}
	if n := len(s.young) + len(s.old); n > 2*signaturesSize {
		t.Errorf("%d are remembered", n)
	}
	if !s.has("burst" + strconv.Itoa(5*signaturesSize-1)) {
		t.Error("the newest is forgotten")
	}
	for minute := range 60 {
		now = now.Add(time.Minute)
		s.add("calm"+strconv.Itoa(minute), now, good)
		if minute >= 9 && !s.has("calm"+strconv.Itoa(minute-9)) {
			t.Fatalf("minute %d: one that still verifies is forgotten", minute)
		}
	}
	if n := len(s.young) + len(s.old); n > 20 {
		t.Errorf("%d are remembered, most verify no more", n)
	}
}
