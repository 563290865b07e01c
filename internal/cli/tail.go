package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// tailing is what tail shows.
type tailing struct {
	only    []string // messages asked for
	types   string   // glob
	source  string
	backend string
	failed  bool
	asJSON  bool
	out     screen
}

func newTail() *cobra.Command {
	var t tailing
	c := &cobra.Command{
		Use:   "tail",
		Short: "Watch events and attempts as they happen",
		Long: `Watch what happens until Ctrl-C: a line for each request from Stripe with what became of it, and one for each attempt
to deliver. When the connection is lost it is made again; what happened meanwhile is not shown ('breakwater events' has
it).`,
		Example: `  breakwater tail
  breakwater tail --failed
  breakwater tail --only attempt --backend billing --type 'invoice.*'
  breakwater tail --json | jq -r 'select(.event == "attempt").data.id'`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	f := c.Flags()
	f.StringSliceVar(&t.only, "only", []string{admin.MessageEvent, admin.MessageAttempt}, "event (requests), attempt, or with --json also backend and stats")
	f.StringVar(&t.types, "type", "", "only this event type, or a pattern such as 'invoice.*'")
	f.StringVar(&t.source, "source", "", "only what came in on this source")
	f.StringVar(&t.backend, "backend", "", "only attempts at this backend")
	f.BoolVar(&t.failed, "failed", false, "only attempts that failed and requests that were not taken")
	f.BoolVar(&t.asJSON, "json", false, "print a line of JSON for each: {\"event\":...,\"data\":{...}}")
	_ = c.RegisterFlagCompletionFunc("backend", completeBackends(connect))
	_ = c.RegisterFlagCompletionFunc("only", cobra.FixedCompletions(tailMessages, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := t.check(); err != nil {
			return err
		}
		g, err := connect()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		t.out = newScreen(c.OutOrStdout())
		return t.run(ctx, g, c.ErrOrStderr())
	}
	return c
}

var tailMessages = []string{admin.MessageEvent, admin.MessageAttempt, admin.MessageBackend, admin.MessageStats}

func (t *tailing) check() error {
	for _, name := range t.only {
		if !slices.Contains(tailMessages, name) {
			return usageError("--only %s: there are %s", name, strings.Join(tailMessages, ", "))
		}
		if !t.asJSON && name != admin.MessageEvent && name != admin.MessageAttempt {
			return usageError("--only %s: there is no line for it; add --json", name)
		}
	}
	if _, err := path.Match(t.types, ""); err != nil {
		return usageError("--type %s: not a pattern", t.types)
	}
	if t.backend != "" { // a request is not of one backend
		t.only = slices.DeleteFunc(t.only, func(s string) bool { return s == admin.MessageEvent || s == admin.MessageStats })
	}
	if len(t.only) == 0 {
		return usageError("--backend: only attempts have one; leave out --only")
	}
	return nil
}

const (
	firstReconnect = 500 * time.Millisecond
	maxReconnect   = 30 * time.Second
)

// run shows the stream until ctx ends. A gateway that does not answer at first is an error; later it is waited for.
func (t *tailing) run(ctx context.Context, g *gateway, stderr io.Writer) error {
	wait, connected, lost := firstReconnect, false, false
	only := append([]string{admin.MessageBackend}, t.only...) // sent at first: that is how we know that there is a connection
	for {
		err := g.Stream(ctx, only, func(m admin.RawMessage) error {
			if lost {
				fmt.Fprintln(stderr, "connected again")
			}
			connected, lost, wait = true, false, firstReconnect
			return t.show(m)
		})
		var broken outputError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &broken):
			return broken.error
		case !connected || err != nil && !errors.Is(err, admin.ErrUnreachable):
			return g.explain(err)
		}
		if !lost {
			fmt.Fprintf(stderr, "the connection to %s was lost; trying again\n", g.url)
		}
		lost = true
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, maxReconnect)
	}
}

// outputError says that nobody reads what we write.
type outputError struct{ error }

func (t *tailing) show(m admin.RawMessage) error {
	line, err := t.line(m)
	if err != nil || line == "" {
		return err
	}
	if _, err := fmt.Fprintln(t.out.w, line); err != nil {
		return outputError{err}
	}
	return nil
}

