package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestEdge(t *testing.T) {
	body := event("evt_1", "invoice.paid")
	signedAt := func(age time.Duration) *http.Request {
		r := signed(body)
		r.Header.Set("Stripe-Signature", stripe.Sign(body, time.Now().Add(-age), secret))
		return r
	}
	with := func(change func(r *http.Request)) func() *http.Request {
		return func() *http.Request {
			r := signed(body)
			change(r)
			return r
		}
	}
	header := func(v string) func() *http.Request {
		return with(func(r *http.Request) { r.Header.Set("Stripe-Signature", v) })
	}
	unknownLength := func(b []byte) func() *http.Request {
		return func() *http.Request {
			r := signed(b)
			r.ContentLength = -1
			return r
		}
	}
	big := func(n int) []byte {
		b := event("evt_1", "invoice.paid")
		return append(b, bytes.Repeat([]byte(" "), n-len(b))...)
	}
	hexes := strings.Repeat("0123456789abcdef", 4)
	cases := []struct {
		name     string
		request  func() *http.Request
		status   int
		result   string
		verified string // what the observer is told of the signature, "-" for nothing
	}{
		{"good", func() *http.Request { return signed(body) }, 200, "main delivered", "main "},
		{"unknown path", with(func(r *http.Request) { r.URL.Path = "/" }), 404, " rejected", "-"},
		{"path with more", with(func(r *http.Request) { r.URL.Path += "/" }), 404, " rejected", "-"},
		{"GET", with(func(r *http.Request) { r.Method = "GET" }), 405, "main rejected", "-"},
		{"PUT", with(func(r *http.Request) { r.Method = "PUT" }), 405, "main rejected", "-"},
		{"no header", with(func(r *http.Request) { r.Header.Del("Stripe-Signature") }), 400, "main rejected", "main missing_header"},
		{"empty header", header(""), 400, "main rejected", "main missing_header"},
		{"two headers", with(func(r *http.Request) { r.Header.Add("Stripe-Signature", r.Header.Get("Stripe-Signature")) }), 400, "main rejected", "main malformed_header"},
		{"no timestamp", header("v1=" + hexes), 400, "main rejected", "main malformed_header"},
		{"a space", with(func(r *http.Request) {
			r.Header.Set("Stripe-Signature", strings.ReplaceAll(r.Header.Get("Stripe-Signature"), ",", ", "))
		}), 400, "main rejected", "main malformed_header"},
		{"a trailing comma", with(func(r *http.Request) {
			r.Header.Set("Stripe-Signature", r.Header.Get("Stripe-Signature")+",")
		}), 400, "main rejected", "main malformed_header"},
		{"upper-case hex", with(func(r *http.Request) {
			s, hex, _ := strings.Cut(r.Header.Get("Stripe-Signature"), ",v1=")
			r.Header.Set("Stripe-Signature", s+",v1="+strings.ToUpper(hex))
		}), 400, "main rejected", "main malformed_header"},
		{"ten thousand v1", header("t=1" + strings.Repeat(",v1="+hexes, 10_000)), 400, "main rejected", "main malformed_header"},
		{"the good v1 after sixteen others", with(func(r *http.Request) {
			s, v1, _ := strings.Cut(r.Header.Get("Stripe-Signature"), ",")
			r.Header.Set("Stripe-Signature", s+strings.Repeat(",v1="+hexes, 16)+","+v1)
		}), 400, "main rejected", "main no_match"},
		{"the good v1 as the sixteenth", with(func(r *http.Request) {
			s, v1, _ := strings.Cut(r.Header.Get("Stripe-Signature"), ",")
			r.Header.Set("Stripe-Signature", s+strings.Repeat(",v1="+hexes, 15)+","+v1)
		}), 200, "main delivered", "main "},
		{"stale", func() *http.Request { return signedAt(6 * time.Minute) }, 400, "main rejected", "main too_old"},
		{"far ahead", func() *http.Request { return signedAt(-6 * time.Minute) }, 400, "main rejected", "main too_far_ahead"},
		{"within the tolerance", func() *http.Request { return signedAt(4 * time.Minute) }, 200, "main delivered", "main "},
		{"ahead within the tolerance", func() *http.Request { return signedAt(-4 * time.Minute) }, 200, "main delivered", "main "},
		{"wrong secret", func() *http.Request { return signed(body, "whsec_wrong") }, 400, "main rejected", "main no_match"},
		{"the second secret", func() *http.Request { return signed(body, "whsec_test_two") }, 200, "main delivered", "main "},
		{"signed while rolling", func() *http.Request { return signed(body, "whsec_old", secret) }, 200, "main delivered", "main "},
		{"tampered body", with(func(r *http.Request) {
			r.Body = io.NopCloser(bytes.NewReader(bytes.Replace(body, []byte("in_1"), []byte("in_2"), 1)))
		}), 400, "main rejected", "main no_match"},
		{"empty body", with(func(r *http.Request) { r.Body, r.ContentLength = http.NoBody, 0 }), 400, "main rejected", "main no_match"},
		{"max_body", func() *http.Request { return signed(big(1000)) }, 200, "main delivered", "main "},
		{"max_body, length unknown", unknownLength(big(1000)), 200, "main delivered", "main "},
		{"max_body and one", func() *http.Request { return signed(big(1001)) }, 413, "main too_large", "-"},
		{"max_body and one, length unknown", unknownLength(big(1001)), 413, "main too_large", "-"},
		{"body shorter than announced", with(func(r *http.Request) { r.ContentLength = 999 }), 400, "main rejected", "-"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := &app{}
			change := func(cfg *proxy.Config) {
				cfg.Sources["main"] = proxy.Source{Path: "/stripe/webhook", SigningSecrets: []proxy.Secret{secret, "whsec_test_two"}, MaxBody: 1000}
			}
			inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
				got := do(w, c.request())
				if got.Code != c.status {
					t.Errorf("status = %d %s, want %d", got.Code, got.Body, c.status)
				}
				answered, _, verified, _ := w.seen.counts()
				if answered[c.result] != 1 || len(answered) != 1 {
					t.Errorf("results = %v, want one %q", answered, c.result)
				}
				if c.verified == "-" && len(verified) > 0 || c.verified != "-" && verified[c.verified] != 1 {
					t.Errorf("verified = %v, want %q", verified, c.verified)
				}
				if want := map[bool]int{true: 1}[c.status == 200]; a.count() != want || len(w.journal.All()) != want {
					t.Errorf("%d requests to the backend, %d events kept, want %d", a.count(), len(w.journal.All()), want)
				}
				if allow := got.Header().Get("Allow"); (c.status == 405) != (allow == "POST") {
					t.Errorf("Allow = %q", allow)
				}
				if reason := strings.TrimPrefix(c.verified, "main "); c.status == 400 && reason != "-" && got.Body.String() != `{"reason":"`+reason+`","status":"rejected"}` {
					t.Errorf("body = %s, want the reason's class only", got.Body)
				}
			})
		})
	}
}

