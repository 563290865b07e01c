package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// pageSize is how many events a list shows.
const pageSize = 50

// eventsView is a list of events.
type eventsView struct {
	Filter   filterView
	Rows     []rowView
	Newer    string // how many came since, "" for none
	NewerURL string
	Next     string // URL of what follows
	First    string // URL of the newest, when this is a later page
	LookedTo moment // a search ended early: it has seen everything since then
	Resend   string // URL to resend all that the filter chooses
	Filtered bool
	Empty    bool // nothing was ever received
}

// filterView is the filter as the form shows it.
type filterView struct {
	State, Type, Backend, Source, Account, Object, Customer, Since, Until, Q string

	Tabs     []tab
	Backends []string
	Sources  []string
	More     bool // one of the rarer fields is set
}

type tab struct {
	Label, Class, URL string
	Current           bool
}

// rowView is an event in a list.
type rowView struct {
	Seq        int64
	ID, Type   string
	Object     string
	Account    string
	Source     string
	Live       bool
	State      stateView
	Reason     string
	Received   moment
	Size       int64
	Deliveries []deliveryView
	Gone       bool // it does not match the filter any more, but stays where it is
}

// deliveryView is a delivery in a row or on its event's page.
type deliveryView struct {
	Backend  string
	State    stateView
	Attempts int
	Turn     int
	Answer   string // what the last attempt brought
	Bad      bool   // and whether that was a failure
	Next     moment
	Why      string // it waits, in words
	Brief    string // the same in a word or two, for a list, whose rows never change their height
	Code     string // Answer as short as that
	Hint     string
}

// filterNames are the parameters of a list's URL, in the order of the form.
var filterNames = []string{"state", "type", "backend", "source", "account", "object", "customer", "since", "until", "q"}

// filter reads a filter from a URL. It takes what people write: dates without a zone are in the browser's.
func (v *view) filter(q url.Values) (f Filter, err error) {
	f = Filter{
		State: q.Get("state"), Type: q.Get("type"), Backend: q.Get("backend"), Source: q.Get("source"), Account: q.Get("account"),
		Object: q.Get("object"), Customer: q.Get("customer"), Q: strings.TrimSpace(q.Get("q")),
	}
	if f.State != "" && !slices.Contains([]proxy.State{proxy.Pending, proxy.Delivered, proxy.Failed, proxy.Ignored}, proxy.State(f.State)) {
		return f, huma.Error422UnprocessableEntity(fmt.Sprintf("there is no state %q: it is pending, delivered, failed or ignored", f.State))
	}
	if f.Since, err = v.parseTime(q.Get("since")); err == nil {
		f.Until, err = v.parseTime(q.Get("until"))
	}
	return f, err
}

func (v *view) parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339Nano, "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, v.zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, huma.Error422UnprocessableEntity(fmt.Sprintf("%q is not a time: write it as 2026-11-21T14:03", s))
}

// filterURL is path with the filter of q, and further parameters.
func filterURL(path string, q url.Values, more ...string) string {
	out := url.Values{}
	for _, name := range filterNames {
		if s := q.Get(name); s != "" {
			out.Set(name, s)
		}
	}
	for i := 0; i+1 < len(more); i += 2 {
		out.Del(more[i])
		if more[i+1] != "" {
			out.Set(more[i], more[i+1])
		}
	}
	if len(out) == 0 {
		return path
	}
	return path + "?" + out.Encode()
}

