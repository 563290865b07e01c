package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// overviewView is the state of everything at a glance.
type overviewView struct {
	Attention []attention
	Stats     Stats
	Oldest    moment // of what is pending
	Chart     chart
	Backends  []backendView
}

// attention is something that wants a person, in words.
type attention struct {
	Class       string // failed, pending, paused: how it is drawn
	Text, Help  string
	Link, Label string
}

func (a *api) overviewPage(w http.ResponseWriter, r *http.Request) {
	v := a.view(r, "overview", "Overview")
	backends, err := a.backendViews(r.Context(), &v)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	stats, err := a.stats(r.Context())
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	v.Data = overviewView{
		Attention: a.attention(r.Context(), &v, backends, stats.Unreadable), Stats: stats, Oldest: v.when(stats.OldestPendingAt.Time),
		Chart: v.draw(stats.Minutes), Backends: backends,
	}
	a.show(w, http.StatusOK, "overview", v)
}

// backendView is a backend as pages show it.
type backendView struct {
	Backend
	State                           stateView
	Oldest, Success, Failure, Since moment
	Pausing                         moment
	Limit, Timeout, OpenFor, GiveUp string
	Groups                          []statusCount
}

// statusCount is how many attempts ended with a kind of status.
type statusCount struct {
	Label string
	Bad   bool
	N     int64
}

// backendViews returns every backend, those included that only the journal knows any more.
func (a *api) backendViews(ctx context.Context, v *view) ([]backendView, error) {
	list, err := a.backends(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]backendView, 0, len(list))
	for _, b := range list {
		w := backendView{
			Backend: b, State: b.state(), Oldest: v.when(b.OldestPendingAt.Time), Success: v.when(b.LastSuccessAt.Time),
			Failure: v.when(b.LastErrorAt.Time), Since: v.when(b.ErrorsSince.Time), Pausing: v.when(b.PausedAt.Time),
			Timeout: milliseconds(b.TimeoutMS), OpenFor: milliseconds(b.BreakerOpenMS), GiveUp: milliseconds(b.GiveUpAfterMS),
			Groups: groups(b.Statuses),
		}
		if b.Rate > 0 {
			w.Limit = strconv.FormatFloat(b.Rate, 'g', 4, 64) + " a second"
		}
		if b.Configured || b.Pending+b.Failed > 0 {
			out = append(out, w)
		}
	}
	return out, nil
}

func milliseconds(ms int64) string { return short(time.Duration(ms) * time.Millisecond) }

// state says in a word how a backend does.
func (b *Backend) state() stateView {
	switch {
	case !b.Configured:
		return stateView{"ignored", "Not in routes.yaml"}
	case b.Paused:
		return stateView{"paused", "Paused"}
	case b.Breaker == "open":
		return stateView{"failed", "Breaker open"}
	case b.Breaker == "half-open":
		return stateView{"pending", "Being probed"}
	case b.Errors > 0:
		return stateView{"pending", "Failing"}
	case b.Slots < b.MaxInFlight:
		return stateView{"pending", "Recovering"}
	case b.LastSuccessAt.IsZero():
		return stateView{"ignored", "No traffic yet"}
	}
	return stateView{"delivered", "Working"}
}

func groups(statuses map[string]int64) []statusCount {
	out := []statusCount{{Label: "2xx"}, {"3xx", true, 0}, {"4xx", true, 0}, {"5xx", true, 0}, {"No answer", true, 0}}
	for status, n := range statuses {
		i := 4
		if c := status[0]; len(status) == 3 && c >= '2' && c <= '5' {
			i = int(c - '2')
		}
		out[i].N += n
	}
	return out
}

