package cli

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
)

// filterKeys are what events are chosen by: flags of events, NAME=VALUE of resend --filter, and the names of the API.
var filterKeys = []struct{ name, usage string }{
	{"state", "pending, delivered, failed or ignored"},
	{"type", "event type, or a pattern such as 'invoice.*'"},
	{"backend", "backend that they are owed to, or were delivered to"},
	{"source", "source that they came in on"},
	{"account", "connected account (acct_...)"},
	{"object", "id of the object that they are about (in_..., sub_...)"},
	{"customer", "id of the customer that they are about (cus_...)"},
	{"since", "received since: 14:03, 2h, 7d, 2006-01-02, 2006-01-02T15:04, or with seconds and zone"},
	{"until", "received before: as --since"},
	{"q", "any id, or text to look for in the bodies"},
}

var states = []string{"pending", "delivered", "failed", "ignored"}

// filterValues are values of filterKeys, as they were typed.
type filterValues map[string]string

// addFilterFlags gives c a flag for each key and returns how to read them.
func addFilterFlags(c *cobra.Command) func() filterValues {
	given := map[string]*string{}
	for _, k := range filterKeys {
		given[k.name] = c.Flags().String(k.name, "", k.usage)
	}
	return func() filterValues {
		values := filterValues{}
		for name, value := range given {
			values[name] = *value
		}
		return values
	}
}

// parsePairs reads the NAME=VALUE of --filter.
func parsePairs(pairs []string) (filterValues, error) {
	values := filterValues{}
	for _, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		switch {
		case value == "":
			return nil, usageError("--filter %s: want NAME=VALUE, as in --filter state=failed", pair)
		case !slices.Contains(filterNames(), name):
			return nil, usageError("--filter %s: no such name; there are %s", pair, strings.Join(filterNames(), ", "))
		case values[name] != "":
			return nil, usageError("--filter %s: %s is given twice, and an event has one", pair, name)
		}
		values[name] = value
	}
	return values, nil
}

// filter turns the values into what the API takes. Names in errors begin with prefix.
func (v filterValues) filter(prefix string, now time.Time) (admin.Filter, error) {
	f := admin.Filter{
		State: v["state"], Type: v["type"], Backend: v["backend"], Source: v["source"], Account: v["account"],
		Object: v["object"], Customer: v["customer"], Q: v["q"],
	}
	if f.State != "" && !slices.Contains(states, f.State) {
		return f, usageError("%sstate: %q is none of %s", prefix, f.State, strings.Join(states, ", "))
	}
	var err error
	if f.Since, err = parseTime(prefix+"since", v["since"], now); err != nil {
		return f, err
	}
	f.Until, err = parseTime(prefix+"until", v["until"], now)
	return f, err
}

// String says the filter as --filter takes it.
func (v filterValues) String() string {
	var parts []string
	for _, name := range filterNames() {
		if v[name] != "" {
			parts = append(parts, name+"="+visible(v[name]))
		}
	}
	return strings.Join(parts, " ")
}

func filterNames() []string {
	names := make([]string, len(filterKeys))
	for i, k := range filterKeys {
		names[i] = k.name
	}
	return names
}

// timeLayouts are in local time unless they have a zone.
var timeLayouts = []string{
	time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02",
}

// parseTime reads what people write for a time: a date, a time of day (the last one that has passed), or how long ago.
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			today := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			if today.After(now) {
				today = today.AddDate(0, 0, -1)
			}
			return today, nil
		}
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 10_000 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usageError("%s: %q is no time; write %s, 14:03, or how long ago: 90m, 2h, 7d",
		flag, text, now.Format("2006-01-02T15:04"))
}

// eventRef is an event as the API takes it: evt_..., seq:N, and a bare number for seq:N, as lists show it.
func eventRef(arg string) string {
	if _, err := strconv.ParseUint(arg, 10, 63); err == nil {
		return "seq:" + arg
	}
	return arg
}
