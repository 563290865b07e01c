package proxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/internal/journaltest"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func FuzzBodyIsForwardedByteForByte(f *testing.F) {
	for _, body := range [][]byte{nil, event("evt_1", "invoice.paid"), []byte("\x00\r\n\xff"), []byte(`{"a":"\u00e9é"} ` + "\n"), bytes.Repeat([]byte("x"), 100_000)} {
		f.Add(body)
	}
	a := &app{}
	w := newWorld(f, apps{"legacy": a}, func(cfg *proxy.Config) { cfg.DedupeWindow = 1 })
	w.run()
	f.Fuzz(func(t *testing.T, body []byte) {
		before := a.count()
		if got := do(w, signed(body)); got.Code != 200 || a.count() != before+1 && !strings.Contains(string(body), "v2.core.event_destination.ping") {
			t.Fatalf("answered %d %s", got.Code, got.Body)
		}
		if got := a.requests()[before].body; !bytes.Equal(got, body) {
			t.Errorf("forwarded %q, want %q", got, body)
		}
	})
}

func TestForwardedHeaders(t *testing.T) {
	a := &app{}
	change := legacy(func(b *proxy.Backend) {
		b.URL = "http://legacy.test/hook?key=a;b&path=%2F"
		b.Headers = map[string]proxy.Secret{"authorization": "Basic abc", "X-Api-Key": "k"}
	})
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		body := event("evt_1", "invoice.paid")
		r := signed(body)
		r.URL.RawQuery = "shop=%C3%A9;x=1&&"
		r.Host = "hooks.example.com"
		r.RemoteAddr = "198.51.100.7:4711"
		// As PHP, CGI and frameworks read them, names of other headers are names of ours.
		for _, name := range []string{
			"Stripe_Signature", "X_Api_Key", "Breakwater_Trigger", "Proxy", "X-Real-Ip", "X-Http-Method-Override", "X-Original-Url",
			"X-Rewrite-Url", "Client-Ip", "X-Stripe-Extra", "Cache-Control",
		} {
			r.Header[name] = []string{"forged"}
		}
		r.Header["Traceparent"], r.Header["Tracestate"] = []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, []string{"a=1"}
		for k, v := range map[string]string{
			"Connection": "keep-alive, X-Hop, Stripe-Signature", "X-Hop": "1", "Keep-Alive": "1", "Te": "trailers", "Trailer": "X-T", "Upgrade": "h2c",
			"Expect": "100-continue", "Proxy-Authorization": "p", "Cookie": "c=1", "Authorization": "Bearer forged",
			"Idempotency-Key": "i", "X-Idempotency-Key": "i", "Accept-Encoding": "gzip", "Forwarded": "for=1.1.1.1",
			"X-Forwarded-For": "1.1.1.1", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "http",
			"Breakwater-Event-Id": "forged", "Breakwater-Attempt": "9", "Breakwater-Received-At": "forged", "Breakwater-Trigger": "forged",
			"Breakwater-Original-Signature": "forged",
		} {
			r.Header.Set(k, v)
		}
		do(w, r)
		a.wantCount(t, 1)
		got := a.requests()[0]
		want := http.Header{
			"Content-Length": {fmt.Sprint(len(body))}, "Content-Type": {"application/json; charset=utf-8"},
			"User-Agent": {"Stripe/1.0 (+https://stripe.com/docs/webhooks)"}, "Stripe-Signature": r.Header["Stripe-Signature"],
			"Traceparent": r.Header["Traceparent"], "Tracestate": r.Header["Tracestate"], "Accept-Encoding": {"identity"},
			"X-Forwarded-For": {"198.51.100.7"}, "X-Forwarded-Host": {"hooks.example.com"}, "X-Forwarded-Proto": {"https"},
			"Breakwater-Event-Id": {"evt_1"}, "Breakwater-Attempt": {"1"}, "Breakwater-Trigger": {"inline"},
			"Breakwater-Received-At": {"2000-01-01T00:00:00Z"},
			"Authorization":          {"Basic abc"}, "X-Api-Key": {"k"},
		}
		if d := cmp.Diff(want, got.header); d != "" {
			t.Error(d)
		}
		if want := "/hook?key=a;b&path=%2F&shop=%C3%A9;x=1&&"; got.url != want || got.host != "legacy.test" {
			t.Errorf("sent to %s %s, want legacy.test %s", got.host, got.url, want)
		}
	})
}

