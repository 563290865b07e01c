// Bench measures the gateway against the best peers that net/http allows and nginx, in one run on loopback: the same
// signed load, each event unique, for every variant in turn. Load, readers, backend and what is measured are processes of
// their own, so that CPU and memory are each one's own. What counts is the CPU per event against that of a peer in the same
// pass. The figures themselves, and rates and latencies most of all, depend on the machine and on who else uses it, which
// the column "others" shows.
//
// It needs Linux (/proc), and nginx in the PATH for the variant that is nginx. It exits with 1 when an answer was no
// 2xx, or when what the gateway says of itself does not fit what was sent.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are what a run can be asked for.
type options struct {
	passes      int
	duration    time.Duration // of one measurement
	warmUp      time.Duration
	connections int
	only        string // letters of variants
	drain       int    // events of the drain
	backlog     int    // of the large backlog; the small one is a hundredth of it
	bin         string
	dir         string
	json        bool
	quiet       float64 // share of the machine's CPU that others may use; above it a measurement is made again
	client      string
	rate        int // events a second of the load; 0: as many as are answered
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok {
			return role(ctx, args[1:])
		}
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	f.IntVar(&o.passes, "passes", 3, "how often each variant is measured, in turn; medians are shown")
	f.DurationVar(&o.duration, "duration", 5*time.Second, "of one measurement")
	f.DurationVar(&o.warmUp, "warm-up", time.Second, "before each measurement")
	f.IntVar(&o.connections, "connections", 64, "connections of the load")
	f.StringVar(&o.only, "only", "abcdefg", "letters of the variants to measure")
	f.IntVar(&o.drain, "drain", 100_000, "stored events to drain (f)")
	f.IntVar(&o.backlog, "backlog", 1_000_000, "events of the large backlog (f) and of the long journal (g); 0 leaves them out")
	f.StringVar(&o.bin, "bin", "", "gateway to measure (default: built from this module)")
	f.StringVar(&o.dir, "dir", os.TempDir(), "folder on a real disk, for journals and logs")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.Float64Var(&o.quiet, "quiet", 1, "on a machine that others use: measure when they take less than this share of its CPU, such as 0.05")
	f.StringVar(&o.client, "client", clientRaw, "of the load: "+clientRaw+" costs little, "+clientNetHTTP+" about as much as what is measured")
	_ = f.Parse(args)
	if o.client != clientRaw && o.client != clientNetHTTP {
		return fmt.Errorf("-client must be %s or %s", clientRaw, clientNetHTTP)
	}
	if o.passes < 1 || o.drain < 2*milestone || o.backlog != 0 && o.backlog/100 < 2*milestone {
		return fmt.Errorf("-passes must be at least 1, -drain at least %d, -backlog 0 or at least %d", 2*milestone, 200*milestone)
	}
	r, err := o.run(ctx)
	if err != nil {
		return err
	}
	if o.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	} else {
		r.print(os.Stdout)
	}
	if len(r.Faults) > 0 {
		return errors.New("the audit found faults, the figures do not count")
	}
	return nil
}

func (o options) run(ctx context.Context) (r *report, err error) {
	if o.dir, err = os.MkdirTemp(o.dir, "breakwater-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	if o.bin, err = o.build(ctx); err != nil {
		return nil, err
	}
	r = newReport(o)
	if err := o.measureLive(ctx, r); err != nil {
		return nil, err
	}
	if err := o.measureDrains(ctx, r); err != nil {
		return nil, err
	}
	if err := o.measureReaders(ctx, r); err != nil {
		return nil, err
	}
	r.compare()
	r.judge()
	return r, nil
}

func (o options) build(ctx context.Context) (string, error) {
	if o.bin != "" {
		return filepath.Abs(o.bin)
	}
	bin := filepath.Join(o.dir, "breakwater")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, modulePath+"/cmd/breakwater")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway: %w\n%s", err, out)
	}
	return bin, nil
}

const modulePath = "github.com/breakwater-gateway/breakwater"

// progress says on standard error what is measured now.
func progress(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
