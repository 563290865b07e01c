package proxy

import (
	"net/http"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// Event is one thing that Stripe sent, as it arrived: the fields that routing needs, and the raw body.
// An Event is read-only once the Gateway has it: attempts share its Body and headers.
type Event struct {
	Seq    int64  // the journal's number, in order of receipt; 0 until the journal has it
	Source string // the name of the Source that it came in on
	ID     string // evt_...; for a body that could not be parsed "sha256:" and the body's hash in hex

	Type       string
	Account    string // connected account (acct_...), empty for one's own
	APIVersion string
	Object     string // data.object.id, or related_object.id of a thin event
	Customer   string // data.object.customer, or the object itself where it is a customer
	Livemode   bool
	Created    time.Time // Stripe's clock, whole seconds for snapshot events; zero when the body says nothing
	Received   time.Time

	Query     string      // the raw query that Stripe's request came with, without "?"
	Header    http.Header // the headers that are kept for every attempt: see keptHeaders
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
