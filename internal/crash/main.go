// Crash kills the gateway with -9 at random moments, under load and in front of a backend that fails, and checks the
// promise from outside: each event that was answered 2xx reaches the backend in the end, byte for byte.
//
// It builds the release binary, starts it again on the same journal after each kill, and keeps its own ledger of what
// was answered 2xx in another folder. It exits with 1 when anything was lost or changed.
//
// With -control the binary is built with the tag breakwater_ack_early, which answers before the commit. That one must
// lose events; when it loses none, the test proves nothing and exits with 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// options are what a run can be asked for.
type options struct {
	rounds  int
	seed    uint64
	control bool
	bin     string        // of the gateway; "" builds one
	senders int           // connections of the load
	rate    float64       // events a second, all senders together, while the gateway is up
	drain   time.Duration // within which nothing may be pending any more once the backend is healthy
	dir     string        // of everything the run writes
	note    func(format string, a ...any)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		stop()
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("crash", flag.ExitOnError)
	f.IntVar(&o.rounds, "rounds", 200, "how often the gateway is killed")
	f.Uint64Var(&o.seed, "seed", rand.Uint64(), "of kill moments, faults and events")
	f.BoolVar(&o.control, "control", false, "negative control: a gateway that answers before it commits must lose events")
	f.StringVar(&o.bin, "bin", "", "gateway to kill (default: built from this module)")
	f.IntVar(&o.senders, "senders", 32, "connections of the load")
	f.Float64Var(&o.rate, "rate", 600, "events a second while the gateway is up")
	f.DurationVar(&o.drain, "drain", time.Minute, "how long the backlog may take to drain at the end")
	keep := f.Bool("keep", false, "keep journal, ledger and log of a run that lost nothing, too")
	_ = f.Parse(args)
	if o.rounds < 1 {
		return errors.New("-rounds must be at least 1")
	}

	dir, err := os.MkdirTemp("", "breakwater-crash-")
	if err != nil {
		return err
	}
	o.dir = dir
	o.note = func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
	r, err := run(ctx, o)
	if err != nil {
		return fmt.Errorf("%w (journal, ledger and log: %s)", err, dir)
	}
	r.print(os.Stdout)
	if err = r.conclude(o.control); err == nil && !*keep {
		return os.RemoveAll(dir)
	}
	fmt.Fprintln(os.Stderr, "journal, ledger and log:", dir)
	return err
}

// machine says what the figures were measured on.
func machine() string {
	return fmt.Sprintf("%s/%s, %d cores, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}
