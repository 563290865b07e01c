package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// lockFile takes the lock that keeps a second process away from a journal, and writes into it who holds it. It is a
// file of its own: opening and closing the database file would drop SQLite's own locks on it.
func lockFile(ctx context.Context, path string, wait time.Duration, log *zap.Logger) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(wait)
	for told := false; ; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			sign(f)
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
		if !told {
			told = true
			log.Warn("another gateway has the journal open: waiting for it to end", zap.String("lock", path), zap.Duration("for", wait))
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

// sign writes into the lock's file who holds it. That is only information, so nothing comes of an error: a full disk must
// not keep a gateway from starting.
func sign(f *os.File) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	who := fmt.Appendf(nil, "process %d on %s, since %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	if _, err := f.WriteAt(who, 0); err == nil { // first over the old text: its block may be the last one to be had
		_ = f.Truncate(int64(len(who)))
	}
}

// unlockFile leaves the file in place. Were it removed, one process could hold the lock of the removed file, which it had
// waited for, while another holds that of a new file with the same name.
func unlockFile(f *os.File) error { return f.Close() }
