// Package proxy is the gateway between Stripe and a company's own backends: an [http.Handler] that verifies each
// event, forwards its untouched body to the backends that its type is routed to, and keeps it safely when a backend
// cannot take it.
//
// The promise: a 2xx to a verified event means: every backend it is routed to has answered 2xx; or it is on stable
// storage, tried until give_up_after, then kept as Failed, shown and alerted, until you resend it or retention.failed
// ends; or a rule in your own routes.yaml ignores it. At least once, never silently dropped, byte for byte as Stripe
// sent it.
//
// A [Gateway] takes a [Config] and a [Journal]. Mount it where Stripe posts to, and run [Gateway.Run] beside it: Run
// delivers what is Pending. Package proxy/sqlite opens a durable journal.
//
// # Compatibility
//
// The exported names follow semantic versioning. The journal's tables are internal: only this module reads them.
package proxy
