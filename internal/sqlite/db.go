// Package sqlite is the journal in one SQLite file. One goroutine writes, in batches that share one fsync; readers have
// connections of their own. The file belongs to one process at a time, which FILE.lock holds.
package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// Options of a journal. The zero value of each field is its default.
type Options struct {
	Log      *zap.Logger   // default: nothing is logged
	LockWait time.Duration // how long to wait for the process that holds the file; default 30s, negative: not at all
	Reserve  int64         // bytes of disk below which no new events are taken; default 256 MiB, negative: none

	HistoryEntries int   // entries that Record holds until they are written; default 4096
	HistoryBytes   int64 // and their bytes; default 32 MiB

	LongestWait func() time.Duration // that a delivery is made to wait for at most, now; default 1h

	OnCommit func(took time.Duration, ops int) // told of each batch; must be quick

	segment, walLimit int64 // of tests: segmentSize, walTruncate

	free func(dir string) (int64, error) // of tests: what is free on the disk; default freeBytes
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.LockWait == 0 {
		o.LockWait = 30 * time.Second
	}
	if o.Reserve == 0 {
		o.Reserve = 256 << 20
	}
	if o.free == nil {
		o.free = freeBytes
	}
	if o.HistoryEntries == 0 {
		o.HistoryEntries = 4096
	}
	if o.HistoryBytes == 0 {
		o.HistoryBytes = 32 << 20
	}
	if o.LongestWait == nil {
		o.LongestWait = func() time.Duration { return time.Hour }
	}
	if o.segment == 0 {
		o.segment = segmentSize
	}
	if o.walLimit == 0 {
		o.walLimit = walTruncate
	}
	return o
}

// DB is an open journal.
type DB struct {
	path     string
	opts     Options
	log      *zap.Logger
	onCommit func(time.Duration, int)
	lock     *os.File

	queue      // of the writer
	file  file // for all others
	wal   walState
	hurt  chan error    // a checkpoint found the file broken: for the writer
	stop  chan struct{} // closed by Close
	done  sync.WaitGroup

	ids     *ids     // says which keys are new
	history *history // what Record has taken
	leases  leases
	newest  newest // events whose segment is not described yet
	oldest  oldest // Pending events
	prune   pruner
	space   space
	origin  origin
	totals  sync.Mutex // one look at the counters at a time

	reading, counting permits      // of lists, of Count
	copying           atomic.Int32 // backups that are being made

	// The writer's own.
	seq       int64     // the last event's number
	historyAt time.Time // no history is written before: the batch that it was in failed
}

var errClosed = errors.New("journal unavailable: it is closed")

// Open opens the journal at path, and makes it where there is none. It waits for another process that has it open, as
// Options.LockWait says. Leases of an earlier process are over: what it had leased is due as before.
func Open(ctx context.Context, path string, o Options) (_ *DB, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open journal %s: %w", path, err)
		}
	}()
	o = o.withDefaults()
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := checkFilesystem(filepath.Dir(path), o.Log); err != nil {
		return nil, err
	}
	d := &DB{
		path: path, opts: o, log: o.Log, onCommit: o.OnCommit, ids: newIDs(), history: newHistory(),
		leases:  leases{by: map[string]*shelf{}},
		reading: make(permits, 2), counting: make(permits, 1), queue: queue{wake: make(chan struct{}, 1)}, hurt: make(chan error, 1), stop: make(chan struct{}),
	}
	d.prune.file, d.prune.queue = &d.file, &d.queue
	d.file.closed = func() error { return cmp.Or(d.unavailable(), errClosed) }
	d.wal.poke, d.wal.limit = make(chan struct{}, 1), o.walLimit
	d.newest.of, d.oldest.calm.size = make([]named, 8*o.segment), o.segment
	d.space.init(path, o)
	if d.lock, err = lockFile(ctx, path+".lock", o.LockWait, o.Log); err != nil {
		return nil, err
	}
	var c *connection
	if err = private(path); err == nil {
		c, err = d.connect(ctx)
	}
	if d.space.blames(err) {
		err = fmt.Errorf("its disk is full, and the write-ahead log has yet to be copied into the file: make %d MiB of room there and "+
			"start again; all that was acknowledged is in the two: %w", (d.logSize()+ballastSize)>>20, err)
	}
	if err != nil {
		return nil, errors.Join(err, unlockFile(d.lock))
	}
	d.done.Go(func() { d.run(c) })
	d.done.Go(d.housekeep)
	d.done.Go(d.describeSegments)
	return d, nil
}

// connection is the writer's own, for as long as the file can be trusted.
type connection struct {
	pool *sql.DB
	conn *sql.Conn
}

