package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// keeper is a quarantine that keeps what it is told to, or what comes from one address.
type keeper struct {
	from    netip.Addr // zero: from everywhere
	err     error
	offered []proxy.Rejected
	awaited bool      // of the last call
	expires time.Time // of the last call's context
}

func (k *keeper) Keep(ctx context.Context, r proxy.Rejected, awaited func() bool) (bool, error) {
	k.offered, k.awaited = append(k.offered, r), awaited()
	k.expires, _ = ctx.Deadline()
	return k.err == nil && (k.from == netip.Addr{} || k.from == r.Client), k.err
}

func TestQuarantine(t *testing.T) {
	body := event("evt_1", "invoice.paid")
	at := func(age time.Duration) string { return stripe.Sign(body, time.Now().Add(-age), secret) }
	for _, tt := range []struct {
		name    string
		header  func() string
		keeper  keeper
		status  int
		body    string
		offered []string // reasons
	}{
		{
			"no secret matches", func() string { return stripe.Sign(body, time.Now(), "whsec_new") },
			keeper{},
			200, `{"status":"quarantined"}`,
			[]string{stripe.NoMatch},
		},
		{"too old", func() string { return at(time.Hour) }, keeper{}, 200, `{"status":"quarantined"}`, []string{stripe.TooOld}},
		{"too far ahead", func() string { return at(-time.Hour) }, keeper{}, 200, `{"status":"quarantined"}`, []string{stripe.TooFarAhead}},
		{"no header", func() string { return "" }, keeper{}, 400, `{"reason":"missing_header","status":"rejected"}`, nil},
		{"junk", func() string { return "t=1" }, keeper{}, 400, `{"reason":"malformed_header","status":"rejected"}`, nil},
		{
			"from elsewhere", func() string { return stripe.Sign(body, time.Now(), "whsec_new") },
			keeper{from: netip.MustParseAddr("3.18.12.63")},
			400, `{"reason":"no_match","status":"rejected"}`,
			[]string{stripe.NoMatch},
		},
		{
			"not on stable storage", func() string { return stripe.Sign(body, time.Now(), "whsec_new") },
			keeper{err: errors.New("disk")},
			400, `{"reason":"no_match","status":"rejected"}`,
			[]string{stripe.NoMatch},
		},
		{"good", func() string { return at(0) }, keeper{}, 200, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &app{}
			synctest.Test(t, func(t *testing.T) {
				k := &tt.keeper
				w := newWorld(t, apps{"legacy": a}, func(c *proxy.Config) { c.Quarantine = k })
				w.run()
				r := signed(body)
				r.Header.Set("Stripe-Signature", tt.header())
				got := do(w, r)
				if good := tt.name == "good"; got.Code != tt.status || !good && got.Body.String() != tt.body || (a.count() > 0) != good {
					t.Errorf("%d %s, %d requests to the backend; want %d %s", got.Code, got.Body, a.count(), tt.status, tt.body)
				}
				var reasons []string
				for _, r := range k.offered {
					reasons = append(reasons, r.Reason)
				}
				if !slices.Equal(reasons, tt.offered) {
					t.Errorf("offered %v, want %v", reasons, tt.offered)
				}
				answered, _, verified, _ := w.seen.counts()
				if kept := tt.body == `{"status":"quarantined"}`; kept != (answered["main quarantined"] == 1) || kept && verified["main "+tt.offered[0]] != 1 {
					t.Errorf("counted %v, %v", answered, verified)
				}
				if len(tt.offered) > 0 && len(w.journal.All()) > 0 {
					t.Error("what does not verify is among the events")
				}
			})
		})
	}
}

func TestQuarantineGetsTheWholeRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{}
		w := newWorld(t, apps{"legacy": {}}, func(c *proxy.Config) { c.Quarantine = k })
		w.run()
		body := event("evt_1", "invoice.paid")
		r := signed(body, "whsec_new")
		r.URL.RawQuery, r.RemoteAddr = "a=%20b", "3.18.12.63:4711"
		r.Header.Set("Authorization", "Basic x")
		r.Header.Set("X-Odd", "1")
		do(w, r)
		want := []proxy.Rejected{{
			Source: "main", Received: time.Now(), Client: netip.MustParseAddr("3.18.12.63"), Reason: stripe.NoMatch, Query: "a=%20b", Body: body,
			Forwarded: http.Header{"X-Forwarded-For": {"3.18.12.63"}, "X-Forwarded-Host": {r.Host}, "X-Forwarded-Proto": {"https"}},
		}}
		opts := []cmp.Option{cmpopts.IgnoreFields(proxy.Rejected{}, "Header"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}
		if diff := cmp.Diff(want, k.offered, opts...); diff != "" {
			t.Errorf("offered (-want +got):\n%s", diff)
		}
		h := k.offered[0].Header
		if h.Get("Stripe-Signature") != r.Header.Get("Stripe-Signature") || h.Get("X-Odd") != "" || h.Get("Authorization") != "" {
			t.Errorf("headers: %v", h)
		}
		if left := time.Until(k.expires); left <= 0 || left > 8*time.Second {
			t.Errorf("the quarantine has %v, want what is left of inline_timeout", left)
		}
	})
}

// The quarantine is told where a 2xx would say more than "kept".
func TestAwaited(t *testing.T) {
	routes := proxy.Routes{
		{Types: []string{"invoice.created"}, To: []string{"legacy"}, Answer: proxy.AnswerBackend, HoldFor: 24 * time.Hour},
		{Types: []string{"custom.decision"}, To: []string{"legacy"}, Answer: proxy.AnswerRelay},
		{Types: []string{"*"}, To: []string{"legacy"}},
	}
	const live, test, never = `,"livemode":true`, `,"livemode":false`, -1
	for _, tt := range []struct {
		typ, mode string
		age       time.Duration // of the event; never: it does not say
		silent    time.Duration // since Stripe last got an answer, which was no 2xx
		want      bool
	}{
		{"invoice.paid", live, 0, 0, false},
		{"issuing_authorization.request", live, 0, 0, true},
		{"custom.decision", live, 0, 0, true},
		{"invoice.created", live, 0, 0, true},
		{"invoice.created", live, never, 0, true},
		{"invoice.created", live, 2 * time.Hour, 0, true},
		{"invoice.created", test, 2 * time.Hour, 0, false},
		{"invoice.created", live, 25 * time.Hour, 0, false},
		{"invoice.created", live, 0, 49 * time.Hour, false},
		{"", "", never, 0, false}, // cannot be parsed
	} {
		synctest.Test(t, func(t *testing.T) {
			k := &keeper{}
			w := newWorld(t, apps{"legacy": {do: answers(500)}}, func(c *proxy.Config) { c.Quarantine, c.Routes = k, routes })
			w.run()
			wantAnswer(t, w.post(created("evt_0", time.Now(), true)), 503, says("held", "evt_0"))
			time.Sleep(tt.silent)
			created := ""
			if tt.age != never {
				created = fmt.Sprintf(`,"created":%d`, time.Now().Add(-tt.age).Unix())
			}
			body := fmt.Sprintf(`{"id":"evt_1","type":%q%s%s}`, tt.typ, tt.mode, created)
			do(w, signed([]byte(body), "whsec_new"))
			if len(k.offered) != 1 || k.awaited != tt.want {
				t.Errorf("%s, %v without a 2xx: awaited %t, want %t", body, tt.silent, k.awaited, tt.want)
			}
		})
	}
}

