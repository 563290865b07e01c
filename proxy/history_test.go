package proxy

import (
	"strconv"
	"testing"
	"time"
)

func TestUnrecordedIsBounded(t *testing.T) {
	t.Parallel()
	u := newUnrecorded()
	for i := range 3 * unrecordedSize {
		e := &Event{Source: "main", ID: "evt_" + strconv.Itoa(i)}
		u.add(e, time.Unix(int64(i), 0))
		u.add(e, time.Unix(int64(i)+1, 0)) // again: takes no second place
	}
	if len(u.m) != unrecordedSize {
		t.Errorf("%d events, want %d", len(u.m), unrecordedSize)
	}
	if k := u.find(Key{"main", "evt_" + strconv.Itoa(2*unrecordedSize-1)}); k.State != "" {
		t.Error("an old one is still there")
	}
	k := u.find(Key{"main", "evt_" + strconv.Itoa(2*unrecordedSize)})
	if k.State != Delivered || !k.Answered.Equal(time.Unix(2*unrecordedSize+1, 0)) {
		t.Errorf("%s, %v, want the last answer to the oldest that has a place", k.State, k.Answered)
	}
}
