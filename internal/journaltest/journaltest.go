// Package journaltest is the contract of journal.Store as tests, and a journal in memory that keeps it.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// t0 is the time at which every test starts. Journals keep milliseconds.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	src    = "main"
	legacy = "legacy"
	other  = "other"
	minute = time.Minute
)

// Run tests a journal against the contract. open returns an empty one; it closes it by t.Cleanup. One that writes behind
// offers Flush(ctx) besides, which returns when what Record has taken is written.
func Run(t *testing.T, open func(t *testing.T) journal.Store) {
	for _, s := range []struct {
		name string
		test func(t *testing.T, h *harness)
	}{
		{"Append/stores", testAppendStores},
		{"Append/merges", testAppendMerges},
		{"Append/later turn replaces", testAppendLaterTurn},
		{"Append/earlier turn adds history only", testAppendEarlierTurn},
		{"Append/owed again after it failed", testAppendOwedAgain},
		{"Append/later turn is not answered yet", testAppendLaterTurnUnanswered},
		{"Append/first body stays", testAppendFirstBodyStays},
		{"Append/attempts accumulate", testAppendAttempts},
		{"Append/same attempt twice counts once", testAppendTwice},
		{"Append/test events never merge", testAppendTestEvents},
		{"Append/same id at two sources", testAppendTwoSources},
		{"Append/without deliveries", testAppendWithoutDeliveries},
		{"Append/an ended context", testEndedContext},
		{"Append/any bytes", testAppendAnyBytes},
		{"Append/a claim", testAppendClaim},
		{"Find/unknown", testFindUnknown},
		{"Record/seen at once", testRecordSeenAtOnce},
		{"Record/answered by key and by number", testRecordAnswered},
		{"Record/an answer makes no event", testRecordAnswerMakesNoEvent},
		{"Record/does not undo", testRecordDoesNotUndo},
		{"Lease/order", testLeaseOrder},
		{"Lease/only due, only this backend", testLeaseOnlyDue},
		{"Lease/whole event", testLeaseWholeEvent},
		{"Lease/next", testLeaseNext},
		{"Lease/expiry", testLeaseExpiry},
		{"Lease/past many leased", testLeasePastLeased},
		{"Settle/transitions", testSettleTransitions},
		{"Settle/keeps what zero says", testSettleKeeps},
		{"Settle/lost", testSettleLost},
		{"Settle/others still apply", testSettleOthersApply},
		{"Settle/late, of an old turn", testSettleOldTurn},
		{"Settle/late, a success", testSettleLateSuccess},
		{"Resend/in each state", testResend},
		{"Resend/keeps the attempts of earlier turns", testResendKeepsAttempts},
		{"Resend/unknown event", testResendUnknown},
		{"Events/each condition", testEventsConditions},
		{"Events/each query", testEventsQueries},
		{"Events/one id at several sources", testEventsOneID},
		{"Events/while it changes", testEventsWhileItChanges},
		{"Event/with headers and attempts", testEventWhole},
		{"Totals", testTotals},
		{"Prune/each retention", testPruneRetention},
		{"Prune/after the clock was ahead", testPruneClockAhead},
		{"Quarantine", testQuarantine},
		{"Jobs", testJobs},
		{"Notes", testNotes},
		{"Audit", testAudit},
		{"Backup", testBackup},
		{"Close", testClose},
		{"keeps nothing that it was given/Append", testOwnsAppended},
		{"keeps nothing that it was given/Record", testOwnsRecorded},
		{"keeps nothing that it was given/the rest", testOwnsTheRest},
		{"concurrent", testConcurrent},
		{"model", testModel},
	} {
		t.Run(s.name, func(t *testing.T) { s.test(t, &harness{t: t, Store: open(t)}) })
	}
}

// harness is a journal with the test that it serves.
type harness struct {
	journal.Store
	t testing.TB
}

// event is one as Stripe sends it.
func event(n int) *proxy.Event {
	return &proxy.Event{
		Source: src, ID: fmt.Sprintf("evt_1Pgc76B7WZ01zgkW%08d", n), Type: "invoice.paid", Account: "acct_1", APIVersion: "2023-10-16",
		Object: "in_1", Customer: "cus_1", Livemode: true, Created: t0.Add(-time.Second), Received: t0.Add(time.Duration(n) * time.Millisecond),
		Query: "a=b&c", Header: http.Header{"Content-Type": {"application/json"}, "Stripe-Signature": {"t=1,v1=ab"}},
		Forwarded: http.Header{"X-Forwarded-Proto": {"https"}}, Body: fmt.Appendf(nil, "{\n  \"id\": %d\n}", n),
	}
}

// attempt is the nth attempt of a turn, with this status.
func attempt(n, status int) *proxy.Attempt {
	a := &proxy.Attempt{
		N: n, Started: t0.Add(time.Duration(n) * minute), Duration: 120 * time.Millisecond, Status: status,
		Outcome: proxy.OutcomeStatus5xx, Error: "500 Internal Server Error", Trigger: proxy.TriggerRetry, Excerpt: "oops",
	}
	if n == 1 {
		a.Trigger = proxy.TriggerInline
	}
	if status < 300 {
		a.Outcome, a.Error, a.Excerpt = proxy.OutcomeDelivered, "", ""
	}
	return a
}

