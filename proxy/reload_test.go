package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestReloadLeavesEventsInHand(t *testing.T) {
	old, fresh := &app{do: takes(3 * time.Second)}, &app{}
	change := func(cfg *proxy.Config) {
		delete(cfg.Backends, "fresh")
		cfg.Routes[0].To = []string{"legacy"}
	}
	inBubble(t, apps{"legacy": old, "fresh": fresh}, change, func(t *testing.T, w *world) {
		inHand := w.posted(event("evt_1", "invoice.paid"))
		time.Sleep(time.Second)
		if err := w.reload(legacy(func(b *proxy.Backend) { b.URL = "http://fresh.test/new" })); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, w.post(event("evt_2", "invoice.paid")), 200, "")
		fresh.wantCount(t, 1)
		if got := fresh.requests()[0].url; got != "/new" {
			t.Errorf("sent to %s", got)
		}
		wantAnswer(t, <-inHand, 200, "")
		old.wantCount(t, 1)
	})
}

func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	a, b := &app{do: takes(20 * time.Millisecond)}, &app{do: takes(20 * time.Millisecond)}
	inBubble(t, apps{"a": a, "b": b}, nil, func(t *testing.T, w *world) {
		var sent atomic.Int64
		done := make(chan struct{})
		for worker := range 8 {
			go func() {
				defer func() { done <- struct{}{} }()
				for i := range 50 {
					if got := w.post(event(fmt.Sprintf("evt_%d_%d", worker+1, i), "invoice.paid")); got.Code != 200 {
						t.Errorf("answered %d %s", got.Code, got.Body)
					}
					sent.Add(1)
				}
			}()
		}
		for i := range 40 {
			err := w.reload(func(cfg *proxy.Config) {
				cfg.Routes = proxy.Routes{{To: [][]string{{"a"}, {"b"}, {"a", "b"}}[i%3]}}
				x := cfg.Backends["a"]
				x.MaxInFlight = 16 + i
				cfg.Backends["a"] = x
			})
			if err != nil {
				t.Error(err)
			}
			time.Sleep(30 * time.Millisecond)
		}
		for range 8 {
			<-done
		}
		time.Sleep(time.Minute)
		for _, k := range w.journal.All() {
			if k.State != proxy.Delivered {
				t.Errorf("%s is %s", k.Event.ID, k.State)
			}
		}
		if n := len(w.journal.All()); n != int(sent.Load()) {
			t.Errorf("%d events, want %d", n, sent.Load())
		}
	})
}

func TestBreakerAndPauseLiveOn(t *testing.T) {
	a, other := &app{do: answers(500)}, &app{}
	inBubble(t, apps{"legacy": a, "other": other}, legacy(func(b *proxy.Backend) { b.Retry = hardlyEver }), func(t *testing.T, w *world) {
		w.Pause("other")
		for i := range 5 {
			w.post(event(fmt.Sprintf("evt_%d", i+1), "invoice.paid"))
		}
		change := legacy(func(b *proxy.Backend) { b.URL, b.Timeout = "http://legacy.test/other", time.Second })
		if err := w.reload(change); err != nil {
			t.Fatal(err)
		}
		if l, o := w.status("legacy"), w.status("other"); l.Breaker != "open" || !o.Paused {
			t.Errorf("after the reload: breaker %s, paused %v", l.Breaker, o.Paused)
		}
		w.post(event("evt_6", "invoice.paid"))
		a.wantCount(t, 5)
		// A backend that was away for a while is still known.
		away := func(cfg *proxy.Config) {
			delete(cfg.Backends, "other")
			cfg.Routes = proxy.Routes{{To: []string{"legacy"}}}
		}
		if err := w.reload(away); err != nil {
			t.Fatal(err)
		}
		if got := w.why("evt_1", "other"); got != "no_backend" {
			t.Errorf("why = %q", got)
		}
		if err := w.Pause("other"); err == nil {
			t.Error("a backend that is gone was paused")
		}
		if err := w.reload(func(cfg *proxy.Config) { cfg.Backends["other"] = proxy.Backend{URL: "http://other.test/"} }); err != nil {
			t.Fatal(err)
		}
		if got := w.why("evt_1", "other"); got != "paused" {
			t.Errorf("why = %q", got)
		}
		w.resume("other")
		synctest.Wait()
		other.wantCount(t, 6)
	})
}

