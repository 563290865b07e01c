package admin

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// Event is an event as lists show it.
type Event struct {
	Seq        int64      `json:"seq" doc:"The journal's number, in order of receipt"`
	ID         string     `json:"id" doc:"Stripe's id, evt_..."`
	Source     string     `json:"source"`
	Type       string     `json:"type"`
	Created    timestamp  `json:"created" doc:"By Stripe's clock"`
	ReceivedAt timestamp  `json:"received_at"`
	Account    string     `json:"account" doc:"The connected account, empty for one's own"`
	Livemode   bool       `json:"livemode"`
	APIVersion string     `json:"api_version"`
	Object     string     `json:"object" doc:"The id of the object that the event is about"`
	State      string     `json:"state" enum:"pending,delivered,failed,ignored"`
	Reason     string     `json:"reason" doc:"Why, for an event without deliveries: rule, no_route, ping, unparseable"`
	Size       int64      `json:"size" doc:"Of the body, in bytes"`
	Deliveries []Delivery `json:"deliveries"`
}

// Delivery is an event owed to one backend.
type Delivery struct {
	Backend       string    `json:"backend"`
	State         string    `json:"state" enum:"pending,delivered,failed"`
	Attempts      int       `json:"attempts" doc:"Attempts that ended, since the event came or was last resent"`
	NextAttemptAt timestamp `json:"next_attempt_at" doc:"Of a pending one: not before this"`
	Why           string    `json:"why" doc:"Why a pending one waits: backoff, breaker, paused, rate, in_flight, lease, no_backend, no_secret"`
	LastStatus    int       `json:"last_status" doc:"The last answer's HTTP status, 0 without"`
	LastError     string    `json:"last_error" doc:"The outcome of the last attempt that failed, such as timeout or status_5xx"`
}

// Attempt is one HTTP try of a delivery.
type Attempt struct {
	Backend    string    `json:"backend"`
	Turn       int       `json:"turn" doc:"1, and one more for each resend"`
	N          int       `json:"n" doc:"1 for the first of its turn"`
	StartedAt  timestamp `json:"started_at"`
	DurationMS int64     `json:"duration_ms"`
	Status     int       `json:"status"`
	Outcome    string    `json:"outcome"`
	Error      string    `json:"error"`
	Trigger    string    `json:"trigger" enum:"inline,retry,resend,resume,reconcile"`
	Excerpt    string    `json:"excerpt" doc:"How the answer's body begins"`
}

// EventDetail is an event with everything that is known of it.
type EventDetail struct {
	Event
	AnsweredAt timestamp `json:"answered_at" doc:"When Stripe had our 2xx; null: not, or not known"`
	Attempts   []Attempt `json:"attempts" doc:"Oldest first; a first attempt that succeeded is not listed"`
}

func (a *api) event(k proxy.Known, now time.Time) Event {
	e := Event{
		Seq: k.Event.Seq, ID: k.Event.ID, Source: k.Event.Source, Type: k.Event.Type,
		Created: timestamp(k.Event.Created), ReceivedAt: timestamp(k.Event.Received),
		Account: k.Event.Account, Livemode: k.Event.Livemode, APIVersion: k.Event.APIVersion, Object: k.Event.Object,
		State: string(k.State), Reason: k.Reason, Size: k.Size, Deliveries: make([]Delivery, len(k.Deliveries)),
	}
	for i, d := range k.Deliveries {
		w := Delivery{Backend: d.Backend, State: string(d.State), Attempts: d.Attempts, LastStatus: d.Status}
		if d.Outcome != proxy.OutcomeDelivered {
			w.LastError = d.Outcome
		}
		if d.State == proxy.Pending {
			w.NextAttemptAt = timestamp(d.Due)
			w.Why = a.Gateway.Why(k.Event.Source, d, now)
		}
		e.Deliveries[i] = w
	}
	return e
}

func wireAttempts(attempts []proxy.Attempt) []Attempt {
	list := make([]Attempt, len(attempts))
	for i, t := range attempts {
		list[i] = Attempt{
			Backend: t.Backend, Turn: t.Turn, N: t.N, StartedAt: timestamp(t.Started),
			DurationMS: t.Duration.Milliseconds(), Status: t.Status, Outcome: t.Outcome, Error: t.Error,
			Trigger: string(t.Trigger), Excerpt: t.Excerpt,
		}
	}
	return list
}

// timestamp is RFC 3339 in UTC with milliseconds, null for the zero time.
type timestamp time.Time

func (t timestamp) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(time.Time(t).UTC().Format("2006-01-02T15:04:05.000Z"))
}

// Schema describes it for the OpenAPI document.
func (timestamp) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Nullable: true}
}

var _ huma.SchemaProvider = timestamp{}

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