// overTheWire is a connection to the gateway through a real server, in a bubble.
func (w *world) overTheWire() net.Conn {
	l := w.net.listen("gateway:80")
	srv := &http.Server{Handler: w}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(l) }()
	w.t.Cleanup(func() { srv.Close(); <-served })
	conn, err := w.net.dial(w.t.Context(), "tcp", "gateway:80")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

func (w *world) answerOn(conn net.Conn) int {
	w.t.Helper()
	conn.SetReadDeadline(time.Now().Add(time.Hour))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

func TestSlowBody(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		body := event("evt_1", "invoice.paid")
		conn := w.overTheWire()
		start := time.Now()
		fmt.Fprintf(conn, "POST /stripe/webhook HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\nStripe-Signature: %s\r\n\r\n%s",
			len(body), stripe.Sign(body, start, secret), body[:10])
		if got := w.answerOn(conn); got != http.StatusRequestTimeout || time.Since(start) != 15*time.Second {
			t.Errorf("answered %d after %v, want 408 after limits.read_body", got, time.Since(start))
		}
		synctest.Wait()
		if n, _, _, _ := w.seen.counts(); n["main rejected"] != 1 {
			t.Errorf("results = %v", n)
		}
		a.wantCount(t, 0)
	})
}

func TestBodyIsCutOff(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		body := event("evt_1", "invoice.paid")
		conn := w.overTheWire()
		fmt.Fprintf(conn, "POST /stripe/webhook HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\nStripe-Signature: %s\r\n\r\n%s",
			len(body)+1, stripe.Sign(body, time.Now(), secret), body)
		conn.Close()
		synctest.Wait()
		if n, _, _, _ := w.seen.counts(); n["main rejected"] != 1 {
			t.Errorf("results = %v", n)
		}
		a.wantCount(t, 0)
	})
}

