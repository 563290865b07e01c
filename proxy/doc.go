// Package proxy is the gateway between Stripe and a company's own backends: an [http.Handler] that verifies each
// event, forwards its untouched body to the backends that its type is routed to, and keeps it safely when a backend
// cannot take it.
//
// The promise: a 2xx to a verified event means: every backend it is routed to has answered 2xx; or it is on stable
// storage, tried until give_up_after, then kept as Failed, shown and alerted, until you resend it or retention.failed
// ends; or a rule in your own routes.yaml ignores it. At least once, never silently dropped, byte for byte as Stripe
// sent it.
//
// A program that embeds the gateway makes three calls. sqlite.Open, of package proxy/sqlite, opens a durable [Journal].
// [New] makes a [Gateway] of a [Config]; mount it as a handler where Stripe posts to. [Gateway.Run] beside it delivers
// what could not be delivered at once, until the program stops. The example of the package shows them.
//
// # Compatibility
//
// The exported names follow semantic versioning. The journal's tables are internal: only this module reads them.
package proxy
