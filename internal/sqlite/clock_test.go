package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// TestEarlyDropAfterClockAhead: nor does it keep room from being made.
func TestEarlyDropAfterClockAhead(t *testing.T) {
	d := openNew(t)
	now := time.Now()
	for n := range int64(10) {
		e := entryOf(n, proxy.Delivered)
		e.Event.Received = now.Add(-time.Minute)
		if n == 0 {
			e.Event.Received = now.Add(time.Hour)
		}
		e.Deliveries[0].Attempt.Started = e.Event.Received
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := d.dropEarly(t.Context(), now, earlyStep); err != nil || n != 9 {
		t.Errorf("dropped %d, %v, want 9", n, err)
	}
}

// TestRecall: what was stored while the clock was ahead does not wait until then.
func TestRecall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	d := openAt(t, path, Options{})
	now := time.Now()
	ahead := now.Add(365 * 24 * time.Hour)
	poll(t, "it has looked at its opening", func() bool { return d.ids.loaded.Load() })
	const n = recallStep + 10
	for i := range int64(n) {
		e := entryOf(i, proxy.Pending)
		e.Deliveries[0].Due = ahead.Add(time.Duration(i) * time.Millisecond)
		if i == 0 {
			e.Deliveries[0].Due = now.Add(time.Hour)
		}
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	leased, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: ahead.Add(time.Second), Most: 5, For: time.Minute})
	if err != nil || len(leased) != 5 {
		t.Fatalf("leased %d, %v", len(leased), err)
	}
	if err := d.recall(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if err := d.Settle(t.Context(), proxy.SettleRelease(leased[4], time.Time{})); err != nil {
		t.Errorf("a lease from before: %v", err)
	}
	ls, next, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now.Add(time.Second), Most: 2 * n, For: time.Hour})
	if want := n - 4; err != nil || len(ls) != want { // without those that are leased, of which one is due in an hour
		t.Errorf("leased %d, look again at %v, %v, want %d", len(ls), next, err, want)
	}
	for i := 1; i < len(ls); i++ {
		if ls[i].Event.Seq <= ls[i-1].Event.Seq {
			t.Fatalf("%d after %d: not in order of receipt", ls[i].Event.Seq, ls[i-1].Event.Seq)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, Options{})
	e := entryOf(1000, proxy.Pending)
	e.Deliveries[0].Due = ahead
	if _, err := d.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, Options{})
	poll(t, "what waits is due after a new start", func() bool {
		ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: time.Now().Add(time.Second), Most: 2 * n, For: time.Millisecond})
		return err == nil && len(ls) == n
	})
}

// TestRecallByHours: nor does what was stored by a clock that was ahead by less than a day, or by as little as two hours.
func TestRecallByHours(t *testing.T) {
	for _, c := range []struct {
		longest, due time.Duration
		want         int
	}{
		{0, 23 * time.Hour, 1},
		{0, 2 * time.Hour, 1},
		{0, time.Hour, 0},
		{6 * time.Hour, 7 * time.Hour, 1},
		{6 * time.Hour, 5 * time.Hour, 0},
	} {
		o := Options{}
		if c.longest > 0 {
			o.LongestWait = func() time.Duration { return c.longest }
		}
		path := filepath.Join(t.TempDir(), "j.db")
		d := openAt(t, path, o)
		poll(t, "it has looked at its opening", func() bool { return d.ids.loaded.Load() })
		now := time.Now()
		e := entryOf(1, proxy.Pending)
		e.Deliveries[0].Due = now.Add(c.due)
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if err := d.recall(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now.Add(time.Second), Most: 2, For: time.Minute})
		if err != nil || len(ls) != c.want {
			t.Errorf("due in %v where none waits for longer than %v: leased %d, %v, want %d", c.due, c.longest, len(ls), err, c.want)
		}
	}
}

// TestClockBack: a clock that is set back is noticed, one that is slewed is not.
func TestClockBack(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var c clock
	if !c.setBack(t0) {
		t.Error("the first time is not looked at")
	}
	c.last = t0
	for step, want := range map[time.Duration]bool{time.Second: false, -time.Second: false, -time.Hour: true, time.Hour: false} {
		if got := c.setBack(t0.Add(step)); got != want {
			t.Errorf("%v later: %v, want %v", step, got, want)
		}
	}
}
