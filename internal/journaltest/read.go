package journaltest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// pages lists everything that f chooses, page by page, and checks what each page says about where it ended.
func (h *harness) pages(f journal.Filter) (all []journal.Stored) {
	h.t.Helper()
	var lookedTo time.Time
	for calls := 0; ; calls++ {
		p, err := h.Events(context.Background(), f)
		switch {
		case err != nil:
			h.t.Fatalf("Events: %v", err)
		case f.Limit > 0 && len(p.Events) > f.Limit:
			h.t.Fatalf("a page of %d, asked for %d", len(p.Events), f.Limit)
		case p.Next == 0 && !p.LookedTo.IsZero():
			h.t.Fatalf("the last page says that it looked only to %v", p.LookedTo)
		case p.Next != 0 && len(p.Events) < f.Limit && p.LookedTo.IsZero():
			h.t.Fatalf("the page after %d is short and does not say how far it looked", f.Before)
		case p.Next < 0, p.Next != 0 && f.Before > 0 && p.Next >= f.Before, calls > 10_000:
			h.t.Fatalf("the page after %d goes on at %d", f.Before, p.Next)
		}
		for _, k := range p.Events {
			if n := len(all); n > 0 && all[n-1].Event.Seq <= k.Event.Seq {
				h.t.Fatalf("%d after %d: not newest first", k.Event.Seq, all[n-1].Event.Seq)
			}
			if k.Event.Body != nil || k.Event.Header != nil {
				h.t.Fatalf("event %d is listed with its body or headers", k.Event.Seq)
			}
			if !lookedTo.IsZero() && k.Event.Received.After(lookedTo) {
				h.t.Fatalf("event %d was received after %v, to which an earlier page has looked", k.Event.Seq, lookedTo)
			}
			all = append(all, k)
		}
		if lookedTo = p.LookedTo; p.Next == 0 {
			return all
		}
		f.Before = p.Next
	}
}

// kinds are the events of a search: those of i%6.
var kinds = [...]struct {
	state  proxy.State
	reason string // of an event without deliveries
}{
	{proxy.Pending, ""},
	{proxy.Delivered, ""},
	{proxy.Failed, ""},
	{proxy.Ignored, proxy.ReasonRule},
	{proxy.Ignored, proxy.ReasonNoRoute},
	{proxy.Failed, proxy.ReasonUnparseable},
}

// kind is the ith event of a search, received i seconds after t0.
func kind(i int) proxy.Entry {
	e := event(i)
	e.Source = []string{src, "connect"}[i%2]
	e.Type, e.Account = fmt.Sprint("invoice.t", i%5), fmt.Sprint("acct_", i%3)
	e.Object, e.Customer = fmt.Sprint("in_", i/2), fmt.Sprint("cus_", i/4)
	e.Received, e.Body = t0.Add(time.Duration(i)*time.Second), fmt.Appendf(nil, `{"n": "Needle %d."}`, i)
	k := kinds[i%6]
	if k.reason != "" {
		return proxy.Entry{Event: e, State: k.state, Reason: k.reason}
	}
	a := attempt(1, map[proxy.State]int{proxy.Delivered: 200, proxy.Failed: 500}[k.state])
	if a.Started = e.Received; k.state == proxy.Pending {
		a = nil
	}
	return proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{ended(legacy, k.state, 1, a)}}
}

// search appends many events of all kinds, and an odd one: Pending at one backend, Failed at the other.
func (h *harness) search() (entries []proxy.Entry) {
	for i := range 36 {
		entries = append(entries, kind(i))
	}
	odd := event(36)
	odd.Type, odd.Account, odd.Object, odd.Customer = "a[b]?c", "acct_odd", "in_odd", "cus_odd"
	odd.Received, odd.Body = t0.Add(time.Hour), []byte(`{"charge": "pi_3Nbody", "name": "Åse", "percent": "100%_"}`)
	entries = append(entries, proxy.Entry{Event: odd, Deliveries: []proxy.EntryDelivery{
		ended(legacy, proxy.Pending, 1, nil), ended(other, proxy.Failed, 1, attempt(1, 500)),
	}})
	for i, e := range entries {
		entries[i].Event.Seq = h.put(e)
	}
	return entries
}

// searchCase is a filter, and which events it chooses: 36 is the odd one.
type searchCase struct {
	name string
	f    journal.Filter
	want func(i int) bool
}

