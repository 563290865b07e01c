// Package stripe is what Breakwater knows of Stripe: its signature scheme, the few fields of an event that routing
// needs, and the types that wait for an answer. It is pure: no network, no clock, no state.
package stripe
