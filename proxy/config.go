package proxy

import (
	"net/http"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// Config is what a Gateway is made of. Zero durations and sizes mean the documented default.
// Journal, Log, Observers and Quarantine are taken by New and stay as they are: Reload does not look at them.
type Config struct {
	Sources  map[string]Source
	Backends map[string]Backend
	Routes   Routes

	InlineTimeout  time.Duration  // Stripe is answered at the latest this long after its headers were read; default 8s
	ResignAfter    time.Duration  // an event older than this is signed afresh; default 60s
	DedupeWindow   time.Duration  // a repeat within this time after our answer is suppressed; default 1m
	DrainTimeout   time.Duration  // how long Run lets attempts end when it stops; default 20s
	ReadBody       time.Duration  // a request's body must have arrived within this time; default 15s
	BodyMemory     int64          // bytes of bodies held at once; default 64 MiB
	TrustedProxies []netip.Prefix // whose X-Forwarded-* headers are believed; default none

	Journal    Journal     // required
	Log        *zap.Logger // nil: nothing is logged
	Observers  []Observer  // told what happens, each in turn
	Quarantine Quarantine  // nil: what does not verify is refused
}

// Source is one webhook endpoint registered at Stripe.
type Source struct {
	Path           string // exact path that Stripe posts to
	SigningSecrets []Secret
	Tolerance      time.Duration // how old, and how far ahead, a signature may be; default 5m
	MaxBody        int64         // bytes; default 1 MiB
}

// Backend is where events are forwarded to.
type Backend struct {
	URL            string        // the exact target: nothing is appended to its path
	Timeout        time.Duration // of one attempt; default 30s, at most 5m
	MaxInFlight    int           // attempts at once, inline and retried together; default 64
	Rate           float64       // retried and resent deliveries a second; 0: no limit
	Retry          Retry
	Breaker        Breaker
	SigningSecrets []Secret // the backend's own; each delivery is then signed with them
	Headers        map[string]Secret
	Success        Success
	Host           string   // Host header; default the URL's
	CAFile         string   // PEM file of the only authorities believed for this backend
	ForwardedProto string   // X-Forwarded-Proto; default "https"
	APIVersion     string   // the version that the backend's Stripe library expects; others are counted and warned of
	Was            []string // earlier names: their deliveries are taken over
	Sender         Sender   // hands events over instead of HTTP; URL and what belongs to it are not looked at then
}

// Retry says how long a failed delivery waits: exponential with full jitter, from Initial to Max, until GiveUpAfter
// has passed since the turn's first attempt and at least 10 attempts were made.
type Retry struct {
	Initial     time.Duration // default 5s
	Max         time.Duration // default 1h
	GiveUpAfter time.Duration // default 168h
}

// Breaker opens after Failures consecutive failures and lets one probe pass after OpenFor.
type Breaker struct {
	Failures int           // default 5
	OpenFor  time.Duration // default 30s
}

// Success narrows what counts as delivered. The zero value is Stripe's own rule: any 2xx.
type Success struct {
	Status  []StatusRange
	BodyNot []string // texts that must not stand in the first 64 KiB of the answer
}

// StatusRange is an inclusive range of HTTP statuses.
type StatusRange struct{ From, To int }

// Secret is a text that must not be seen: it prints, logs and encodes as "***".
type Secret string

// String returns "***".
func (Secret) String() string { return "***" }

// GoString returns "***", for %#v.
func (Secret) GoString() string { return "***" }

// MarshalText returns "***": encoding/json, YAML and zap use it.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Answer says what Stripe's 2xx stands for on a route.
type Answer string

// The ways to answer. The empty Answer is AnswerAlways.
const (
	AnswerAlways  Answer = "always"  // 2xx: delivered, or on stable storage
	AnswerBackend Answer = "backend" // 2xx: each backend has answered 2xx, or HoldFor is over
	AnswerRelay   Answer = "relay"   // the backend's own answer, verbatim; nothing is kept
)

// Routes are rules in order.
type Routes []Route

// Route is a rule: which events go to which backends, and how Stripe is answered. Empty conditions match everything.
type Route struct {
	Types      []string // globs, "*" crosses dots; nil matches even what could not be parsed
	Source     string
	Account    string // glob; "-" is one's own account
	Livemode   *bool
	APIVersion string // glob

	To       []string // empty: ignore
	Continue bool     // look at later routes too
	Answer   Answer
	HoldFor  time.Duration // of AnswerBackend; default 24h, at most 60h
	Fallback *Fallback     // of AnswerRelay
	Queued   bool          // deliver in the background, do not make Stripe wait
}

// Fallback is the answer to a relayed event when the backend gives none.
type Fallback struct {
	Status int
	Header http.Header
	Body   string
}

// Observer is told what happens, for metrics. Its methods must be quick and must not block.
type Observer interface {
	// Answered: a request was answered. source is "" for an unknown path, ev nil when no event was verified.
	Answered(source string, ev *Event, result Result, took time.Duration)
	// Attempted: one attempt ended.
	Attempted(ev *Event, backend string, a Attempt)
	// Verified: a signature was checked. reason is "" for a good one; age is now minus its timestamp.
	Verified(source, reason string, age time.Duration)
	// HistoryDropped: an event was delivered and answered, but the journal was too busy to take it as history.
	HistoryDropped()
}

// Result says what became of an event. The set is closed: metrics and logs use these words.
type Result string

// Results of an event.
const (
	ResultDelivered   Result = "delivered"
	ResultStored      Result = "stored"
	ResultHeld        Result = "held" // stored, and Stripe asked to come again
	ResultDuplicate   Result = "duplicate"
	ResultIgnored     Result = "ignored"
	ResultUnrouted    Result = "unrouted"
	ResultUnparseable Result = "unparseable"
	ResultRelayed     Result = "relayed"
	ResultRejected    Result = "rejected"
	ResultQuarantined Result = "quarantined"
	ResultTooLarge    Result = "too_large"
	ResultRefused     Result = "refused"
)

// Results lists every Result, for those who create one metric for each.
var Results = []Result{
	ResultDelivered, ResultStored, ResultHeld, ResultDuplicate, ResultIgnored, ResultUnrouted, ResultUnparseable,
	ResultRelayed, ResultRejected, ResultQuarantined, ResultTooLarge, ResultRefused,
}
