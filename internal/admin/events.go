package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func (a *api) register(h huma.API) {
	huma.Register(h, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/api/v1/events", Summary: "List events, newest first",
	}, a.listEvents)
	huma.Register(h, huma.Operation{
		OperationID: "get-event", Method: http.MethodGet, Path: "/api/v1/events/{id}",
		Summary: "Get an event with its deliveries and attempts",
	}, a.getEvent)
	huma.Register(h, huma.Operation{
		OperationID: "get-event-body", Method: http.MethodGet, Path: "/api/v1/events/{id}/body",
		Summary: "Get the bytes that Stripe sent",
	}, a.getBody)
	huma.Register(h, huma.Operation{
		OperationID: "resend-event", Method: http.MethodPost, Path: "/api/v1/events/{id}/resend",
		Summary:     "Deliver an event again",
		Description: "To the backends named, else to those it was delivered to, else to those that today's routes choose.",
	}, a.resend)
	huma.Register(h, huma.Operation{
		OperationID: "reload", Method: http.MethodPost, Path: "/api/v1/reload", Summary: "Load routes.yaml again",
		Description: "With a fault in the file (422), what runs stays as it is.",
	}, a.reload)
}

type listInput struct {
	State   string    `query:"state" enum:"pending,delivered,failed,ignored"`
	Type    string    `query:"type" doc:"Glob: * matches any run of characters"`
	Backend string    `query:"backend"`
	Source  string    `query:"source"`
	Account string    `query:"account"`
	Object  string    `query:"object" doc:"Id of the object that the event is about"`
	Since   time.Time `query:"since" doc:"Received at or after"`
	Until   time.Time `query:"until" doc:"Received before"`
	Q       string    `query:"q" doc:"An event's id, an account, an object's id or a type, told apart by how it looks"`
	Cursor  string    `query:"cursor" doc:"next of the answer before"`
	Limit   int       `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

type listOutput struct {
	Body struct {
		Events []Event `json:"events"`
		Next   string  `json:"next" doc:"Cursor of what follows; empty at the end. A page may be short, even empty, before the end"`
	}
}

func (a *api) listEvents(ctx context.Context, in *listInput) (*listOutput, error) {
	before, err := parseCursor(in.Cursor)
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(err.Error(), &huma.ErrorDetail{Location: "query.cursor", Message: err.Error()})
	}
	f := proxy.Filter{
		State: proxy.State(in.State), Type: in.Type, Backend: in.Backend, Source: in.Source, Account: in.Account,
		Object: in.Object, Since: in.Since, Until: in.Until, Before: before, Limit: in.Limit,
	}
	if in.Q != "" {
		field := queried(&f, in.Q)
		if *field != "" && *field != in.Q {
			return nil, huma.Error422UnprocessableEntity("q asks for the same as another parameter: give one of them")
		}
		*field = in.Q
	}
	found, next, err := a.Journal.Events(ctx, f)
	if err != nil {
		return nil, a.fail("list events", err)
	}
	out := new(listOutput)
	out.Body.Events = make([]Event, len(found))
	out.Body.Next = cursor(next).String()
	now := time.Now()
	for i, k := range found {
		out.Body.Events[i] = a.event(k, now)
	}
	return out, nil
}

// queried returns the field of f that q must be meant for.
func queried(f *proxy.Filter, q string) *string {
	switch {
	case strings.HasPrefix(q, "evt_"), strings.HasPrefix(q, "sha256:"):
		return &f.ID
	case strings.HasPrefix(q, "acct_"):
		return &f.Account
	case strings.ContainsAny(q, ".*"):
		return &f.Type
	default:
		return &f.Object
	}
}

type eventInput struct {
	ID string `path:"id" maxLength:"300" doc:"evt_..., or seq:N"`
}

type eventOutput struct{ Body EventDetail }

func (a *api) getEvent(ctx context.Context, in *eventInput) (*eventOutput, error) {
	k, attempts, err := a.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &eventOutput{Body: EventDetail{
		Event: a.event(k, time.Now()), AnsweredAt: timestamp(k.Answered), Attempts: wireAttempts(attempts),
	}}, nil
}

type bodyOutput struct {
	ContentType        string `header:"Content-Type"`
	ContentDisposition string `header:"Content-Disposition"`
	Body               []byte `contentType:"application/octet-stream"`
}

// getBody hands the body out as a file to save: a browser must never take what somebody else wrote for a page of ours.
func (a *api) getBody(ctx context.Context, in *eventInput) (*bodyOutput, error) {
	k, _, err := a.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	body, err := a.Journal.Body(ctx, k.Event.Seq)
	if err != nil {
		return nil, a.fail("read body", err)
	}
	return &bodyOutput{
		ContentType:        "application/octet-stream",
		ContentDisposition: fmt.Sprintf(`attachment; filename="event-%d.json"`, k.Event.Seq),
		Body:               body,
	}, nil
}

type resendInput struct {
	ID   string `path:"id" maxLength:"300" doc:"evt_..., or seq:N"`
	Body *struct {
		Backends []string `json:"backends,omitempty" maxItems:"100"`
	}
}

type resendOutput struct {
	Body struct {
		Seq        int64    `json:"seq"`
		ID         string   `json:"id"`
		Deliveries []Resent `json:"deliveries"`
	}
}

// Resent says what a resend did for one backend.
type Resent struct {
	Backend string `json:"backend"`
	Turn    int    `json:"turn"`
	Result  string `json:"result" enum:"new_turn,due_now,in_flight" doc:"in_flight: it is being sent at this moment and was left alone"`
}

func (a *api) resend(ctx context.Context, in *resendInput) (*resendOutput, error) {
	k, _, err := a.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	var backends []string
	if in.Body != nil {
		backends = in.Body.Backends
	}
	done, err := a.Gateway.Resend(ctx, k, backends...)
	if errors.Is(err, proxy.ErrNoBackend) {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	if err != nil {
		return nil, a.fail("resend", err)
	}
	a.Log.Info("resend asked for", zap.String("event_id", k.Event.ID), zap.Int64("seq", k.Event.Seq), zap.Int("deliveries", len(done)))
	out := new(resendOutput)
	out.Body.Seq, out.Body.ID, out.Body.Deliveries = k.Event.Seq, k.Event.ID, make([]Resent, len(done))
	for i, r := range done {
		out.Body.Deliveries[i] = Resent(r)
	}
	return out, nil
}

type reloadOutput struct {
	Body struct {
		Notes []string `json:"notes" doc:"What was changed in the file but needs a restart"`
	}
}

func (a *api) reload(_ context.Context, _ *struct{}) (*reloadOutput, error) {
	notes, err := a.Reload()
	if err != nil {
		return nil, huma.Error422UnprocessableEntity("the configuration was not taken, the old one stays: " + err.Error())
	}
	out := new(reloadOutput)
	out.Body.Notes = append([]string{}, notes...)
	return out, nil
}

// one finds the event that id names: seq:N, or Stripe's id where only one event has it.
func (a *api) one(ctx context.Context, id string) (proxy.Known, []proxy.Attempt, error) {
	if digits, ok := strings.CutPrefix(id, "seq:"); ok {
		seq, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || seq < 1 {
			return proxy.Known{}, nil, huma.Error404NotFound("no such event: seq: needs the event's number")
		}
		k, attempts, err := a.Journal.Event(ctx, seq)
		if err != nil {
			return proxy.Known{}, nil, a.fail("read event", err)
		}
		return k, attempts, nil
	}
	found, err := a.Journal.Lookup(ctx, id)
	switch {
	case err != nil:
		return proxy.Known{}, nil, a.fail("look up event", err)
	case len(found) == 0:
		return proxy.Known{}, nil, a.fail("look up event", proxy.ErrNotFound)
	case len(found) > 1:
		several := make([]error, len(found))
		for i, k := range found {
			several[i] = &huma.ErrorDetail{
				Location: "path.id", Value: fmt.Sprintf("seq:%d", k.Event.Seq),
				Message: fmt.Sprintf("source %s, received %s", k.Event.Source, k.Event.Received.UTC().Format(time.RFC3339)),
			}
		}
		return proxy.Known{}, nil, huma.Error409Conflict("several events have this id: choose one by seq:N", several...)
	}
	return a.one(ctx, fmt.Sprintf("seq:%d", found[0].Event.Seq))
}

// fail turns an error of the journal or the gateway into an answer. What the caller cannot act on goes to the log.
func (a *api) fail(operation string, err error) error {
	if errors.Is(err, proxy.ErrNotFound) {
		return huma.Error404NotFound("no such event")
	}
	a.Log.Error("admin request failed", zap.String("operation", operation), zap.Error(err))
	return huma.Error503ServiceUnavailable(operation + ": the journal does not answer; the gateway's log says why")
}
