package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// eventTable lays out events. Where several backends are owed one, attempts, last answer and next attempt are those of
// the delivery that needs attention most.
func eventTable(s screen, events []admin.Event) *table {
	t := &table{
		head:    []string{"SEQ", "ID", "TYPE", "STATE", "BACKENDS", "ATTEMPTS", "LAST ANSWER", "NEXT ATTEMPT", "AGE"},
		numbers: []int{0, 5}, shrink: []int{4, 2, 6, 3}, drop: []int{1, 5, 4}, // SEQ names an event as well as ID does
	}
	for _, e := range events {
		d := chief(e.Deliveries)
		attempts := ""
		if len(e.Deliveries) > 0 {
			attempts = strconv.Itoa(d.Attempts)
		}
		t.add(say(strconv.FormatInt(e.Seq, 10), plain), say(cut(visible(e.ID), maxID), plain), say(e.Type, plain), stateOf(e),
			say(backendsOf(e), plain), say(attempts, plain), lastAnswer(d), say(s.next(d), plain),
			say(s.ago(e.ReceivedAt.Time), plain))
	}
	return t
}

// maxID is for what is no id of Stripe's, such as the hash of an event that cannot be read.
const maxID = 52

// chief returns the delivery that needs attention most: a failed one, else the pending one that is tried next.
func chief(deliveries []admin.Delivery) (chosen admin.Delivery) {
	rank := map[string]int{string(proxy.Failed): 3, string(proxy.Pending): 2, string(proxy.Delivered): 1}
	for _, d := range deliveries {
		sooner := d.NextAttemptAt.Time.Before(chosen.NextAttemptAt.Time)
		if a, b := rank[d.State], rank[chosen.State]; a > b || a == b && d.State == string(proxy.Pending) && sooner {
			chosen = d
		}
	}
	return chosen
}

var statePaint = map[string]paint{"failed": red, "pending": yellow, "delivered": green, "ignored": dim}

// stateOf says where e stands, and for one without deliveries why.
func stateOf(e admin.Event) cell {
	text := e.State
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return say(text, statePaint[e.State])
}

// backendsOf names the backends of e, each with its state unless all have e's own.
func backendsOf(e admin.Event) string {
	differ := slices.ContainsFunc(e.Deliveries, func(d admin.Delivery) bool { return d.State != e.State })
	names := make([]string, len(e.Deliveries))
	for i, d := range e.Deliveries {
		names[i] = d.Backend
		if differ {
			names[i] += " " + d.State
		}
	}
	return strings.Join(names, ", ")
}

func lastAnswer(d admin.Delivery) cell {
	return answer(d.LastStatus, d.LastError)
}

// answer says what a backend answered: the status, or how no status came about.
func answer(status int, outcome string) cell {
	switch {
	case status == 0 && outcome == "":
		return say("", plain)
	case status == 0:
		return say(outcome, red)
	case outcome == "" || outcome == proxy.OutcomeDelivered:
		return say(strconv.Itoa(status), green)
	case is2xx(status) || outcome == proxy.OutcomeTimeout || outcome == proxy.OutcomeReset:
		return say(fmt.Sprintf("%d %s", status, outcome), red) // the status alone would not say that it failed
	default:
		return say(strconv.Itoa(status), red)
	}
}

// next says when a pending delivery is tried again, and why not now.
func (s screen) next(d admin.Delivery) string {
	if d.State != string(proxy.Pending) {
		return ""
	}
	if d.Why == "lease" {
		return "trying now"
	}
	var parts []string
	switch due := d.NextAttemptAt.Time; {
	case d.Why == "in_flight" || d.Why == "paused" || d.Why == "no_backend" || d.Why == "no_secret": // not a matter of time
	case due.After(s.now):
		parts = append(parts, "in "+short(due.Sub(s.now)))
	case d.Why == "breaker": // when it opens again is the breaker's, not the delivery's
		return "when the breaker lets it"
	default:
		parts = append(parts, "now")
	}
	if d.Why != "" {
		parts = append(parts, d.Why)
	}
	return strings.Join(parts, ", ")
}