// Whoever is refused before its body has come must not hold its connection with it: thousands of such would leave none to
// Stripe. A refused connection is closed within a second, whether the rest of the body comes, trickles in, or does not.
func TestARefusedRequestDoesNotHoldItsConnection(t *testing.T) {
	signature := func(body []byte, secret string) string {
		return "Stripe-Signature: " + stripe.Sign(body, time.Now(), secret) + "\r\n"
	}
	body := event("evt_1", "invoice.paid")
	for _, c := range []struct {
		name, start, headers string
		sent                 int // bytes of the body
		status               int
	}{
		{"unknown path", "POST /nowhere", "", 0, 404},
		{"another method", "PUT /stripe/webhook", "", 0, 405},
		{"no signature", "POST /stripe/webhook", "", 0, 400},
		{"junk for a signature", "POST /stripe/webhook", "Stripe-Signature: t=1\r\n", 10, 400},
		{"a wrong signature", "POST /stripe/webhook", signature(body, "whsec_wrong"), len(body), 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, apps{"legacy": {}}, nil, func(t *testing.T, w *world) {
				conn := w.overTheWire()
				start := time.Now()
				conn.SetDeadline(start.Add(time.Minute))
				fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n%s\r\n%s", c.start, len(body), c.headers, body[:c.sent])
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				if res.StatusCode != c.status || !res.Close {
					t.Errorf("answered %d, closing %t; want %d and the end of the connection", res.StatusCode, res.Close, c.status)
				}
				if _, err := io.Copy(io.Discard, conn); err != nil {
					t.Errorf("the connection ended with %v", err)
				}
				if held := time.Since(start); held > 2*time.Second {
					t.Errorf("the connection was held for %v", held)
				}
			})
		})
	}
}

// Strangers cannot fill the disk with our log: what they ask for is cut, and most of the lines are only counted.
func TestStrangersWriteLittleLog(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	inBubble(t, apps{"legacy": {}}, func(cfg *proxy.Config) { cfg.Log = zap.New(core) }, func(t *testing.T, w *world) {
		long := strings.Repeat("x", 10_000)
		for range 1000 {
			r := signed([]byte("{}"), "whsec_wrong")
			r.Method, r.URL.Path = long, "/"+long
			do(w, r)
		}
		lines := logged.Len()
		if lines == 0 || lines > 200 {
			t.Errorf("%d lines of 1000 refused requests", lines)
		}
		for _, l := range logged.All() {
			if text := fmt.Sprint(l.ContextMap()); len(text) > 600 {
				t.Fatalf("a line of %d bytes: %.100s", len(text), text)
			}
		}
		w.post(event("evt_1", "invoice.paid"))
		if n := logged.FilterField(zap.String("event_id", "evt_1")).Len(); n != 2 {
			t.Errorf("%d lines of an event, want its own and its attempt's", n)
		}
		time.Sleep(time.Minute)
		do(w, httptest.NewRequest(http.MethodGet, "/nowhere", nil))
		last := logged.All()[logged.Len()-1].ContextMap()
		if last["not_logged"] != int64(1000-lines) {
			t.Errorf("%v, want it to say that %d lines were left out", last, 1000-lines)
		}
		if answered, _, _, _ := w.seen.counts(); answered[" rejected"] != 1001 {
			t.Errorf("counted %v", answered)
		}
	})
}

