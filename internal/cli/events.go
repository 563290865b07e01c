package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
)

const (
	defaultLimit = 50
	maxPage      = 500             // events that the API gives at once
	searchTime   = 5 * time.Second // that one command looks for rare events before it says how far it came
)

func newEvents() *cobra.Command {
	var asJSON bool
	var limit int
	var cursor string
	c := &cobra.Command{
		Use:   "events",
		Short: "List events, newest first: what is pending, delivered, failed, and why",
		Long: `List what Stripe sent, newest first, with what became of it. Where several backends are owed an event, attempts, last
answer and next attempt are those of the delivery that needs attention most; 'breakwater event SEQ' shows all of them.

NEXT ATTEMPT says when, and why not now: backoff (after a failure), breaker (the backend fails), paused, rate, in_flight,
lease, no_backend (it left routes.yaml), no_secret (nothing to sign with).

Rare events are looked for in a long journal for 5 seconds at a time; the command then says how far back it looked and
how to go on.`,
		Example: `  breakwater events --state failed
  breakwater events --state pending --backend billing
  breakwater events --type 'invoice.*' --since 14:03 --until 14:30
  breakwater events --q in_1Pgc75B7WZ01zgkW
  breakwater events --state failed --limit 500 --json | jq -r '.events[].id'`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	filter := addFilterFlags(c)
	addJSONFlag(c, &asJSON)
	c.Flags().IntVar(&limit, "limit", defaultLimit, "list at most this many")
	c.Flags().StringVar(&cursor, "cursor", "", "go on where an earlier list ended, as it said")
	completeFilter(c, connect)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if limit < 1 {
			return usageError("--limit %d: want a number above 0", limit)
		}
		values := filter()
		f, err := values.filter("--", time.Now())
		if err != nil {
			return err
		}
		g, err := connect()
		if err != nil {
			return err
		}
		list, err := g.events(c.Context(), f, cursor, limit)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(c.OutOrStdout(), list)
		}
		if len(list.Events) > 0 {
			s := newScreen(c.OutOrStdout())
			if err := eventTable(s, list.Events).write(s); err != nil {
				return err
			}
		}
		if text := whereNext(list, values, limit); text != "" {
			fmt.Fprintln(c.ErrOrStderr(), text)
		}
		return nil
	}
	return c
}

// events reads pages until there are limit events, or none are left, or searchTime is over.
func (g *gateway) events(ctx context.Context, f admin.Filter, cursor string, limit int) (admin.EventList, error) {
	began := time.Now()
	list := admin.EventList{Events: []admin.Event{}}
	for {
		page, err := g.Events(ctx, f, cursor, min(limit-len(list.Events), maxPage))
		if err != nil {
			return list, g.explain(err)
		}
		list.Events = append(list.Events, page.Events...)
		list.Next, list.LookedTo = page.Next, page.LookedTo
		cursor = page.Next
		if cursor == "" || len(list.Events) >= limit || time.Since(began) > searchTime {
			return list, nil
		}
	}
}

// whereNext says what a list leaves out, and how to see it.
func whereNext(list admin.EventList, values filterValues, limit int) string {
	command := "breakwater events"
	if limit != defaultLimit {
		command += fmt.Sprintf(" --limit %d", limit)
	}
	for _, name := range filterNames() {
		if values[name] != "" {
			command += " --" + name + " " + quoted(values[name])
		}
	}
	switch {
	case list.Next != "" && !list.LookedTo.IsZero():
		return fmt.Sprintf("looked back to %s; to go on:\n  %s --cursor %s", clock(list.LookedTo.Time), command, list.Next)
	case list.Next != "":
		return fmt.Sprintf("there are more:\n  %s --cursor %s", command, list.Next)
	case len(list.Events) == 0 && values.String() == "":
		return "no events yet; to send one: breakwater send invoice.paid"
	case len(list.Events) == 0:
		return "no events with " + values.String()
	}
	return ""
}