// line returns what is shown of m, "" for nothing.
func (t *tailing) line(m admin.RawMessage) (string, error) {
	if !slices.Contains(t.only, m.Event) {
		return "", nil
	}
	var text string
	switch m.Event {
	case admin.MessageEvent:
		var e admin.StreamEvent
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return "", fmt.Errorf("read the stream: %w", err)
		}
		if !t.matches(e.Type, e.Source) || t.failed && !bad(e.Result) {
			return "", nil
		}
		text = t.eventLine(e)
	case admin.MessageAttempt:
		var a admin.StreamAttempt
		if err := json.Unmarshal(m.Data, &a); err != nil {
			return "", fmt.Errorf("read the stream: %w", err)
		}
		if !t.matches(a.Type, a.Source) || t.backend != "" && t.backend != a.Backend ||
			t.failed && a.Outcome == proxy.OutcomeDelivered {
			return "", nil
		}
		text = t.attemptLine(a)
	}
	if !t.asJSON {
		return text, nil
	}
	b, err := json.Marshal(struct {
		Event string          `json:"event"`
		Data  json.RawMessage `json:"data"`
	}{m.Event, m.Data})
	return string(safeJSON(b)), err
}

// matches reports whether the filters on type and source let an event through.
func (t *tailing) matches(typ, source string) bool {
	if t.types != "" {
		if ok, _ := path.Match(t.types, typ); !ok {
			return false
		}
	}
	return t.source == "" || t.source == source
}

// resultPaint colours what became of a request; what is not here is as it should be.
var resultPaint = map[string]paint{
	string(proxy.ResultDelivered): green, string(proxy.ResultStored): yellow, string(proxy.ResultHeld): yellow,
	string(proxy.ResultUnrouted): red, string(proxy.ResultUnparseable): red, string(proxy.ResultRejected): red,
	string(proxy.ResultQuarantined): red, string(proxy.ResultTooLarge): red, string(proxy.ResultRefused): red,
}

func bad(result string) bool { return resultPaint[result] == red }

func (t *tailing) eventLine(e admin.StreamEvent) string {
	parts := []string{e.Source, e.Object, e.Account}
	if e.ID != "" && !e.Livemode {
		parts = append(parts, "test")
	}
	parts = append(parts, took(e.DurationMS))
	return t.one("Stripe", e.At.Time, e.Result, resultPaint[e.Result], e.Type, e.ID, parts)
}

func (t *tailing) attemptLine(a admin.StreamAttempt) string {
	p := red
	if a.Outcome == proxy.OutcomeDelivered {
		p = green
	}
	parts := []string{took(a.DurationMS)}
	if a.Status != 0 {
		parts = []string{strconv.Itoa(a.Status), took(a.DurationMS)}
	}
	if a.Trigger != string(proxy.TriggerInline) {
		parts = append(parts, fmt.Sprintf("%s %d", a.Trigger, a.N))
	}
	if p == red {
		parts = append(parts, cmp.Or(strings.TrimRight(a.Excerpt, "\r\n"), a.Error))
	}
	at := a.StartedAt.Add(time.Duration(a.DurationMS) * time.Millisecond)
	return t.one(a.Backend, at, a.Outcome, p, a.Type, a.ID, parts)
}

// shortestType is what a narrow terminal leaves of an event's type.
const shortestType = 8

// one lays out a line. A stream cannot wait for its widest cell: the columns are as wide as most need.
func (t *tailing) one(who string, at time.Time, what string, p paint, typ, id string, parts []string) string {
	begin := at.Local().Format("15:04:05.000") + "  "
	what = fmt.Sprintf("%-12s", visible(what))
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	who, typ, id = fmt.Sprintf("%-10s", visible(who)), say(typ, plain).text, say(id, plain).text
	typeWidth := 36
	if t.out.width > 0 { // the type gives way before the id does
		left := max(t.out.width-len(begin)-len(what)-columns(who)-columns(id)-4*len(columnGap), shortestType)
		typ, typeWidth = cut(typ, left), min(left, typeWidth)
	}
	rest := fmt.Sprintf("  %s  %-*s  %-28s  %s", who, typeWidth, typ, id, visible(strings.Join(parts, "  ")))
	if t.out.width > 0 {
		rest = cut(rest, max(t.out.width-len(begin)-len(what), 1))
	}
	return begin + t.out.painted(cell{what, p}) + strings.TrimRight(rest, " ")
}
