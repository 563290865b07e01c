package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed schema/*.sql
var files embed.FS

// schemas returns the migrations in order: number n brings a file from version n-1 to n. One that was released is never
// changed.
func schemas() []string {
	names, err := fs.Glob(files, "schema/*.sql")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	out := make([]string, 0, len(names))
	for _, n := range names {
		text, err := files.ReadFile(n)
		if err != nil {
			panic(err) // it is compiled in
		}
		out = append(out, string(text))
	}
	return out
}

// migrate brings the file to the newest schema, each step in a transaction. The version is the file's user_version.
func migrate(ctx context.Context, c *sql.Conn, steps []string) error {
	var version int
	if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(steps) {
		return fmt.Errorf("its schema is version %d and this breakwater knows up to %d: it was written by a newer one; run that, "+
			"or restore a backup from before the upgrade", version, len(steps))
	}
	for n := version + 1; n <= len(steps); n++ {
		if err := step(ctx, c, n, steps[n-1]); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", n, err)
		}
	}
	return nil
}

func step(ctx context.Context, c *sql.Conn, n int, text string) (err error) {
	if _, err := c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, _ = c.ExecContext(ctx, "ROLLBACK")
		}
	}()
	if _, err := c.ExecContext(ctx, text); err != nil {
		return err
	}
	if _, err := c.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", n)); err != nil {
		return err
	}
	_, err = c.ExecContext(ctx, "COMMIT")
	return err
}