// A slow body must not leave its deadline on a connection that is used again.
func TestAConnectionIsUsedAgain(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		conn := w.overTheWire()
		in := bufio.NewReader(conn)
		for i := range 3 {
			body := event(fmt.Sprintf("evt_%d", i), "invoice.paid")
			fmt.Fprintf(conn, "POST /stripe/webhook HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\nStripe-Signature: %s\r\n\r\n%s",
				len(body), stripe.Sign(body, time.Now(), secret), body)
			res, err := http.ReadResponse(in, nil)
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("request %d: %v, %v", i, res, err)
			}
			io.Copy(io.Discard, res.Body)
			time.Sleep(time.Minute)
		}
		a.wantCount(t, 3)
	})
}

// The deadline of the body must not outlive it: the server would take Stripe for gone while the backend works.
func TestTheBodysDeadlineEndsWithTheBody(t *testing.T) {
	inBubble(t, apps{"legacy": {do: takes(3 * time.Second)}}, func(cfg *proxy.Config) { cfg.ReadBody = time.Second }, func(t *testing.T, w *world) {
		body := event("evt_1", "invoice.paid")
		conn := w.overTheWire()
		fmt.Fprintf(conn, "POST /stripe/webhook HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\nStripe-Signature: %s\r\n\r\n%s",
			len(body), stripe.Sign(body, time.Now(), secret), body)
		if got := w.answerOn(conn); got != 200 {
			t.Errorf("answered %d", got)
		}
		synctest.Wait()
		if w.known("evt_1").Answered.IsZero() {
			t.Error("not taken for answered")
		}
	})
}

func TestBodyMemory(t *testing.T) {
	a := &app{do: takes(4 * time.Second)}
	change := func(cfg *proxy.Config) {
		cfg.BodyMemory = 1000
		s := cfg.Sources["main"]
		s.MaxBody = 1000
		cfg.Sources["main"] = s
	}
	inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
		wide := func(id string) []byte {
			b := event(id, "invoice.paid")
			return append(b, bytes.Repeat([]byte(" "), 600-len(b))...)
		}
		first := w.posted(wide("evt_1"))
		synctest.Wait()
		start := time.Now()
		got := w.post(wide("evt_2"))
		if got.Code != 503 || got.Header().Get("Retry-After") == "" || time.Since(start) != time.Second {
			t.Errorf("answered %d, Retry-After %q after %v, want 503 after 1s", got.Code, got.Header().Get("Retry-After"), time.Since(start))
		}
		if n, _, _, _ := w.seen.counts(); n["main refused"] != 1 {
			t.Errorf("results = %v", n)
		}
		small := w.posted(event("evt_3", "invoice.paid"))
		if got := <-first; got.Code != 200 {
			t.Errorf("the first: %d %s", got.Code, got.Body)
		}
		if got := <-small; got.Code != 200 {
			t.Errorf("one that fits beside it: %d %s", got.Code, got.Body)
		}
		for i, bad := range []*http.Request{signed(wide("evt_4"), "whsec_wrong"), signed([]byte("{")), signed(wide("evt_1")), signed(wide("evt_5"))} {
			if got := do(w, bad); got.Code == 503 {
				t.Fatalf("request %d: the memory was not given back: %s", i, got.Body)
			}
		}
	})
}