func TestARenamedBackendTakesItsDeliveriesOver(t *testing.T) {
	a, fresh := &app{}, &app{}
	change := func(cfg *proxy.Config) {
		delete(cfg.Backends, "fresh")
		cfg.Routes[0].To = []string{"legacy"}
	}
	inBubble(t, apps{"legacy": a, "fresh": fresh}, change, func(t *testing.T, w *world) {
		w.storePaused("legacy", 5)
		w.seed("evt_failed", time.Now(), time.Now(), proxy.Delivery{Backend: "legacy", State: proxy.Failed, Attempts: 10})
		rename := func(cfg *proxy.Config) {
			delete(cfg.Backends, "legacy")
			cfg.Backends["fresh"] = proxy.Backend{URL: "http://fresh.test/hook", Was: []string{"legacy"}}
			cfg.Routes = proxy.Routes{{To: []string{"fresh"}}}
		}
		if err := w.reload(rename); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		fresh.wantCount(t, 0) // what is paused stays so under its new name
		w.resume("fresh")
		time.Sleep(time.Second)
		fresh.wantCount(t, 5)
		w.wantState("evt_5", proxy.Delivered)
		if _, err := w.Gateway.Resend(t.Context(), w.known("evt_failed")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		fresh.wantCount(t, 6)
		a.wantCount(t, 0)
		back := func(cfg *proxy.Config) {
			delete(cfg.Backends, "fresh")
			cfg.Backends["legacy"] = proxy.Backend{URL: "http://legacy.test/hook", Was: []string{"fresh"}}
			cfg.Routes = proxy.Routes{{To: []string{"legacy"}}}
		}
		if err := w.reload(back); err != nil {
			t.Fatal(err)
		}
		if w.status("legacy").Paused {
			t.Error("under its first name again, it is paused as it was then")
		}
	})
}

func TestARemovedBackendKeepsItsDeliveries(t *testing.T) {
	a, other := &app{do: takes(10 * time.Second)}, &app{}
	inBubble(t, apps{"legacy": a, "other": other}, nil, func(t *testing.T, w *world) {
		w.storePaused("legacy", 3)
		w.resume("legacy")
		synctest.Wait()
		remove := func(cfg *proxy.Config) {
			delete(cfg.Backends, "legacy")
			cfg.Routes = proxy.Routes{{To: []string{"other"}}}
		}
		w.Pause("legacy")
		w.post(event("evt_kept", "invoice.paid"))
		if err := w.reload(remove); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		a.wantCount(t, 3) // those that were sent when it was removed
		if d := w.delivery("evt_1", "legacy"); d.State != proxy.Delivered {
			t.Errorf("%+v, want the attempts in hand settled", d)
		}
		if got := w.why("evt_kept", "legacy"); got != "no_backend" {
			t.Errorf("why = %q", got)
		}
	})
}

func TestARemovedSourceLeavesNothingToSignWith(t *testing.T) {
	a, own := &app{}, &app{}
	change := func(cfg *proxy.Config) {
		cfg.Sources["connect"] = proxy.Source{Path: "/connect", SigningSecrets: []proxy.Secret{secret}}
		b := cfg.Backends["own"]
		b.SigningSecrets = []proxy.Secret{"whsec_own"}
		cfg.Backends["own"] = b
	}
	inBubble(t, apps{"legacy": a, "own": own}, change, func(t *testing.T, w *world) {
		w.Pause("own")
		w.storePaused("legacy", 2)
		sources := w.cfg.Sources
		if err := w.reload(func(cfg *proxy.Config) { delete(cfg.Sources, "main") }); err != nil {
			t.Fatal(err)
		}
		w.resume("legacy")
		w.resume("own")
		time.Sleep(62 * time.Minute)
		a.wantCount(t, 0)
		own.wantCount(t, 2)
		if got := w.why("evt_1", "legacy"); got != "no_secret" {
			t.Errorf("why = %q", got)
		}
		if d := w.delivery("evt_1", "legacy"); d.Attempts != 0 {
			t.Errorf("%d attempts, want none", d.Attempts)
		}
		if err := w.reload(func(cfg *proxy.Config) { cfg.Sources = sources }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(16 * time.Minute)
		a.wantCount(t, 2)
	})
}

func TestABadConfigLeavesTheOldOne(t *testing.T) {
	a := &app{do: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "old") }}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		err := w.reload(func(cfg *proxy.Config) {
			cfg.Routes = proxy.Routes{{To: []string{"nobody"}}}
			cfg.Backends["legacy"] = proxy.Backend{URL: "ftp://legacy.test"}
			cfg.Backends["tls"] = proxy.Backend{URL: "https://legacy.test", CAFile: "/does/not/exist"}
			cfg.Sources["main"] = proxy.Source{Path: "/new"}
		})
		if err == nil {
			t.Fatal("a bad configuration was taken")
		}
		for _, want := range []string{"routes[0].to[0]", "backends.legacy.url", "sources.main.signing_secrets", "ca_file"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not name %s: %v", want, err)
			}
		}
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "old")
	})
}
