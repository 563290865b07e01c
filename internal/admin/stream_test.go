package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-gateway/breakwater/proxy"
)

var paid = &proxy.Event{ID: "evt_1", Source: "main", Type: "invoice.paid", Object: "in_1", Livemode: true}

func TestFeedCountsByTheMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := NewFeed()
		f.Answered("main", paid, proxy.ResultDelivered, 0)
		f.Answered("main", nil, proxy.ResultRejected, 0)
		time.Sleep(time.Minute)
		f.Answered("main", paid, proxy.ResultDelivered, 0)
		var s Stats
		f.fill(&s, time.Now())
		if diff := cmp.Diff(map[string]int64{"delivered": 2, "rejected": 1}, s.Results); diff != "" {
			t.Errorf("since the start (-want +got):\n%s", diff)
		}
		want := []map[string]int64{{}, {"delivered": 1, "rejected": 1}, {"delivered": 1}}
		got := []map[string]int64{s.Minutes[57].Results, s.Minutes[58].Results, s.Minutes[59].Results}
		if diff := cmp.Diff(want, got); diff != "" || len(s.Minutes) != 60 {
			t.Errorf("%d minutes, the last of them (-want +got):\n%s", len(s.Minutes), diff)
		}
		if at := s.Minutes[59].At.Time; time.Since(at) >= time.Minute || at.Second() != 0 {
			t.Errorf("the last minute began at %s, now is %s", at, time.Now())
		}
		time.Sleep(58*time.Minute + 30*time.Second)
		s = Stats{}
		f.fill(&s, time.Now())
		if s.Minutes[0].Results["delivered"] != 1 || s.Minutes[0].Results["rejected"] != 1 {
			t.Errorf("an hour later the first minute holds %v", s.Minutes[0].Results)
		}
		time.Sleep(2 * time.Minute)
		s = Stats{}
		f.fill(&s, time.Now())
		for _, m := range s.Minutes {
			if len(m.Results) > 0 {
				t.Errorf("%v of more than an hour ago is shown", m)
			}
		}
	})
}

func TestFeedDropsWhoDoesNotKeepUp(t *testing.T) {
	t.Parallel()
	f := NewFeed()
	slow, quick := f.listen(), f.listen()
	for range listenerBuffer + 1 {
		f.Answered("main", paid, proxy.ResultDelivered, time.Second) // must not block
		<-quick.messages
	}
	n := 0
	for range slow.messages {
		n++
	}
	if n != listenerBuffer || f.listening.Load() != 1 {
		t.Errorf("the slow one got %d messages, %d listen", n, f.listening.Load())
	}
	f.leave(slow)
	f.leave(quick)
	f.Attempted(paid, "legacy", proxy.Attempt{})
	if len(quick.messages) != 0 || f.listening.Load() != 0 {
		t.Error("who left is still told")
	}
	for range maxListeners {
		f.listen()
	}
	if f.listen() != nil {
		t.Error("there is no bound")
	}
}

// BenchmarkFeedUnheard is what each event costs while nobody listens: the bound is 100 ns.
func BenchmarkFeedUnheard(b *testing.B) {
	f := NewFeed()
	for b.Loop() {
		f.Answered("main", paid, proxy.ResultDelivered, time.Millisecond)
		f.Attempted(paid, "legacy", proxy.Attempt{})
	}
}

func BenchmarkFeedUnheardParallel(b *testing.B) {
	f := NewFeed()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f.Answered("main", paid, proxy.ResultDelivered, time.Millisecond)
		}
	})
}

