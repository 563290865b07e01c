package sqlite

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// childPath tells the test binary, started again, to be a process with a journal: see child.
const childPath = "BREAKWATER_TEST_JOURNAL"

// child opens the journal, says "open", and appends for ever, printing the number of each event that was acknowledged.
func child(path string) {
	d, err := Open(context.Background(), path, Options{Reserve: -1})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := int64(0); ; n++ {
				id := (time.Now().UnixNano()/1000)<<3 + int64(w)
				if _, err := d.Append(context.Background(), entryOf(id, proxy.Pending)); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(id)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// entryOf is an event with one delivery in a state, received and attempted now.
func entryOf(n int64, s proxy.State) proxy.Entry {
	e := benchEvent(n)
	d := proxy.EntryDelivery{Delivery: proxy.Delivery{Backend: "legacy", State: s, Turn: 1, TurnStarted: e.Received}}
	if s == proxy.Pending {
		d.Due = e.Received
	} else {
		d.Attempt = &proxy.Attempt{N: 1, Started: e.Received, Status: 200, Outcome: proxy.OutcomeDelivered, Trigger: proxy.TriggerInline}
	}
	if s == proxy.Failed {
		d.Attempt.Status, d.Attempt.Outcome = 500, proxy.OutcomeStatus5xx
	}
	return proxy.Entry{Event: e, Deliveries: []proxy.EntryDelivery{d}}
}

// startChild runs child and returns what it prints after "open".
func startChild(t *testing.T, path string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childPath+"="+path)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "open\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	return c, r
}

// TestKill: a process that is killed has lost nothing that it acknowledged, and the next one opens the file at once.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	rounds, acked := 5, 0
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		c, r := startChild(t, path)
		time.AfterFunc(time.Duration(50+rand.IntN(300))*time.Millisecond, func() { _ = c.Process.Kill() })
		lines, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Open(t.Context(), path, Options{Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Split(string(lines), "\n")
		for _, line := range all[:len(all)-1] { // the last line may be torn
			n, err := strconv.ParseInt(line, 10, 64)
			if err != nil {
				t.Fatalf("the other process says %q", line)
			}
			k, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(n)})
			if err != nil || k.State != proxy.Pending {
				t.Errorf("event %s was acknowledged, found %+v, %v", line, k, err)
			}
			acked++
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acked == 0 {
		t.Fatal("nothing was acknowledged")
	}
	t.Logf("%d rounds, %d acknowledged, none lost", rounds, acked)
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	c, _ := startChild(t, path)
	_, err := Open(t.Context(), path, Options{LockWait: -1})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d on ", c.Process.Pid)) || !strings.Contains(err.Error(), ".lock") {
		t.Errorf("Open of a journal that another process has: %v", err)
	}
	opened := make(chan error, 1)
	var d *DB
	go func() {
		var err error
		d, err = Open(t.Context(), path, Options{Reserve: -1})
		opened <- err
	}()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatalf("Open that waits for another process to end: %v", err)
	}
	if _, err := Open(t.Context(), path, Options{LockWait: 10 * time.Millisecond}); err == nil {
		t.Errorf("the same process opened it twice")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, path, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open with a context that ends: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd name?%20#.db")
	d, err := Open(t.Context(), path, Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(300) {
		s := []proxy.State{proxy.Pending, proxy.Delivered, proxy.Failed}[n%3]
		if err := d.Record(entryOf(n, s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file has another name: %v", err)
	}
	d = openAt(t, path, Options{})
	for n := range int64(300) {
		if _, err := d.Find(t.Context(), proxy.Key{Source: "main", ID: stripeID(n)}); err != nil {
			t.Fatalf("event %d: %v: Close did not write what Record took", n, err)
		}
	}
	now := time.Now()
	ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 1000, For: time.Hour})
	if err != nil || len(ls) != 100 {
		t.Fatalf("leased %d, %v, want 100", len(ls), err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, Options{})
	if err := d.Settle(t.Context(), proxy.SettleFailed(ls[0], proxy.Attempt{})); !errors.Is(err, proxy.ErrLeaseLost) {
		t.Errorf("a lease of an earlier process: %v", err)
	}
	if ls, _, err := d.Lease(t.Context(), proxy.LeaseRequest{Backend: "legacy", Now: now, Most: 1000, For: time.Hour}); err != nil || len(ls) != 100 {
		t.Errorf("leased %d, %v: what an earlier process had leased is not due", len(ls), err)
	}
	seq, err := d.Append(t.Context(), entryOf(1000, proxy.Pending))
	if err != nil || seq != 301 {
		t.Errorf("the next event has number %d, %v", seq, err)
	}
}

// TestOutlives: what is neither an event nor a lease outlives the process too.
func TestOutlives(t *testing.T) {
	t.Parallel()
	path, at := filepath.Join(t.TempDir(), "j.db"), time.UnixMilli(1_700_000_000_000).UTC()
	d := openAt(t, path, Options{})
	_, kept := d.KeepRejected(t.Context(), proxy.Rejected{Source: "main", Received: at, Client: netip.MustParseAddr("2001:db8::1"), Body: []byte("\x00\xff{")})
	_, saved := d.SaveJob(t.Context(), 0, []byte("job"))
	noted, audited := d.SetNote(t.Context(), "paused/legacy", "1"), d.Audit(t.Context(), journal.AuditEntry{At: at, Action: "pause"})
	if err := errors.Join(kept, saved, noted, audited, d.Close()); err != nil {
		t.Fatal(err)
	}
	d = openAt(t, path, Options{})
	if rs, err := d.ListRejected(t.Context(), 0, 10); err != nil || len(rs) != 1 || string(rs[0].Body) != "\x00\xff{" || rs[0].Client.String() != "2001:db8::1" {
		t.Errorf("rejected: %+v, %v", rs, err)
	}
	if js, err := d.LoadJobs(t.Context()); err != nil || string(js[1]) != "job" {
		t.Errorf("jobs: %v, %v", js, err)
	}
	if ns, err := d.Notes(t.Context(), ""); err != nil || ns["paused/legacy"] != "1" {
		t.Errorf("notes: %v, %v", ns, err)
	}
	if as, err := d.AuditTrail(t.Context(), 10); err != nil || len(as) != 1 || as[0].Action != "pause" || !as[0].At.Equal(at) {
		t.Errorf("audit: %v, %v", as, err)
	}
}

func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.db")
	pool, err := open(path, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	c, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	steps := []string{`CREATE TABLE a (x); CREATE TABLE b (x)`, `CREATE TABLE c (x); CREATE TABLE a (x)`}
	if err := migrate(t.Context(), c, steps); err == nil || !strings.Contains(err.Error(), "schema 2") {
		t.Errorf("a step that cannot be done: %v", err)
	}
	if got := tables(t, c); got != "1: a b" {
		t.Errorf("after a step that failed: version and tables %s, want those of the step before", got)
	}
	steps[1] = `CREATE TABLE c (x)`
	for range 2 {
		if err := migrate(t.Context(), c, steps); err != nil {
			t.Fatal(err)
		}
	}
	if got := tables(t, c); got != "2: a b c" {
		t.Errorf("after both steps: %s", got)
	}
	if err := migrate(t.Context(), c, steps[:1]); err == nil || !strings.Contains(err.Error(), "written by a newer one") {
		t.Errorf("a newer schema: %v", err)
	}
}

func tables(t *testing.T, c *sql.Conn) string {
	t.Helper()
	var version int
	var names string
	if err := c.QueryRowContext(t.Context(), "PRAGMA user_version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if err := c.QueryRowContext(t.Context(), "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema ORDER BY 1)").Scan(&names); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d: %s", version, names)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ path, want string }{
		"no folder":      {filepath.Join(dir, "none", "j.db"), "no such file"},
		"not a database": {filepath.Join(dir, "text"), "not a database"},
		"a folder":       {dir, ""},
	} {
		if name == "not a database" {
			if err := os.WriteFile(c.path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d, err := Open(t.Context(), c.path, Options{Log: zap.NewNop()})
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = d.Close()
		} else if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDurable reads back what durability rests on from each kind of connection.
func TestDurable(t *testing.T) {
	d := openNew(t)
	for name, pool := range map[string]*sql.DB{"readers": d.file.readers.Load(), "checkpoints": d.file.checkpoints.Load()} {
		c, err := pool.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := check(t.Context(), c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = c.Close()
	}
	if err := d.do(t.Context(), &op{run: func(tx *tx) error {
		for pragma, want := range map[string]int64{"synchronous": 2, "wal_autocheckpoint": 0, "page_size": pageSize} {
			if got, err := tx.number("PRAGMA " + pragma); err != nil || got != want {
				t.Errorf("the writer has %s %d, %v", pragma, got, err)
			}
		}
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.file.readers.Load().ExecContext(t.Context(), `DELETE FROM events`); err == nil {
		t.Errorf("a reader could write")
	}
}

func TestNobodyElseCanReadTheFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "j.db")
	d := openAt(t, path, Options{})
	if _, err := d.Append(t.Context(), entryOf(1, proxy.Pending)); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		if s, err := os.Stat(path + suffix); err != nil || s.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", suffix, s.Mode(), err)
		}
	}
}