func (h *harness) chooses(entries []proxy.Entry, cases []searchCase) {
	h.t.Helper()
	for _, c := range cases {
		var want []int64
		for i, e := range slices.Backward(entries) {
			if c.want(i) {
				want = append(want, e.Event.Seq)
			}
		}
		if n, err := h.Count(context.Background(), c.f); err != nil || int(n) != len(want) {
			h.t.Errorf("%s: counted %d, %v, want %d", c.name, n, err, len(want))
		}
		for _, c.f.Limit = range []int{0, 1, 7} {
			var got []int64
			for _, k := range h.pages(c.f) {
				got = append(got, k.Event.Seq)
				if i := slices.IndexFunc(entries, func(e proxy.Entry) bool { return e.Event.Seq == k.Event.Seq }); i >= 0 &&
					k.Size != int64(len(entries[i].Event.Body)) {
					h.t.Errorf("%s: event %d has size %d", c.name, i, k.Size)
				}
			}
			if !slices.Equal(got, want) {
				h.t.Errorf("%s, %d a page: listed %v, want %v", c.name, c.f.Limit, got, want)
			}
		}
	}
}

func none(int) bool { return false }

func only(n int) func(int) bool { return func(i int) bool { return i == n } }

func testEventsConditions(t *testing.T, h *harness) {
	entries := h.search()
	all := func(int) bool { return true }
	is := func(kinds ...int) func(int) bool {
		return func(i int) bool { return i < 36 && slices.Contains(kinds, i%6) }
	}
	typed := func(n int) func(int) bool { return func(i int) bool { return i < 36 && i%5 == n } }
	with := func(of func(int) bool, more ...int) func(int) bool {
		return func(i int) bool { return of(i) || slices.Contains(more, i) }
	}
	at := func(i int) time.Time { return entries[i].Event.Received }
	id := entries[8].Event.ID
	h.chooses(entries, []searchCase{
		{"all", journal.Filter{}, all},
		{"pending", journal.Filter{State: proxy.Pending}, is(0)},
		{"delivered", journal.Filter{State: proxy.Delivered}, is(1)},
		{"failed, by a delivery or by itself", journal.Filter{State: proxy.Failed}, with(is(2, 5), 36)},
		{"ignored", journal.Filter{State: proxy.Ignored}, is(3, 4)},
		{"backend", journal.Filter{Backend: legacy}, with(is(0, 1, 2), 36)},
		{"no such backend", journal.Filter{Backend: "nobody"}, none},
		{"that backend's delivery is pending", journal.Filter{Backend: legacy, State: proxy.Pending}, with(is(0), 36)},
		{"that backend's delivery is failed", journal.Filter{Backend: legacy, State: proxy.Failed}, is(2)},
		{"the other's is failed", journal.Filter{Backend: other, State: proxy.Failed}, only(36)},
		{"the other's is pending", journal.Filter{Backend: other, State: proxy.Pending}, none},
		{"no delivery is ignored", journal.Filter{Backend: legacy, State: proxy.Ignored}, none},
		{"type", journal.Filter{Type: "invoice.t3"}, typed(3)},
		{"type, star before", journal.Filter{Type: "*.t3"}, typed(3)},
		{"type, star crosses dots", journal.Filter{Type: "in*3"}, typed(3)},
		{"type, two stars", journal.Filter{Type: "*voice*t4"}, typed(4)},
		{"type, any", journal.Filter{Type: "*"}, all},
		{"type is matched whole", journal.Filter{Type: "t3"}, none},
		{"type has its case", journal.Filter{Type: "Invoice.*"}, none},
		{"type, nothing else is a wildcard", journal.Filter{Type: "a[b]?*"}, only(36)},
		{"type, a question mark is itself", journal.Filter{Type: "invoice.t?"}, none},
		{"type and state", journal.Filter{Type: "*.t3", State: proxy.Ignored}, func(i int) bool { return typed(3)(i) && is(3, 4)(i) }},
		{"source", journal.Filter{Source: "connect"}, func(i int) bool { return i < 36 && i%2 == 1 }},
		{"account", journal.Filter{Account: "acct_2"}, func(i int) bool { return i < 36 && i%3 == 2 }},
		{"account and failed", journal.Filter{Account: "acct_2", State: proxy.Failed}, is(2, 5)},
		{"object", journal.Filter{Object: "in_4"}, func(i int) bool { return i == 8 || i == 9 }},
		{"customer", journal.Filter{Customer: "cus_2"}, func(i int) bool { return i/4 == 2 }},
		{"customer and object", journal.Filter{Customer: "cus_2", Object: "in_5"}, func(i int) bool { return i == 10 || i == 11 }},
		{"object of another customer", journal.Filter{Customer: "cus_3", Object: "in_5"}, none},
		{"id", journal.Filter{ID: id}, only(8)},
		{"id and another state", journal.Filter{ID: id, State: proxy.Ignored}, none},
		{"no such id", journal.Filter{ID: "evt_none"}, none},
		{"since", journal.Filter{Since: at(30)}, func(i int) bool { return i >= 30 }},
		{"until", journal.Filter{Until: at(3)}, func(i int) bool { return i < 3 }},
		{"since and until", journal.Filter{Since: at(5), Until: at(15), State: proxy.Pending}, func(i int) bool { return i == 6 || i == 12 }},
	})
	f := journal.Filter{Before: entries[3].Event.Seq}
	if got := h.pages(f); len(got) != 3 || got[0].Event.Seq != entries[2].Event.Seq {
		t.Errorf("before the fourth: %d events", len(got))
	}
	if n, err := h.Count(context.Background(), f); err != nil || n != 37 {
		t.Errorf("counted %d, %v: Before is of no concern to Count", n, err)
	}
}

