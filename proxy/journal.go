package proxy

import (
	"context"
	"errors"
	"time"
)

// Errors that a Journal returns and its callers act on.
var (
	// ErrNotFound: the journal has no such event.
	ErrNotFound = errors.New("event not found")
	// ErrBusy: the buffer for history is full; try again shortly.
	ErrBusy = errors.New("journal busy: history buffer is full")
	// ErrLeaseLost: a settlement's lease ended, was taken over, or belongs to an earlier turn. Nothing was changed for it.
	ErrLeaseLost = errors.New("lease lost")
	// ErrFull: below its reserve of free space a journal takes no new events.
	ErrFull = errors.New("journal full: less than journal_limits.reserve is free")
)

// Journal is the durable record of events, deliveries and attempts. Time is an argument: a journal never asks for it,
// so that now is the same in all that one call does. All methods may be called concurrently.
type Journal interface {
	// Find returns what is known of an event, including what Record has taken but not written yet. It returns
	// ErrNotFound when the event is unknown; any other error means that nothing can be said.
	Find(ctx context.Context, k Key) (Known, error)

	// Append puts an entry on stable storage and returns the event's number only after that. Where the event is known
	// (same Key, and Event.Unique), it merges by backend: a later turn replaces an earlier one; within one turn
	// Delivered wins over Pending, Pending over Failed, an existing Pending keeps its due time and lease, and attempts
	// accumulate. A Pending entry of an earlier turn than one that Failed opens the turn after that: its sender may not
	// have known of the turns before, and owes it. The stored body and Answered stay, unless the entry opens a later
	// turn: then the body received with it is kept, and Answered is what the entry says.
	// When ctx ends before the commit, the error says nothing about whether the entry is stored.
	Append(ctx context.Context, e Entry) (int64, error)

	// Record takes an entry as history and writes it behind. It does not wait for storage; a crash may lose it, so it
	// is only for events that every backend has answered 2xx, and for notes such as Answered. It merges like Append.
	// It returns ErrBusy when its buffer is full; any other error means that waiting does not help.
	Record(e Entry) error

	// Lease takes what r asks for: Pending deliveries that are due and not leased, those due longest first. When it
	// returns fewer than r.Most it also says when to look again: the earliest due time or end of a lease, zero when
	// nothing is Pending. Its cost does not depend on how much is Pending.
	Lease(ctx context.Context, r LeaseRequest) (leased []Leased, again time.Time, err error)

	// Settle ends leases, and returns after stable storage. A settlement whose turn or token is not the current one
	// changes nothing; ErrLeaseLost is then returned, and the others still apply. But that the backend answered 2xx is a
	// fact: a Delivered of the current turn counts though its lease is over, and wins as in Append.
	Settle(ctx context.Context, s ...Settlement) error

	// Resend asks for deliveries again, in one step: Delivered and Failed start a new turn, due now; a waiting one
	// becomes due now; a leased one is left alone. A backend that the event has no delivery for gets one.
	Resend(ctx context.Context, now time.Time, seq int64, backends []string) ([]Resent, error)
}

// Known is what a journal knows of an event.
type Known struct {
	Event      Event     // without Body and headers
	State      State     // of the event as a whole: failed if any delivery failed, else pending if any is, else delivered or ignored
	Reason     string    // as in Entry
	Answered   time.Time // when a 2xx was fully written to Stripe; zero: unknown or not
	Deliveries []Delivery
}

// Entry is an event with what became of it so far.
type Entry struct {
	Event      *Event
	State      State     // for an event without deliveries: Ignored or Failed; else empty
	Reason     string    // why, for an event without deliveries, and "unparseable"
	Answered   time.Time // as in Known
	Deliveries []EntryDelivery
}

// EntryDelivery is a delivery with the attempt that was just made, if any. When the attempt still runs, the delivery is
// Pending and carries the Token and LeaseUntil of its claim, and Attempt is nil.
type EntryDelivery struct {
	Delivery
	Attempt *Attempt
}

// LeaseRequest says which deliveries Lease takes, and for how long.
type LeaseRequest struct {
	Backend string
	Now     time.Time     // what is due at this time can be leased
	Most    int           // no more deliveries than this
	For     time.Duration // the lease ends at Now+For
}

// Leased is a delivery taken by Lease, with its whole event.
type Leased struct {
	Event *Event
	Delivery
}

// Resent says what Resend did for one backend.
type Resent struct {
	Backend string
	Turn    int
	Result  string // one of ResentNewTurn, ResentDueNow, ResentInFlight
}

// Results of a resend.
const (
	ResentNewTurn  = "new_turn"  // it was Delivered, Failed or unknown: sent again
	ResentDueNow   = "due_now"   // it was waiting: it waits no longer
	ResentInFlight = "in_flight" // it is being sent at this moment: left alone
)

// Settlement ends one lease. There is a constructor for each legal transition: SettleDelivered, SettleRetry and so on.
type Settlement struct {
	Seq     int64
	Backend string
	Turn    int
	Token   int64

	State       State     // what the delivery becomes
	Due         time.Time // when State is Pending; zero keeps what it was
	TurnStarted time.Time // zero keeps what it was
	Attempt     *Attempt  // nil: no attempt was made, and none is counted
}

// SettleDelivered: the backend has it.
func SettleDelivered(l Leased, a Attempt) Settlement { return settle(l, Delivered, &a) }

// SettleFailed: we gave up; it is kept as Failed.
func SettleFailed(l Leased, a Attempt) Settlement { return settle(l, Failed, &a) }

// SettleRetry: the attempt failed, the next one is due then. turnStarted moves give_up_after's start, as Delivery says.
func SettleRetry(l Leased, a Attempt, due, turnStarted time.Time) Settlement {
	s := settle(l, Pending, &a)
	s.Due, s.TurnStarted = due, turnStarted
	return s
}

// SettleRelease: nothing was sent, no attempt is counted. A zero due leaves the due time as it was.
func SettleRelease(l Leased, due time.Time) Settlement {
	s := settle(l, Pending, nil)
	s.Due = due
	return s
}

func settle(l Leased, st State, a *Attempt) Settlement {
	return Settlement{Seq: l.Event.Seq, Backend: l.Backend, Turn: l.Turn, Token: l.Token, State: st, Attempt: a}
}
