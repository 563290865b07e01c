// Package cli is the breakwater command.
//
// What is asked for goes to standard output, everything else to standard error. The exit code says how it went: see
// the constants. Nothing is coloured when NO_COLOR is set or the output is not a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes. Scripts rest on them.
const (
	exitOK          = 0
	exitFailed      = 1 // the command was understood, and did not succeed
	exitUsage       = 2 // wrong arguments, or a configuration that cannot be used
	exitUnreachable = 3 // no gateway answers
	exitNotFound    = 4 // the gateway has no such thing
)

// exitError is an error that ends the program with a code of its own. A nil err ends it without a message, for
// commands that have said everything already.
type exitError struct {
	code int
	err  error
}

// Error returns err's text.
func (e exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

// Unwrap returns err.
func (e exitError) Unwrap() error { return e.err }

// usageError says that the arguments do not fit.
func usageError(format string, a ...any) error {
	return exitError{exitUsage, fmt.Errorf(format, a...)}
}

// Main runs the command line args (without the program's name) and returns the exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	// What fails before a command's own code runs is a matter of usage: flags, arguments, an unknown command.
	ran := false
	eachCommand(root, func(c *cobra.Command) {
		if run := c.RunE; run != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				ran = true
				return run(c, args)
			}
		}
	})

	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if !ran {
		code = exitUsage
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(stderr, "breakwater: %s\n", text)
	}
	if !ran {
		fmt.Fprintf(stderr, "Run '%s --help' to see how it is used.\n", c.CommandPath())
	}
	return code
}

// exitCode is the code that err ends the program with.
func exitCode(err error) int {
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}

func eachCommand(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		eachCommand(sub, do)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "breakwater",
		Short: "A gateway between Stripe and your backends that loses no event",
		Long: `Breakwater stands between Stripe and your own backends. It verifies each event, forwards its untouched body to
the backends that its type is routed to, keeps the event safely when a backend cannot take it, and answers Stripe
with a 2xx, so that Stripe never disables the endpoint.

Exit codes: 0 ok, 1 failed, 2 wrong usage or configuration, 3 gateway not reachable, 4 not found.`,
		Example: `  breakwater demo                                  see it work, with nothing set up
  breakwater check --config routes.yaml            is the configuration right?
  breakwater route invoice.paid                    where would it go?
  breakwater serve --config routes.yaml            run the gateway
  breakwater send invoice.paid                     send a signed sample event to it
  breakwater events --state failed                 what could not be delivered, and why
  breakwater resend --filter state=failed          send it again
  breakwater tail                                  watch`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newServe(), newCheck(), newRoute(), newDemo(), newSend(), newVersion(),
		newEvents(), newEvent(), newResend(), newJobs(), newConditions(), newBackends(), newPause(), newResume(), newTail(), newQuarantine(), newBackup())
	return root
}

// addConfigFlag gives c the flag --config and returns where its value will be.
func addConfigFlag(c *cobra.Command) *string {
	path := os.Getenv("BREAKWATER_CONFIG")
	if path == "" {
		path = "routes.yaml"
	}
	return c.Flags().StringP("config", "c", path, "configuration file (environment: BREAKWATER_CONFIG)")
}
