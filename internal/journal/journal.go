// Package journal is the contract of a database: what the gateway asks of it beside an event's way, which is
// [proxy.Journal], the models in which it answers, and the rules by which arrivals, settlements and resends change what it
// holds, as pure functions ([Merge], [Settle], [Resend]). Package journaltest holds every database to it.
package journal

import (
	"fmt"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// Filter chooses events to read. Zero fields choose all.
type Filter struct {
	State    proxy.State // of the event; with a Backend, of that backend's delivery
	Type     string      // a glob: * stands for any text, dots included; everything else for itself
	Backend  string
	Source   string
	Account  string
	Object   string
	Customer string
	ID       string
	Query    string    // the id of an event, or what events name as object, customer or account; else text in their bodies, in any case
	Since    time.Time // received at or after
	Until    time.Time // received before
	Before   int64     // only events with a smaller Seq: the cursor, as lists are newest first
	Limit    int       // at most this many; 0 means 50
}

// Stored is what a journal knows of an event, as it is listed and shown.
type Stored struct {
	proxy.Known
	Size int64 // of the body in bytes
}

// Page is a part of a list of events, newest first.
type Page struct {
	Events   []Stored
	Next     int64     // what to put into Filter.Before to go on; 0: nothing is left
	LookedTo time.Time // of a page that ended early: everything received since then was looked at; else zero
}

// Total counts the deliveries of one backend in one state.
type Total struct {
	Backend string
	State   proxy.State
	Count   int64
	Oldest  time.Time // when the oldest Pending event was received; zero for other states
}

// AuditEntry is one change that somebody made.
type AuditEntry struct {
	At                    time.Time
	Actor, Action, Detail string
}

// Retention says how long an event is kept after its last attempt ended, or its receipt where there was none. Zero: for
// ever. Ignored is for events that a rule ignores, Unrouted for those that no route matched.
type Retention struct {
	Delivered, Failed, Ignored, Unrouted time.Duration
}

// DefaultRetention is that of a routes.yaml that does not say otherwise, and of programs that embed the gateway.
var DefaultRetention = Retention{
	Delivered: 168 * time.Hour, Failed: 2160 * time.Hour, Ignored: 24 * time.Hour, Unrouted: 720 * time.Hour,
}

// Outage is why a database takes nothing, and since when.
type Outage struct {
	Since time.Time
	Err   error
}

func (o *Outage) Error() string {
	return fmt.Sprintf("journal unavailable since %s: %v", o.Since.Format(time.RFC3339), o.Err)
}

// Unwrap returns the cause.
func (o *Outage) Unwrap() error { return o.Err }