// connect opens the file anew, which must be there. Opening needs some room too: a full disk takes the ballast.
func (d *DB) connect(ctx context.Context) (*connection, error) {
	c, err := d.connectOnce(ctx)
	if err != nil && d.space.blames(err) && d.space.exhausted() {
		c, err = d.connectOnce(ctx)
	}
	return c, err
}

// connectOnce opens the file anew and brings it to where it can be trusted: what an earlier process, or an earlier
// connection that broke, has written is synced, checked and checkpointed before the first acknowledgement.
func (d *DB) connectOnce(ctx context.Context) (_ *connection, err error) {
	if _, err := os.Stat(d.path); err != nil { // SQLite would make another, and what was acknowledged is not in that
		return nil, err
	}
	// No connection is open now: closing a descriptor of the file would drop the locks of one that is.
	if err := syncFiles(d.path, d.path+"-wal"); err != nil {
		return nil, err
	}
	c := &connection{}
	defer func() {
		if err != nil {
			d.disconnect(c)
		}
	}()
	if c.pool, err = open(d.path, 1, false); err != nil {
		return nil, err
	}
	if c.conn, err = c.pool.Conn(ctx); err != nil {
		return nil, err
	}
	if err := check(ctx, c.conn); err != nil {
		return nil, err
	}
	if err := migrate(ctx, c.conn, schemas()); err != nil {
		return nil, err
	}
	if err := truncate(ctx, c.conn); err != nil {
		return nil, err
	}
	if err := syncFiles(filepath.Dir(d.path)); err != nil {
		return nil, err
	}
	err = c.conn.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'`).Scan(&d.seq)
	if err != nil {
		return nil, err
	}
	if err := d.file.letIn(ctx, d.path); err != nil {
		return nil, err
	}
	return c, d.origin.remember(d.path)
}

func (c *connection) close() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	if c.pool != nil {
		_ = c.pool.Close()
	}
}

// run writes until the journal is closed. When the file breaks it opens it again, until it can be trusted.
func (d *DB) run(c *connection) {
	for {
		err := c.conn.Raw(func(raw any) error {
			w := &conn{raw: raw.(driver.Conn), stmts: map[string]*stmt{}}
			defer w.close()
			return d.write(w)
		})
		if err != nil {
			d.fail(err)
		}
		if errors.Is(err, errMoved) && d.awaitFile(c) {
			continue
		}
		d.disconnect(c)
		if err == nil {
			return
		}
		if c = d.reopen(); c == nil {
			return
		}
	}
}

// disconnect closes every connection to the file.
func (d *DB) disconnect(c *connection) {
	d.file.letOut()
	c.close()
}

// fail tells everybody who waits that the journal is unavailable, and those who come from now on.
func (d *DB) fail(err error) {
	d.mu.Lock()
	d.down = &journal.Outage{Since: time.Now(), Err: err}
	ops := d.ops
	d.ops = nil
	d.mu.Unlock()
	d.log.Error("journal unavailable", zap.Error(err))
	for _, o := range ops {
		o.err = d.down
		o.answer()
	}
}

// reopen connects again, with growing pauses. It returns nil when the journal is closed first.
func (d *DB) reopen() *connection {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		select {
		case <-d.stop:
			return nil
		case <-time.After(pause):
		}
		c, err := d.connect(context.Background())
		if err != nil {
			d.log.Warn("journal is still unavailable", zap.Error(err))
			continue
		}
		d.recovered()
		return c
	}
}

// recovered ends an outage.
func (d *DB) recovered() {
	select {
	case <-d.hurt: // it was about what is over
	default:
	}
	d.mu.Lock()
	since := d.down.Since
	d.down = nil
	d.mu.Unlock()
	d.log.Info("journal available again", zap.Duration("after", time.Since(since)))
}

// Close writes what Record has taken, ends the journal and gives the file free.
func (d *DB) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	close(d.stop)
	d.poke()
	d.done.Wait()
	var err error
	if past, _ := d.history.head(1 << 30); len(past) > 0 {
		err = fmt.Errorf("close journal: %d entries of history were not written", len(past))
	}
	return errors.Join(err, unlockFile(d.lock))
}

// Ready returns nil when the journal takes new events, else an *journal.Outage that says why not and since when.
func (d *DB) Ready(context.Context) error {
	if err := d.unavailable(); err != nil {
		return err
	}
	if since := d.space.since.Load(); d.space.full.Load() && since != nil {
		return &journal.Outage{Since: *since, Err: proxy.ErrFull}
	}
	return nil
}

// private makes a database that nobody else on the machine can read: bodies are about people. SQLite gives its log the
// database's mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

func syncFiles(paths ...string) error {
	for _, p := range paths {
		f, err := os.Open(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", p, err)
		}
	}
	return nil
}
