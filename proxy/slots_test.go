package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Whatever happens in whatever order, no more slots are in use than there were when they were taken, every slot comes
// back, and the drain holds none of them against a live attempt while it only looks.
func TestSlotsNeitherLeakNorOverflow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		maximum := rapid.IntRange(1, 20).Draw(t, "max")
		s := newSlots(maximum, func() {})
		now := time.Unix(1000, 0)
		live, late, looking := 0, 0, 0
		end := func(drain bool, held *int, how func(bool)) {
			if *held > 0 {
				how(drain)
				*held--
			}
		}
		nothing := func(drain bool) { s.release(1, drain) }
		t.Repeat(map[string]func(*rapid.T){
			"live": func(t *rapid.T) {
				used := s.used - s.looking
				got := s.tryAcquire(now)
				if want := used < s.limit; got != want {
					t.Fatalf("a live attempt got a slot: %v, with %d of %d in use", got, used, s.limit)
				}
				if got {
					live++
				}
			},
			"look": func(t *rapid.T) {
				if looking > 0 {
					return
				}
				n := rapid.IntRange(1, 300).Draw(t, "n")
				got, _ := s.acquireLate(n, now, rapid.Bool().Draw(t, "owing"))
				if got > n || late+got > max(1, s.limit/2) && now.Sub(s.lastLive) < liveWindow && got > 0 {
					t.Fatalf("the drain got %d for %d, with %d already, of %d", got, n, late, s.limit)
				}
				looking = got
			},
			"confirm": func(t *rapid.T) {
				if looking == 0 {
					return
				}
				n := rapid.IntRange(0, looking).Draw(t, "leased")
				kept := s.confirm(n)
				if kept > n {
					t.Fatalf("kept %d of %d", kept, n)
				}
				late, looking = late+kept, 0
			},
			"live ends well":  func(*rapid.T) { end(false, &live, s.succeeded) },
			"live fails":      func(*rapid.T) { end(false, &live, s.failed) },
			"live unsent":     func(*rapid.T) { end(false, &live, nothing) },
			"retry ends well": func(*rapid.T) { end(true, &late, s.succeeded) },
			"retry fails":     func(*rapid.T) { end(true, &late, s.failed) },
			"retry unsent":    func(*rapid.T) { end(true, &late, nothing) },
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond)
			},
			"breaker closes": func(*rapid.T) { s.recovering(); s.limit = 1 },
			"resize": func(t *rapid.T) {
				maximum = rapid.IntRange(1, 20).Draw(t, "max")
				s.resize(maximum)
			},
			"": func(t *rapid.T) {
				if s.used-s.looking != live+late || s.lateUsed-s.looking != late || s.looking < 0 || s.looking > looking {
					t.Fatalf("used %d, late %d, looking %d; want %d live, %d late, at most %d looking", s.used, s.lateUsed, s.looking, live, late, looking)
				}
				if s.limit < 1 || s.limit > s.max || s.max != maximum {
					t.Fatalf("limit %d, max %d, want %d", s.limit, s.max, maximum)
				}
			},
		})
	})
}

func TestThoseWhoWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1, func() {})
		if !s.tryAcquire(time.Now()) {
			t.Fatal("no slot")
		}
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if s.acquire(ctx, time.Now()) {
					order <- i
				}
			}()
			synctest.Wait()
		}
		for want := range 2 {
			time.Sleep(100 * time.Millisecond)
			s.release(1, false)
			if got := <-order; got != want {
				t.Errorf("slot %d went to %d: first come, first served", want, got)
			}
		}
		if s.tryAcquire(time.Now()) {
			t.Error("somebody passed the one who waits")
		}
		time.Sleep(time.Second) // the third gives up
		s.release(1, false)
		if len(order) != 0 || len(s.waiting) != 0 || !s.tryAcquire(time.Now()) {
			t.Error("a slot was lost to one who had given up")
		}
	})
}

// Events that were acknowledged are delivered however many come in: while the drain finds no slot, the next to come
// free are left to it, up to a quarter.
func TestTheDrainIsNotStarved(t *testing.T) {
	for _, size := range []int{1, 4, 16} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlots(size, func() {})
			for range size {
				s.tryAcquire(time.Now())
			}
			got := make(chan bool, 2*size)
			for range 2 * size {
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					defer cancel()
					got <- s.acquire(ctx, time.Now())
				}()
			}
			synctest.Wait()
			if n, _ := s.acquireLate(size, time.Now(), true); n != 0 {
				t.Fatalf("%d slots for the drain, all are taken", n)
			}
			quarter := max(1, size/4)
			for range quarter {
				s.release(1, false)
			}
			if len(got) != 0 {
				t.Error("live attempts took what is left to the drain")
			}
			if n, _ := s.acquireLate(size, time.Now(), true); n != quarter {
				t.Errorf("%d slots for the drain, want %d", n, quarter)
			}
			if s.confirm(quarter) != quarter {
				t.Error("live attempts took the drain's slots")
			}
			if size > quarter {
				s.release(1, false)
				if !<-got {
					t.Error("beyond a quarter, those who wait come first")
				}
			}
		})
	}
}
