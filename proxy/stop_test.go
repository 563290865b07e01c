package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/breakwater-gateway/breakwater/internal/journaltest"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStopAnswersThoseWhoWait(t *testing.T) {
	a := &app{do: takes(10 * time.Second)}
	inBubble(t, apps{"legacy": a}, legacy(func(b *proxy.Backend) { b.MaxInFlight = 2 }), func(t *testing.T, w *world) {
		sent, same := w.posted(event("evt_sent", "invoice.paid")), w.posted(event("evt_sent2", "invoice.paid"))
		synctest.Wait()
		time.Sleep(time.Second)
		waits := w.posted(event("evt_waits", "invoice.paid")) // for a slot
		synctest.Wait()
		stopped := time.Now()
		w.cancel()
		wantAnswer(t, <-sent, 200, says("stored", "evt_sent"))
		wantAnswer(t, <-same, 200, says("stored", "evt_sent2"))
		wantAnswer(t, <-waits, 200, says("stored", "evt_waits"))
		if took := time.Since(stopped); took != 0 {
			t.Errorf("answered %v after the stop, want at once", took)
		}
		w.stop()
		if took := time.Since(stopped); took != 9*time.Second {
			t.Errorf("Run returned after %v, want when the attempts had ended", took)
		}
		w.wantState("evt_sent", proxy.Delivered)
		if d := w.delivery("evt_waits", "legacy"); d.State != proxy.Pending || d.Attempts != 0 || d.Token != 0 || d.Due.After(time.Now()) {
			t.Errorf("%+v, want it due now, without an attempt", d)
		}
		a.wantCount(t, 2)
	})
}

func TestACutAttemptGivesNothingUp(t *testing.T) {
	change := both(legacy(func(b *proxy.Backend) { b.Retry.GiveUpAfter = 1 }), func(cfg *proxy.Config) { cfg.DrainTimeout = time.Second })
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": {do: hangs}}, change)
		long := time.Now().Add(-time.Hour)
		w.seed("evt_1", long, long, proxy.Delivery{Backend: "legacy", State: proxy.Pending, Due: time.Now(), Attempts: 20, TurnStarted: long})
		w.run()
		synctest.Wait()
		w.stop()
		if d := w.delivery("evt_1", "legacy"); d.State != proxy.Pending || d.Attempts != 21 {
			t.Errorf("%+v, want it pending", d)
		}
	})
}

func TestStopCutsWhatLastsTooLong(t *testing.T) {
	for _, c := range []struct {
		name string
		post func(w *world)
		want string
	}{
		{"inline", func(w *world) { go w.post(event("evt_1", "invoice.paid")); synctest.Wait() }, "inline interrupted"},
		{"retried", func(w *world) { w.storePaused("legacy", 1); w.resume("legacy"); synctest.Wait() }, "resume interrupted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := both(legacy(func(b *proxy.Backend) {
				b.Timeout, b.Retry = time.Minute, proxy.Retry{Initial: time.Second, Max: time.Hour, GiveUpAfter: 1}
			}), func(cfg *proxy.Config) { cfg.DrainTimeout = 5 * time.Second })
			inBubble(t, apps{"legacy": {do: hangs}}, change, func(t *testing.T, w *world) {
				c.post(w)
				stopped := time.Now()
				w.stop()
				if took := time.Since(stopped); took != 5*time.Second {
					t.Errorf("Run returned after %v, want drain_timeout", took)
				}
				d := w.delivery("evt_1", "legacy")
				if d.State != proxy.Pending || d.Attempts != 1 || d.Token != 0 || time.Until(d.Due) > time.Second {
					t.Errorf("%+v, want one attempt counted, due after one backoff", d)
				}
				if got := w.attempts("evt_1"); !slices.Equal(got, []string{c.want}) {
					t.Errorf("attempts = %v, want %s", got, c.want)
				}
				if got := w.status("legacy").Breaker; got != "closed" {
					t.Errorf("breaker = %s: our own stop counted as the backend's failure", got)
				}
			})
		})
	}
}

// lateLease is a journal whose Lease has committed when the stop comes, but has not returned.
type lateLease struct {
	*journaltest.Memory
	gate chan struct{}
}

func (j lateLease) Lease(_ context.Context, r proxy.LeaseRequest) ([]proxy.Leased, time.Time, error) {
	l, next, err := j.Memory.Lease(context.Background(), r)
	<-j.gate
	return l, next, err
}

