package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// drained is one measurement of a drain.
type drained struct {
	Events    int     `json:"events"` // that were measured; of a large backlog not all
	Backlog   int     `json:"backlog"`
	PerSecond float64 `json:"events_per_second"`
	CPU       float64 `json:"cpu_us_per_event"`
	PeakRSS   int64   `json:"peak_rss_bytes"`

	// Of a large backlog: the events after the first ones, when what a start costs is over.
	Later    float64 `json:"later_events_per_second,omitempty"`
	LaterCPU float64 `json:"later_cpu_us_per_event,omitempty"`
}

const drainLimit = 5 * time.Minute

// measureDrains fills journals as an outage does and lets the gateway drain them to a fast backend.
func (o options) measureDrains(ctx context.Context, r *report) error {
	if !strings.Contains(o.only, "f") {
		return nil
	}
	var large string
	var err error
	if o.backlog > 0 {
		progress("(f) fill a journal with %d events", o.backlog)
		began := time.Now()
		if large, err = o.fill(ctx, o.backlog); err != nil {
			return err
		}
		r.note("filled %d events through the journal in %.0fs", o.backlog, time.Since(began).Seconds())
	}
	for pass := range o.passes {
		progress("pass %d of %d: (f) drain %d", pass+1, o.passes, o.drain)
		d, err := o.drainFresh(ctx, o.drain)
		if err != nil {
			return err
		}
		r.Drain = append(r.Drain, d)
		if o.backlog == 0 {
			continue
		}
		progress("pass %d of %d: (f) drain %d of %d, and of %d", pass+1, o.passes, o.backlog/100, o.backlog/100, o.backlog)
		if d, err = o.drainFresh(ctx, o.backlog/100); err != nil {
			return err
		}
		r.Small = append(r.Small, d)
		took, err := o.startUp(ctx, large)
		if err != nil {
			return err
		}
		r.StartUp = append(r.StartUp, took.Seconds())
		if d, err = o.drainOf(ctx, large, o.backlog/100, o.backlog); err != nil {
			return err
		}
		r.Large = append(r.Large, d)
	}
	return nil
}

// fill makes a folder with a journal of n events, pending ones when args do not say otherwise.
func (o options) fill(ctx context.Context, n int, args ...string) (string, error) {
	dir, err := os.MkdirTemp(o.dir, "f-")
	if err != nil {
		return "", err
	}
	args = append([]string{"-journal", filepath.Join(dir, "breakwater.db"), "-n", strconv.Itoa(n)}, args...)
	p, err := startRole(ctx, filepath.Join(dir, "fill.log"), "fill", args...)
	if err != nil {
		return "", err
	}
	<-p.ended
	if !p.cmd.ProcessState.Success() {
		return "", fmt.Errorf("fill: %w", p.err())
	}
	return dir, nil
}

func (o options) drainFresh(ctx context.Context, n int) (drained, error) {
	dir, err := o.fill(ctx, n)
	if err != nil {
		return drained{}, err
	}
	defer os.RemoveAll(dir)
	return o.drainOf(ctx, dir, n, n)
}

// drainOf measures how fast the first n events of a backlog reach a backend that is back, from the first of them on. When
// that is not all of the backlog, the gateway is killed then.
func (o options) drainOf(ctx context.Context, dir string, n, backlog int) (d drained, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	backend, to, err := startServer(ctx, filepath.Join(dir, "backend.log"), "backend")
	if err != nil {
		return d, err
	}
	defer backend.kill()
	g, err := o.startGateway(ctx, dir, to, "")
	if err != nil {
		return d, err
	}
	defer g.kill()
	if err := g.await(g.addr); err != nil {
		return d, err
	}
	var seen backendStats
	for seen.Count < int64(n) {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return d, fmt.Errorf("%d of %d events drained: %w", seen.Count, n, err)
		}
		if seen, err = stats(to); err != nil {
			return d, err
		}
	}
	cpu, err := g.cpu()
	if err != nil {
		return d, err
	}
	d = drained{Events: n, Backlog: backlog, PerSecond: rate(seen.Times, 0, n/milestone-1)}
	d.CPU = float64(cpu.Microseconds()) / float64(seen.Count)
	if n == backlog {
		err = g.empty(ctx)
	} else {
		err = o.drainOn(ctx, g, to, seen, cpu, &d)
	}
	if err != nil {
		return d, err
	}
	d.PeakRSS, err = g.peakRSS()
	return d, err
}

// drainOn measures a drain that goes on.
func (o options) drainOn(ctx context.Context, g *gateway, backend string, before backendStats, used time.Duration, d *drained) error {
	if err := sleep(ctx, o.duration); err != nil {
		return err
	}
	seen, err := stats(backend)
	if err != nil {
		return err
	}
	cpu, err := g.cpu()
	if err != nil {
		return err
	}
	d.Later = rate(seen.Times, len(before.Times)-1, len(seen.Times)-1)
	d.LaterCPU = float64((cpu - used).Microseconds()) / float64(seen.Count-before.Count)
	return nil
}

// rate is how many events a second came between two milestones.
func rate(times []int64, from, to int) float64 {
	return float64((to-from)*milestone) / time.Duration(times[to]-times[from]).Seconds()
}

// empty waits until the gateway says that nothing is pending.
func (g *gateway) empty(ctx context.Context) error {
	for {
		m, err := g.metrics()
		if err != nil {
			return err
		}
		if n, ok := m[metricPending]; ok && n == 0 {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("all is delivered, and %v still pending: %w", m[metricPending], err)
		}
	}
}

// startUp is the time from the gateway's start on a journal to the first event that it answers 2xx. It is killed then.
func (o options) startUp(ctx context.Context, dir string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	backend, to, err := startServer(ctx, filepath.Join(dir, "backend.log"), "backend")
	if err != nil {
		return 0, err
	}
	defer backend.kill()
	g, err := o.startGateway(ctx, dir, to, "")
	if err != nil {
		return 0, err
	}
	defer g.kill()
	s := sender{addr: g.addr}
	defer s.disconnect()
	for {
		s.prepare(types[0])
		status, err := s.exchange()
		switch {
		case err == nil && status == "200":
			return time.Since(g.began), nil
		case err == nil:
			return 0, fmt.Errorf("the first event was answered %s", status)
		case !isRefused(err):
			return 0, err
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return 0, fmt.Errorf("the gateway does not take events: %w", errors.Join(err, g.err()))
		}
	}
}

func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
