package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// Event is one thing that Stripe sent, as it arrived: the fields that routing needs, and the raw body.
// An Event is read-only once the Gateway has it: attempts share its Body and headers.
type Event struct {
	Seq    int64  // the journal's number, in order of receipt; 0 until the journal has it
	Source string // the name of the Source that it came in on
	ID     string // evt_...; for a body that could not be parsed "sha256:" and the body's hash in hex

	Type       string    // "invoice.paid"; empty for a body that could not be parsed
	Account    string    // connected account (acct_...), empty for one's own
	APIVersion string    // "2023-10-16": the version that the body is written in
	Object     string    // data.object.id, or related_object.id of a thin event
	Customer   string    // data.object.customer, or the object itself where it is a customer
	Livemode   bool      // false: test data
	Created    time.Time // Stripe's clock, whole seconds for snapshot events; zero when the body says nothing
	Received   time.Time // our clock, when the request's headers were read

	Query     string      // the raw query that Stripe's request came with, without "?"
	Header    http.Header // those of the request that every attempt sends: Stripe-Signature, Content-Type, User-Agent ...
	Forwarded http.Header // X-Forwarded-For, -Host and -Proto as each attempt sends them
	Body      []byte      // exactly the bytes that were signed; never re-encoded
}

// Key is what makes two arrivals the same event.
// Stripe: "handle duplicate events by logging the event IDs you've processed" (docs.stripe.com/webhooks).
type Key struct{ Source, ID string }

// Key returns the event's key.
func (e *Event) Key() Key { return Key{e.Source, e.ID} }

// Unique reports whether the event can be a duplicate of another. The dashboard's test event (evt_00000000000000) has
// one constant id, so it is never a duplicate.
func (e *Event) Unique() bool { return !stripe.IsTestID(e.ID) }

// parse fills in what the body says of itself. The error says why it could not be read; such an event is known by its
// hash.
func (e *Event) parse() error {
	env, err := stripe.Parse(e.Body)
	if err != nil {
		sum := sha256.Sum256(e.Body)
		e.ID = "sha256:" + hex.EncodeToString(sum[:])
		return err
	}
	e.ID, e.Type, e.Account, e.APIVersion = env.ID, env.Type, env.Account, env.APIVersion
	e.Object, e.Customer, e.Livemode, e.Created = env.Object, env.Customer, env.Livemode, env.Created
	return nil
}

// Rejected is a request that did not verify.
type Rejected struct {
	ID        int64 // set when read back
	Source    string
	Received  time.Time
	Client    netip.Addr // the right-most hop that is not a trusted proxy; invalid when that is no address
	Reason    string     // of the failed verification: "no_match", "too_old", "too_far_ahead"
	Query     string
	Header    http.Header // as an Event has them, like Forwarded
	Forwarded http.Header
	Body      []byte
}

// Event returns the event that the request holds, if its body is to be believed. The error says why the body could not
// be read; such an event is known by its hash.
func (r *Rejected) Event() (*Event, error) {
	e := &Event{Source: r.Source, Received: r.Received, Query: r.Query, Header: r.Header, Forwarded: r.Forwarded, Body: r.Body}
	return e, e.parse()
}

// forwardedHeaders are those of a request that go on to a backend. Nothing else does: many backends read Stripe_Signature or
// X_Api_Key as one of ours (CGI, RFC 3875 section 4.1.18), or obey an X-Http-Method-Override.
var forwardedHeaders = []string{"Accept", "Content-Type", "Stripe-Signature", "User-Agent", "Traceparent", "Tracestate"}

func keptHeaders(in http.Header) http.Header {
	out := make(http.Header, len(forwardedHeaders))
	copyForwarded(out, in)
	return out
}

func copyForwarded(to, from http.Header) {
	for _, k := range forwardedHeaders {
		if v := from[k]; len(v) > 0 {
			to[k] = v
		}
	}
}