// attention says what wants a person, worst first.
func (a *api) attention(ctx context.Context, v *view, backends []backendView, unreadable int64) []attention {
	var out []attention
	if err := a.Journal.Ready(ctx); err != nil {
		out = append(out, attention{
			Class: "failed", Text: "The journal takes no new events: " + err.Error() + ".",
			Help: "Stripe gets a 2xx only where every backend answered 2xx, and sends the rest again. If the disk is full, make room or deliver what waits.",
		})
	}
	if c := a.Config(); c.Error != "" {
		out = append(out, attention{
			Class: "failed", Text: "routes.yaml has a fault and was not taken at " + v.when(c.ErrorAt.Time).Clock + ". What ran before still runs.",
			Help: "Mend the file: it is taken as soon as it is right.", Link: "/config", Label: "See the fault",
		})
	}
	for _, s := range a.sources() {
		if s.NoMatchSince.IsZero() {
			continue
		}
		out = append(out, attention{
			Class: "failed", Text: fmt.Sprintf("No secret of source %s has matched since %s.", s.Name, v.when(s.NoMatchSince.Time).Clock),
			Help: "Was it rolled at Stripe? Put the new secret into signing_secrets beside the old one.", Link: "/sources", Label: "See the source",
		})
	}
	if a.Quarantine != nil {
		if q, err := a.Quarantine.Stats(ctx); err == nil && q.Items > 0 {
			out = append(out, attention{
				Class: "failed", Text: plural(q.Items, "request") + " from Stripe in quarantine: no secret verifies what was sent.",
				Help: "Stripe got a 2xx. Nothing of it is delivered until a secret matches.", Link: "/quarantine", Label: "See what is kept",
			})
		}
	}
	if unreadable > 0 {
		text := count(unreadable) + " events that Stripe signed could not be read; they are kept."
		if unreadable == 1 {
			text = "1 event that Stripe signed could not be read; it is kept."
		}
		out = append(out, attention{
			Class: "failed", Text: text, Help: "No route with types takes them. Open each to see its body, and resend it to a backend by name.",
			Link: "/events?state=failed", Label: "See what failed",
		})
	}
	out = append(out, backendAttention(backends)...)
	if c := a.Config(); len(c.NeedsRestart) > 0 {
		out = append(out, attention{
			Class: "pending", Text: "A change in routes.yaml takes a restart.", Help: c.NeedsRestart[0], Link: "/config", Label: "See what",
		})
	}
	return out
}

// failingShown is how many cards backends get.
const failingShown = 5

// backendAttention says what is wrong with the backends, worst first.
func backendAttention(backends []backendView) []attention {
	sorted := slices.Clone(backends)
	slices.SortStableFunc(sorted, func(x, y backendView) int {
		return cmp.Or(cmp.Compare(y.Pending+y.Failed, x.Pending+x.Failed), cmp.Compare(y.Errors, x.Errors))
	})
	var out []attention
	for i := range sorted {
		out = append(out, sorted[i].attention()...)
	}
	rank := map[string]int{"paused": 1, "pending": 2}
	slices.SortStableFunc(out, func(x, y attention) int { return cmp.Compare(rank[x.Class], rank[y.Class]) })
	if more := len(out) - failingShown; more > 0 {
		out = append(out[:failingShown:failingShown], attention{
			Class: "pending", Text: fmt.Sprintf("%d more.", more), Link: "/backends", Label: "See the backends",
		})
	}
	return out
}

// attention says what is wrong with a backend, and what that means for its events.
func (b *backendView) attention() (out []attention) {
	waiting := "Nothing waits."
	switch {
	case b.Pending == 1:
		waiting = "1 event waits; nothing is lost."
	case b.Pending > 1:
		waiting = count(b.Pending) + " events wait; nothing is lost."
	}
	list := func(state proxy.State) string {
		return "/events?" + url.Values{"state": {string(state)}, "backend": {b.Name}}.Encode()
	}
	switch {
	case !b.Configured && b.Pending > 0:
		out = append(out, attention{
			Class: "failed", Text: fmt.Sprintf("routes.yaml does not name %s any more. %s", b.Name, waiting),
			Help: "Was it renamed? Then put its old name into was: of the new one.", Link: list(proxy.Pending), Label: "See what waits",
		})
	case b.Paused:
		since := ""
		if b.Pausing.ISO != "" {
			since = " since " + b.Pausing.Clock
		}
		out = append(out, attention{
			Class: "paused", Text: fmt.Sprintf("%s is paused%s. %s", b.Name, since, waiting), Link: "/backends#" + b.Name, Label: "See the backend",
		})
	case b.Errors > 0, b.Configured && b.Breaker != "closed":
		text := fmt.Sprintf("The breaker of %s is %s. %s", b.Name, b.Breaker, waiting)
		if b.Errors == 1 {
			text = fmt.Sprintf("%s %s once, at %s. %s", b.Name, b.deed(), b.Since.Clock, waiting)
		} else if b.Errors > 1 {
			text = fmt.Sprintf("%s %s since %s, %s times. %s", b.Name, b.deed(), b.Since.Clock, count(b.Errors), waiting)
		}
		c := attention{Class: "failed", Text: text, Help: b.Hint, Link: list(proxy.Pending), Label: "See what waits"}
		if b.Pending == 0 {
			c.Link, c.Label = "", ""
			if b.Failed == 0 {
				c.Class = "pending"
			}
		}
		out = append(out, c)
	}
	if b.Failed > 0 {
		text := fmt.Sprintf("%s deliveries to %s were given up. They are kept for you.", count(b.Failed), b.Name)
		if b.Failed == 1 {
			text = "1 delivery to " + b.Name + " was given up. It is kept for you."
		}
		out = append(out, attention{
			Class: "failed", Text: text, Help: "Mend what failed, then resend.", Link: list(proxy.Failed), Label: "See and resend",
		})
	}
	return out
}

