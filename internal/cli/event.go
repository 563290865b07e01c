package cli

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/conditions"
)

func newEvent() *cobra.Command {
	var asJSON, body bool
	c := &cobra.Command{
		Use:   "event ID",
		Short: "Show one event: its deliveries and every attempt",
		Long: `Show one event: to which backends it is owed, each attempt with what the backend answered, and what may help.
ID is Stripe's evt_..., or the number that 'breakwater events' shows as SEQ.

With --body it prints the body instead: the very bytes that Stripe sent, with nothing added.`,
		Example: `  breakwater event evt_1Pgc76B7WZ01zgkWwyRHS12y
  breakwater event 1204
  breakwater event 1204 --body | jq .data.object
  breakwater event 1204 --json`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	addJSONFlag(c, &asJSON)
	c.Flags().BoolVar(&body, "body", false, "print the body as Stripe sent it")
	c.MarkFlagsMutuallyExclusive("json", "body")
	c.RunE = func(c *cobra.Command, args []string) error {
		g, err := connect()
		if err != nil {
			return err
		}
		id := eventRef(args[0])
		if body {
			b, err := g.Body(c.Context(), id)
			if err == nil {
				_, err = c.OutOrStdout().Write(b)
			}
			return g.about(args[0], err)
		}
		e, err := g.Event(c.Context(), id)
		if err != nil {
			return g.about(args[0], err)
		}
		if asJSON {
			return writeJSON(c.OutOrStdout(), e)
		}
		return showEvent(newScreen(c.OutOrStdout()), e)
	}
	return c
}

func showEvent(s screen, e admin.EventDetail) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s  %s\n\n", s.painted(say(e.ID, bold)), say(e.Type, plain).text, s.painted(stateOf(e.Event)))
	for _, line := range []struct{ name, value string }{
		{"seq", strconv.FormatInt(e.Seq, 10)},
		{"source", e.Source},
		{"received", s.when(e.ReceivedAt.Time)},
		{"created", clock(e.Created.Time)},
		{"object", e.Object},
		{"account", e.Account},
		{"mode", map[bool]string{true: "live", false: "test"}[e.Livemode]},
		{"API version", e.APIVersion},
		{"size", conditions.Plural(e.Size, "byte")},
		{"Stripe", answeredAt(e)},
	} {
		if line.value != "" {
			fmt.Fprintf(&b, "  %-11s  %s\n", line.name, visible(line.value))
		}
	}
	if _, err := io.WriteString(s.w, b.String()); err != nil {
		return err
	}
	for _, t := range []*table{deliveryTable(s, e.Deliveries), attemptTable(e.Attempts)} {
		if len(t.rows) == 0 {
			continue
		}
		fmt.Fprintln(s.w)
		if err := t.write(s); err != nil {
			return err
		}
	}
	_, err := io.WriteString(s.w, advice(s, e))
	return err
}

// when is a time with how long ago that was.
func (s screen) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s, %s ago", clock(t), s.ago(t))
}

func answeredAt(e admin.EventDetail) string {
	if t := e.AnsweredAt.Time; !t.IsZero() {
		return "had our 2xx at " + clock(t)
	}
	return "is not known to have had our 2xx: it may send the event again"
}

func deliveryTable(s screen, deliveries []admin.Delivery) *table {
	t := &table{head: []string{"BACKEND", "STATE", "ATTEMPTS", "LAST ANSWER", "NEXT ATTEMPT"}, numbers: []int{2}}
	for _, d := range deliveries {
		t.add(say(d.Backend, plain), say(d.State, statePaint[d.State]), say(strconv.Itoa(d.Attempts), plain), lastAnswer(d),
			say(s.next(d), plain))
	}
	return t
}

func attemptTable(attempts []admin.Attempt) *table {
	t := &table{
		head:    []string{"STARTED", "BACKEND", "TURN", "N", "TRIGGER", "ANSWER", "TOOK", "WHAT IT SAID"},
		numbers: []int{2, 3, 6}, shrink: []int{7}, drop: []int{3, 2, 4},
	}
	for _, a := range attempts {
		t.add(say(clock(a.StartedAt.Time), plain), say(a.Backend, plain), say(strconv.Itoa(a.Turn), plain),
			say(strconv.Itoa(a.N), plain), say(a.Trigger, plain), answer(a.Status, a.Outcome),
			say(took(a.DurationMS), plain), say(cmp.Or(strings.TrimRight(a.Excerpt, "\r\n"), a.Error), plain))
	}
	return t
}

func took(ms int64) string {
	if ms < 1000 {
		return fmt.Sprintf("%dms", ms)
	}
	return fmt.Sprintf("%.1fs", float64(ms)/1000)
}

// advice says what may help, in sentences.
func advice(s screen, e admin.EventDetail) string {
	var b strings.Builder
	for _, d := range e.Deliveries {
		if d.State == "delivered" {
			continue
		}
		hint, said := d.Hint, ""
		for _, a := range e.Attempts { // the last one counts
			if a.Backend == d.Backend && a.Turn == d.Turn && a.Hint != "" {
				hint, said = a.Hint, strings.TrimRight(a.Excerpt, "\r\n")
			}
		}
		if hint == "" {
			continue
		}
		fmt.Fprintf(&b, "\n%s: %s\n", s.painted(say(d.Backend, bold)), visible(hint))
		if said != "" && s.width > 0 { // the table may have cut it
			fmt.Fprintf(&b, "  it said: %s\n", visible(said))
		}
	}
	if n := e.NewerDelivered; n > 0 {
		were := map[bool]string{true: "1 newer event of %s was", false: conditions.Count(n) + " newer events of %s were"}[n == 1]
		fmt.Fprintf(&b, "\n"+were+" already delivered: sending this one again brings old news after new.\n", visible(e.Object))
	}
	switch {
	case e.NeedsBackend:
		fmt.Fprintf(&b, "\nNo route of today takes it. To send it all the same: breakwater resend %d --backend NAME\n", e.Seq)
	case e.State == "failed" || e.State == "ignored":
		fmt.Fprintf(&b, "\nTo send it again: breakwater resend %d\n", e.Seq)
	}
	return b.String()
}