func pending(backend string, due time.Time) proxy.EntryDelivery {
	return proxy.EntryDelivery{Delivery: proxy.Delivery{Backend: backend, State: proxy.Pending, Turn: 1, Due: due, TurnStarted: t0}}
}

// ended is a delivery that one more attempt has brought to a state.
func ended(backend string, s proxy.State, turn int, a *proxy.Attempt) proxy.EntryDelivery {
	d := proxy.Delivery{Backend: backend, State: s, Turn: turn, TurnStarted: t0}
	if a != nil {
		d.Attempts, d.Status, d.Outcome = a.N, a.Status, a.Outcome
	}
	if s == proxy.Pending {
		d.Due = t0.Add(minute)
	}
	return proxy.EntryDelivery{Delivery: d, Attempt: a}
}

func (h *harness) append(e *proxy.Event, ds ...proxy.EntryDelivery) int64 {
	h.t.Helper()
	return h.put(proxy.Entry{Event: e, Deliveries: ds})
}

func (h *harness) put(e proxy.Entry) int64 {
	h.t.Helper()
	seq, err := h.Append(context.Background(), e)
	if err != nil {
		h.t.Fatalf("Append: %v", err)
	}
	if seq <= 0 {
		h.t.Fatalf("Append returned number %d", seq)
	}
	return seq
}

func (h *harness) record(e proxy.Entry) {
	h.t.Helper()
	if err := h.Record(e); err != nil {
		h.t.Fatalf("Record: %v", err)
	}
}

func (h *harness) find(e *proxy.Event) proxy.Known {
	h.t.Helper()
	k, err := h.Find(context.Background(), e.Key())
	if err != nil {
		h.t.Fatalf("Find %v: %v", e.Key(), err)
	}
	return k
}

// delivery is one of the deliveries that Find shows.
func (h *harness) delivery(e *proxy.Event, backend string) proxy.Delivery {
	h.t.Helper()
	for _, d := range h.find(e).Deliveries {
		if d.Backend == backend {
			return d
		}
	}
	h.t.Fatalf("no delivery to %s", backend)
	return proxy.Delivery{}
}

func (h *harness) lease(now time.Time, backend string, n int) ([]proxy.Leased, time.Time) {
	h.t.Helper()
	ls, next, err := h.Lease(context.Background(), proxy.LeaseRequest{Backend: backend, Now: now, Most: n, For: minute})
	if err != nil {
		h.t.Fatalf("Lease: %v", err)
	}
	return ls, next
}

// leaseOne leases the one delivery that must be due.
func (h *harness) leaseOne(now time.Time, backend string) proxy.Leased {
	h.t.Helper()
	ls, _ := h.lease(now, backend, 10)
	if len(ls) != 1 {
		h.t.Fatalf("leased %d deliveries, want 1", len(ls))
	}
	return ls[0]
}

func (h *harness) settle(s ...proxy.Settlement) {
	h.t.Helper()
	if err := h.Settle(context.Background(), s...); err != nil {
		h.t.Fatalf("Settle: %v", err)
	}
}

func (h *harness) settleLost(s ...proxy.Settlement) {
	h.t.Helper()
	if err := h.Settle(context.Background(), s...); !errors.Is(err, proxy.ErrLeaseLost) {
		h.t.Fatalf("Settle: %v, want ErrLeaseLost", err)
	}
}

func (h *harness) resend(now time.Time, seq int64, backends ...string) []proxy.Resent {
	h.t.Helper()
	r, err := h.Resend(context.Background(), now, seq, backends)
	if err != nil {
		h.t.Fatalf("Resend: %v", err)
	}
	return r
}

// attempts are those of an event.
func (h *harness) attempts(seq int64) []proxy.Attempt {
	h.t.Helper()
	_, as, err := h.Event(context.Background(), seq)
	if err != nil {
		h.t.Fatalf("Event: %v", err)
	}
	return as
}

// attempted checks which attempts there are, as "backend turn.n status".
func (h *harness) attempted(seq int64, want ...string) {
	h.t.Helper()
	var got []string
	for _, a := range h.attempts(seq) {
		got = append(got, fmt.Sprintf("%s %d.%d %d", a.Backend, a.Turn, a.N, a.Status))
	}
	diff(h.t, "attempts", got, want)
}

// flush has written what was recorded.
func (h *harness) flush() {
	h.t.Helper()
	if f, ok := h.Store.(interface{ Flush(context.Context) error }); ok {
		if err := f.Flush(context.Background()); err != nil {
			h.t.Fatalf("Flush: %v", err)
		}
	}
}

func diff(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

// seqs are the numbers of what was leased, in order.
func seqs(ls []proxy.Leased) (out []int64) {
	for _, l := range ls {
		out = append(out, l.Event.Seq)
	}
	return out
}