// deed says how a backend fails, to be followed by "since".
func (b *Backend) deed() string {
	switch b.LastOutcome {
	case proxy.OutcomeDial:
		return "has not been reachable"
	case proxy.OutcomeTLS:
		return "has failed the TLS handshake"
	case proxy.OutcomeTimeout:
		return "has not answered in time"
	case proxy.OutcomeReset:
		return "has broken off its answers"
	case proxy.OutcomeSoftFailure:
		return fmt.Sprintf("has answered %d with what its success rules refuse", b.LastStatus)
	}
	if b.LastStatus > 0 {
		return fmt.Sprintf("has answered %d", b.LastStatus)
	}
	return "has failed"
}

// chart is requests a minute over the last hour, ready to be drawn.
type chart struct {
	Bars  []bar
	Top   int64 // what the height stands for
	Total int64
	Text  string // the same in words
	From  moment
}

// bar is one minute, from the bottom up.
type bar struct {
	X     int
	Text  string
	Parts []barPart
}

type barPart struct {
	Class string
	Y, H  float64
}

const (
	chartHeight = 96
	barStep     = 10
)

// kinds sort the results of requests into those that the chart tells apart.
var kinds = map[proxy.Result]string{
	proxy.ResultDelivered: "good", proxy.ResultRelayed: "good", proxy.ResultDuplicate: "good", proxy.ResultIgnored: "good",
	proxy.ResultStored: "wait", proxy.ResultHeld: "wait", proxy.ResultQuarantined: "wait", proxy.ResultUnrouted: "wait",
	proxy.ResultUnparseable: "bad", proxy.ResultRejected: "bad", proxy.ResultTooLarge: "bad", proxy.ResultRefused: "bad",
}

// draw makes a chart of minutes, oldest first.
func (v *view) draw(minutes []Minute) chart {
	c := chart{Top: 4}
	sums := make([]map[string]int64, len(minutes))
	var last int64
	for i, m := range minutes {
		sums[i] = map[string]int64{}
		last = 0
		for result, n := range m.Results {
			sums[i][kinds[proxy.Result(result)]] += n
			last += n
		}
		c.Total += last
		c.Top = max(c.Top, last)
	}
	for i, m := range minutes {
		b := bar{X: i * barStep, Text: fmt.Sprintf("%s: %d delivered, %d kept, %d refused", v.when(m.At.Time).Clock,
			sums[i]["good"], sums[i]["wait"], sums[i]["bad"])}
		y := float64(chartHeight)
		for _, class := range []string{"good", "wait", "bad"} {
			if n := sums[i][class]; n > 0 {
				h := chartHeight * float64(n) / float64(c.Top)
				y -= h
				b.Parts = append(b.Parts, barPart{class, y, h})
			}
		}
		c.Bars = append(c.Bars, b)
	}
	if len(minutes) > 0 {
		c.From = v.when(minutes[0].At.Time)
	}
	c.Text = fmt.Sprintf("Requests a minute over the last hour: %s in all, at most %s a minute, %s in this one.", count(c.Total), count(c.Top), count(last))
	return c
}
