package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// forever is a query that does not end by itself.
const forever = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n`

// TestReadersLeave: the journal does not wait, to come back, for those who read it when it breaks; they are told why.
func TestReadersLeave(t *testing.T) {
	d := openNew(t)
	for n := range int64(20) {
		if _, err := d.Append(t.Context(), entryOf(n, proxy.Pending)); err != nil {
			t.Fatal(err)
		}
	}
	reading := make(chan struct{}, 2)
	ended := make(chan error, 2)
	go func() {
		ended <- d.file.read(t.Context(), func(ctx context.Context, c *sql.Conn) error {
			var n int64
			if err := c.QueryRowContext(ctx, `SELECT count(*) FROM events`).Scan(&n); err != nil {
				return err
			}
			reading <- struct{}{}
			return c.QueryRowContext(ctx, forever).Scan(&n)
		})
	}()
	go func() {
		ended <- d.file.use(t.Context(), func(ctx context.Context) error { // as Backup does
			pool, err := open(d.path, 1, false)
			if err != nil {
				return err
			}
			defer pool.Close()
			rows, err := pool.QueryContext(ctx, `SELECT seq FROM events`)
			if err != nil {
				return err
			}
			defer rows.Close()
			rows.Next()
			reading <- struct{}{}
			<-ctx.Done()
			return errors.Join(rows.Err(), ctx.Err())
		})
	}()
	<-reading
	<-reading
	if _, err := d.Append(t.Context(), entryOf(21, proxy.Pending)); err != nil { // which they do not see
		t.Fatal(err)
	}
	d.hurt <- errors.New("disk on fire")
	for range cap(ended) {
		var out *journal.Outage
		if err := <-ended; !errors.As(err, &out) {
			t.Errorf("a reader was told: %v", err)
		}
	}
	poll(t, "it is back", func() bool { return d.barrier(t.Context()) == nil })
}

// TestFindAmongLists: those who have Stripe waiting do not wait for those who list.
func TestFindAmongLists(t *testing.T) {
	d := openNew(t)
	if _, err := d.Append(t.Context(), entryOf(1, proxy.Pending)); err != nil {
		t.Fatal(err)
	}
	gate, in, out := make(chan struct{}), make(chan struct{}), make(chan error)
	const lists = 8
	for range lists {
		go func() {
			out <- d.file.read(t.Context(), func(context.Context, *sql.Conn) error { in <- struct{}{}; <-gate; return nil })
		}()
	}
	for range 4 {
		<-in
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := d.Find(ctx, proxy.Key{Source: "main", ID: stripeID(1)}); err != nil {
		t.Errorf("Find while every reader is busy: %v", err)
	}
	close(gate)
	for range lists - 4 {
		<-in
	}
	for range lists {
		if err := <-out; err != nil {
			t.Error(err)
		}
	}
}
