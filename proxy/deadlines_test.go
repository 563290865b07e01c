package proxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, stop := context.WithCancel(context.Background())
		d := newDeadlines(parent, errTimedOut)
		time.Sleep(3 * time.Millisecond) // not at the edge of a slot
		start := time.Now()
		for _, wait := range []time.Duration{0, 1, time.Millisecond, 7 * time.Millisecond, 10 * time.Millisecond, time.Second, 30 * time.Second} {
			asked := time.Now().Add(wait)
			ctx := d.at(asked)
			<-ctx.Done()
			if late := time.Since(asked); late < 0 || late >= deadlineStep {
				t.Errorf("a deadline in %v ended %v late", wait, late)
			}
			if ctx.Err() != context.DeadlineExceeded || context.Cause(ctx) != errTimedOut {
				t.Errorf("it ended with %v, %v", ctx.Err(), context.Cause(ctx))
			}
		}
		if time.Since(start) < 31*time.Second {
			t.Error("no time has passed")
		}
		synctest.Wait()
		if len(d.m) != 0 {
			t.Errorf("%d are kept after their end", len(d.m))
		}
		if d.at(time.Now().Add(time.Minute)) != d.at(time.Now().Add(time.Minute-time.Millisecond)) {
			t.Error("those of one moment are not shared")
		}
		ctx := d.at(time.Now().Add(time.Minute))
		stop()
		if <-ctx.Done(); !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("it ended with %v, not with its parent", ctx.Err())
		}
	})
}
