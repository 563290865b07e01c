package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile takes the lock that keeps a second process away from a journal, and writes into it who holds it. It is a
// file of its own: opening and closing the database file would drop SQLite's own locks on it.
func lockFile(ctx context.Context, path string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(wait); ; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			if err := sign(f); err != nil {
				return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close())
			}
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !time.Now().Before(deadline) {
			who, _ := io.ReadAll(io.LimitReader(f, 1024))
			return nil, errors.Join(fmt.Errorf("another gateway has it open: %s holds %s; stop that one, or give this one a journal "+
				"of its own", holder(string(who)), path), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func holder(text string) string {
	if text = strings.TrimSpace(text); text == "" {
		return "a process that did not say who it is"
	}
	return text
}

func sign(f *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "process %d on %s, since %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339)), 0)
	return err
}

// unlockFile leaves the file: removing it would let two processes hold two files of one name.
func unlockFile(f *os.File) error { return errors.Join(f.Truncate(0), f.Close()) }
