package journaltest

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// A caller owns what it passed in as soon as the call returns: it may put the body's buffer to other use. So each of
// these writes over everything that a call was given, and then looks for what the journal holds.

// spoil writes over all that an entry refers to.
func spoil(e proxy.Entry) {
	spoilEvent(e.Event)
	for i := range e.Deliveries {
		if a := e.Deliveries[i].Attempt; a != nil {
			*a = proxy.Attempt{N: 77, Status: 777, Outcome: "spoiled"}
		}
		e.Deliveries[i].Delivery = proxy.Delivery{Backend: "spoiled", State: proxy.Failed, Turn: 77}
	}
}

func spoilEvent(e *proxy.Event) {
	spoilBytes(e.Body)
	spoilHeader(e.Header)
	spoilHeader(e.Forwarded)
	*e = proxy.Event{Source: "spoiled", ID: "evt_spoiled", Body: e.Body[:0]}
}

func spoilHeader(h http.Header) {
	for k, v := range h {
		for i := range v {
			v[i] = "spoiled"
		}
		h[k] = append(v, "spoiled")
	}
	h.Set("X-Spoiled", "spoiled")
}

func spoilBytes(b []byte) {
	for i := range b {
		b[i] = 'x'
	}
}

// holds checks that the journal holds e as event(n) with these attempts.
func (h *harness) holds(want *proxy.Event, attempts ...string) {
	h.t.Helper()
	ctx := context.Background()
	seq := h.find(want).Event.Seq
	k, _, err := h.Event(ctx, seq)
	if err != nil {
		h.t.Fatalf("Event: %v", err)
	}
	e := k.Event
	if e.Body, err = h.Body(ctx, seq); err != nil {
		h.t.Fatalf("Body: %v", err)
	}
	own := *want
	own.Seq = seq
	diff(h.t, "event", e, own)
	for _, d := range k.Deliveries {
		if d.Backend != legacy && d.Backend != other {
			h.t.Errorf("a delivery of nobody: %+v", d)
		}
	}
	h.attempted(seq, attempts...)
}

func testOwnsAppended(t *testing.T, h *harness) {
	e := proxy.Entry{Event: event(1), Deliveries: []proxy.EntryDelivery{
		ended(legacy, proxy.Failed, 1, attempt(1, 500)), ended(other, proxy.Delivered, 1, attempt(1, 200)),
	}}
	h.put(e)
	spoil(e)
	h.holds(event(1), "legacy 1.1 500", "other 1.1 200")

	again := proxy.Entry{Event: event(1), Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Pending, 2, attempt(1, 502))}}
	again.Event.Body = []byte("another body")
	h.put(again)
	spoil(again)
	want := event(1)
	want.Body = []byte("another body")
	h.holds(want, "legacy 1.1 500", "legacy 2.1 502", "other 1.1 200")
	l := h.leaseOne(t0.Add(minute), legacy)
	if !bytes.Equal(l.Event.Body, want.Body) {
		t.Errorf("leased with %q", l.Event.Body)
	}
	spoilEvent(l.Event) // what it returned is the caller's as well
	h.holds(want, "legacy 1.1 500", "legacy 2.1 502", "other 1.1 200")
}

func testOwnsRecorded(t *testing.T, h *harness) {
	const n = 20
	for i := range n {
		e := proxy.Entry{Event: event(i), Answered: t0, Deliveries: []proxy.EntryDelivery{ended(legacy, proxy.Delivered, 1, attempt(1, 200))}}
		h.record(e)
		spoil(e)
		if k := h.find(event(i)); k.Event.Type != event(i).Type || len(k.Deliveries) != 1 || k.Deliveries[0].Backend != legacy {
			t.Fatalf("found %+v", k)
		}
	}
	h.flush()
	for i := range n {
		h.holds(event(i), "legacy 1.1 200")
	}
}

func testOwnsTheRest(t *testing.T, h *harness) {
	ctx := context.Background()
	seq := h.append(event(1), pending(legacy, t0))
	ss := []proxy.Settlement{proxy.SettleFailed(h.leaseOne(t0, legacy), *attempt(1, 500))}
	h.settle(ss...)
	*ss[0].Attempt = proxy.Attempt{Status: 777}
	ss[0] = proxy.Settlement{}
	backends := []string{legacy, other}
	h.resend(t0, seq, backends...)
	backends[0], backends[1] = "spoiled", "spoiled"
	h.holds(event(1), "legacy 1.1 500")
	k := h.find(event(1))
	k.Deliveries[0] = proxy.Delivery{Backend: "spoiled"}
	for _, k := range h.pages(journal.Filter{}) {
		k.Deliveries[0] = proxy.Delivery{Backend: "spoiled"}
	}
	h.holds(event(1), "legacy 1.1 500")

	r := proxy.Rejected{Source: src, Received: t0, Header: http.Header{"A": {"b"}}, Forwarded: http.Header{"C": {"d"}}, Body: []byte("body")}
	if _, err := h.KeepRejected(ctx, r); err != nil {
		t.Fatalf("KeepRejected: %v", err)
	}
	for range 2 { // what it was given, then what it returned
		spoilBytes(r.Body)
		spoilHeader(r.Header)
		spoilHeader(r.Forwarded)
		rs, err := h.ListRejected(ctx, 0, 10)
		if err != nil || len(rs) != 1 {
			t.Fatalf("ListRejected: %d, %v", len(rs), err)
		}
		r = rs[0]
		diff(t, "rejected", []any{r.Header, r.Forwarded, r.Body}, []any{http.Header{"A": {"b"}}, http.Header{"C": {"d"}}, []byte("body")})
	}

	doc := []byte("document")
	id, err := h.SaveJob(ctx, 0, doc)
	if err != nil {
		t.Fatalf("SaveJob: %v", err)
	}
	for range 2 {
		spoilBytes(doc)
		jobs, err := h.LoadJobs(ctx)
		if doc = jobs[id]; err != nil || !slices.Equal(doc, []byte("document")) {
			t.Errorf("the job's document is %q, %v", doc, err)
		}
	}
	if at := h.find(event(1)).Event.Received; !at.Equal(t0.Add(time.Millisecond)) {
		t.Errorf("received at %v", at)
	}
}