func TestStopReleasesWhatWasLeasedAndNotSent(t *testing.T) {
	a := &app{}
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		w := newWorld(t, apps{"legacy": a}, func(cfg *proxy.Config) {
			cfg.Journal = lateLease{cfg.Journal.(*journaltest.Memory), gate}
		})
		due := time.Now().Add(-time.Minute)
		for i := range 5 {
			w.seed(fmt.Sprintf("evt_%d", i+1), due, due, proxy.Delivery{Backend: "legacy", State: proxy.Pending, Due: due, Attempts: 3})
		}
		w.run()
		synctest.Wait()
		if d := w.delivery("evt_1", "legacy"); d.Token == 0 {
			t.Fatal("not leased")
		}
		w.cancel()
		synctest.Wait()
		close(gate)
		w.stop()
		for _, k := range w.journal.All() {
			d := k.Deliveries[0]
			if d.State != proxy.Pending || d.Attempts != 3 || d.Token != 0 || !d.LeaseUntil.IsZero() || !d.Due.Equal(due) {
				t.Errorf("%+v, want it as it was before the lease", d)
			}
		}
		a.wantCount(t, 0)
	})
}

func TestRequestsAfterTheStopAreStored(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		w.stop()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("stored", "evt_1"))
		a.wantCount(t, 0)
		w.wantState("evt_1", proxy.Pending)
	})
}

// While nothing can be settled, sending on would only fill memory, and repeat itself when the leases end.
func TestAJournalThatSettlesNothing(t *testing.T) {
	a := &app{}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": a}, nil)
		due := time.Now()
		for i := range 5000 {
			w.seed(fmt.Sprintf("evt_%d", i+1), due, due, proxy.Delivery{Backend: "legacy", State: proxy.Pending, Due: due})
		}
		h := hook(w.journal)
		h.fail("Settle", errDisk)
		w.run()
		time.Sleep(30 * time.Second)
		if n := a.count(); n < 500 || n > 1500 {
			t.Errorf("%d were sent, want what can wait for its settlement", n)
		}
		start := time.Now()
		w.stop()
		if took := time.Since(start); took > time.Second {
			t.Errorf("Run returned after %v", took)
		}
		w.wantState("evt_1", proxy.Pending) // sent again when its lease ends: at least once
	})
}

func TestStopWaitsForARequestInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": {do: answers(500)}}, legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }))
		hook(w.journal).on("Append", func() error { time.Sleep(time.Second); return nil })
		w.run()
		got := w.posted(event("evt_1", "invoice.paid"))
		synctest.Wait()
		w.stop()
		w.wantState("evt_1", proxy.Pending)
		wantAnswer(t, <-got, 200, says("stored", "evt_1"))
	})
}

func TestReloadWhileItStops(t *testing.T) {
	for range 20 {
		inBubble(t, apps{"legacy": {}}, nil, func(t *testing.T, w *world) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := range 20 {
					err := w.Reload(withBackend(w.cfg, fmt.Sprintf("b%d", i)))
					if err != nil {
						t.Error(err)
					}
				}
			}()
			w.stop()
			<-done
		})
	}
}

// withBackend is cfg with one backend more.
func withBackend(cfg proxy.Config, name string) proxy.Config {
	backends := map[string]proxy.Backend{name: {URL: "http://" + name + ".test/"}}
	for k, v := range cfg.Backends {
		backends[k] = v
	}
	cfg.Backends = backends
	return cfg
}

// A handler that panics, as the embedder's ResponseWriter may, must leave nothing behind.
func TestAPanicWhileAnsweringLeavesNothingBehind(t *testing.T) {
	change := func(cfg *proxy.Config) {
		cfg.BodyMemory = 300
		cfg.Sources["main"] = proxy.Source{Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{secret}, MaxBody: 300}
	}
	inBubble(t, apps{"legacy": {}}, change, func(t *testing.T, w *world) {
		for range 10 {
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic was swallowed")
					}
				}()
				w.ServeHTTP(panickingWriter{}, signed(event("evt_1", "invoice.paid")))
			}()
		}
		if got := w.post(event("evt_1", "invoice.paid")); got.Code != 200 {
			t.Errorf("answered %d %s", got.Code, got.Body)
		}
	})
}

type panickingWriter struct{}

func (panickingWriter) Header() http.Header       { return http.Header{} }
func (panickingWriter) Write([]byte) (int, error) { panic(http.ErrAbortHandler) }
func (panickingWriter) WriteHeader(int)           {}