func TestStream(t *testing.T) {
	t.Parallel()
	f := newFakes()
	c, contract := newClient(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := map[string]RawMessage{}
	backends := 0
	enough := errors.New("enough")
	err := c.Stream(ctx, nil, func(m RawMessage) error {
		if got[m.Event].Data == nil {
			got[m.Event] = m
		}
		if m.Event == MessageBackend {
			backends++
		}
		if m.Event == MessageStats { // the last of what is sent at first
			f.feed.Answered("main", paid, proxy.ResultStored, 1500*time.Millisecond)
			f.feed.Attempted(paid, "legacy", proxy.Attempt{N: 1, Outcome: proxy.OutcomeStatus4xx, Status: 404, Error: "answered 404"})
		}
		if m.Event == MessageAttempt {
			f.setPaused("legacy", true) // is seen at the next look
		}
		if backends == 4 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	schemas := contract.doc.Components.Schemas
	for event, schema := range map[string]string{
		MessageEvent: "StreamEvent", MessageAttempt: "StreamAttempt", MessageBackend: "Backend", MessageStats: "Stats",
	} {
		var data any
		if err := json.Unmarshal(got[event].Data, &data); err != nil {
			t.Fatalf("%s: %v", event, err)
		}
		if err := schemas[schema].Value.VisitJSON(data); err != nil {
			t.Errorf("%s is not as the document says: %v", event, err)
		}
	}
	var e StreamEvent
	if err := json.Unmarshal(got[MessageEvent].Data, &e); err != nil || e.ID != "evt_1" || e.Result != "stored" || e.DurationMS != 1500 {
		t.Errorf("event: %+v %v", e, err)
	}
	var a StreamAttempt
	if err := json.Unmarshal(got[MessageAttempt].Data, &a); err != nil || a.Backend != "legacy" || a.Hint == "" || a.ID != "evt_1" {
		t.Errorf("attempt: %+v %v", a, err)
	}
	eventually(t, "the feed knows that the client left", func() bool { return f.feed.listening.Load() == 0 })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10s: %s", what)
		}
	}
}

// flushes is a ResponseWriter that takes a deadline.
type flushes struct{ *httptest.ResponseRecorder }

func (flushes) SetWriteDeadline(time.Time) error { return nil }

func TestStreamHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakes()
		h := f.handler("")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Second)
		defer cancel()
		w := flushes{httptest.NewRecorder()}
		r := httptest.NewRequestWithContext(ctx, "GET", "/api/v1/stream?only=event", nil)
		r.Host = "localhost"
		h.ServeHTTP(w, r)
		if n := strings.Count(w.Body.String(), "\n:\n"); n != 4 {
			t.Errorf("%d heartbeats in a minute, want 4: %q", n, w.Body)
		}
		if ct := w.Header().Get("Content-Type"); ct != "text/event-stream" {
			t.Errorf("Content-Type %q", ct)
		}
		if strings.Contains(w.Body.String(), "data:") {
			t.Errorf("asked for events only: %q", w.Body)
		}
	})
}

// A client that reads nothing costs the gateway nothing: it is dropped.
func TestStreamToWhoDoesNotRead(t *testing.T) {
	t.Parallel()
	f := newFakes()
	ts := httptest.NewServer(f.handler(""))
	defer ts.Close()
	conn, err := net.Dial("tcp", strings.TrimPrefix(ts.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /api/v1/stream?only=event HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	big := &proxy.Event{ID: strings.Repeat("x", 8<<10)}
	for began := time.Now(); f.feed.listening.Load() > 0; {
		before := time.Now()
		f.feed.Answered("main", big, proxy.ResultDelivered, 0)
		if took := time.Since(before); took > time.Second {
			t.Fatalf("the gateway was held up for %s", took)
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("it is not dropped")
		}
	}
}

// The listener's timeouts are for requests, not for the stream.
func TestStreamOutlivesTheTimeouts(t *testing.T) {
	t.Parallel()
	f := newFakes()
	ts := httptest.NewUnstartedServer(f.handler(""))
	ts.Config.ReadTimeout, ts.Config.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	ts.Start()
	defer ts.Close()
	c, err := NewClient(ts.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	enough := errors.New("enough")
	began := time.Now()
	err = c.Stream(t.Context(), []string{MessageBackend}, func(RawMessage) error {
		f.mu.Lock()
		f.paused["legacy"] = !f.paused["legacy"] // so that the next look has something to tell
		f.mu.Unlock()
		if time.Since(began) > 4*300*time.Millisecond {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}
