package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/proxy"
)

type listInput struct {
	Filter
	Cursor string `query:"cursor" doc:"next of the answer before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

// EventList is a part of a list of events, newest first.
type EventList struct {
	Events   []Event `json:"events" nullable:"false"`
	Next     string  `json:"next" doc:"Cursor of what follows; empty at the end. A page may be short, even empty, before the end"`
	LookedTo Time    `json:"looked_to" doc:"When a search took too long for one page: what was received since then was looked at, next goes on"`
}

type listOutput struct{ Body EventList }

func (a *api) listEvents(ctx context.Context, in *listInput) (*listOutput, error) {
	f := in.choose()
	f.Limit = in.Limit
	var err error
	if f.Before, err = parseCursor(in.Cursor); err != nil {
		return nil, badCursor(err)
	}
	page, err := a.Journal.Events(ctx, f)
	if err != nil {
		return nil, a.fail("list events", err)
	}
	out := EventList{Events: make([]Event, len(page.Events)), Next: cursor(page.Next).String(), LookedTo: jsontime.At(page.LookedTo)}
	now := time.Now()
	for i, k := range page.Events {
		out.Events[i] = a.event(k, now)
	}
	return &listOutput{out}, nil
}

func badCursor(err error) error {
	return huma.Error422UnprocessableEntity(err.Error(), &huma.ErrorDetail{Location: "query.cursor", Message: err.Error()})
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
	return &eventOutput{a.detail(ctx, k, attempts)}, nil
}

func (c *core) detail(ctx context.Context, k journal.Stored, attempts []proxy.Attempt) EventDetail {
	d := EventDetail{Event: c.event(k, time.Now()), AnsweredAt: jsontime.At(k.Answered), Attempts: make([]Attempt, len(attempts))}
	d.NeedsBackend = len(k.Deliveries) == 0 && len(c.Match(&k.Event).To) == 0
	for i, t := range attempts {
		d.Attempts[i] = wireAttempt(t)
	}
	for i := range d.Deliveries { // the last attempt says more than its class
		w := &d.Deliveries[i]
		last := slices.IndexFunc(attempts, func(t proxy.Attempt) bool {
			return t.Backend == w.Backend && t.Turn == w.Turn && t.N == w.Attempts
		})
		if last >= 0 && w.LastError != "" && w.State != string(proxy.Delivered) {
			w.Hint = d.Attempts[last].Hint
		}
	}
	if k.Event.Object != "" {
		c.countSiblings(ctx, k, &d)
	}
	return d
}

// countSiblings counts the events of the same object, if that is quick. Without the figures the event is still worth
// showing.
func (c *core) countSiblings(ctx context.Context, k journal.Stored, d *EventDetail) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	same := journal.Filter{Object: k.Event.Object, Source: k.Event.Source, Account: k.Event.Account}
	n, err := c.Journal.Count(ctx, same)
	if err == nil {
		d.OtherEvents = max(0, n-1)
		same.State, same.Since = proxy.Delivered, k.Event.Received.Add(time.Millisecond)
		d.NewerDelivered, err = c.Journal.Count(ctx, same)
	}
	if err != nil && ctx.Err() == nil {
		c.Log.Warn("events of the same object were not counted", zap.Error(err))
	}
}

// getBody hands the body out as a file to save: a browser must never take what somebody else wrote for a page of ours.
func (a *api) getBody(ctx context.Context, in *eventInput) (*huma.StreamResponse, error) {
	k, _, err := a.one(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	body, err := a.Journal.Body(ctx, k.Event.Seq)
	if err != nil {
		return nil, a.fail("read body", err)
	}
	return &huma.StreamResponse{Body: func(c huma.Context) {
		c.SetHeader("Content-Type", "application/octet-stream")
		c.SetHeader("Content-Disposition", fmt.Sprintf(`attachment; filename="event-%d.json"`, k.Event.Seq))
		_, _ = c.BodyWriter().Write(body)
	}}, nil
}

// ResendRequest says which backends an event is to be delivered to again.
type ResendRequest struct {
	Backends []string `json:"backends,omitempty" maxItems:"100" nullable:"false"`
}

type resendInput struct {
	ID   string `path:"id" maxLength:"300" doc:"evt_..., or seq:N"`
	Body *ResendRequest
}

// ResendResult says what a resend did.
type ResendResult struct {
	Seq        int64    `json:"seq"`
	ID         string   `json:"id"`
	Deliveries []Resent `json:"deliveries" nullable:"false"`
}

type resendOutput struct{ Body ResendResult }

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
	done, err := a.Gateway.Resend(ctx, k.Known, backends...)
	if errors.Is(err, proxy.ErrNoBackend) {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	if err != nil {
		return nil, a.fail("resend", err)
	}
	out := ResendResult{Seq: k.Event.Seq, ID: k.Event.ID, Deliveries: make([]Resent, len(done))}
	var names []string
	for i, r := range done {
		out.Deliveries[i] = Resent(r)
		names = append(names, r.Backend)
	}
	a.audit(ctx, "resend", fmt.Sprintf("%s (seq:%d) to %s", k.Event.ID, k.Event.Seq, strings.Join(names, ", ")))
	return &resendOutput{out}, nil
}

// one finds the event that id names: seq:N, or Stripe's id where only one event has it.
func (c *core) one(ctx context.Context, id string) (journal.Stored, []proxy.Attempt, error) {
	if digits, ok := strings.CutPrefix(id, "seq:"); ok {
		seq, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || seq < 1 {
			return journal.Stored{}, nil, huma.Error404NotFound("no such event: seq: needs the event's number")
		}
		k, attempts, err := c.Journal.Event(ctx, seq)
		if err != nil {
			return journal.Stored{}, nil, c.fail("read event", err)
		}
		return k, attempts, nil
	}
	page, err := c.Journal.Events(ctx, journal.Filter{ID: id})
	found := page.Events
	switch {
	case err != nil:
		return journal.Stored{}, nil, c.fail("look up event", err)
	case len(found) == 0:
		return journal.Stored{}, nil, c.fail("look up event", proxy.ErrNotFound)
	case len(found) > 1:
		several := make([]error, len(found))
		for i, k := range found {
			several[i] = &huma.ErrorDetail{
				Location: "path.id", Value: fmt.Sprintf("seq:%d", k.Event.Seq),
				Message: fmt.Sprintf("source %s, received %s", k.Event.Source, k.Event.Received.UTC().Format(time.RFC3339)),
			}
		}
		return journal.Stored{}, nil, huma.Error409Conflict("several events have this id: choose one by seq:N", several...)
	}
	return c.one(ctx, fmt.Sprintf("seq:%d", found[0].Event.Seq))
}
