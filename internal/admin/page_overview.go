package admin

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// overviewView is the state of everything at a glance.
type overviewView struct {
	Attention []card
	Stats     Stats
	Oldest    moment // of what is pending
	Chart     chart
	Backends  []backendView
}

func (p *pages) overviewPage(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "overview", "Overview")
	now, err := p.snapshot(r.Context())
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	now.Zone = v.zone
	stats, holding := sum(p.Feed, now.Backends, now.Unreadable), conditions.Of(now)
	v.Data = overviewView{
		Attention: cards(holding), Stats: stats, Oldest: v.when(stats.OldestPendingAt.Time),
		Chart: v.draw(stats.Minutes), Backends: v.backends(now.Backends, holding),
	}
	p.show(w, http.StatusOK, "overview", v)
}

// card is a condition as pages show it.
type card struct {
	conditions.Condition
	Class string // failed, pending, paused: how it is drawn
	Label string // of its link
}

// labels say what a condition's link leads to.
var labels = map[string]string{
	conditions.NoSecretMatches: "See the source", conditions.Quarantine: "See what is kept", conditions.BackendFailing: "See what waits",
	conditions.NoBackend: "See what waits", conditions.OldestPending: "See what waits", conditions.BackendPaused: "See the backend",
	conditions.DeliveriesFailed: "See and resend", conditions.Unrouted: "See and resend", conditions.ReloadFailed: "See the fault",
	conditions.NeedsRestart: "See what",
}

// newCard draws c: red for what wants a person now.
func newCard(c conditions.Condition) card {
	out := card{Condition: c, Class: "pending", Label: labels[c.ID]}
	switch {
	case c.ID == conditions.BackendPaused:
		out.Class = "paused"
	case c.Severity == conditions.Page:
		out.Class = "failed"
	}
	return out
}

// failingShown is how many cards backends get.
const failingShown = 5

// cards are the conditions as Overview shows them: of many backends the worst, and how many more there are.
func cards(holding []conditions.Condition) (out []card) {
	backends := 0
	for _, c := range holding {
		if c.AboutBackend() {
			if backends++; backends > failingShown {
				continue
			}
		}
		out = append(out, newCard(c))
	}
	if more := backends - failingShown; more > 0 {
		out = append(out, card{
			Condition: conditions.Condition{Text: fmt.Sprintf("%d more.", more), Link: "/backends"}, Class: "pending", Label: "See the backends",
		})
	}
	return out
}

// backendView is a backend as pages show it.
type backendView struct {
	Backend
	State                           stateView
	Oldest, Success, Failure        moment
	Limit, Timeout, OpenFor, GiveUp string
	Groups                          []statusCount
	Attention                       []card
}

// statusCount is how many attempts ended with a kind of status.
type statusCount struct {
	Label string
	Bad   bool
	N     int64
}

// backends shows every backend, those included that only the journal knows any more, each with the conditions about it.
func (v *view) backends(list []conditions.Backend, holding []conditions.Condition) []backendView {
	out := make([]backendView, 0, len(list))
	for _, b := range wireBackends(list) {
		if !b.Configured && b.Pending+b.Failed == 0 {
			continue
		}
		w := backendView{
			Backend: b, State: b.state(), Oldest: v.when(b.OldestPendingAt.Time), Success: v.when(b.LastSuccessAt.Time),
			Failure: v.when(b.LastErrorAt.Time), Timeout: milliseconds(b.TimeoutMS), OpenFor: milliseconds(b.BreakerOpenMS),
			GiveUp: milliseconds(b.GiveUpAfterMS), Groups: groups(b.Statuses),
		}
		if b.Rate > 0 {
			w.Limit = strconv.FormatFloat(b.Rate, 'g', 4, 64) + " a second"
		}
		for _, c := range holding {
			if c.AboutBackend() && c.About == b.Name {
				w.Attention = append(w.Attention, newCard(c))
			}
		}
		out = append(out, w)
	}
	return out
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
	c.Text = fmt.Sprintf("Requests a minute over the last hour: %s in all, at most %s a minute, %s in this one.", conditions.Count(c.Total), conditions.Count(c.Top), conditions.Count(last))
	return c
}
