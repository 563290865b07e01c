package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/conditions"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
)

func newQuarantine() *cobra.Command {
	c := &cobra.Command{
		Use:   "quarantine",
		Short: "What Stripe sent and no secret verifies",
		Long: `Requests from Stripe's addresses that no signing secret verifies are kept when stripe_ips is set, and Stripe gets its
2xx: most likely a secret was rolled. Put the new one into routes.yaml, and the reload releases them.`,
		Example: `  breakwater quarantine list
  breakwater quarantine recheck
  breakwater quarantine drop 12 13`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return usageError("quarantine: want list, recheck or drop; breakwater quarantine --help shows them")
		},
	}
	c.AddCommand(newQuarantineList(), newQuarantineRecheck(), newQuarantineDrop())
	return c
}

func newQuarantineList() *cobra.Command {
	var asJSON bool
	var limit int
	var cursor string
	c := &cobra.Command{
		Use:   "list",
		Short: "List what is kept, and what is most likely wrong",
		Long: `List what is kept, newest first, with what is most likely wrong by today's secrets. ID and type of an event are what the
body claims: nobody has verified it.`,
		Example: "  breakwater quarantine list\n  breakwater quarantine list --limit 500 --json",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	addJSONFlag(c, &asJSON)
	c.Flags().IntVar(&limit, "limit", 50, "list at most this many, up to 500")
	c.Flags().StringVar(&cursor, "cursor", "", "go on where an earlier list ended, as it said")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if limit < 1 || limit > maxPage {
			return usageError("--limit %d: want 1 to %d", limit, maxPage)
		}
		g, err := connect()
		if err != nil {
			return err
		}
		list, err := g.Quarantine(c.Context(), cursor, limit)
		if err != nil {
			return g.explain(err)
		}
		if asJSON {
			return writeJSON(c.OutOrStdout(), list)
		}
		s := newScreen(c.OutOrStdout())
		if len(list.Items) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "nothing is in quarantine")
			return nil
		}
		if err := quarantineTable(s, list.Items).write(s); err != nil {
			return err
		}
		if list.Next != "" {
			fmt.Fprintf(c.ErrOrStderr(), "%s in all; there are more:\n  breakwater quarantine list --cursor %s\n",
				conditions.Plural(list.Count, "item"), list.Next)
		}
		return nil
	}
	return c
}

func quarantineTable(s screen, list []quarantine.Rejected) *table {
	t := &table{
		head:    []string{"ID", "SOURCE", "AGE", "EXPIRES", "CLIENT", "REASON", "CLAIMS TO BE", "TYPE", "DIAGNOSIS"},
		numbers: []int{0}, shrink: []int{7, 6}, drop: []int{6, 4, 3, 7},
	}
	for _, q := range list {
		t.add(say(strconv.FormatInt(q.ID, 10), plain), say(q.Source, plain), say(s.ago(q.Received.Time), plain),
			say("in "+short(q.Expires.Sub(s.now)), plain), say(q.Client, plain), say(q.Reason, plain),
			say(q.EventID, plain), say(q.EventType, plain), say(q.Diagnosis, yellow))
	}
	return t
}

func newQuarantineRecheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "recheck",
		Short: "Verify what is kept against today's secrets, and release what matches",
		Long: `Verify what is kept against today's secrets, whatever its time. What matches is an event from then on: it goes where
today's routes send it. Every reload that changes secrets does this by itself.`,
		Example: "  breakwater quarantine recheck\n  breakwater quarantine recheck --json",
	}
	return asks(c, (*gateway).RecheckQuarantine, func(c *cobra.Command, _ *gateway, report quarantine.Report) (err error) {
		_, err = fmt.Fprintf(c.OutOrStdout(), "checked %d, released %d, left %d\n", report.Checked, report.Released, report.Left)
		if err == nil && report.Left > 0 {
			fmt.Fprintln(c.ErrOrStderr(), "what is left matches no secret; breakwater quarantine list says what is most likely wrong")
		}
		return err
	})
}

func newQuarantineDrop() *cobra.Command {
	var yes, asJSON bool
	c := &cobra.Command{
		Use:   "drop ID...",
		Short: "Remove items for good",
		Long: `Remove items for good. Stripe had a 2xx for them and will not send them again. On a terminal it asks first; elsewhere it
needs --yes.`,
		Example: "  breakwater quarantine drop 12 13\n  breakwater quarantine drop 12 --yes",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	addYesFlag(c, &yes)
	addJSONFlag(c, &asJSON)
	c.RunE = func(c *cobra.Command, args []string) error {
		var ids []int64
		for _, arg := range args {
			id, err := strconv.ParseInt(arg, 10, 64)
			if err != nil || id < 1 {
				return usageError("%s: want a number, as 'breakwater quarantine list' shows it", visible(arg))
			}
			ids = append(ids, id)
		}
		g, err := connect()
		if err != nil {
			return err
		}
		if err := confirm(c, yes, fmt.Sprintf("%s would be removed for good", conditions.Plural(int64(len(ids)), "item"))); err != nil {
			return err
		}
		result, err := g.DropQuarantine(c.Context(), ids...)
		if err != nil {
			return g.explain(err)
		}
		if asJSON {
			return writeJSON(c.OutOrStdout(), result)
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s removed\n", conditions.Plural(int64(result.Dropped), "item"))
		return err
	}
	return c
}