// The client is the right-most hop that is not a trusted proxy: whatever stands to its left, anybody can have written.
func TestClient(t *testing.T) {
	const stripeIP = "3.18.12.63"
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tt := range []struct {
		name      string
		peer      string
		forwarded []string
		trusted   []netip.Prefix
		want      string // "" for none
	}{
		{"directly", stripeIP + ":1", nil, nil, stripeIP},
		{"directly, mapped into IPv6", "[::ffff:3.18.12.63]:1", nil, nil, stripeIP},
		{"a liar, no trusted proxies", "192.0.2.1:1", []string{stripeIP}, nil, "192.0.2.1"},
		{"a liar, not a trusted proxy", "192.0.2.1:1", []string{stripeIP}, proxies, "192.0.2.1"},
		{"a liar who claims a proxy's address too", "192.0.2.1:1", []string{stripeIP + ", 10.0.0.1"}, proxies, "192.0.2.1"},
		{"through a proxy", "10.0.0.1:1", []string{stripeIP}, proxies, stripeIP},
		{"through a proxy over IPv6", "[fd00::1%eth0]:1", []string{stripeIP}, proxies, stripeIP},
		{"through two proxies", "10.0.0.1:1", []string{stripeIP + ",10.0.0.2"}, proxies, stripeIP},
		{"through two proxies, a line each", "10.0.0.1:1", []string{stripeIP, "10.0.0.2"}, proxies, stripeIP},
		{"a liar through a proxy", "10.0.0.1:1", []string{stripeIP + ", 192.0.2.1"}, proxies, "192.0.2.1"},
		{"a liar through a proxy, a line each", "10.0.0.1:1", []string{stripeIP, "192.0.2.1"}, proxies, "192.0.2.1"},
		{"a liar through two proxies", "10.0.0.1:1", []string{stripeIP + ", 192.0.2.1, 10.0.0.2"}, proxies, "192.0.2.1"},
		{"a liar with a proxy's address in the middle", "10.0.0.1:1", []string{stripeIP + ", 10.0.0.9, 192.0.2.1"}, proxies, "192.0.2.1"},
		{"Stripe behind a liar's list", "10.0.0.1:1", []string{"10.0.0.3, 192.0.2.1, " + stripeIP}, proxies, stripeIP},
		{"proxies only", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, proxies, "10.0.0.3"},
		{"a proxy that says nothing", "10.0.0.1:1", nil, proxies, "10.0.0.1"},
		{"through a proxy that says the port", "10.0.0.1:1", []string{stripeIP + ":4711"}, proxies, stripeIP},
		{"through a proxy that says the port, IPv6", "10.0.0.1:1", []string{"[2001:db8::1]:4711"}, proxies, "2001:db8::1"},
		{"through a proxy that brackets", "10.0.0.1:1", []string{"[2001:db8::1]"}, proxies, "2001:db8::1"},
		{"a proxy's port", "10.0.0.1:1", []string{stripeIP + ", 10.0.0.2:4711"}, proxies, stripeIP},
		{"a hop that is no address", "10.0.0.1:1", []string{stripeIP + ", unknown"}, proxies, ""},
		{"an empty hop", "10.0.0.1:1", []string{stripeIP + ", "}, proxies, ""},
		{"a peer that is no address", "@", []string{stripeIP}, proxies, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &keeper{}
				w := newWorld(t, apps{"legacy": {}}, func(c *proxy.Config) { c.Quarantine, c.TrustedProxies = k, tt.trusted })
				w.run()
				r := signed(event("evt_1", "invoice.paid"), "whsec_new")
				r.RemoteAddr = tt.peer
				r.Header["X-Forwarded-For"] = tt.forwarded
				do(w, r)
				want := netip.Addr{}
				if tt.want != "" {
					want = netip.MustParseAddr(tt.want)
				}
				if len(k.offered) != 1 || k.offered[0].Client != want {
					t.Errorf("offered %v, want from %v", k.offered, want)
				}
			})
		})
	}
}

// What was released is accepted again after a crash before it was dropped, however late: the backend has it once.
func TestAcceptKnowsWhatWasDelivered(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		ev := func() *proxy.Event {
			return &proxy.Event{Source: "main", ID: "evt_1", Type: "invoice.paid", Body: event("evt_1", "invoice.paid"), Received: time.Now()}
		}
		for i, want := range []proxy.Result{proxy.ResultDelivered, proxy.ResultDuplicate, proxy.ResultDuplicate} {
			if got, err := w.Accept(t.Context(), ev(), proxy.TriggerInline); got != want || err != nil {
				t.Errorf("time %d: %s, %v; want %s", i+1, got, err, want)
			}
			time.Sleep(100 * time.Hour)
		}
		a.wantCount(t, 1)
	})
}

func TestAcceptOfWhatCannotBeParsed(t *testing.T) {
	inBubble(t, apps{"legacy": {}}, func(c *proxy.Config) { c.Routes = proxy.Routes{{Types: []string{"*"}, To: []string{"legacy"}}} },
		func(t *testing.T, w *world) {
			got, err := w.Accept(t.Context(), &proxy.Event{Source: "main", ID: "sha256:abc", Body: []byte("{"), Received: time.Now()}, proxy.TriggerInline)
			if got != proxy.ResultUnparseable || err != nil {
				t.Errorf("%s, %v; want it kept as unparseable", got, err)
			}
			w.wantState("sha256:abc", proxy.Failed)
		})
}
