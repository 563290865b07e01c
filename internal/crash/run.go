package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// run kills the gateway o.rounds times under load, lets it drain to a backend that is healthy again, and compares what
// it has promised with what the backend has.
func run(ctx context.Context, o options) (*report, error) {
	bin, err := build(ctx, o)
	if err != nil {
		return nil, err
	}
	b, err := newBackend(o.random(1))
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.become(down) }()
	g, err := newGateway(bin, o.dir, "http://"+b.addr+"/")
	if err != nil {
		return nil, err
	}
	defer g.log.Close()
	l, err := newLoad(o, g.webhook(), filepath.Join(o.dir, "ledger"))
	if err != nil {
		return nil, err
	}
	defer l.ledger.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the gateway, whatever happens

	r := &report{options: o}
	if err := o.killing(ctx, g, b, l, r); err != nil {
		return nil, err
	}
	if err := b.become(healthy); err != nil {
		return nil, err
	}
	acked, err := readLedger(l.ledger.Name())
	if err != nil {
		return nil, err
	}
	if err := o.draining(ctx, g, b, acked, r); err != nil {
		return nil, err
	}
	r.compare(acked, l, b)
	return r, nil
}

// random returns a source of randomness for one part of a run.
func (o options) random(part uint64) *rand.Rand { return rand.New(rand.NewPCG(o.seed, part)) }

// killing is the part under load: start, wait, kill, again. The gateway runs when it returns.
func (o options) killing(ctx context.Context, g *gateway, b *backend, l *load, r *report) error {
	under, stop := context.WithCancel(ctx)
	defer stop()
	work, under := errgroup.WithContext(under)
	work.Go(func() error { return b.weather(under, o.random(2)) })
	for i := range o.senders {
		work.Go(func() error { return l.run(under, o.random(100+uint64(i))) })
	}
	work.Go(func() error {
		defer stop()
		rng := o.random(3)
		for round := range o.rounds {
			if err := g.start(ctx); err != nil {
				return err
			}
			o.live(under, l, rng)
			if under.Err() != nil {
				return nil
			}
			r.kills = append(r.kills, time.Now())
			run := g.run
			if err := g.kill(); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
			if took, ok := <-run.opened; ok {
				r.starts = append(r.starts, took)
			}
			if n := round + 1; n%20 == 0 || n == o.rounds {
				o.note("killed %d of %d times", n, o.rounds)
			}
		}
		return g.start(ctx)
	})
	began := time.Now()
	err := work.Wait()
	r.loaded = time.Since(began)
	return errors.Join(err, ctx.Err())
}

// live is the time between a start and a kill: at times so short that the gateway does not come up, at times up to a
// burst of events, where most is under way.
func (o options) live(ctx context.Context, l *load, rng *rand.Rand) {
	var life time.Duration
	switch rng.IntN(6) {
	case 0:
		life = time.Duration(rng.IntN(30)) * time.Millisecond
	case 1:
		life = time.Duration(30+rng.IntN(270)) * time.Millisecond
	default:
		life = time.Duration(300+rng.IntN(1700)) * time.Millisecond
	}
	wait(ctx, life)
	if o.control || rng.IntN(2) == 0 {
		l.burst.Store(true)
		wait(ctx, time.Duration(20+rng.IntN(100))*time.Millisecond)
		l.burst.Store(false)
	}
}

// patience is how long the gateway may say that nothing is pending, and deliver nothing, while events are missing.
const patience = 3 * time.Second

// draining waits until nothing is pending and nothing is missing. What is missing for longer than patience is lost.
func (o options) draining(ctx context.Context, g *gateway, b *backend, acked map[receipt]time.Time, r *report) (err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, o.drain)
	defer cancel()
	missing, since := len(acked)+1, began
	for {
		if n := len(b.missing(acked)); n < missing {
			missing, since = n, time.Now()
		}
		r.counted, err = g.pending(ctx)
		if err == nil && r.counted == 0 {
			r.pending, err = g.count(ctx, "pending")
		}
		settled := err == nil && r.counted == 0 && r.pending == 0
		if settled && (missing == 0 || time.Since(since) > patience) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%v after the backend is healthy %d events are missing; pending: %d by the counter, %d by the list (%v)",
				o.drain, missing, r.counted, r.pending, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	r.drained = since.Sub(began)
	if r.failed, err = g.count(ctx, "failed"); err != nil {
		return err
	}
	return g.kill()
}
