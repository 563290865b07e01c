// Package toystripe is a Stripe to test with: sample events of many types, shaped and printed as Stripe prints them,
// and the signed requests that it sends them in. It is cheap enough to make load with.
//
// It signs with stripe-go and shares no code with the gateway, so that the two check each other.
package toystripe

import (
	"bytes"
	"context"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
)

// Event is one event as Stripe would send it.
type Event struct {
	ID      string
	Type    string
	Body    []byte // JSON, indented by two spaces
	Generic bool   // there is no sample of this type: the object in it is made up
}

// Options change what New makes. The zero value is an event of one's own account, created now.
type Options struct {
	Account string    // connected account; samples of Connect types have one of their own
	Created time.Time // every other time in the body keeps its distance from it
}

// Types returns the types that have a sample, sorted.
func Types() []string { return slices.Sorted(maps.Keys(samples())) }

// New returns a new event of the type, with an id of its own and, where Stripe numbers it, an object of its own. A type
// without a sample gets a plain object by the type's name, or a thin event when the type starts with v1. or v2.
func New(typ string, o Options) Event {
	if o.Created.IsZero() {
		o.Created = time.Now()
	}
	t, known := samples()[typ]
	if !known {
		t = generic(typ)
	}
	e := Event{Type: typ, Generic: !known}
	e.ID, e.Body = t.fill(typ, o)
	return e
}

// Sending says how Request sends. The zero value is how Stripe does.
type Sending struct {
	SignedAt time.Time // default now
	Tamper   bool      // a newline is added after signing, which no JSON parser would notice
}

// Request returns the request that Stripe sends ev in, signed with each of secrets (two while one is rolled), with the
// headers that Stripe sets. As in test mode there is a v0 signature, which stands for nothing.
func Request(ctx context.Context, url string, ev Event, secrets []string, s Sending) (*http.Request, error) {
	if s.SignedAt.IsZero() {
		s.SignedAt = time.Now()
	}
	body := ev.Body
	if s.Tamper {
		body = append(slices.Clip(body), '\n')
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{
		"Accept":           {"*/*; q=0.5, application/xml"},
		"Accept-Encoding":  {"gzip"},
		"Cache-Control":    {"no-cache"},
		"Content-Type":     {"application/json; charset=utf-8"},
		"Stripe-Signature": {sign(ev.Body, s.SignedAt, secrets)},
		"User-Agent":       {"Stripe/1.0 (+https://stripe.com/docs/webhooks)"},
	}
	return req, nil
}

func sign(body []byte, at time.Time, secrets []string) string {
	var b strings.Builder
	b.WriteString("t=" + strconv.FormatInt(at.Unix(), 10))
	var v0 []byte
	for _, s := range secrets {
		v0 = webhook.ComputeSignature(at, body, s)
		b.WriteString(",v1=" + hex.EncodeToString(v0))
	}
	slices.Reverse(v0)
	b.WriteString(",v0=" + hex.EncodeToString(v0))
	return b.String()
}
