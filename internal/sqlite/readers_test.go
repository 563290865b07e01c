package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// TestOverlappingReaders: readers of whom one always reads do not keep the log from being emptied, and one that does not
// end by itself is told why it has to.
func TestOverlappingReaders(t *testing.T) {
	const limit = 16 << 20
	d := openAt(t, filepath.Join(t.TempDir(), "j.db"), Options{Log: zap.NewNop(), walLimit: limit})
	if _, err := d.Append(t.Context(), entryOf(-1, proxy.Pending)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var asked, aside atomic.Int64
	read := func(do func(ctx context.Context, c *sql.Conn) error) {
		readers.Go(func() {
			for ctx.Err() == nil {
				err := d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
					var n int64
					if err := c.QueryRowContext(ctx, `SELECT count(*) FROM totals`).Scan(&n); err != nil {
						return err
					}
					asked.Add(1)
					return do(ctx, c)
				})
				switch {
				case errors.Is(err, errAside):
					aside.Add(1)
				case err != nil && ctx.Err() == nil:
					t.Errorf("a reader was told: %v", err)
				}
			}
		})
	}
	for range 3 {
		read(func(ctx context.Context, _ *sql.Conn) error {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			return nil
		})
	}
	read(func(ctx context.Context, c *sql.Conn) error {
		var n int64
		return c.QueryRowContext(ctx, forever).Scan(&n)
	})
	largest, emptied, was := int64(0), 0, int64(0)
	for n := int64(0); emptied < 2 && n < 2000; n++ {
		e := entryOf(n, proxy.Delivered)
		e.Event.Body = make([]byte, 64<<10)
		if _, err := d.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		size := d.logSize()
		largest = max(largest, size)
		if size < was {
			emptied++
		}
		if was = size; size > 2*limit {
			poll(t, "the log is emptied", func() bool { return d.logSize() < limit })
		}
	}
	cancel()
	readers.Wait()
	t.Logf("log %d MiB at most, emptied %d times; %d readers, of whom %d stepped aside", largest>>20, emptied, asked.Load(), aside.Load())
	if emptied < 2 || aside.Load() == 0 {
		t.Errorf("emptied %d times, %d readers stepped aside", emptied, aside.Load())
	}
}

// TestCountStepsAside: a count begins again after it had to step aside.
func TestCountStepsAside(t *testing.T) {
	d := openNew(t)
	for n := range int64(10) {
		if _, err := d.Append(t.Context(), entryOf(n, proxy.Pending)); err != nil {
			t.Fatal(err)
		}
	}
	var n, tries int
	err := again(t.Context(), func() error {
		tries++
		return d.file.read(t.Context(), func(ctx context.Context, c *sql.Conn) error {
			if tries == 1 {
				go d.file.gap(0, func() {})
				var n int64
				return c.QueryRowContext(ctx, forever).Scan(&n)
			}
			return c.QueryRowContext(ctx, `SELECT count(*) FROM events`).Scan(&n)
		})
	})
	if err != nil || n != 10 || tries != 2 {
		t.Errorf("counted %d in %d tries, %v", n, tries, err)
	}
}
