package admin

import (
	"encoding/base64"
	"errors"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Event is an event as lists show it.
type Event struct {
	Seq        int64      `json:"seq" doc:"The journal's number, in order of receipt"`
	ID         string     `json:"id" doc:"Stripe's id, evt_..."`
	Source     string     `json:"source"`
	Type       string     `json:"type"`
	Created    Time       `json:"created" doc:"By Stripe's clock"`
	ReceivedAt Time       `json:"received_at"`
	Account    string     `json:"account" doc:"The connected account, empty for one's own"`
	Livemode   bool       `json:"livemode"`
	APIVersion string     `json:"api_version"`
	Object     string     `json:"object" doc:"The id of the object that the event is about"`
	Customer   string     `json:"customer"`
	State      string     `json:"state" enum:"pending,delivered,failed,ignored"`
	Reason     string     `json:"reason" doc:"Why, for an event without deliveries: rule, no_route, ping, unparseable"`
	Size       int64      `json:"size" doc:"Of the body, in bytes"`
	Deliveries []Delivery `json:"deliveries" nullable:"false"`
}

// Delivery is an event owed to one backend.
type Delivery struct {
	Backend       string `json:"backend"`
	State         string `json:"state" enum:"pending,delivered,failed"`
	Turn          int    `json:"turn" doc:"1, and one more for each resend"`
	Attempts      int    `json:"attempts" doc:"Attempts that ended, since the event came or was last resent"`
	NextAttemptAt Time   `json:"next_attempt_at" doc:"Of a pending one: not before this"`
	Why           string `json:"why" doc:"Why a pending one waits: backoff, breaker, paused, rate, in_flight, lease, no_backend, no_secret"`
	LastStatus    int    `json:"last_status" doc:"The last answer's HTTP status, 0 without"`
	LastError     string `json:"last_error" doc:"The outcome of the last attempt that failed, such as timeout or status_5xx"`
	Hint          string `json:"hint" doc:"What to do about last_error"`
}

// Attempt is one HTTP request made for a delivery.
type Attempt struct {
	Backend    string `json:"backend"`
	Turn       int    `json:"turn" doc:"1, and one more for each resend; 0 in the stream"`
	N          int    `json:"n" doc:"1 for the first of its turn"`
	StartedAt  Time   `json:"started_at"`
	DurationMS int64  `json:"duration_ms"`
	Status     int    `json:"status" doc:"Of the answer, 0 without one"`
	Outcome    string `json:"outcome"`
	Error      string `json:"error"`
	Trigger    string `json:"trigger" doc:"inline, retry, resend, resume, reconcile; relay in the stream"`
	Excerpt    string `json:"excerpt" doc:"How the answer's body begins"`
	Hint       string `json:"hint" doc:"What to do about it; empty where it succeeded"`
}

// EventDetail is an event with everything that is known of it.
type EventDetail struct {
	Event
	AnsweredAt     Time      `json:"answered_at" doc:"When Stripe had our 2xx; null: not, or not known"`
	Attempts       []Attempt `json:"attempts" nullable:"false" doc:"Oldest first within a backend"`
	OtherEvents    int64     `json:"other_events" doc:"Other events of the same object"`
	NeedsBackend   bool      `json:"needs_backend" doc:"It has no delivery and no route of today takes it: a resend must name a backend"`
	NewerDelivered int64     `json:"newer_delivered" doc:"Of these, how many came later and are delivered: a resend would bring old news after new"`
}

// Filter chooses events. What is left out chooses all.
type Filter struct {
	State    string    `query:"state" json:"state,omitempty" enum:"pending,delivered,failed,ignored"`
	Type     string    `query:"type" json:"type,omitempty" maxLength:"300" doc:"Glob: * matches any run of characters"`
	Backend  string    `query:"backend" json:"backend,omitempty" maxLength:"300"`
	Source   string    `query:"source" json:"source,omitempty" maxLength:"300"`
	Account  string    `query:"account" json:"account,omitempty" maxLength:"300"`
	Object   string    `query:"object" json:"object,omitempty" maxLength:"300" doc:"Id of the object that the event is about"`
	Customer string    `query:"customer" json:"customer,omitempty" maxLength:"300"`
	Since    time.Time `query:"since" json:"since,omitempty,omitzero" doc:"Received at or after"`
	Until    time.Time `query:"until" json:"until,omitempty,omitzero" doc:"Received before"`
	Q        string    `query:"q" json:"q,omitempty" maxLength:"300" doc:"An id of the event, its object, customer or account. Any other text is looked for in bodies"`
}

func (f Filter) choose() journal.Filter {
	return journal.Filter{
		State: proxy.State(f.State), Type: f.Type, Backend: f.Backend, Source: f.Source, Account: f.Account, Object: f.Object,
		Customer: f.Customer, Since: f.Since, Until: f.Until, Query: f.Q,
	}
}

// Values is the filter as a query.
func (f Filter) Values() url.Values {
	v := url.Values{}
	fields := reflect.ValueOf(f)
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Tag.Get("query")
		switch x := fields.Field(i).Interface().(type) {
		case string:
			if x != "" {
				v.Set(name, x)
			}
		case time.Time:
			if !x.IsZero() {
				v.Set(name, x.UTC().Format(time.RFC3339Nano))
			}
		}
	}
	return v
}

func (c *core) event(k journal.Stored, now time.Time) Event {
	e := Event{
		Seq: k.Event.Seq, ID: k.Event.ID, Source: k.Event.Source, Type: k.Event.Type,
		Created: jsontime.At(k.Event.Created), ReceivedAt: jsontime.At(k.Event.Received),
		Account: k.Event.Account, Livemode: k.Event.Livemode, APIVersion: k.Event.APIVersion, Object: k.Event.Object,
		Customer: k.Event.Customer, State: string(k.State), Reason: k.Reason, Size: k.Size,
		Deliveries: make([]Delivery, len(k.Deliveries)),
	}
	for i, d := range k.Deliveries {
		w := Delivery{Backend: d.Backend, State: string(d.State), Turn: d.Turn, Attempts: d.Attempts, LastStatus: d.Status}
		if d.Outcome != proxy.OutcomeDelivered {
			w.LastError = d.Outcome
			if d.State != proxy.Delivered {
				w.Hint = conditions.Hint(d.Outcome, d.Status, "", "")
			}
		}
		if d.State == proxy.Pending {
			w.NextAttemptAt = jsontime.At(d.Due)
			w.Why = c.Gateway.Why(k.Event.Source, d, now)
		}
		e.Deliveries[i] = w
	}
	return e
}

func wireAttempt(t proxy.Attempt) Attempt {
	return Attempt{
		Backend: t.Backend, Turn: t.Turn, N: t.N, StartedAt: jsontime.At(t.Started),
		DurationMS: t.Duration.Milliseconds(), Status: t.Status, Outcome: t.Outcome, Error: t.Error,
		Trigger: string(t.Trigger), Excerpt: t.Excerpt, Hint: conditions.Hint(t.Outcome, t.Status, t.Error, t.Excerpt),
	}
}

// Time is a time in JSON; null is the zero time.
type Time = jsontime.Time

// cursor is where a list goes on. It is opaque to clients, so that what it holds may change.
type cursor int64

func (c cursor) String() string {
	if c == 0 {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(strconv.AppendInt([]byte("before:"), int64(c), 10))
}

var errCursor = errors.New("not a cursor: take it from next of the answer before")

func parseCursor(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return 0, errCursor
	}
	digits, ok := strings.CutPrefix(string(raw), "before:")
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 1 {
		return 0, errCursor
	}
	return n, nil
}
