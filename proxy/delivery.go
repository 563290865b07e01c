package proxy

import "time"

// State says where a Delivery, or an Event as a whole, stands. The words are those of Stripe's own dashboard.
type State string

const (
	// Pending is owed: due at a time, or leased. Lease and Settle move it on. After a crash it is still Pending; what
	// was leased is due at once.
	Pending State = "pending"
	// Delivered was answered with a success. Only a resend, by hand or from Stripe, moves it on, to a new turn.
	Delivered State = "delivered"
	// Failed was given up: kept, shown, and resendable until retention ends.
	Failed State = "failed"
	// Ignored is an event that a rule ignores or that no route wants; it has no deliveries.
	Ignored State = "ignored"
)

// Reasons of an event without deliveries.
const (
	ReasonRule        = "rule"        // Ignored: a route with `to: []`
	ReasonNoRoute     = "no_route"    // Ignored: no route matched
	ReasonPing        = "ping"        // Ignored: v2.core.event_destination.ping
	ReasonUnparseable = "unparseable" // Failed: signed, but not an event that can be read
)

// Outcome classes: what became of one attempt. The set is closed: metrics, logs and the journal use these words.
const (
	OutcomeDelivered   = "delivered"    // the backend has it
	OutcomeSoftFailure = "soft_failure" // a 2xx that the backend's success rules do not accept
	OutcomeRedirect    = "redirect"     // 3xx, a failure as at Stripe
	OutcomeStatus4xx   = "status_4xx"   // but for 429
	OutcomeStatus429   = "status_429"   // it asks for fewer requests
	OutcomeStatus5xx   = "status_5xx"   // and above
	OutcomeDial        = "dial"         // no connection: nothing was sent
	OutcomeTLS         = "tls"          // the handshake failed: nothing was sent
	OutcomeTimeout     = "timeout"      // no answer within the backend's timeout
	OutcomeReset       = "reset"        // the connection ended, or what came back was not HTTP
	OutcomeInterrupted = "interrupted"  // cut by our own stop
	OutcomePanic       = "panic"        // our code, or the Sender's, panicked
)

// Outcomes lists every class of Attempt.Outcome, for those who create one metric for each.
var Outcomes = []string{
	OutcomeDelivered, OutcomeSoftFailure, OutcomeRedirect, OutcomeStatus4xx, OutcomeStatus429, OutcomeStatus5xx,
	OutcomeDial, OutcomeTLS, OutcomeTimeout, OutcomeReset, OutcomeInterrupted, OutcomePanic,
}

// Trigger says why an attempt was made.
type Trigger string

const (
	TriggerInline    Trigger = "inline"    // while Stripe waits for the answer
	TriggerRetry     Trigger = "retry"     // after a failed attempt of the same turn
	TriggerResend    Trigger = "resend"    // asked for again, by hand or by Stripe
	TriggerResume    Trigger = "resume"    // stored without an attempt (queued, breaker open, paused, no slot), sent now
	TriggerReconcile Trigger = "reconcile" // found missing and fetched from Stripe
)

// Delivery is one event owed to one backend, in its current turn.
type Delivery struct {
	Backend     string
	State       State     // Pending, Delivered or Failed
	Turn        int       // 1, and one more for each resend
	Attempts    int       // attempts that ended in this turn
	Due         time.Time // when Pending: not before this
	TurnStarted time.Time // where give_up_after counts from; moved on by time that the delivery waited for us, not for its backoff
	Token       int64     // who holds the lease; 0 for nobody
	LeaseUntil  time.Time // zero when not leased
	Status      int       // HTTP status of the last attempt, 0 without
	Outcome     string    // class of the last attempt, "" without
}

// Attempt is one attempt at a delivery that was made and ended: one HTTP request, where the Backend has no Sender.
type Attempt struct {
	Backend  string // set when read back, as is Turn
	Turn     int
	N        int // 1 for the first of its turn
	Started  time.Time
	Duration time.Duration
	Status   int    // 0 when there was no answer
	Outcome  string // one of Outcomes
	Error    string // what went wrong, for people; no secret, no query
	Trigger  Trigger
	Excerpt  string // the beginning of the answer's body, valid UTF-8, at most 1 KiB
}