// testEventsQueries: a query is an id where some event has it or names it, else text.
func testEventsQueries(t *testing.T, h *harness) {
	entries := h.search()
	text := func(prefix string) func(int) bool {
		return func(i int) bool { return i < 36 && strings.HasPrefix(fmt.Sprint(i), prefix) }
	}
	h.chooses(entries, []searchCase{
		{"id of an event", journal.Filter{Query: entries[8].Event.ID}, only(8)},
		{"id of an object", journal.Filter{Query: "in_4"}, func(i int) bool { return i == 8 || i == 9 }},
		{"id of a customer", journal.Filter{Query: "cus_2"}, func(i int) bool { return i/4 == 2 }},
		{"id of an account", journal.Filter{Query: "acct_2", State: proxy.Failed}, func(i int) bool { return i < 36 && i%6%3 == 2 }},
		{"an id that only a body has", journal.Filter{Query: "pi_3Nbody"}, only(36)},
		{"an id that nothing has", journal.Filter{Query: "pi_3Nnone"}, none},
		{"text", journal.Filter{Query: "Needle 3"}, text("3")},
		{"text in any case", journal.Filter{Query: "nEEDLE 3"}, text("3")},
		{"text, beyond ASCII", journal.Filter{Query: "ÅSE"}, only(36)},
		{"text, no wildcards", journal.Filter{Query: "100%_"}, only(36)},
		{"text, no globs", journal.Filter{Query: "Needle *"}, none},
		{"text and state", journal.Filter{Query: "needle 1", State: proxy.Ignored}, func(i int) bool {
			return text("1")(i) && kinds[i%6].state == proxy.Ignored
		}},
	})
}

func testEventsOneID(t *testing.T, h *harness) {
	ctx := context.Background()
	e := event(1)
	for _, e.Source = range []string{"", src, "connect", "z"} {
		e.Body = []byte("body of " + e.Source)
		h.append(e, pending(legacy, t0))
	}
	found := h.pages(journal.Filter{ID: e.ID})
	for _, k := range found {
		if body, err := h.Body(ctx, k.Event.Seq); err != nil || string(body) != "body of "+k.Event.Source {
			t.Errorf("body %q, %v", body, err)
		}
	}
	e.ID = "evt_00000000000000" // the dashboard's test event, of which there can be many
	h.append(e, pending(legacy, t0))
	h.append(e, pending(legacy, t0))
	if tests := h.pages(journal.Filter{ID: e.ID}); len(found) != 4 || len(tests) != 2 {
		t.Errorf("found %d of one id and %d test events, want 4 and 2", len(found), len(tests))
	}
}