// A backend's own query says what the operator wants of it; the sender's must not say otherwise, whichever of two values a
// backend takes, and however it reads names (PHP takes "a.b", "a b" and "a_b" for one, and "a[]" for a list named a).
func TestTheBackendsOwnQueryWins(t *testing.T) {
	for _, c := range []struct{ own, sent, want string }{
		{"", "", ""},
		{"key=1", "", "key=1"},
		{"", "x=%41;b&&", "x=%41;b&&"},
		{"key=1", "x=2", "key=1&x=2"},
		{"key=1", "key=2", "key=1"},
		{"key=1", "x=2&key=2&y", "key=1&x=2&y"},
		{"key=1", "k%65y=2&KEY=3", "key=1&KEY=3"},
		{"key=1", "key[]=2&key%5Ba%5D=3", "key=1"},
		{"a_b=1", "a.b=2&a+b=3&a%20b=4&a_b", "a_b=1"},
		{"a.b=1", "a_b=2", "a.b=1"},
		{"key", "key=2", "key"},
		{"key=1", "%zz=2", "key=1&%zz=2"},
	} {
		if got := proxy.JoinQuery(c.own, c.sent); got != c.want {
			t.Errorf("%q and %q make %q, want %q", c.own, c.sent, got, c.want)
		}
	}
}

func TestNoUserAgentOfOurOwn(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		w.post(event("evt_1", "invoice.paid")) // without one
		if ua, ok := a.requests()[0].header["User-Agent"]; ok {
			t.Errorf("User-Agent = %q", ua)
		}
	})
}

func TestForwardedFromTrustedProxies(t *testing.T) {
	for _, c := range []struct {
		name, peer, set string
		want            [3]string
	}{
		{"trusted", "10.0.0.1:1", "", [3]string{"3.18.12.63, 10.9.9.9, 10.0.0.1", "public.example", "http"}},
		{"trusted, mapped", "[::ffff:10.0.0.1]:1", "", [3]string{"3.18.12.63, 10.9.9.9, ::ffff:10.0.0.1", "public.example", "http"}},
		{"not trusted", "11.0.0.1:1", "", [3]string{"11.0.0.1", "gateway", "https"}},
		{"forwarded_proto", "11.0.0.1:1", "http", [3]string{"11.0.0.1", "gateway", "http"}},
		{"forwarded_proto over a trusted one", "10.0.0.1:1", "https", [3]string{"3.18.12.63, 10.9.9.9, 10.0.0.1", "public.example", "https"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{}
			change := func(cfg *proxy.Config) {
				cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
				cfg.Backends["legacy"] = proxy.Backend{URL: "http://legacy.test/hook", ForwardedProto: c.set, Host: "shop.example"}
			}
			inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
				r := signed(event("evt_1", "invoice.paid"))
				r.RemoteAddr, r.Host = c.peer, "gateway"
				r.Header["X-Forwarded-For"] = []string{"3.18.12.63", "10.9.9.9"}
				r.Header.Set("X-Forwarded-Host", "public.example")
				r.Header.Set("X-Forwarded-Proto", "http")
				do(w, r)
				a.wantCount(t, 1)
				h := a.requests()[0].header
				got := [3]string{h.Get("X-Forwarded-For"), h.Get("X-Forwarded-Host"), h.Get("X-Forwarded-Proto")}
				if got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if host := a.requests()[0].host; host != "shop.example" {
					t.Errorf("Host = %q, want the backend's host", host)
				}
			})
		})
	}
}

