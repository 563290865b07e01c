package proxy

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// Config is what a Gateway is made of. A zero duration, size or count stands for its default.
// Journal, Log, Observers and Quarantine are taken by New and stay as they are: Reload does not look at them.
type Config struct {
	Sources  map[string]Source  // by a name of your choice, which logs, metrics and Route.Source use
	Backends map[string]Backend // by a name of your choice, under which the journal keeps what is still to be delivered
	Routes   Routes             // read from the top: the first match wins, unless it says Continue

	InlineTimeout  time.Duration  // Stripe is answered within this time of its headers, whatever a backend does; default 8s
	ResignAfter    time.Duration  // a delivery later than this after Stripe signed the event is signed afresh; default 60s
	DedupeWindow   time.Duration  // a repeat within this time of our 2xx is answered but not delivered; default 1m
	DrainTimeout   time.Duration  // when Run stops, attempts under way may take this long to end; default 20s
	ReadBody       time.Duration  // a request whose body has not arrived within this time is refused; default 15s
	BodyMemory     int64          // bytes of bodies in memory at once, all requests together; default 64MiB
	TrustedProxies []netip.Prefix // networks whose X-Forwarded-* headers are believed; none when empty

	Journal    Journal     // where events are stored; required
	Log        *zap.Logger // one line for each request and each attempt; nil: nothing is logged
	Observers  []Observer  // told of each answer and attempt, for metrics, each in turn
	Quarantine Quarantine  // offered what verifies with no secret; nil: that is refused with 400
}

// Source is one webhook endpoint registered at Stripe.
type Source struct {
	Path           string        // of the URL registered at Stripe, compared as it is: "/stripe/webhook"
	SigningSecrets []Secret      // the endpoint's (whsec_...); two while one is rolled
	Tolerance      time.Duration // a signature older than this, or further ahead, is refused; default 5m
	MaxBody        int64         // a longer body, in bytes, is refused with 413; default 1MiB
}

// Backend is where events are forwarded to.
type Backend struct {
	URL            string            // the exact target, such as http://127.0.0.1:8000/webhook.php: nothing is added to its path
	Timeout        time.Duration     // of one attempt, which may outlive Stripe's request; at most 5m, default 30s
	MaxInFlight    int               // attempts at once, inline and late ones together; default 64
	Rate           float64           // late deliveries a second, so that a backlog does not run the backend over; 0: no limit
	Retry          Retry             // when a failed delivery is attempted again, and until when
	Breaker        Breaker           // when a failing backend is left alone
	SigningSecrets []Secret          // the backend's own, when it does not hold Stripe's; every delivery is then signed with them
	Headers        map[string]Secret // added to each request: {"Authorization": "Bearer ..."}
	Success        Success           // what counts as delivered, when a 2xx alone does not say so
	Host           string            // the Host header; empty: the URL's
	CAFile         string            // PEM file of the only certificate authorities believed for this backend; empty: the system's
	ForwardedProto string            // X-Forwarded-Proto, "http" or "https"; empty: what a trusted proxy said, else https
	APIVersion     string            // that its Stripe library expects; events of another version are counted and warned of
	Was            []string          // earlier names of this backend, whose deliveries it takes over
	Sender         Sender            // takes the events where that is not HTTP; URL, Host, CAFile and Success mean nothing then
}

// Retry says how long a failed delivery waits for its next attempt: exponentially longer, with full jitter.
type Retry struct {
	Initial     time.Duration // the longest wait for the second attempt; default 5s
	Max         time.Duration // the longest wait for any attempt; default 1h
	GiveUpAfter time.Duration // since the turn's first attempt; then, if 10 were made, the delivery is Failed; default 168h
}

// Breaker keeps a failing backend from being asked over and over.
type Breaker struct {
	Failures int           // consecutive failures that open it: events are stored at once, nothing is sent; default 5
	OpenFor  time.Duration // how long it stays open; one event is then sent as a probe; default 30s
}

// Success narrows what counts as delivered. The zero value is Stripe's own rule, any 2xx; nothing but a 2xx ever counts.
type Success struct {
	Status  []StatusRange // the statuses that do, within 200-299; empty: all of them
	BodyNot []string      // texts that must not stand in the first 64 KiB of the answer, such as "Fatal error"
}

// StatusRange is an inclusive range of HTTP statuses: 200-299, or 204-204.
type StatusRange struct{ From, To int }

