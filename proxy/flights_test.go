package proxy

import (
	"strconv"
	"testing"
	"time"
)

func TestRecentIsBounded(t *testing.T) {
	t.Parallel()
	r := newRecent()
	for i := range 3 * recentSize {
		e := &Event{Source: "main", ID: "evt_" + strconv.Itoa(i)}
		r.add(e, time.Unix(int64(i), 0))
		r.add(e, time.Unix(int64(i)+1, 0)) // again: takes no second place
	}
	if len(r.m) != recentSize {
		t.Errorf("%d events, want %d", len(r.m), recentSize)
	}
	if _, ok := r.find(Key{"main", "evt_" + strconv.Itoa(2*recentSize-1)}); ok {
		t.Error("an old one is still there")
	}
	k, ok := r.find(Key{"main", "evt_" + strconv.Itoa(2*recentSize)})
	if !ok || !k.Answered.Equal(time.Unix(2*recentSize+1, 0)) {
		t.Errorf("%v, %v, want the last answer to the oldest that has a place", ok, k.Answered)
	}
}
