package admin

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
	"github.com/breakwater-gateway/breakwater/internal/stripe"
	"github.com/breakwater-gateway/breakwater/proxy"
)

func (p *pages) backendsPage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "backends", "Backends")
	now, err := p.snapshot(r.Context())
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	now.Zone = v.zone
	v.Data = v.backends(now.Backends, conditions.Of(now))
	p.show(w, http.StatusOK, "backends", v)
}

// sourceView is a source as its page shows it.
type sourceView struct {
	Source
	State                               stateView
	Verified, Answered, Failed, NoMatch moment
	Keys                                []secretView
	Reasons                             []reasonView
}

type secretView struct {
	Hint    string
	Matched moment
	Text    string
}

type reasonView struct {
	Name, Text string
	N          int64
}

// rejections say what a failed verification means.
var rejections = map[string]string{
	stripe.MissingHeader:   "No Stripe-Signature: somebody other than Stripe, or a proxy that drops the header.",
	stripe.MalformedHeader: "A Stripe-Signature that cannot be read.",
	stripe.NoMatch:         "Signed with a secret that is not here (rolled, or of another endpoint), or the body was changed on the way.",
	stripe.TooOld:          "Signed longer ago than the tolerance: a replay, or this machine's clock is ahead.",
	stripe.TooFarAhead:     "Signed in the future: this machine's clock is behind.",
}

func (p *pages) sourcesPage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "sources", "Sources")
	var out []sourceView
	for _, s := range wireSources(p.Sources()) {
		row := sourceView{
			Source: s, Verified: v.when(s.LastVerifiedAt.Time), Answered: v.when(s.LastAnsweredAt.Time), Failed: v.when(s.LastFailureAt.Time),
			NoMatch: v.when(s.NoMatchSince.Time), State: stateView{"delivered", "Working"},
		}
		if s.LastVerifiedAt.Before(p.Feed.started) { // then LastAnsweredAt is the gateway's start
			row.Answered = moment{}
		}
		switch {
		case !s.NoMatchSince.IsZero():
			row.State = stateView{"failed", "No secret matches"}
		case s.LastVerifiedAt.IsZero():
			row.State = stateView{"ignored", "Nothing came yet"}
		}
		for _, secret := range s.Secrets {
			row.Keys = append(row.Keys, secretView{secret.Hint, v.when(secret.LastMatchedAt.Time), rolling(s.Secrets, secret)})
		}
		for _, name := range slices.Sorted(maps.Keys(s.Failures)) {
			row.Reasons = append(row.Reasons, reasonView{name, rejections[name], s.Failures[name]})
		}
		out = append(out, row)
	}
	v.Data = out
	p.show(w, http.StatusOK, "sources", v)
}

// rolling says where a secret stands while it is rolled.
func rolling(all []SigningSecret, s SigningSecret) string {
	newer := slices.ContainsFunc(all, func(o SigningSecret) bool { return o.LastMatchedAt.After(s.LastMatchedAt.Time) })
	switch {
	case !newer && s.LastMatchedAt.IsZero():
		return "Nothing was signed with it yet."
	case !newer:
		return "In use."
	case s.LastMatchedAt.IsZero():
		return "Not seen yet: one that Stripe does not use yet, or an old one that can go."
	}
	return "Another one has matched since: once the roll is over at Stripe, it can go."
}

func (p *pages) pauseFromPage(w http.ResponseWriter, r *http.Request) {
	name, act := r.PathValue("name"), r.PathValue("act")
	if act != "pause" && act != "resume" {
		p.refuse(w, r, huma.Error404NotFound("no such path"))
		return
	}
	do := p.api.pause
	if act == "resume" {
		do = p.api.resume
	}
	if _, err := do(r.Context(), &backendInput{Name: name}); err != nil {
		p.refuse(w, r, err)
		return
	}
	back(w, r, "/backends", act+"d")
}

// resendFromPage resends one event, to the backends that the form names or all of its own.
func (p *pages) resendFromPage(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm() // what cannot be parsed names no backend
	id := r.PathValue("id")
	done, err := p.api.resend(r.Context(), &resendInput{ID: "seq:" + id, Body: &ResendRequest{Backends: r.PostForm["backend"]}})
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	notice := "in_flight"
	for _, d := range done.Body.Deliveries {
		if d.Result != proxy.ResentInFlight {
			notice = "resent"
		}
	}
	back(w, r, "/events/"+id, notice)
}

