package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/conditions"
)

func newBackends() *cobra.Command {
	c := &cobra.Command{
		Use:   "backends",
		Short: "List the backends: how they do and what waits for them",
		Long: `List the backends: whether they take events, how many wait, since when the oldest does, and what went wrong last.
FAILED are events that were given up and can be resent.`,
		Example: `  breakwater backends
  breakwater backends --json | jq -r '.backends[] | select(.pending > 0).name'`,
	}
	return asks(c, (*gateway).Backends, func(c *cobra.Command, g *gateway, list admin.BackendList) error {
		now, err := g.Conditions(c.Context())
		if err != nil {
			return g.explain(err)
		}
		s := newScreen(c.OutOrStdout())
		if err := backendTable(s, list.Backends).write(s); err != nil {
			return err
		}
		return s.explain(slices.DeleteFunc(now.Conditions, func(c conditions.Condition) bool {
			return !c.AboutBackend() && c.ID != conditions.DeliveriesFailed
		}))
	})
}

func backendTable(s screen, list []admin.Backend) *table {
	t := &table{
		head:    []string{"BACKEND", "STATE", "PENDING", "OLDEST", "FAILED", "IN FLIGHT", "LAST SUCCESS", "ERRORS", "LAST ERROR"},
		numbers: []int{2, 4, 5, 7}, shrink: []int{8}, drop: []int{5, 6, 7},
	}
	for _, b := range list {
		t.add(say(b.Name, plain), s.doing(b), say(conditions.Count(b.Pending), plain), say(s.ago(b.OldestPendingAt.Time), plain),
			say(conditions.Count(b.Failed), plain), say(fmt.Sprintf("%d of %d", b.InFlight, b.MaxInFlight), plain),
			say(s.before(b.LastSuccessAt.Time), plain), say(strconv.Itoa(b.Errors), plain), say(b.LastError, plain))
	}
	return t
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

func waiting(n int64) string {
	switch n {
	case 0:
		return "nothing waits"
	case 1:
		return "1 event waits"
	}
	return conditions.Plural(n, "event") + " wait"
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
