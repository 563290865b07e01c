package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/conditions"
)

func newJobs() *cobra.Command {
	c := &cobra.Command{
		Use:   "jobs",
		Short: "List what the gateway does in the background: bulk resends and backups",
		Long: `List the bulk resends and backups that the gateway does or has done, newest first. They go on when the command that began
them ends, and bulk resends go on after a restart.`,
		Example: `  breakwater jobs
  breakwater jobs follow 7
  breakwater jobs stop 7`,
	}
	asks(c, (*gateway).Jobs, func(c *cobra.Command, _ *gateway, list admin.JobList) error {
		if len(list.Jobs) == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "no jobs yet")
			return nil
		}
		s := newScreen(c.OutOrStdout())
		return jobTable(s, list.Jobs).write(s)
	})
	c.AddCommand(
		newJob("stop", "Stop a job: what it has done stays done", func(c *cobra.Command, g *gateway, id int64, asJSON bool) error {
			job, err := g.StopJob(c.Context(), id)
			if err != nil {
				return g.about(strconv.FormatInt(id, 10), err)
			}
			return showJob(c, job, asJSON)
		}),
		newJob("follow", "Show a job's progress until it ends", func(c *cobra.Command, g *gateway, id int64, asJSON bool) error {
			job, err := g.Job(c.Context(), id)
			if err != nil {
				return g.about(strconv.FormatInt(id, 10), err)
			}
			return follow(c, g, job, asJSON)
		}),
	)
	return c
}

// newJob returns a command that does act to the job named.
func newJob(name, short string, act func(c *cobra.Command, g *gateway, id int64, asJSON bool) error) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     name + " ID",
		Short:   short,
		Example: fmt.Sprintf("  breakwater jobs %s 7", name),
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	connect := addClientFlags(c)
	addJSONFlag(c, &asJSON)
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || id < 1 {
			return usageError("%s: want a number, as 'breakwater jobs' shows it", visible(args[0]))
		}
		g, err := connect()
		if err != nil {
			return err
		}
		return act(c, g, id, asJSON)
	}
	return c
}

var jobPaint = map[string]paint{"running": yellow, "done": green, "failed": red, "stopped": red}

func jobTable(s screen, jobs []admin.Job) *table {
	t := &table{
		head:    []string{"ID", "JOB", "STATE", "DONE", "OF", "SKIPPED", "BEGUN", "BY", "WHAT", "ERROR"},
		numbers: []int{0, 3, 4, 5}, shrink: []int{9, 8}, drop: []int{7, 5},
	}
	for _, j := range jobs {
		t.add(say(strconv.FormatInt(j.ID, 10), plain), say(j.Kind, plain), say(j.State, jobPaint[j.State]),
			say(conditions.Count(j.Done), plain), say(conditions.Count(j.Total), plain), say(conditions.Count(j.Skipped), plain),
			say(s.before(j.CreatedAt.Time), plain), say(j.Actor, plain), say(jobWhat(j), plain), say(j.Error, plain))
	}
	return t
}

// jobWhat says what a job is about.
func jobWhat(j admin.Job) string {
	parts := []string{}
	if j.Path != "" {
		parts = append(parts, j.Path)
	}
	if j.Filter != nil {
		values := j.Filter.Values()
		for _, name := range filterNames() {
			if values.Has(name) {
				parts = append(parts, name+"="+values.Get(name))
			}
		}
	}
	if len(j.Backends) > 0 {
		parts = append(parts, "to "+strings.Join(j.Backends, ", "))
	}
	return strings.Join(parts, " ")
}

// showJob prints how a job stands.
func showJob(c *cobra.Command, j admin.Job, asJSON bool) error {
	if asJSON {
		return writeJSON(c.OutOrStdout(), j)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), jobLine(j))
	return err
}

// jobLine is such as: job 7 (resend): done, 1,204 of 1,204, 3 skipped, state=failed.
func jobLine(j admin.Job) string {
	parts := []string{fmt.Sprintf("job %d (%s): %s", j.ID, j.Kind, j.State)}
	switch {
	case j.Kind != "backup":
		parts = append(parts, conditions.Count(j.Done)+" of "+conditions.Count(j.Total))
	case j.Total > 0: // how much there is to copy is known once it has begun
		parts = append(parts, conditions.Count(j.Done)+" of "+conditions.Count(j.Total)+" pages")
	}
	if j.Skipped > 0 {
		parts = append(parts, conditions.Count(j.Skipped)+" skipped")
	}
	for _, s := range []string{jobWhat(j), j.Error} {
		if s != "" {
			parts = append(parts, visible(s))
		}
	}
	return strings.Join(parts, ", ")
}

const (
	jobPoll    = 250 * time.Millisecond
	jobPatient = time.Minute // with a gateway that does not answer: it may restart, and the job goes on
)

// follow shows j's progress until it ends. Ctrl-C ends the watching and not the job.
func follow(c *cobra.Command, g *gateway, j admin.Job, asJSON bool) error {
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	stderr := c.ErrOrStderr()
	live := isTerminal(stderr)
	if j.State == "running" {
		fmt.Fprintf(stderr, "job %d has begun; Ctrl-C leaves it running\n", j.ID)
	}
	answered := time.Now()
	for j.State == "running" {
		if live {
			fmt.Fprintf(stderr, "\r%s\x1b[K", progress(j, coloured(stderr)))
		}
		select {
		case <-ctx.Done():
		case <-time.After(jobPoll):
		}
		next, err := g.Job(ctx, j.ID)
		switch {
		case ctx.Err() != nil:
			clearLine(stderr, live)
			return fmt.Errorf("job %[1]d goes on in the gateway. To see it: breakwater jobs follow %[1]d. To stop it: breakwater jobs stop %[1]d", j.ID)
		case err == nil:
			j, answered = next, time.Now()
		case !errors.Is(err, admin.ErrUnreachable) || time.Since(answered) > jobPatient:
			clearLine(stderr, live)
			return g.explain(err)
		}
	}
	clearLine(stderr, live)
	if err := showJob(c, j, asJSON); err != nil {
		return err
	}
	if j.State != "done" {
		return exitError{code: exitFailed}
	}
	return nil
}

func clearLine(w io.Writer, live bool) {
	if live {
		fmt.Fprint(w, "\r\x1b[K")
	}
}

// progress is one line such as [######----]  300 of 1,000
func progress(j admin.Job, colour bool) string {
	const width = 30
	full := 0
	if j.Total > 0 {
		full = int(min(max(j.Done, 0), j.Total) * width / j.Total)
	}
	bar := strings.Repeat("#", full)
	if colour {
		bar = painted(bar, green)
	}
	line := fmt.Sprintf("[%s%s]  %s of %s", bar, strings.Repeat("-", width-full), conditions.Count(j.Done), conditions.Count(j.Total))
	if j.Error != "" {
		line += "  " + cut(visible(j.Error), 60)
	}
	return line
}
