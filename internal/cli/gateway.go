package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
)

// gateway is the running gateway that a command asks.
type gateway struct {
	*admin.Client
	url   string
	token bool // one was given
}

// addClientFlags gives c the flag --admin and returns how to reach the gateway that it names. The token has no flag: it
// would be seen in the list of processes.
func addClientFlags(c *cobra.Command) func() (*gateway, error) {
	var adminURL string
	addAdminFlag(c, &adminURL)
	return func() (*gateway, error) { return reach(adminURL) }
}

func reach(adminURL string) (*gateway, error) {
	if !strings.Contains(adminURL, "://") {
		adminURL = "http://" + adminURL
	}
	u, err := url.Parse(adminURL)
	if err != nil || strings.Trim(u.Host, ":") == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usageError("--admin %s: want a URL such as http://127.0.0.1:8421", visible(adminURL))
	}
	token := os.Getenv("BREAKWATER_ADMIN_TOKEN")
	client, err := admin.NewClient(adminURL, token)
	if err != nil {
		return nil, usageError("--admin: %v", err)
	}
	return &gateway{client, adminURL, token != ""}, nil
}

// asks makes c a command without arguments that asks the gateway for one thing, and shows it to a person, or as JSON.
func asks[T any](
	c *cobra.Command, ask func(g *gateway, ctx context.Context) (T, error), show func(c *cobra.Command, g *gateway, answer T) error,
) *cobra.Command {
	var asJSON bool
	connect := addClientFlags(c)
	addJSONFlag(c, &asJSON)
	c.Args, c.ValidArgsFunction = cobra.NoArgs, cobra.NoFileCompletions
	c.RunE = func(c *cobra.Command, _ []string) error {
		g, err := connect()
		if err != nil {
			return err
		}
		answer, err := ask(g, c.Context())
		if err != nil {
			return g.explain(err)
		}
		if asJSON {
			return writeJSON(c.OutOrStdout(), answer)
		}
		return show(c, g, answer)
	}
	return c
}

// explain turns an error of the client into one that names the next step, with the exit code that tells scripts.
func (g *gateway) explain(err error) error {
	var refused *admin.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return errors.New("stopped")
	case errors.Is(err, admin.ErrUnreachable):
		return exitError{exitUnreachable, fmt.Errorf("no gateway at %s (%s): is it running? Set --admin or BREAKWATER_ADMIN to its admin listener",
			g.url, failureText(err))}
	case !errors.As(err, &refused):
		return fmt.Errorf("%s: %s", g.url, lines(err))
	case refused.Foreign:
		return exitError{exitUnreachable, fmt.Errorf("%s %s. Set --admin or BREAKWATER_ADMIN to the gateway's admin listener",
			g.url, lines(err))}
	case errors.Is(err, admin.ErrUnauthorized) && g.token:
		return fmt.Errorf("the gateway at %s does not take the token in BREAKWATER_ADMIN_TOKEN: it wants its admin.token", g.url)
	case errors.Is(err, admin.ErrUnauthorized):
		return fmt.Errorf("the gateway at %s wants its admin.token: set BREAKWATER_ADMIN_TOKEN to it", g.url)
	case errors.Is(err, admin.ErrNotFound):
		return exitError{exitNotFound, errors.New(lines(err))}
	case errors.Is(err, admin.ErrAmbiguous), refused.Status == http.StatusUnprocessableEntity:
		return exitError{exitUsage, errors.New(lines(err))}
	}
	return errors.New(lines(err))
}

// about is explain, naming what was not found.
func (g *gateway) about(what string, err error) error {
	explained := g.explain(err)
	if exitCode(explained) == exitNotFound {
		return exitError{exitNotFound, fmt.Errorf("%s: %w", visible(what), explained)}
	}
	return explained
}

// lines is err's text, safe to show; the gateway lists what to choose from on lines of their own.
func lines(err error) string {
	all := strings.Split(err.Error(), "\n")
	for i, line := range all {
		all[i] = visible(line)
	}
	return strings.Join(all, "\n")
}

// quoted makes a word safe for a shell.
func quoted(word string) string {
	plain := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/@%+,=", r)
	}
	if word != "" && strings.IndexFunc(word, plain) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(visible(word), "'", `'\''`) + "'"
}

// completionTime is how long a shell is kept waiting for names.
const completionTime = time.Second

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeBackends offers the names of the gateway's backends.
func completeBackends(connect func() (*gateway, error)) completion {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return backendNames(c.Context(), connect), cobra.ShellCompDirectiveNoFileComp
	}
}

func backendNames(ctx context.Context, connect func() (*gateway, error)) (names []string) {
	g, err := connect()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	list, err := g.Backends(ctx)
	if err != nil {
		return nil
	}
	for _, b := range list.Backends {
		names = append(names, b.Name)
	}
	return names
}

// completeFilter offers values for the flags of a filter.
func completeFilter(c *cobra.Command, connect func() (*gateway, error)) {
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("backend", completeBackends(connect))
	for _, k := range filterKeys {
		if k.name != "state" && k.name != "backend" {
			_ = c.RegisterFlagCompletionFunc(k.name, cobra.NoFileCompletions)
		}
	}
}
