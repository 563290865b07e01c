package cli

import (
	"net"
	"net/url"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newBackup() *cobra.Command {
	var asJSON, detach bool
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a consistent copy of the journal while the gateway serves",
		Long: `Have the gateway write a consistent copy of its journal to FILE, on the gateway's machine and as the gateway's user,
while it serves. Nothing is overwritten. When the command succeeds, the copy is on stable storage.

A relative FILE is taken from this folder, which needs a gateway on this machine. To restore it, stop the gateway, put the
copy in the journal's place, remove the files beside it that end in -wal and -shm, and start.`,
		Example: `  breakwater backup /var/backups/breakwater-$(date +%F).db
  breakwater backup journal.db --json`,
		Args: cobra.ExactArgs(1),
	}
	connect := addClientFlags(c)
	c.Flags().BoolVar(&detach, "detach", false, "start it and do not wait for its end")
	addJSONFlag(c, &asJSON)
	c.RunE = func(c *cobra.Command, args []string) error {
		g, err := connect()
		if err != nil {
			return err
		}
		path := args[0]
		if !filepath.IsAbs(path) {
			if !here(g.url) {
				return usageError("%s: the gateway at %s writes on its own machine: say where, beginning with /", visible(path), g.url)
			}
			if path, err = filepath.Abs(path); err != nil {
				return err
			}
		}
		job, err := g.Backup(c.Context(), path)
		if err != nil {
			return g.explain(err)
		}
		if detach {
			return showJob(c, job, asJSON)
		}
		return follow(c, g, job, asJSON)
	}
	return c
}

// here reports whether the gateway at adminURL is on this machine.
func here(adminURL string) bool {
	u, err := url.Parse(adminURL)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
