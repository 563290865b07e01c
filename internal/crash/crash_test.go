package main

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// short is a run of a few rounds, on a seed of its own each time.
func short(t *testing.T, control bool) *report {
	t.Helper()
	r, err := run(context.Background(), options{
		rounds: 10, seed: rand.Uint64(), control: control, senders: 24, rate: 500, drain: time.Minute, dir: t.TempDir(), note: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	r.print(&table)
	t.Log("\n" + table.String())
	return r
}

func TestNothingAnsweredIsLost(t *testing.T) {
	r := short(t, false)
	if err := r.conclude(false); err != nil {
		t.Error(err)
	}
}

// The test above means something only if it sees a gateway that answers too early. Whether a kill falls between such an
// answer and its commit is chance: a few events a round are lost, seldom none in a whole run.
func TestControlLosesEvents(t *testing.T) {
	var err error
	for range 3 {
		if err = short(t, true).conclude(true); err == nil {
			return
		}
	}
	t.Error(err)
}