// Those who declare long bodies and do not send them take little: the others' events go on coming in.
func TestDeclaredBodiesTakeNoMemory(t *testing.T) {
	change := func(cfg *proxy.Config) { cfg.BodyMemory = 1 << 20 }
	inBubble(t, apps{"legacy": {}}, change, func(t *testing.T, w *world) {
		answers := make(chan *httptest.ResponseRecorder)
		for range 20 {
			r := signed(event("evt_long", "invoice.paid"))
			body, send := io.Pipe()
			r.Body, r.ContentLength = body, 1<<20
			time.AfterFunc(10*time.Second, func() { send.CloseWithError(os.ErrDeadlineExceeded) })
			go func() { answers <- do(w, r) }()
		}
		synctest.Wait()
		wantAnswer(t, w.post(event("evt_1", "invoice.paid")), 200, "")
		for range 20 {
			if got := <-answers; got.Code != 408 {
				t.Errorf("a body that never came: %d %s, want 408", got.Code, got.Body)
			}
		}
	})
}

func TestBodiesThatAreNoEvent(t *testing.T) {
	for _, body := range []string{
		`{}`, `[]`, `null`, `{"id":"evt_1"}`, `{"id":"evt_1","type":"a","type":"b"}`, `{"id":"evt_\u0000","type":"a"}`, "\xff\xfe", "",
		`{"id":"evt_1","type":"a","x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`,
	} {
		sum := sha256.Sum256([]byte(body))
		id := "sha256:" + hex.EncodeToString(sum[:])
		t.Run(fmt.Sprintf("%.30q by type", body), func(t *testing.T) {
			a := &app{}
			change := func(cfg *proxy.Config) { cfg.Routes[0].Types = []string{"*"} }
			inBubble(t, apps{"legacy": a}, change, func(t *testing.T, w *world) {
				wantAnswer(t, w.post([]byte(body)), 200, says("stored", id))
				a.wantCount(t, 0)
				if k := w.known(id); k.State != proxy.Failed || k.Reason != proxy.ReasonUnparseable {
					t.Errorf("kept as %s, %q", k.State, k.Reason)
				}
				if n, _, _, _ := w.seen.counts(); n["main unparseable"] != 1 {
					t.Errorf("results = %v", n)
				}
				wantAnswer(t, w.post([]byte(body)), 200, says("duplicate", id))
				if n := len(w.journal.All()); n != 1 {
					t.Errorf("%d events, want one", n)
				}
			})
		})
		t.Run(fmt.Sprintf("%.30q by source", body), func(t *testing.T) {
			a := &app{}
			inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
				if got := w.post([]byte(body)); got.Code != 200 {
					t.Errorf("answered %d %s", got.Code, got.Body)
				}
				a.wantCount(t, 1)
				if got := a.requests()[0].body; string(got) != body {
					t.Errorf("the backend got %.100q", got)
				}
				if k := w.known(id); k.State != proxy.Delivered || k.Reason != proxy.ReasonUnparseable {
					t.Errorf("kept as %s, %q", k.State, k.Reason)
				}
			})
		})
	}
}

func TestAnUnparseableEventIsRefusedWhenTheJournalRefuses(t *testing.T) {
	change := func(cfg *proxy.Config) { cfg.Routes[0].Types = []string{"*"} }
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, apps{"legacy": {}}, change)
		hook(w.journal).fail("Append", proxy.ErrFull)
		w.run()
		if got := w.post([]byte("{}")); got.Code != 503 || got.Header().Get("Retry-After") == "" {
			t.Errorf("answered %d %s", got.Code, got.Body)
		}
	})
}

