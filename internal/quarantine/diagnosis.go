package quarantine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// maxReindent bounds the bodies that are printed anew to see whether they verify then.
const maxReindent = 256 << 10

// diagnose says why a request did not verify, as well as can be told from today's secrets, and what to do.
func diagnose(c *Config, s proxy.SourceStatus, r *proxy.Rejected, now time.Time) string {
	header := r.Header[signature]
	secrets := c.secrets(r.Source)
	if stripe.MatchesAny(r.Body, header, secrets) >= 0 {
		return clock(c, r)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		if name != r.Source && stripe.MatchesAny(r.Body, header, c.secrets(name)) >= 0 {
			return fmt.Sprintf("signed with the secret of source `%s`: does Stripe post to the right path, is the secret under the right source?", name)
		}
	}
	if len(secrets) == 0 {
		return fmt.Sprintf("source `%s` is no longer in routes.yaml", r.Source)
	}
	if reprinted(r.Body, header, secrets) {
		return "body was changed on the way (re-indented JSON verifies): what stands in front of the gateway must pass it on as it is"
	}
	switch {
	case s.LastVerified.After(r.Received):
		return fmt.Sprintf("no secret matches, but others verified later, at %s: another endpoint or account that posts to this path?",
			at(s.LastVerified, now))
	case !s.NoMatchSince.IsZero() && (s.LastVerified.IsZero() || s.NoMatchSince.Before(r.Received)):
		return fmt.Sprintf("no secret matches since %s: was it rolled?", at(s.NoMatchSince, now))
	case !s.LastVerified.IsZero(): // what came before a restart is not in NoMatchSince
		return fmt.Sprintf("no secret matches since %s: was it rolled?", at(r.Received, now))
	}
	return "no secret matches: was it rolled?"
}

// clock explains a request that a secret of today matches.
func clock(c *Config, r *proxy.Rejected) string {
	signed, _ := stripe.Timestamp(r.Header[signature][0])
	tolerance := c.Sources[r.Source].Tolerance
	switch age := r.Received.Sub(signed); {
	case age > tolerance:
		return fmt.Sprintf("clock is %d s ahead, or the request was held up on its way; recheck releases it", age/time.Second)
	case age < -tolerance:
		return fmt.Sprintf("clock is %d s behind; set it right, recheck releases this", age.Abs()/time.Second)
	}
	return "a secret matches now: recheck releases it"
}

// reprinted reports whether the body verifies once it is printed as Stripe prints it, or without any blanks.
func reprinted(body []byte, header, secrets []string) bool {
	if len(body) > maxReindent {
		return false
	}
	var b bytes.Buffer
	if json.Indent(&b, bytes.TrimSpace(body), "", "  ") != nil {
		return false
	}
	if stripe.MatchesAny(b.Bytes(), header, secrets) >= 0 {
		return true
	}
	b.Reset()
	return json.Compact(&b, body) == nil && stripe.MatchesAny(b.Bytes(), header, secrets) >= 0
}

// at is a time as people say it: without the day when it is today's.
func at(t, now time.Time) string {
	t, now = t.UTC(), now.UTC()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04 UTC")
	}
	return t.Format("2 January 15:04 UTC")
}
