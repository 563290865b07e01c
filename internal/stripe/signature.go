package stripe

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
)

// The reasons of a Failure. The set is closed: metrics and logs use these words.
const (
	MissingHeader   = "missing_header"   // no Stripe-Signature
	MalformedHeader = "malformed_header" // not a header that Stripe sends
	NoMatch         = "no_match"         // well formed, made with none of the secrets
	TooOld          = "too_old"          // genuine, signed more than the tolerance ago
	TooFarAhead     = "too_far_ahead"    // genuine, signed more than the tolerance ahead of our clock
)

// Reasons lists every reason of a Failure, for those who create one metric for each.
var Reasons = []string{MissingHeader, MalformedHeader, NoMatch, TooOld, TooFarAhead}

const (
	maxHeader     = 8 << 10 // bytes; Stripe's longest, two v1 and a v0, is below 250
	maxSignatures = 16      // v1 elements looked at; Stripe sends one for each live secret, so two at most
	maxDigits     = 12      // of a timestamp: far enough, and no arithmetic on it can overflow
)

// Signature is a verified one.
type Signature struct {
	Time   time.Time // when it was made, by Stripe's clock, in whole seconds
	Secret int       // index of the secret that matched
}

// Failure is why a request was not believed. Its text names no secret and nothing of the body.
type Failure struct {
	Reason  string        // one of Reasons
	Age     time.Duration // now minus the signature's time, negative when it is ahead; 0 when there is none to read
	Genuine bool          // made with one of the secrets, only its time is wrong: our clock, or a queue on the way
	Err     error         // wraps an error of stripe-go's webhook package where that has one
}

func (f *Failure) Error() string { return f.Reason + ": " + f.Err.Error() }

// Unwrap returns Err.
func (f *Failure) Unwrap() error { return f.Err }

var errAhead = errors.New("timestamp is ahead of this machine's clock")

// Header is a Stripe-Signature header of the shape that Stripe sends. Whether it is genuine, Verify says.
type Header struct {
	time  time.Time
	clean string // its canonical form: t, then the v1 elements worth comparing
}

// String returns the header in a canonical form. Of two requests with the same one, Stripe sent at most the first.
func (h Header) String() string { return h.clean }

// Verify is ParseHeader and Header.Verify at once.
func Verify(body []byte, header []string, secrets []string, tolerance time.Duration, now time.Time) (Signature, error) {
	h, err := ParseHeader(header)
	if err != nil {
		return Signature{}, err
	}
	return h.Verify(body, secrets, tolerance, now)
}

// Verify checks a request's signature against each secret. Errors are *Failure. An empty secret matches nothing.
//
// The comparison is stripe-go's (webhook.ValidatePayloadIgnoringTolerance). The rules around it are stricter, since the
// header is passed on to backends whose libraries are stricter too:
//   - one header line of at most 8 KiB, with exactly one t of plain decimal digits;
//   - only the first 16 v1 elements are looked at, so that a request's cost is bounded;
//   - a v1 that is not 64 lower-case hex digits never matches (PHP, Node and WooCommerce compare the text);
//   - a time more than tolerance ahead of now is refused, as stripe-php does.
//
// The time is looked at last. A forged and stale signature is a NoMatch: TooOld and TooFarAhead thus always mean that
// Stripe did sign the request, and an operator may go and look at clocks and queues.
func (h Header) Verify(body []byte, secrets []string, tolerance time.Duration, now time.Time) (Signature, error) {
	age := now.Sub(h.time)
	i := h.match(body, secrets)
	switch {
	case i < 0:
		return Signature{}, &Failure{Reason: NoMatch, Age: age, Err: webhook.ErrNoValidSignature}
	case age > tolerance:
		err := fmt.Errorf("%w: signed %v ago, tolerance %v", webhook.ErrTooOld, age.Truncate(time.Second), tolerance)
		return Signature{}, &Failure{Reason: TooOld, Age: age, Genuine: true, Err: err}
	case age < -tolerance: // -age would overflow for the year 9999
		err := fmt.Errorf("%w: by %v, tolerance %v", errAhead, age.Abs().Truncate(time.Second), tolerance)
		return Signature{}, &Failure{Reason: TooFarAhead, Age: age, Genuine: true, Err: err}
	}
	return Signature{Time: h.time, Secret: i}, nil
}

