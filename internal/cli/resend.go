package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/conditions"
)

// resending is what resend was asked for.
type resending struct {
	pairs    []string // of --filter
	backends []string
	dryRun   bool
	yes      bool
	detach   bool
	asJSON   bool
}

func newResend() *cobra.Command {
	var r resending
	c := &cobra.Command{
		Use:   "resend {ID... | --filter NAME=VALUE...}",
		Short: "Send events again: one, several, or all that a filter chooses",
		Long: `Send events again, byte for byte, with a fresh signature: to the backends that they are owed or were delivered to, or
those of --backend. With state=failed or state=pending in the filter, only the deliveries in that state are sent; with
backend=NAME, only those of that backend.

By ID it is done at once. By filter the events are counted first and, on a terminal, it asks; elsewhere it needs --yes.
The gateway then does it as a job, which goes on when this command ends and when the gateway restarts: see
'breakwater jobs'. Events that come in after the job began are not its business.

NAME is one of ` + strings.Join(filterNames(), ", ") + `:
the flags of 'breakwater events' say what they mean.`,
		Example: `  breakwater resend evt_1Pgc76B7WZ01zgkWwyRHS12y
  breakwater resend 1204 1207 --backend billing
  breakwater resend --filter state=failed --filter 'type=invoice.*' --dry-run
  breakwater resend --filter state=failed --filter since=14:03 --yes
  breakwater resend --filter state=delivered --filter backend=billing --filter since=2h`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	f := c.Flags()
	f.StringArrayVar(&r.pairs, "filter", nil, "resend all events that have this, as in state=failed; repeat it to narrow")
	f.StringSliceVar(&r.backends, "backend", nil, "only to this backend, repeatable")
	f.BoolVar(&r.dryRun, "dry-run", false, "only count or list what would be sent")
	f.BoolVar(&r.detach, "detach", false, "start the job and do not wait for its end")
	addYesFlag(c, &r.yes)
	addJSONFlag(c, &r.asJSON)
	_ = c.RegisterFlagCompletionFunc("backend", completeBackends(connect))
	_ = c.RegisterFlagCompletionFunc("filter", completePairs(connect))
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && len(r.pairs) == 0:
			return usageError("which events? For one: breakwater resend evt_... For all that failed: breakwater resend --filter state=failed")
		case len(args) > 0 && len(r.pairs) > 0:
			return usageError("give either ids or --filter")
		case len(args) > 0 && r.detach:
			return usageError("--detach: only a resend by --filter is a job")
		}
		g, err := connect()
		if err != nil {
			return err
		}
		switch {
		case len(args) > 0 && r.dryRun:
			return r.listIDs(c, g, args)
		case len(args) > 0:
			return r.byID(c, g, args)
		}
		return r.byFilter(c, g)
	}
	return c
}

// listIDs shows the events that byID would resend.
func (r *resending) listIDs(c *cobra.Command, g *gateway, ids []string) error {
	list := admin.EventList{Events: []admin.Event{}}
	for _, id := range ids {
		e, err := g.Event(c.Context(), eventRef(id))
		if err != nil {
			return g.about(id, err)
		}
		list.Events = append(list.Events, e.Event)
	}
	if r.asJSON {
		return writeJSON(c.OutOrStdout(), list)
	}
	s := newScreen(c.OutOrStdout())
	return eventTable(s, list.Events).write(s)
}

// byID resends one event after the other. One that cannot be resent does not keep the others from it.
func (r *resending) byID(c *cobra.Command, g *gateway, ids []string) error {
	results := []admin.ResendResult{}
	var wrong []error
	for _, id := range ids {
		result, err := g.Resend(c.Context(), eventRef(id), r.backends...)
		if err != nil {
			err = g.about(id, err)
			wrong = append(wrong, err)
			if exitCode(err) == exitUnreachable || c.Context().Err() != nil {
				break
			}
			continue
		}
		results = append(results, result)
		if !r.asJSON {
			if _, err := io.WriteString(c.OutOrStdout(), resent(result)); err != nil {
				return err
			}
		}
	}
	if r.asJSON {
		if err := writeJSON(c.OutOrStdout(), map[string]any{"events": results}); err != nil {
			return err
		}
	}
	return errors.Join(wrong...)
}

// resent tells what became of a resend, a line for each backend.
func resent(r admin.ResendResult) string {
	var b strings.Builder
	for _, d := range r.Deliveries {
		fmt.Fprintf(&b, "%s  %s: ", visible(r.ID), visible(d.Backend))
		switch d.Result {
		case "due_now":
			b.WriteString("it was waiting and is sent now\n")
		case "in_flight":
			b.WriteString("it is being sent at this moment and was left alone\n")
		default:
			fmt.Fprintf(&b, "is sent again, turn %d\n", d.Turn)
		}
	}
	return b.String()
}

// byFilter counts, asks, and starts a job.
func (r *resending) byFilter(c *cobra.Command, g *gateway) error {
	values, err := parsePairs(r.pairs)
	if err != nil {
		return err
	}
	f, err := values.filter("--filter ", time.Now())
	if err != nil {
		return err
	}
	request := admin.BulkResend{Filter: &f, Backends: r.backends, DryRun: true}
	counted, err := g.BulkResend(c.Context(), request)
	if err != nil {
		return g.explain(err)
	}
	would := r.would(counted, values)
	switch {
	case r.dryRun && r.asJSON:
		return writeJSON(c.OutOrStdout(), counted)
	case r.dryRun || counted.Count == 0:
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s\n", would)
		return err
	}
	if err := confirm(c, r.yes, would); err != nil {
		return err
	}
	request.DryRun = false
	started, err := g.BulkResend(c.Context(), request)
	if err != nil {
		return g.explain(err)
	}
	if started.Job == nil {
		return fmt.Errorf("%s: the gateway named no job", g.url)
	}
	if r.detach {
		return showJob(c, *started.Job, r.asJSON)
	}
	return follow(c, g, *started.Job, r.asJSON)
}

// would says what a resend by filter is about to do.
func (r *resending) would(meant admin.BulkResult, values filterValues) string {
	n := meant.Count
	if n == 0 {
		return "no event has " + values.String() + ": nothing to send"
	}
	text := fmt.Sprintf("%s with %s would be sent again", conditions.Plural(n, "event"), values)
	if len(r.backends) > 0 {
		text += " to " + visible(strings.Join(r.backends, ", "))
	}
	if lost := meant.NoBackend; lost > 0 {
		text += fmt.Sprintf("; %s of them %s no backend: add --backend", conditions.Count(lost), map[bool]string{true: "has", false: "have"}[lost == 1])
	}
	return text
}

// completePairs offers NAME= and, for those that are few, the values.
func completePairs(connect func() (*gateway, error)) completion {
	return func(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		name, _, found := strings.Cut(word, "=")
		var offers []string
		switch {
		case !found:
			for _, name := range filterNames() {
				offers = append(offers, name+"=")
			}
			return offers, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		case name == "state":
			offers = states
		case name == "backend":
			offers = backendNames(context.WithoutCancel(c.Context()), connect)
		}
		var pairs []string
		for _, v := range offers {
			pairs = append(pairs, name+"="+v)
		}
		return pairs, cobra.ShellCompDirectiveNoFileComp
	}
}
