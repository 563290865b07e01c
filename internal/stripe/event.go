package stripe

import (
	"strings"
	"time"
)

// IsTestID reports whether id is the constant id of the dashboard's test webhook (evt_00000000000000): "evt_" and then
// nothing but zeros.
func IsTestID(id string) bool {
	const prefix = "evt_"
	if len(id) <= len(prefix) || id[:len(prefix)] != prefix {
		return false
	}
	for _, c := range id[len(prefix):] {
		if c != '0' {
			return false
		}
	}
	return true
}

// Deadlines of the types that wait for a decision, a little below Stripe's own: 2s for Issuing, 4s for Agentic Commerce
// (docs.stripe.com/issuing/controls/real-time-authorizations, docs.stripe.com/agentic-commerce).
const (
	issuingDeadline   = 1800 * time.Millisecond
	delegatedDeadline = 3500 * time.Millisecond
)

// RealTime reports whether Stripe reads a decision out of the answer to events of this type, so that they can be neither
// kept nor answered by us. deadline is how soon the backend must have answered; 0 means that Stripe names none. Thin
// events carry the same names behind "v1.".
func RealTime(typ string) (deadline time.Duration, ok bool) {
	name := strings.TrimPrefix(typ, "v1.")
	switch {
	case name == "issuing_authorization.request", name == "issuing_authentication.decision":
		return issuingDeadline, true
	case strings.HasPrefix(name, "delegated_checkout."), strings.HasPrefix(name, "delegated_commerce."):
		return delegatedDeadline, true
	case name == "extend.workflows.custom_action":
		return 0, true
	}
	return 0, false
}