func TestALateDeliveryIsIdentical(t *testing.T) {
	a := &app{do: answers(500)}
	change := legacy(func(b *proxy.Backend) { b.Retry = proxy.Retry{Initial: time.Second, Max: time.Second} })
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		r := signed(event("evt_1", "invoice.paid"))
		r.URL.RawQuery, r.Host, r.RemoteAddr = "a=%41", "hooks.example.com", "198.51.100.7:1"
		do(w, r)
		a.then(nil)
		time.Sleep(2 * time.Second)
		a.wantCount(t, 2)
		first, second := a.requests()[0], a.requests()[1]
		for _, k := range []string{"Breakwater-Attempt", "Breakwater-Trigger"} {
			if first.header.Get(k) == second.header.Get(k) {
				t.Errorf("%s is %s both times", k, first.header.Get(k))
			}
			first.header.Del(k)
			second.header.Del(k)
		}
		first.at, second.at = time.Time{}, time.Time{}
		if d := cmp.Diff(first, second, cmp.AllowUnexported(request{})); d != "" {
			t.Error(d)
		}
	})
}

func TestSignatureTowardsTheBackend(t *testing.T) {
	for _, c := range []struct {
		name    string
		own     []proxy.Secret
		wait    time.Duration
		secrets []string // each must verify; none: Stripe's own header
	}{
		{"fresh", nil, 0, nil},
		{"a minute old", nil, 60 * time.Second, nil},
		{"older than resign_after", nil, 61 * time.Second, []string{secret, "whsec_test_two"}},
		{"two days old", nil, 48 * time.Hour, []string{secret, "whsec_test_two"}},
		{"own secret, fresh", []proxy.Secret{"whsec_own"}, 0, []string{"whsec_own"}},
		{"own secrets, two at most", []proxy.Secret{"whsec_own", "whsec_new", "whsec_third"}, time.Hour, []string{"whsec_own", "whsec_new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{}
			change := func(cfg *proxy.Config) {
				s := cfg.Sources["main"]
				s.SigningSecrets = []proxy.Secret{secret, "whsec_test_two"}
				cfg.Sources["main"] = s
				cfg.Backends["legacy"] = proxy.Backend{URL: "http://legacy.test/hook", SigningSecrets: c.own}
			}
			inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
				w.Pause("legacy")
				r := signed(event("evt_1", "invoice.paid"))
				theirs := r.Header.Get("Stripe-Signature")
				do(w, r)
				time.Sleep(c.wait)
				w.resume("legacy")
				synctest.Wait()
				a.wantCount(t, 1)
				got := a.requests()[0]
				sig, original := got.header["Stripe-Signature"], got.header.Get("Breakwater-Original-Signature")
				if len(c.secrets) == 0 {
					if !slices.Equal(sig, []string{theirs}) || original != "" {
						t.Errorf("sent %q, original %q, want Stripe's own %q", sig, original, theirs)
					}
					return
				}
				if original != theirs {
					t.Errorf("original = %q, want %q", original, theirs)
				}
				for _, s := range c.secrets {
					if _, err := stripe.Verify(got.body, sig, []string{s}, time.Second, time.Now()); err != nil {
						t.Errorf("%s: %v", s, err)
					}
				}
				if n := strings.Count(sig[0], "v1="); n != len(c.secrets) || strings.Contains(sig[0], " ") {
					t.Errorf("%q has %d signatures, want %d", sig[0], n, len(c.secrets))
				}
			})
		})
	}
}