// bulkView asks before many events are resent.
type bulkView struct {
	Count     int64
	NoBackend int64    // of Count: those that no backend takes
	Chosen    []choice // the filter
	Query     string   // the same, for the form
	Back      string
	State     string
}

type choice struct{ Name, Value string }

func choices(q url.Values) (out []choice) {
	for _, name := range filterNames {
		if s := q.Get(name); s != "" {
			out = append(out, choice{name, s})
		}
	}
	return out
}

// bulk is the resend of what a URL's filter chooses.
func (v *view) bulk(q url.Values, dryRun bool) (*bulkInput, error) {
	f, err := v.filter(q)
	return &bulkInput{Body: BulkResend{DryRun: dryRun, Filter: &f}}, err
}

func (p *pages) resendPage(w http.ResponseWriter, r *http.Request) {
	v, q := p.view(r, "events", "Resend"), r.URL.Query()
	b := bulkView{Chosen: choices(q), Back: filterURL("/events", q), Query: strings.TrimPrefix(filterURL("", q), "?"), State: q.Get("state")}
	if len(b.Chosen) > 0 {
		in, err := v.bulk(q, true)
		if err != nil {
			p.refuse(w, r, err)
			return
		}
		out, err := p.api.bulkResend(r.Context(), in)
		if err != nil {
			p.refuse(w, r, err)
			return
		}
		b.Count, b.NoBackend = out.Body.Count, out.Body.NoBackend
	}
	v.Live, v.Data = "", b
	p.show(w, http.StatusOK, "resend", v)
}

func (p *pages) startFromPage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "events", "Resend")
	q, err := url.ParseQuery(r.FormValue("query"))
	if err != nil {
		p.refuse(w, r, huma.Error422UnprocessableEntity("the filter cannot be read"))
		return
	}
	in, err := v.bulk(q, false)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	out, err := p.api.bulkResend(r.Context(), in)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	http.Redirect(w, r, fmt.Sprintf("/jobs/%d", out.Body.Job.ID), http.StatusSeeOther)
}

// jobView is a job as its page shows it.
type jobView struct {
	Job
	Status         stateView
	Running        bool
	Started, Ended moment
	Chosen         []choice
}

func (p *pages) jobPage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "events", "Job")
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64) // 0 is no job
	out, err := p.api.getJob(r.Context(), &jobInput{ID: id})
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	j := jobView{Job: out.Body, Started: v.when(out.Body.CreatedAt.Time), Ended: v.when(out.Body.EndedAt.Time)}
	j.Status = map[string]stateView{
		jobRunning: {"pending", "Running"}, jobDone: {"delivered", "Done"}, jobStopped: {"paused", "Stopped"}, jobFailed: {"failed", "Failed"},
	}[j.State]
	j.Running = j.State == jobRunning
	if j.Filter != nil {
		j.Chosen = choices(j.Filter.Values())
	}
	if j.Ended.ISO != "" {
		v.Live = ""
	}
	v.Data = j
	p.show(w, http.StatusOK, "job", v)
}

func (p *pages) stopFromPage(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if _, err := p.api.stopJob(r.Context(), &jobInput{ID: id}); err != nil {
		p.refuse(w, r, err)
		return
	}
	back(w, r, "/jobs/"+r.PathValue("id"), "stopped")
}

// configView is what is active and where it came from.
type configView struct {
	Configuration
	Loaded, Failed moment
	Ask            askView
	Sources        []string
}

// askView is "where would this type go?" with its answer.
type askView struct {
	Type, Source, Account string
	Livemode              bool
	Asked                 bool
	To                    []string
	Queued                bool
	Text                  string
	Ignored               bool
}