func (p *pages) filterView(q url.Values, path string) filterView {
	f := filterView{
		State: q.Get("state"), Type: q.Get("type"), Backend: q.Get("backend"), Source: q.Get("source"), Account: q.Get("account"),
		Object: q.Get("object"), Customer: q.Get("customer"), Since: q.Get("since"), Until: q.Get("until"), Q: q.Get("q"),
	}
	f.More = f.Source+f.Account+f.Object+f.Customer+f.Since+f.Until != ""
	for _, t := range []tab{{Label: "All"}, {Label: "Failed"}, {Label: "Pending"}, {Label: "Delivered"}, {Label: "Ignored"}} {
		t.Class = strings.ToLower(t.Label)
		if t.Class == "all" {
			t.Class = ""
		}
		t.Current, t.URL = f.State == t.Class, filterURL(path, q, "state", t.Class)
		f.Tabs = append(f.Tabs, t)
	}
	for _, b := range p.Gateway.Backends() {
		f.Backends = append(f.Backends, b.Name)
	}
	if f.Backend != "" && !slices.Contains(f.Backends, f.Backend) {
		f.Backends = append(f.Backends, f.Backend)
	}
	for _, s := range p.Sources() {
		f.Sources = append(f.Sources, s.Name)
	}
	if f.Source != "" && !slices.Contains(f.Sources, f.Source) {
		f.Sources = append(f.Sources, f.Source)
	}
	return f
}

func (p *pages) eventsPage(w http.ResponseWriter, r *http.Request) {
	v, q := p.view(r, "events", "Event deliveries"), r.URL.Query()
	chosen, err := v.filter(q)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	f := chosen.choose()
	f.Limit = pageSize
	if f.Before, err = parseCursor(q.Get("cursor")); err != nil {
		p.refuse(w, r, huma.Error422UnprocessableEntity(err.Error()))
		return
	}
	page, err := p.Journal.Events(r.Context(), f)
	if err != nil {
		p.refuse(w, r, p.fail("list events", err))
		return
	}
	list := eventsView{Filter: p.filterView(q, "/events"), Filtered: filterURL("", q) != "", Resend: filterURL("/resend", q)}
	found, next := page.Events, page.Next
	if q.Has("shown") {
		found, next = p.refreshed(r.Context(), &list, f, page, q)
	}
	for _, k := range found {
		row := p.row(&v, k)
		row.Gone = q.Has("shown") && !slices.ContainsFunc(page.Events, func(p journal.Stored) bool { return p.Event.Seq == k.Event.Seq })
		list.Rows = append(list.Rows, row)
	}
	list.LookedTo = v.when(page.LookedTo)
	list.Empty = len(list.Rows) == 0 && !list.Filtered && f.Before == 0
	if next != 0 {
		list.Next = filterURL("/events", q, "cursor", cursor(next).String())
	}
	if f.Before != 0 {
		list.First = filterURL("/events", q)
	}
	v.Live = filterURL("/events", q, "cursor", q.Get("cursor"), "shown", shown(list.Rows, next))
	if f.Query != "" && !page.LookedTo.IsZero() {
		v.Live = "" // a search through bodies is not made again and again
	}
	list.NewerURL = filterURL("/events", q)
	v.Data = list
	p.show(w, http.StatusOK, "events", v)
}

// shown names the rows of a list for its next refresh, and where the list goes on.
func shown(rows []rowView, next int64) string {
	seqs := make([]string, 0, len(rows)+1)
	for _, row := range rows {
		seqs = append(seqs, strconv.FormatInt(row.Seq, 10))
	}
	return strings.Join(append(seqs, "n"+strconv.FormatInt(next, 10)), ".")
}

// refreshed returns the rows that the browser shows already, as they are now, so that a refresh moves none of them: what is
// new is only counted, and what does not match the filter any more stays. q's shown names them.
func (p *pages) refreshed(ctx context.Context, list *eventsView, f journal.Filter, page journal.Page, q url.Values) (found []journal.Stored, next int64) {
	seqs := strings.Split(q.Get("shown"), ".")
	var top int64
	for _, s := range seqs[:min(len(seqs), pageSize+1)] {
		if digits, ok := strings.CutPrefix(s, "n"); ok {
			next, _ = strconv.ParseInt(digits, 10, 64)
			continue
		}
		seq, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			continue
		}
		top = max(top, seq)
		i := slices.IndexFunc(page.Events, func(k journal.Stored) bool { return k.Event.Seq == seq })
		if i >= 0 {
			found = append(found, page.Events[i])
		} else if k, _, err := p.Journal.Event(ctx, seq); err == nil {
			found = append(found, k)
		}
	}
	if f.Before != 0 {
		return found, next
	}
	n := int64(0)
	for _, k := range page.Events {
		if k.Event.Seq > top {
			n++
		}
	}
	switch {
	case top == 0: // the list was empty: show what came
		return page.Events, page.Next
	case n >= pageSize:
		list.Newer = fmt.Sprintf("%d or more new events", pageSize)
	case n > 0:
		list.Newer = conditions.Plural(n, "new event")
	}
	return found, next
}