func TestTheAnswerIsPassedOn(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, "thanks")
	z.Close()
	long := strings.Repeat("0123456789", 1000)
	for _, c := range []struct {
		name   string
		do     http.HandlerFunc
		status int
		header http.Header
		body   string
	}{
		{"as it is", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			w.Header()["X-App"] = []string{"a", "b"}
			w.Header().Set("Content-Type", "text/weird")
			w.WriteHeader(207)
			io.WriteString(w, "ok")
		}, 207, http.Header{"X-App": {"a", "b"}, "Content-Type": {"text/weird"}, "Content-Length": {"2"}}, "ok"},
		{"without what is not for Stripe", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			for _, k := range []string{"Set-Cookie", "Keep-Alive", "Proxy-Authenticate", "Upgrade"} {
				w.Header().Set(k, "x")
			}
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("X-Hop", "x")
			w.Header().Set("Content-Type", "text/plain")
		}, 200, http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"0"}}, ""},
		{"without trailers", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Trailer", "X-Announced")
			io.WriteString(w, "ok")
			w.Header().Set("X-Announced", "x")
			w.Header().Set(http.TrailerPrefix+"X-Sudden", "x")
		}, 200, http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"2"}}, "ok"},
		{"to 4 KiB", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, long)
		}, 200, http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"4096"}}, long[:4096]},
		{"compressed without being asked", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zipped.Bytes())
		}, 200, http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"0"}}, ""},
		{"no content", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			w.WriteHeader(204)
		}, 204, http.Header{"Content-Type": nil}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, apps{"legacy": {do: c.do}}, nil, func(t *testing.T, w *world) {
				got := w.post(event("evt_1", "invoice.paid"))
				if got.Code != c.status || got.Body.String() != c.body {
					t.Errorf("answered %d %.100q, want %d %.100q", got.Code, got.Body, c.status, c.body)
				}
				if d := cmp.Diff(c.header, got.Header()); d != "" {
					t.Error(d)
				}
				w.wantState("evt_1", proxy.Delivered)
			})
		})
	}
}

func TestSeveralBackendsAreNotPassedOn(t *testing.T) {
	say := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }
	inBubble(t, apps{"a": {do: say}, "b": {do: say}}, nil, func(t *testing.T, w *world) {
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, says("delivered", "evt_1"))
	})
}

func TestSuccessRules(t *testing.T) {
	padded := func(text string, at int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat(" ", at)+text) }
	}
	php := proxy.Success{BodyNot: []string{"Fatal error", "<html"}}
	for _, c := range []struct {
		name    string
		success proxy.Success
		do      http.HandlerFunc
		outcome string
	}{
		{"any 2xx", proxy.Success{}, answers(299), proxy.OutcomeDelivered},
		{"a status in a range", proxy.Success{Status: []proxy.StatusRange{{From: 200, To: 201}, {From: 204, To: 204}}}, answers(204), proxy.OutcomeDelivered},
		{"a 2xx outside of it", proxy.Success{Status: []proxy.StatusRange{{From: 200, To: 200}}}, answers(204), proxy.OutcomeSoftFailure},
		{"a 409", proxy.Success{Status: []proxy.StatusRange{{From: 200, To: 299}}}, answers(409), proxy.OutcomeStatus4xx},
		{"a body without the text", php, padded("thanks", 0), proxy.OutcomeDelivered},
		{"a body with the text", php, padded("PHP Fatal error: x", 100), proxy.OutcomeSoftFailure},
		{"a body with the second text", php, padded("<html>", 0), proxy.OutcomeSoftFailure},
		{"the text at the end of 64 KiB", php, padded("Fatal error", 64<<10-11), proxy.OutcomeSoftFailure},
		{"the text after 64 KiB", php, padded("Fatal error", 64<<10), proxy.OutcomeDelivered},
		{"a body that does not come", php, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			hangs(w, r)
		}, proxy.OutcomeTimeout},
		{"a body that is cut", php, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "thank")
			w.(http.Flusher).Flush()
			cuts(w, r)
		}, proxy.OutcomeReset},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := legacy(func(b *proxy.Backend) { b.Success, b.Timeout, b.Retry = c.success, 2*time.Second, hardlyEver })
			inBubble(t, apps{"legacy": {do: c.do}}, change, func(t *testing.T, w *world) {
				if got := w.post(event("evt_1", "invoice.paid")); got.Code > 299 {
					t.Errorf("answered %d", got.Code)
				}
				if got, want := w.attempts("evt_1"), []string{"inline " + c.outcome}; !slices.Equal(got, want) {
					t.Errorf("attempts = %v, want %v", got, want)
				}
			})
		})
	}
}

func TestADeadConnectionIsNoFailedAttempt(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		for i := range 3 {
			w.post(event(fmt.Sprintf("evt_%d", i), "invoice.paid"))
			w.net.cut() // while the connection is kept alive
		}
		if n, _, _, _ := w.seen.counts(); n["main delivered"] != 3 {
			t.Errorf("results = %v", n)
		}
		a.wantCount(t, 3)
		if w.net.dials != 3 {
			t.Errorf("%d connections", w.net.dials)
		}
	})
}