func TestEventsOfEveryShape(t *testing.T) {
	for _, c := range []struct {
		name, body string
		id, typ    string
		want       proxy.Event
	}{
		{
			"snapshot", `{"id":"evt_1","object":"event","api_version":"2024-06-20","created":1700000000,"livemode":true,"type":"invoice.paid","account":"acct_1","data":{"object":{"id":"in_1","customer":"cus_1"}}}`,
			"evt_1", "invoice.paid",
			proxy.Event{Account: "acct_1", APIVersion: "2024-06-20", Object: "in_1", Customer: "cus_1", Livemode: true, Created: time.Unix(1700000000, 0).UTC()},
		},
		{
			"thin", `{"id":"evt_2","object":"v2.core.event","type":"v1.billing.meter.no_meter_found","created":"2026-01-02T03:04:05.678Z","livemode":false,"context":"acct_2","related_object":{"id":"mtr_1","type":"billing.meter"}}`,
			"evt_2", "v1.billing.meter.no_meter_found",
			proxy.Event{Account: "acct_2", Object: "mtr_1", Created: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)},
		},
		{
			"request is a string", `{"id":"evt_3","object":"event","type":"charge.succeeded","created":1400000000,"livemode":false,"request":"iar_1","data":{"object":{"id":"ch_1"}}}`,
			"evt_3", "charge.succeeded",
			proxy.Event{Object: "ch_1", Created: time.Unix(1400000000, 0).UTC()},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &app{}
			inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
				w.post([]byte(c.body))
				a.wantCount(t, 1)
				got := w.known(c.id)
				if got.State != proxy.Delivered || got.Event.Type != c.typ {
					t.Errorf("%s %s", got.State, got.Event.Type)
				}
				e := got.Event
				part := proxy.Event{Account: e.Account, APIVersion: e.APIVersion, Object: e.Object, Customer: e.Customer, Livemode: e.Livemode, Created: e.Created}
				if fmt.Sprint(part) != fmt.Sprint(c.want) {
					t.Errorf("got  %v\nwant %v", part, c.want)
				}
			})
		})
	}
}

func TestPingIsAnsweredAndNotRouted(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		ping := event("evt_ping", "v2.core.event_destination.ping")
		wantAnswer(t, w.post(ping), 200, says("ignored", "evt_ping"))
		if k := w.known("evt_ping"); k.State != proxy.Ignored || k.Reason != proxy.ReasonPing {
			t.Errorf("kept as %s, %q", k.State, k.Reason)
		}
		if err := w.reload(func(cfg *proxy.Config) { cfg.Routes[0].Types = []string{"v2.core.event_destination.ping"} }); err != nil {
			t.Fatal(err)
		}
		w.post(event("evt_ping2", "v2.core.event_destination.ping"))
		a.wantCount(t, 1)
	})
}

func TestTheLogSaysWhySignaturesFail(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	other := proxy.Source{Path: "/connect", SigningSecrets: []proxy.Secret{"whsec_canary_other"}}
	change := func(cfg *proxy.Config) { cfg.Sources["connect"], cfg.Log = other, zap.New(core) }
	inBubble(t, apps{"legacy": {}}, change, func(t *testing.T, w *world) {
		body := event("evt_1", "invoice.paid")
		do(w, signed(body, "whsec_canary_other"))
		r := signed(body)
		r.Header.Set("Stripe-Signature", stripe.Sign(body, time.Now().Add(-time.Hour), secret))
		do(w, r)
		lines := logged.TakeAll()
		if len(lines) != 2 {
			t.Fatalf("%d lines, want one for each request", len(lines))
		}
		first, second := fmt.Sprint(lines[0].ContextMap()), lines[1].ContextMap()
		if !strings.Contains(first, "matches the secret of source connect") {
			t.Errorf("no hint at the other source: %s", first)
		}
		if second["age_seconds"] != int64(3600) || second["source"] != "main" {
			t.Errorf("age and source are not said: %v", second)
		}
		if strings.Contains(first, "canary") {
			t.Errorf("a secret: %s", first)
		}
	})
}

func TestABrokenRecorderIsNoAnswer(t *testing.T) {
	a := &app{}
	inBubble(t, apps{"legacy": a}, nil, func(t *testing.T, w *world) {
		w.Gateway.ServeHTTP(brokenWriter{httptest.NewRecorder()}, signed(event("evt_1", "invoice.paid")))
		if k := w.known("evt_1"); k.State != proxy.Delivered || !k.Answered.IsZero() {
			t.Errorf("%s, answered %v, want it delivered and not answered", k.State, k.Answered)
		}
	})
}

// brokenWriter is a connection that Stripe has closed.
type brokenWriter struct{ *httptest.ResponseRecorder }

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