// testEventsWhileItChanges: a walk by cursors sees each event that is there all the time exactly once.
func testEventsWhileItChanges(t *testing.T, h *harness) {
	ctx, cancel := context.WithCancel(context.Background())
	var seqs []int64
	for n := range 200 {
		e := kind(n * 6)
		seqs = append(seqs, h.put(e))
	}
	var more sync.WaitGroup
	more.Go(func() {
		for n := 10_000; ctx.Err() == nil; n++ {
			if _, err := h.Append(context.Background(), kind(n)); err != nil {
				t.Errorf("Append: %v", err)
				return
			}
		}
	})
	for _, f := range []journal.Filter{{Limit: 7}, {Limit: 3, State: proxy.Pending, Type: "*.t1"}} {
		times := map[int64]int{}
		for _, k := range h.pages(f) {
			times[k.Event.Seq]++
		}
		for i, seq := range seqs {
			if want := f.State == "" || i*6%5 == 1; want != (times[seq] == 1) || times[seq] > 1 {
				t.Errorf("%+v: event %d was seen %d times", f, i, times[seq])
			}
		}
	}
	cancel()
	more.Wait()
}

// testEventWhole: a single event comes with what each attempt sends.
func testEventWhole(t *testing.T, h *harness) {
	ctx := context.Background()
	e := event(1)
	e.Query = "a=1"
	seq := h.append(e, ended(legacy, proxy.Pending, 1, attempt(1, 500)))
	k, as, err := h.Event(ctx, seq)
	if err != nil || len(as) != 1 || k.Size != int64(len(e.Body)) || k.Event.Body != nil {
		t.Fatalf("size %d, %d attempts, %v", k.Size, len(as), err)
	}
	type sent struct {
		Query             string
		Header, Forwarded http.Header
	}
	diff(t, "Event", sent{k.Event.Query, k.Event.Header, k.Event.Forwarded}, sent{"a=1", e.Header, e.Forwarded})
	if l := h.leaseOne(t0.Add(minute), legacy); l.Token == 0 {
		t.Error("no token")
	}
	if k, _, err := h.Event(ctx, seq); err != nil || k.Deliveries[0].Token == 0 {
		t.Errorf("Event does not show the lease: %+v, %v", k.Deliveries, err)
	}
	if ks := h.pages(journal.Filter{}); ks[0].Deliveries[0].Token == 0 {
		t.Errorf("Events does not show the lease: %+v", ks[0].Deliveries)
	}
	if _, _, err := h.Event(ctx, seq+1); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Event: %v", err)
	}
	if _, err := h.Body(ctx, seq+1); !errors.Is(err, proxy.ErrNotFound) {
		t.Errorf("Body: %v", err)
	}
}

// totals compares the counters with what is listed, and returns when the oldest Pending event was received.
func (h *harness) totals() (oldest time.Time) {
	h.t.Helper()
	type key struct {
		backend string
		state   proxy.State
	}
	got, want := map[key]int64{}, map[key]int64{}
	for _, k := range h.pages(journal.Filter{}) {
		for _, d := range k.Deliveries {
			want[key{d.Backend, d.State}]++
		}
		if len(k.Deliveries) == 0 && k.State == proxy.Failed {
			want[key{"", proxy.Failed}]++
		}
	}
	totals, err := h.Totals(context.Background())
	if err != nil {
		h.t.Fatalf("Totals: %v", err)
	}
	for _, c := range totals {
		if got[key{c.Backend, c.State}] += c.Count; c.State == proxy.Pending {
			oldest = c.Oldest
		} else if !c.Oldest.IsZero() {
			h.t.Errorf("%s has an oldest: %v", c.State, c.Oldest)
		}
	}
	diff(h.t, "totals", got, want)
	return oldest
}

func testTotals(t *testing.T, h *harness) {
	var entries []proxy.Entry
	for i := range 18 { // 0, 6 and 12 are Pending
		entries = append(entries, kind(i))
		entries[i].Event.Seq = h.put(entries[i])
	}
	oldest := func(want time.Time) {
		t.Helper()
		if got := h.totals(); !got.Equal(want) {
			t.Errorf("the oldest Pending event was received at %v, want %v", got, want)
		}
	}
	received := func(i int) time.Time { return entries[i].Event.Received }
	oldest(received(0))
	now := t0.Add(time.Hour)
	ls, _ := h.lease(now, legacy, 10)
	slices.SortFunc(ls, func(a, b proxy.Leased) int { return int(a.Event.Seq - b.Event.Seq) })
	for i, next := range []time.Time{received(6), received(12), {}} {
		h.settle(proxy.SettleDelivered(ls[i], *attempt(1, 200)))
		oldest(next)
	}
	for _, i := range []int{8, 1, 13} {
		h.resend(now, entries[i].Event.Seq, legacy)
	}
	oldest(received(1))
}