// dying is a connection that takes one request: the next one's first byte finds it dead.
type dying struct {
	net.Conn
	answered *atomic.Bool
}

func (c dying) Write(p []byte) (int, error) {
	if c.answered.Load() {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

func TestAConnectionThatDiesBeforeTheFirstByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, answered := &app{}, &atomic.Bool{}
		w := newWorld(t, apps{"legacy": a}, nil)
		w.DialWith(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := w.net.dial(ctx, network, addr)
			if w.net.dials == 1 && err == nil {
				c = dying{c, answered}
			}
			return c, err
		})
		w.run()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "")
		answered.Store(true)
		body := event("evt_2", "invoice.paid")
		wantAnswer(t, w.post(body), 200, "")
		a.wantCount(t, 2)
		if got := a.requests()[1].body; !bytes.Equal(got, body) {
			t.Errorf("sent %q", got)
		}
	})
}

func TestConnectionsAreKeptAlive(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		for i := range 10 {
			w.post(event(fmt.Sprintf("evt_%d", i), "invoice.paid"))
		}
		if a.count() != 10 || w.net.dials != 1 {
			t.Errorf("%d requests on %d connections", a.count(), w.net.dials)
		}
	})
}

func TestAPanicIsAnOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": {}}, legacy(func(b *proxy.Backend) { b.Retry, b.MaxInFlight = hardlyEver, 1 }))
		w.PanicIn()
		w.run()
		for i := range 10 {
			id := fmt.Sprintf("evt_%d", i)
			wantAnswer(t, w.post(event(id, "invoice.paid")), 200, says("stored", id))
			if got := w.attempts(id); !slices.Equal(got, []string{"inline panic"}) {
				t.Errorf("attempts = %v", got)
			}
		}
		if got := w.status("legacy"); got.Breaker != "closed" || got.InFlight != 0 {
			t.Errorf("breaker %s, %d slots in use", got.Breaker, got.InFlight)
		}
	})
}

func TestAPanicSaysNothingOfTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": {do: answers(500)}}, legacy(func(b *proxy.Backend) { b.Retry, b.Breaker.Failures = hardlyEver, 1 }))
		w.post(event("evt_1", "invoice.paid"))
		time.Sleep(31 * time.Second)
		w.PanicIn()
		for i := range 3 {
			w.post(event(fmt.Sprintf("evt_%d", i+2), "invoice.paid"))
			if got := w.status("legacy").Breaker; got != "half-open" {
				t.Errorf("the breaker is %s after a probe that panicked", got)
			}
		}
		w.run()
	})
}

func TestTheAnswerThroughRealServers(t *testing.T) {
	t.Parallel()
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "thanks") }))
	defer b.Close()
	front := httptest.NewServer(start(t, config(b.URL, journaltest.NewMemory())))
	defer front.Close()
	r := signed(event("evt_1", "invoice.paid"))
	r.RequestURI = ""
	r.URL.Scheme, r.URL.Host = "http", strings.TrimPrefix(front.URL, "http://")
	res, err := front.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || string(body) != "thanks" {
		t.Errorf("%d %s, %v", res.StatusCode, body, err)
	}
}

// TestARequestIsOneWrite: its headers and a usual body leave together, in one system call and one packet.
func TestARequestIsOneWrite(t *testing.T) {
	inBubble(t, apps{"legacy": {}}, nil, func(t *testing.T, w *world) {
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "")
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		if w.net.sent != 1 {
			t.Errorf("%d writes, want 1", w.net.sent)
		}
	})
}

// TestAnEmptyBodyHasALength: it is not sent in chunks, which PHP behind some servers does not read.
func TestAnEmptyBodyHasALength(t *testing.T) {
	a := &app{do: func(_ http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 || r.TransferEncoding != nil {
			t.Errorf("Content-Length %d, Transfer-Encoding %v", r.ContentLength, r.TransferEncoding)
		}
	}}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		if got := do(w, signed(nil)); got.Code != 200 || a.count() != 1 {
			t.Errorf("answer = %d, %d attempts", got.Code, a.count())
		}
	})
}