func (p *pages) ask(q url.Values) askView {
	ask := askView{
		Type: strings.TrimSpace(q.Get("type")), Source: q.Get("source"), Account: strings.TrimSpace(q.Get("account")),
		Livemode: q.Get("livemode") != "false",
	}
	if ask.Type == "" {
		return ask
	}
	ask.Asked = true
	m := p.Match(&proxy.Event{Type: ask.Type, Source: ask.Source, Account: ask.Account, Livemode: ask.Livemode})
	for _, t := range m.To {
		ask.To = append(ask.To, t.Backend)
		ask.Queued = ask.Queued || t.Queued
	}
	rule := ""
	if len(m.Routes) > 0 {
		rule = fmt.Sprintf("Route %d of the list. ", m.Routes[0]+1)
	}
	switch {
	case len(m.To) == 0:
		ask.Ignored, ask.Text = true, rule+map[string]string{
			proxy.ReasonRule:    "It ignores the event: Stripe gets a 2xx, nobody else hears of it.",
			proxy.ReasonNoRoute: "No route matches. Stripe gets a 2xx and the event is kept, so that a resend can deliver it once a route does.",
			proxy.ReasonPing:    "Stripe's test of the destination is answered and goes nowhere.",
		}[m.Reason]
	case m.Answer == proxy.AnswerRelay:
		ask.Text = rule + "Relayed: Stripe gets the backend's own answer, nothing is kept."
	case m.Answer == proxy.AnswerBackend:
		ask.Text = rule + fmt.Sprintf("Stripe gets a 2xx only when each backend has given one, or after %s.", short(m.HoldFor))
	case ask.Queued:
		ask.Text = rule + "Stripe gets a 2xx at once; the event is delivered in the background."
	default:
		ask.Text = rule + "Stripe gets a 2xx when it is delivered, or safely kept."
	}
	return ask
}

func (p *pages) configPage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "config", "Configuration")
	active := p.Config()
	c := configView{
		Configuration: active, Loaded: v.when(active.LoadedAt.Time), Failed: v.when(active.ErrorAt.Time), Ask: p.ask(r.URL.Query()),
	}
	for _, s := range p.Sources() {
		c.Sources = append(c.Sources, s.Name)
	}
	v.Data = c
	p.show(w, http.StatusOK, "config", v)
}

func (p *pages) reloadFromPage(w http.ResponseWriter, r *http.Request) {
	if _, err := p.api.reload(r.Context(), nil); err != nil {
		p.refuse(w, r, err)
		return
	}
	back(w, r, "/config", "reloaded")
}

// quarantineView is what is kept although it did not verify.
type quarantineView struct {
	QuarantineList
	Off  bool
	Rows []rejectedView
	More string // URL of what follows
}

type rejectedView struct {
	quarantine.Rejected
	Received, Expires moment
}

func (p *pages) quarantinePage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "quarantine", "Quarantine")
	var q quarantineView
	out, err := p.api.listQuarantine(r.Context(), &quarantineInput{Cursor: r.URL.Query().Get("cursor"), Limit: pageSize})
	switch {
	case errors.Is(err, errQuarantineOff):
		q.Off = true
	case err != nil:
		p.refuse(w, r, err)
		return
	default:
		q.QuarantineList = out.Body
	}
	for _, r := range q.Items {
		q.Rows = append(q.Rows, rejectedView{r, v.when(r.Received.Time), v.when(r.Expires.Time)})
	}
	if q.Next != "" {
		q.More = "/quarantine?" + url.Values{"cursor": {q.Next}}.Encode()
	}
	v.Data = q
	p.show(w, http.StatusOK, "quarantine", v)
}

func (p *pages) quarantineFromPage(w http.ResponseWriter, r *http.Request) {
	var err error
	notice := ""
	switch r.PathValue("act") {
	case "recheck":
		var out *recheckOutput
		if out, err = p.api.recheckQuarantine(r.Context(), nil); err == nil {
			notice = "left"
			if out.Body.Released > 0 {
				notice = "released"
			}
		}
	case "drop":
		id, _ := strconv.ParseInt(r.FormValue("id"), 10, 64) // 0 is no item
		_, err = p.api.dropQuarantine(r.Context(), &dropInput{DropQuarantineRequest{IDs: []int64{id}}})
		notice = "dropped"
	default:
		err = huma.Error404NotFound("no such path")
	}
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	back(w, r, "/quarantine", notice)
}