// MatchesAny returns the index of the first secret that made the signature, whatever its time, or -1. With the secrets
// of other sources it tells an operator what a NoMatch most likely is: the wrong URL, or test mode taken for live.
// It hashes the body once for each secret: limit how often it is asked.
func MatchesAny(body []byte, header []string, secrets []string) int {
	h, err := ParseHeader(header)
	if err != nil {
		return -1
	}
	return h.match(body, secrets)
}

// Timestamp returns the time that a Stripe-Signature header was made at, and whether it says one. It is for headers that
// were parsed before.
func Timestamp(header string) (time.Time, bool) {
	for element := range strings.SplitSeq(header, ",") {
		if stamp, ok := strings.CutPrefix(element, "t="); ok {
			return parseStamp(stamp)
		}
	}
	return time.Time{}, false
}

// Sign returns a Stripe-Signature header for body with one v1 for each secret: lower-case hex and no spaces, the form
// that every one of Stripe's libraries accepts.
func Sign(body []byte, now time.Time, secrets ...string) string {
	b := make([]byte, 0, 16+len(secrets)*68)
	b = append(b, "t="...)
	b = strconv.AppendInt(b, now.Unix(), 10)
	for _, s := range secrets {
		b = append(b, ",v1="...)
		b = hex.AppendEncode(b, webhook.ComputeSignature(now, body, s))
	}
	return string(b)
}

// match returns the index of the secret that made one of the signatures, or -1.
func (h Header) match(body []byte, secrets []string) int {
	for i, s := range secrets {
		// With an empty key anybody can sign.
		if s != "" && webhook.ValidatePayloadIgnoringTolerance(body, h.clean, s) == nil {
			return i
		}
	}
	return -1
}

// ParseHeader reads all values of Stripe-Signature. It needs no body, so that junk is refused before one is read and
// hashed. Errors are *Failure, MissingHeader or MalformedHeader.
func ParseHeader(lines []string) (Header, error) {
	if len(lines) == 0 || lines[0] == "" && len(lines) == 1 {
		return Header{}, &Failure{Reason: MissingHeader, Err: webhook.ErrNotSigned}
	}
	if len(lines) > 1 {
		return Header{}, malformed("several header lines")
	}
	if len(lines[0]) > maxHeader {
		return Header{}, malformed("longer than 8 KiB")
	}
	var h Header
	var clean strings.Builder
	var stamp string
	seen, good := 0, 0
	for element := range strings.SplitSeq(lines[0], ",") {
		key, value, ok := strings.Cut(element, "=")
		if !ok || strings.Contains(value, "=") {
			return Header{}, malformed("an element is not key=value")
		}
		switch key {
		case "t":
			if stamp != "" {
				return Header{}, malformed("several timestamps")
			}
			if h.time, ok = parseStamp(value); !ok {
				return Header{}, malformed("timestamp is not a plain number")
			}
			stamp = value
		case "v1":
			if seen++; seen <= maxSignatures && isSignature(value) {
				if good++; good == 1 {
					clean.Grow(len(lines[0]) + len("t=,"))
				}
				clean.WriteString(",v1=")
				clean.WriteString(value)
			}
		}
	}
	switch {
	case stamp == "":
		return Header{}, malformed("no timestamp")
	case good == 0:
		return Header{}, malformed("no v1 of 64 lower-case hex digits")
	}
	h.clean = "t=" + stamp + clean.String()
	return h, nil
}

func malformed(what string) *Failure {
	return &Failure{Reason: MalformedHeader, Err: fmt.Errorf("%w: %s", webhook.ErrInvalidHeader, what)}
}

// parseStamp takes only what Stripe writes. stripe-go signs the number, other libraries sign its text: "+1" or "01"
// would be one signature here and another there.
func parseStamp(s string) (time.Time, bool) {
	if s == "" || len(s) > maxDigits || s[0] == '0' && len(s) > 1 {
		return time.Time{}, false
	}
	var n int64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return time.Time{}, false
		}
		n = n*10 + int64(c-'0')
	}
	return time.Unix(n, 0).UTC(), true
}

func isSignature(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
