package admin

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

const (
	bodyShown   = 64 << 10 // bytes of a body that a page shows; the rest is for a download
	siblings    = 50       // events of the same object that are looked at
	headerShown = 2 << 10  // bytes of a header's value
)

// oneView is an event with everything that is known of it.
type oneView struct {
	rowView
	APIVersion string
	Created    moment
	Lag        string // from Stripe's clock to ours
	Customer   string
	Answered   moment
	Steps      []stepView
	Headers    []headerView
	Body       string
	Cut        bool // Body is not the whole
	Raw        string
	Siblings   []siblingView
	More       bool  // there are more siblings than shown
	Overtaken  int64 // newer events of the object that were delivered, while this one was not
	Resend     string
	Unroutable bool // a resend must name a backend
}

// stepView is a line of the timeline.
type stepView struct {
	Kind    string // received, answered, attempt, next
	At      moment
	at      time.Time
	Backend string
	State   stateView
	Text    string
	Took    string
	Error   string
	Hint    string
	Excerpt string
	Trigger string
	Turn, N int
	Headers []headerView
}

type headerView struct{ Name, Value string }

// siblingView is another event of the same object.
type siblingView struct {
	rowView
	Current bool
}

func (p *pages) eventPage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "events", "Event")
	id := r.PathValue("id")
	if n, err := strconv.ParseInt(id, 10, 64); err == nil && n > 0 {
		id = "seq:" + id
	}
	k, attempts, err := p.one(r.Context(), id)
	if err != nil {
		if page, listErr := p.Journal.Events(r.Context(), journal.Filter{ID: id}); listErr == nil && len(page.Events) > 1 {
			http.Redirect(w, r, "/events?"+url.Values{"q": {id}}.Encode(), http.StatusSeeOther)
			return
		}
		p.refuse(w, r, err)
		return
	}
	e := &k.Event
	v.Title, v.Live = e.Type, "/events/"+strconv.FormatInt(e.Seq, 10)
	if e.Type == "" {
		v.Title = "Unreadable event"
	}
	o := oneView{
		rowView: p.row(&v, k), APIVersion: e.APIVersion, Created: v.when(e.Created), Customer: e.Customer, Answered: v.when(k.Answered),
		Raw:    "/api/v1/events/seq:" + strconv.FormatInt(e.Seq, 10) + "/body",
		Resend: "/events/" + strconv.FormatInt(e.Seq, 10) + "/resend",
	}
	if lag := e.Received.Sub(e.Created); !e.Created.IsZero() && lag >= 0 {
		o.Lag = short(lag)
	}
	detail := p.detail(r.Context(), k, attempts)
	o.Unroutable = detail.NeedsBackend
	if k.State != proxy.Delivered && len(k.Deliveries) > 0 {
		o.Overtaken = detail.NewerDelivered
	}
	for i := range o.Deliveries {
		if k.Deliveries[i].State != proxy.Delivered {
			o.Deliveries[i].Hint = detail.Deliveries[i].Hint
		}
	}
	o.Headers = eventHeaders(e)
	o.Steps = p.timeline(&v, k, attempts)
	body, err := p.Journal.Body(r.Context(), e.Seq)
	if err != nil {
		p.refuse(w, r, p.fail("read body", err))
		return
	}
	o.Cut = len(body) > bodyShown
	o.Body = string(body[:min(len(body), bodyShown)])
	if err := p.relatives(r.Context(), &v, &o, k); err != nil {
		p.refuse(w, r, err)
		return
	}
	v.Data = o
	p.show(w, http.StatusOK, "event", v)
}

// relatives fills in the events of the same object.
func (p *pages) relatives(ctx context.Context, v *view, o *oneView, k journal.Stored) error {
	if k.Event.Object == "" {
		return nil
	}
	page, err := p.Journal.Events(ctx, journal.Filter{
		Object: k.Event.Object, Source: k.Event.Source, Account: k.Event.Account, Limit: siblings,
	})
	if err != nil {
		return p.fail("list events", err)
	}
	for _, s := range page.Events {
		o.Siblings = append(o.Siblings, siblingView{rowView: p.row(v, s), Current: s.Event.Seq == k.Event.Seq})
	}
	o.More = page.Next != 0
	if len(o.Siblings) == 1 && o.Siblings[0].Current {
		o.Siblings = nil
	}
	return nil
}

// timeline is what happened to an event, in order, and what is to come.
func (p *pages) timeline(v *view, k journal.Stored, attempts []proxy.Attempt) []stepView {
	steps := []stepView{{Kind: "received", at: k.Event.Received, At: v.when(k.Event.Received), Text: "Received from Stripe"}}
	for _, t := range attempts {
		s := stepView{
			Kind: "attempt", at: t.Started, At: v.when(t.Started), Backend: t.Backend, Text: answer(t.Status, t.Outcome), Took: took(t.Duration),
			Error: t.Error, Excerpt: t.Excerpt, Trigger: triggers[t.Trigger], Turn: t.Turn, N: t.N, State: stateView{"failed", "Failed"},
			Headers: attemptHeaders(&k.Event, t),
		}
		if t.Outcome == proxy.OutcomeDelivered {
			s.State = stateView{"delivered", "Delivered"}
		} else {
			s.Hint = conditions.Hint(t.Outcome, t.Status, t.Error, t.Excerpt)
		}
		steps = append(steps, s)
	}
	if !k.Answered.IsZero() {
		steps = append(steps, stepView{Kind: "answered", at: k.Answered, At: v.when(k.Answered), Text: "Stripe has our 2xx"})
	}
	slices.SortStableFunc(steps, func(x, y stepView) int { return x.at.Compare(y.at) })
	for _, d := range k.Deliveries {
		if d.State != proxy.Pending {
			continue
		}
		due := v.when(d.Due)
		text, _ := why(p.Gateway.Why(k.Event.Source, d, v.now), due)
		steps = append(steps, stepView{
			Kind: "next", At: due, Backend: d.Backend, State: stateView{"pending", "Pending"},
			Text: text,
		})
	}
	return steps
}

// triggers say why an attempt was made.
var triggers = map[proxy.Trigger]string{
	proxy.TriggerInline: "while Stripe waited", proxy.TriggerRetry: "retry", proxy.TriggerResend: "resent",
	proxy.TriggerResume: "sent when it could be", proxy.TriggerReconcile: "found missing at Stripe",
}

// eventHeaders are the headers that Stripe sent, as every attempt sends them on.
func eventHeaders(e *proxy.Event) []headerView {
	var out []headerView
	for _, h := range []http.Header{e.Header, e.Forwarded} {
		for name, values := range h {
			for _, value := range values {
				out = append(out, headerView{name, value[:min(len(value), headerShown)]})
			}
		}
	}
	slices.SortFunc(out, func(x, y headerView) int { return strings.Compare(x.Name, y.Name) })
	return out
}

// attemptHeaders are those that one attempt adds.
func attemptHeaders(e *proxy.Event, t proxy.Attempt) []headerView {
	return []headerView{
		{"Breakwater-Event-Id", e.ID},
		{"Breakwater-Attempt", strconv.Itoa(t.N)},
		{"Breakwater-Received-At", e.Received.UTC().Format("2006-01-02T15:04:05.999999999Z07:00")},
		{"Breakwater-Trigger", string(t.Trigger)},
	}
}
