package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
)

func newBackends() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "backends",
		Short: "List the backends: how they do and what waits for them",
		Long: `List the backends: whether they take events, how many wait, since when the oldest does, and what went wrong last.
FAILED are events that were given up and can be resent.`,
		Example: `  breakwater backends
  breakwater backends --json | jq -r '.backends[] | select(.pending > 0).name'`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	addJSONFlag(c, &asJSON)
	c.RunE = func(c *cobra.Command, _ []string) error {
		g, err := connect()
		if err != nil {
			return err
		}
		list, err := g.Backends(c.Context())
		if err != nil {
			return g.explain(err)
		}
		if asJSON {
			return writeJSON(c.OutOrStdout(), list)
		}
		s := newScreen(c.OutOrStdout())
		if err := showBackends(s, list.Backends); err != nil || list.Unreadable == 0 {
			return err
		}
		were := map[bool]string{true: "event that Stripe signed could not be read; it is kept", false: "events that Stripe signed could not be read; they are kept"}
		_, err = fmt.Fprintf(s.w, "\n%s %s: breakwater events --state failed\n", grouped(list.Unreadable), were[list.Unreadable == 1])
		return err
	}
	return c
}

func showBackends(s screen, list []admin.Backend) error {
	t := &table{
		head:    []string{"BACKEND", "STATE", "PENDING", "OLDEST", "FAILED", "IN FLIGHT", "LAST SUCCESS", "ERRORS", "LAST ERROR"},
		numbers: []int{2, 4, 5, 7}, shrink: []int{8}, drop: []int{5, 6, 7},
	}
	for _, b := range list {
		t.add(say(b.Name, plain), s.doing(b), say(grouped(b.Pending), plain), say(s.ago(b.OldestPendingAt.Time), plain),
			say(grouped(b.Failed), plain), say(fmt.Sprintf("%d of %d", b.InFlight, b.MaxInFlight), plain),
			say(s.before(b.LastSuccessAt.Time), plain), say(strconv.Itoa(b.Errors), plain), say(b.LastError, plain))
	}
	if err := t.write(s); err != nil {
		return err
	}
	for _, b := range list {
		if text := s.trouble(b); text != "" {
			if _, err := fmt.Fprintf(s.w, "\n%s\n", text); err != nil {
				return err
			}
		}
	}
	return nil
}

// doing says in a word how b does.
func (s screen) doing(b admin.Backend) cell {
	switch {
	case !b.Configured:
		return say("not in routes.yaml", red)
	case b.Paused:
		return say(strings.TrimSpace("paused "+s.ago(b.PausedAt.Time)), yellow)
	case b.Breaker == "open", b.Breaker == "half-open":
		return say("breaker "+b.Breaker, red)
	case b.Errors > 0:
		return say("failing", red)
	case b.Slots < b.MaxInFlight:
		return say("recovering", yellow)
	}
	return say("ok", green)
}

// trouble says in a sentence what is wrong with b and what to do; "" when nothing is.
func (s screen) trouble(b admin.Backend) string {
	var text string
	switch {
	case !b.Configured && b.Pending > 0:
		text = fmt.Sprintf("%s is not in routes.yaml any more. If it was renamed, say so with `was: [%s]` at the new one", b.Name, b.Name)
	case b.Paused:
		text = fmt.Sprintf("%s is paused; breakwater resume %s ends that", b.Name, quoted(b.Name))
	case b.Errors > 0:
		text = fmt.Sprintf("%s has failed %s since %s: %s", b.Name, counted(int64(b.Errors), "time"),
			s.since(b.ErrorsSince.Time), cmp.Or(b.LastError, b.LastOutcome))
		if b.Hint != "" {
			text += ". " + strings.TrimSuffix(b.Hint, ".")
		}
	default:
		return ""
	}
	if b.Pending > 0 {
		if !strings.HasSuffix(text, "?") {
			text += "."
		}
		text += fmt.Sprintf(" %s; nothing is lost", waiting(b.Pending))
	}
	if !strings.HasSuffix(text, "?") {
		text += "."
	}
	return visible(text)
}

func waiting(n int64) string {
	switch n {
	case 0:
		return "nothing waits"
	case 1:
		return "1 event waits"
	}
	return counted(n, "event") + " wait"
}

func newPause() *cobra.Command {
	return newSwitch("pause", "Hold a backend's events", `Send nothing to a backend until 'breakwater resume'. Its events are kept: Stripe has its 2xx, nothing is lost, and the
time does not count towards give_up_after. A restart changes nothing.`,
		(*admin.Client).Pause, func(b admin.Backend) string {
			return fmt.Sprintf("%s is paused: %s. To go on: breakwater resume %s\n", visible(b.Name), waiting(b.Pending), quoted(b.Name))
		})
}

func newResume() *cobra.Command {
	return newSwitch("resume", "Send a paused backend its events", `End 'breakwater pause': what waits is sent, oldest first, beside what comes in.`,
		(*admin.Client).Resume, func(b admin.Backend) string {
			return fmt.Sprintf("%s goes on: %s\n", visible(b.Name), waiting(b.Pending))
		})
}

// newSwitch returns the command that does act to each backend named.
func newSwitch(name, short, long string, act func(*admin.Client, context.Context, string) (admin.Backend, error),
	done func(admin.Backend) string,
) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     name + " BACKEND...",
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  breakwater %[1]s billing\n  breakwater %[1]s billing legacy --json", name),
		Args:    cobra.MinimumNArgs(1),
	}
	connect := addClientFlags(c)
	addJSONFlag(c, &asJSON)
	c.ValidArgsFunction = completeBackends(connect)
	c.RunE = func(c *cobra.Command, args []string) error {
		g, err := connect()
		if err != nil {
			return err
		}
		list := admin.BackendList{Backends: []admin.Backend{}}
		for _, backend := range args {
			b, err := act(g.Client, c.Context(), backend)
			if err != nil {
				return g.about(backend, err)
			}
			list.Backends = append(list.Backends, b)
			if !asJSON {
				if _, err := io.WriteString(c.OutOrStdout(), done(b)); err != nil {
					return err
				}
			}
		}
		if asJSON {
			return writeJSON(c.OutOrStdout(), list)
		}
		return nil
	}
	return c
}