func (p *pages) row(v *view, k journal.Stored) rowView {
	e := &k.Event
	row := rowView{
		Seq: e.Seq, ID: e.ID, Type: e.Type, Object: e.Object, Account: e.Account, Source: e.Source, Live: e.Livemode,
		State: stateOf(k.State), Reason: reasons[k.Reason], Received: v.when(e.Received), Size: k.Size,
	}
	for _, d := range k.Deliveries {
		row.Deliveries = append(row.Deliveries, p.delivery(v, e.Source, d))
	}
	return row
}

// reasons say why an event has no deliveries.
var reasons = map[string]string{
	proxy.ReasonRule:        "A rule with to: [] ignores it",
	proxy.ReasonNoRoute:     "No route matches it",
	proxy.ReasonPing:        "Stripe's test of the destination",
	proxy.ReasonUnparseable: "Signed, but not an event that can be read",
}

func (p *pages) delivery(v *view, source string, d proxy.Delivery) deliveryView {
	out := deliveryView{Backend: d.Backend, State: stateOf(d.State), Attempts: d.Attempts, Turn: d.Turn}
	out.Code = noAnswer[d.Outcome]
	if d.Status > 0 {
		out.Code = strconv.Itoa(d.Status)
	}
	out.Answer, out.Bad = answer(d.Status, d.Outcome), d.Outcome != "" && d.Outcome != proxy.OutcomeDelivered
	if d.State == proxy.Pending {
		out.Next = v.when(d.Due)
		out.Why, out.Brief = why(p.Gateway.Why(source, d, v.now), out.Next)
	}
	return out
}

// answer is what an attempt brought, in few words.
func answer(status int, outcome string) string {
	switch {
	case outcome == "":
		return ""
	case status > 0:
		if text := http.StatusText(status); text != "" && outcome != proxy.OutcomeSoftFailure {
			return fmt.Sprintf("%d %s", status, text)
		} else if outcome == proxy.OutcomeSoftFailure {
			return fmt.Sprintf("%d, not accepted", status)
		}
		return strconv.Itoa(status)
	}
	return noAnswer[outcome]
}

// noAnswer names the outcomes without a status.
var noAnswer = map[string]string{
	proxy.OutcomeDial: "Not reachable", proxy.OutcomeTLS: "TLS failed", proxy.OutcomeTimeout: "Timed out",
	proxy.OutcomeReset: "Broken off", proxy.OutcomeInterrupted: "Cut by our stop", proxy.OutcomePanic: "Panic",
	proxy.OutcomeDelivered: "Delivered",
}

// why says why a delivery waits, in a sentence and in a word or two.
func why(reason string, next moment) (long, brief string) {
	switch reason {
	case "lease":
		return "Being sent now", "Being sent"
	case "no_backend":
		return "routes.yaml has no such backend", "No backend"
	case "no_secret":
		return "Its source has no secret to sign with", "No secret"
	case "paused":
		return "The backend is paused", "Paused"
	case "breaker":
		return "The breaker is open: the backend is left alone for a while", "Breaker open"
	case "rate":
		return "The rate limit is reached", "Rate limit"
	case "in_flight":
		return "Next in line for a slot", "In line"
	case "backoff":
		if next.Soon && next.Ago != "now" {
			return "Next attempt in " + next.Ago, "In " + next.Ago
		}
	}
	return "Due now", "Due now"
}