// WithDefaults returns c with the default in place of each zero. It shares nothing that it fills in with c.
func (c Config) WithDefaults() Config {
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	or(&c.InlineTimeout, 8*time.Second)
	or(&c.ResignAfter, 60*time.Second)
	or(&c.DedupeWindow, time.Minute)
	or(&c.DrainTimeout, 20*time.Second)
	or(&c.ReadBody, 15*time.Second)
	or(&c.BodyMemory, 64<<20)
	c.Sources, c.Backends = maps.Clone(c.Sources), maps.Clone(c.Backends)
	for name, s := range c.Sources {
		or(&s.Tolerance, 5*time.Minute)
		or(&s.MaxBody, 1<<20)
		c.Sources[name] = s
	}
	for name, b := range c.Backends {
		or(&b.Timeout, 30*time.Second)
		or(&b.MaxInFlight, 64)
		or(&b.Retry.Initial, 5*time.Second)
		or(&b.Retry.Max, time.Hour)
		or(&b.Retry.GiveUpAfter, 168*time.Hour)
		or(&b.Breaker.Failures, 5)
		or(&b.Breaker.OpenFor, 30*time.Second)
		c.Backends[name] = b
	}
	return c
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

const (
	// maxTimeout bounds one attempt: a lease lasts a little longer, and a stop waits for it.
	maxTimeout = 5 * time.Minute
	// maxHoldFor stays below the 72 hours after which Stripe goes on without an answer.
	maxHoldFor = 60 * time.Hour
)

// Secret is a text that must not be seen: it prints, logs and encodes as "***".
type Secret string

// Format prints "***", whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "***") }

// MarshalText returns "***": encoding/json, YAML and zap use it.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Answer says what Stripe's 2xx stands for on a route.
type Answer string

// The ways to answer. The empty Answer is AnswerAlways.
const (
	AnswerAlways  Answer = "always"  // 2xx: the event is delivered, or on stable storage
	AnswerBackend Answer = "backend" // 2xx: each backend has answered 2xx, or HoldFor is over
	AnswerRelay   Answer = "relay"   // the backend's own answer, verbatim; nothing is stored
)

// Routes are rules, looked at in order: see Match.
type Routes []Route

// Route is a rule: which events go to which backends, and how Stripe is answered. A condition left empty holds for every
// event.
type Route struct {
	Types      []string // globs: "invoice.*" matches invoice.payment.paid too; nil matches even what could not be parsed
	Source     string   // the name of the source that the event came in on
	Account    string   // glob of the connected account, "acct_..."; "-" for one's own account
	Livemode   *bool    // live events only, or test events only
	APIVersion string   // glob of the event's API version, such as "2024-*"

	To       []string      // names of backends; empty: the event is ignored
	Continue bool          // later routes are looked at too, and their backends added
	Answer   Answer        // what Stripe's 2xx stands for
	HoldFor  time.Duration // with AnswerBackend: an event older than this gets its 2xx in any case; default 24h, at most 60h
	Fallback *Fallback     // with AnswerRelay: what Stripe gets when the backend gives no answer; nil: 503
	Queued   bool          // stored, answered 2xx, and delivered in the background
}

// Fallback is the answer to a relayed event when the backend gives none. With a 2xx, such an event has reached nobody and is
// kept nowhere, and Stripe does not send it again.
type Fallback struct {
	Status int // from 200 to 599
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
	ResultDelivered   Result = "delivered"   // every backend has it
	ResultStored      Result = "stored"      // it is stored, and delivered later
	ResultHeld        Result = "held"        // stored, and Stripe asked to come again
	ResultDuplicate   Result = "duplicate"   // it came before: nothing is sent for this arrival
	ResultIgnored     Result = "ignored"     // a rule ignores it, or it is a ping
	ResultUnrouted    Result = "unrouted"    // no route matched; it is stored as Ignored
	ResultUnparseable Result = "unparseable" // signed, but not an event that can be read; delivered or stored all the same
	ResultRelayed     Result = "relayed"     // Stripe got the backend's own answer, or its route's Fallback
	ResultRejected    Result = "rejected"    // the request did not verify, or was none that Stripe makes
	ResultQuarantined Result = "quarantined" // it did not verify, and is kept by the Quarantine
	ResultTooLarge    Result = "too_large"   // its body is longer than the source's MaxBody
	ResultRefused     Result = "refused"     // 503: it could not be stored, or not be taken in; Stripe keeps it
)

// Results lists every Result, for those who create one metric for each.
var Results = []Result{
	ResultDelivered, ResultStored, ResultHeld, ResultDuplicate, ResultIgnored, ResultUnrouted, ResultUnparseable,
	ResultRelayed, ResultRejected, ResultQuarantined, ResultTooLarge, ResultRefused,
}
