package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// stripeID is shaped as Stripe's ids: six characters of time, then noise.
func stripeID(n int64) string {
	const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	id := []byte("evt_1Pgc76xxxxxxxxxxxxxxxxxx")
	for i, t := 9, n/1000+1_000_000; i > 4; i, t = i-1, t/62 {
		id[i] = base62[t%62]
	}
	x := uint64(n)*0x9e3779b97f4a7c15 + 12345
	for i := 10; i < len(id); i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		id[i] = base62[x%62]
	}
	return string(id)
}

var benchBody = bytes.Repeat([]byte("0123456789abcdef0123456789abcdef\n  "), 72)[:2500]

func benchEvent(n int64) *proxy.Event {
	return &proxy.Event{
		Source: "main", ID: stripeID(n), Type: "customer.subscription.updated", APIVersion: "2023-10-16", Object: "sub_1Pgc76B7WZ01zgkW",
		Customer: "cus_9s6XKzkNRiz8i3", Livemode: true, Created: time.Now().Truncate(time.Second), Received: time.Now(),
		Header: http.Header{
			"Content-Type": {"application/json; charset=utf-8"}, "User-Agent": {"Stripe/1.0 (+https://stripe.com/docs/webhooks)"},
			"Stripe-Signature": {"t=1721640000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"},
		},
		Forwarded: http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-For": {"54.187.174.169"}}, Body: benchBody,
	}
}

func benchDB(b *testing.B, o Options) *DB {
	b.Helper()
	o.Log = zap.NewNop()
	d := openAt(b, filepath.Join(b.TempDir(), "j.db"), o)
	for d.barrier(b.Context()); !d.ids.loaded.Load(); {
		time.Sleep(time.Millisecond)
	}
	return d
}

func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs n operations by workers goroutines and reports the CPU that each takes, all threads together.
func measure(b *testing.B, workers int, run func(n int64)) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	before := cpu()
	b.ResetTimer()
	for range workers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				run(n)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

func BenchmarkAppend(b *testing.B) {
	for _, workers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(workers), func(b *testing.B) {
			var ops, batches atomic.Int64
			d := benchDB(b, Options{OnCommit: func(_ time.Duration, n int) { ops.Add(int64(n)); batches.Add(1) }})
			now := time.Now()
			measure(b, workers, func(n int64) {
				e := proxy.Entry{Event: benchEvent(n), Deliveries: []proxy.EntryDelivery{
					{Delivery: proxy.Delivery{Backend: "legacy", State: proxy.Pending, Turn: 1, Due: now.Add(time.Hour), TurnStarted: now}},
				}}
				if _, err := d.Append(context.Background(), e); err != nil {
					b.Error(err)
				}
			})
			b.ReportMetric(float64(ops.Load())/float64(batches.Load()), "ops/batch")
		})
	}
}

// BenchmarkStored is what a stored event costs the journal: it is appended, Stripe is answered, and that is noted.
func BenchmarkStored(b *testing.B) {
	d := benchDB(b, Options{})
	now := time.Now()
	measure(b, 64, func(n int64) {
		e := proxy.Entry{Event: benchEvent(n), Deliveries: []proxy.EntryDelivery{
			{Delivery: proxy.Delivery{Backend: "legacy", State: proxy.Pending, Turn: 1, Due: now.Add(time.Hour), TurnStarted: now}},
		}}
		seq, err := d.Append(context.Background(), e)
		if err != nil {
			b.Error(err)
		}
		mark := proxy.Entry{Event: &proxy.Event{Seq: seq, Source: e.Event.Source, ID: e.Event.ID}, Answered: now}
		for d.Record(mark) != nil {
			time.Sleep(time.Millisecond)
		}
	})
	if err := d.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkEvent is what the caller alone costs: making the event and getting it ready.
func BenchmarkEvent(b *testing.B) {
	measure(b, 1, func(n int64) { ready(proxy.Entry{Event: benchEvent(n), State: proxy.Ignored}).done() })
}

func BenchmarkRecord(b *testing.B) {
	d := benchDB(b, Options{})
	now := time.Now()
	measure(b, 16, func(n int64) {
		e := proxy.Entry{Event: benchEvent(n), Answered: now, Deliveries: []proxy.EntryDelivery{{
			Delivery: proxy.Delivery{Backend: "legacy", State: proxy.Delivered, Turn: 1, Attempts: 1, TurnStarted: now, Status: 200, Outcome: "delivered"},
			Attempt:  &proxy.Attempt{N: 1, Started: now, Duration: time.Millisecond, Status: 200, Outcome: "delivered", Trigger: proxy.TriggerInline},
		}}}
		for d.Record(e) != nil {
			time.Sleep(time.Millisecond)
		}
	})
	if err := d.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkFind(b *testing.B) {
	d := benchDB(b, Options{})
	fill(b, d, 10_000)
	b.Run("new", func(b *testing.B) {
		measure(b, 8, func(n int64) { _, _ = d.Find(context.Background(), proxy.Key{Source: "main", ID: stripeID(n + 1<<30)}) })
	})
	b.Run("known", func(b *testing.B) {
		measure(b, 8, func(n int64) {
			if _, err := d.Find(context.Background(), proxy.Key{Source: "main", ID: stripeID(n % 10_000)}); err != nil {
				b.Error(err)
			}
		})
	})
}

// fill appends n Pending events, due now.
func fill(tb testing.TB, d *DB, n int64) {
	tb.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	now := time.Now()
	for range 256 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
				e := proxy.Entry{Event: benchEvent(i), Deliveries: []proxy.EntryDelivery{
					{Delivery: proxy.Delivery{Backend: "legacy", State: proxy.Pending, Turn: 1, Due: now.Add(time.Duration(i) * time.Microsecond), TurnStarted: now}},
				}}
				if _, err := d.Append(context.Background(), e); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkDrain leases a few at a time and settles each by itself, as many workers do, from backlogs of two sizes.
func BenchmarkDrain(b *testing.B) {
	for _, backlog := range []int64{10_000, 1_000_000} {
		b.Run(fmt.Sprint(backlog), func(b *testing.B) {
			if backlog > 100_000 && testing.Short() {
				b.Skip("takes minutes")
			}
			d := benchDB(b, Options{})
			fill(b, d, max(backlog, int64(b.N)+1000))
			now := time.Now().Add(time.Hour)
			work := make(chan proxy.Leased)
			go func() {
				for n := 0; n < b.N; {
					ls, _, err := d.Lease(context.Background(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: min(16, b.N-n), For: time.Minute})
					if err != nil || len(ls) == 0 {
						b.Errorf("leased %d, %v", len(ls), err)
						close(work)
						return
					}
					for _, l := range ls {
						work <- l
					}
					n += len(ls)
				}
			}()
			measure(b, 64, func(int64) {
				l, ok := <-work
				if !ok {
					return
				}
				a := proxy.Attempt{N: 1, Started: now, Status: 200, Outcome: proxy.OutcomeDelivered, Trigger: proxy.TriggerResume}
				if err := d.Settle(context.Background(), proxy.SettleDelivered(l, a)); err != nil {
					b.Error(err)
				}
			})
		})
	}
}
