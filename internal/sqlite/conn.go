package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// pageSize is measured with bodies of 2.5 KB. Pages of 4 KiB need a fifth more CPU for an event in a batch; pages of 16 KiB
// need as much for that, but a fifth more for an event alone.
const pageSize = 8192

// open returns a pool of at most n connections to the file. The pragmas are set on each one as it is opened; check reads
// back those on which durability rests.
func open(path string, n int, readOnly bool) (*sql.DB, error) {
	q := url.Values{
		// The driver runs the pragmas before it sets the journal mode, which is when a new file takes its page size.
		"_pragma":       {fmt.Sprintf("page_size(%d)", pageSize), "wal_autocheckpoint(0)", "cache_size(-8192)", "temp_store(memory)"},
		"_busy_timeout": {"5000"},
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"},
	}
	if readOnly {
		q.Set("_query_only", "1")
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// check refuses a connection whose commits could be lost.
func check(ctx context.Context, c *sql.Conn) error {
	var version, mode string
	var sync int
	if err := c.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); err != nil {
		return err
	}
	if err := c.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	if err := c.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&sync); err != nil {
		return err
	}
	var a, b, d int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &a, &b, &d); err != nil || a*1_000_000+b*1000+d < 3_051_003 {
		return fmt.Errorf("SQLite %s is older than 3.51.3, which can lose writes when its log is reset", version)
	}
	if mode != "wal" || sync != 2 {
		return fmt.Errorf("journal_mode is %s and synchronous is %d, not wal and 2 (full): commits would not be durable", mode, sync)
	}
	return nil
}

// stmt is a prepared statement of one driver connection. The writer runs hundreds of thousands of small statements a
// minute, all on the one connection of its goroutine: what database/sql adds to each (locks, conversions, a copy of the
// arguments) would be a third of their cost.
type stmt struct {
	exec  driver.StmtExecContext
	query driver.StmtQueryContext
	close func() error
	args  []driver.NamedValue
	dest  []driver.Value
}

// conn is a driver connection with the statements prepared on it. One goroutine may use it at a time.
type conn struct {
	raw   driver.Conn
	stmts map[string]*stmt
}

func (c *conn) stmt(q string) (*stmt, error) {
	if s, ok := c.stmts[q]; ok {
		return s, nil
	}
	p, err := c.raw.Prepare(q)
	if err != nil {
		return nil, err
	}
	s := &stmt{close: p.Close}
	s.exec, _ = p.(driver.StmtExecContext)
	s.query, _ = p.(driver.StmtQueryContext)
	if s.exec == nil || s.query == nil {
		return nil, errors.Join(errors.New("sqlite driver without contexts"), p.Close())
	}
	c.stmts[q] = s
	return s, nil
}

func (c *conn) close() {
	for _, s := range c.stmts {
		_ = s.close()
	}
	clear(c.stmts)
}

func (s *stmt) bind(args []driver.Value) []driver.NamedValue {
	s.args = s.args[:0]
	for i, v := range args {
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return s.args
}

// exec runs q and returns how many rows it changed. args are int64, string, []byte or nil.
func (c *conn) exec(q string, args ...driver.Value) (int64, error) {
	s, err := c.stmt(q)
	if err != nil {
		return 0, err
	}
	r, err := s.exec.ExecContext(context.Background(), s.bind(args))
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// query runs q and calls row for each row until it returns false. The row is valid only during the call.
func (c *conn) query(q string, row func(r row) bool, args ...driver.Value) (err error) {
	s, err := c.stmt(q)
	if err != nil {
		return err
	}
	rows, err := s.query.QueryContext(context.Background(), s.bind(args))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if n := len(rows.Columns()); len(s.dest) != n {
		s.dest = make([]driver.Value, n)
	}
	for {
		if err := rows.Next(s.dest); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if !row(s.dest) {
			return nil
		}
	}
}

// number returns the one number that q selects.
func (c *conn) number(q string, args ...driver.Value) (n int64, err error) {
	err = c.query(q, func(r row) bool { n = r.int(0); return false }, args...)
	return n, err
}

// row is one row as the driver hands it out. A null reads as 0, "" or nil.
type row []driver.Value

func (r row) int(i int) int64 { n, _ := r[i].(int64); return n }

func (r row) text(i int) string { s, _ := r[i].(string); return s }

func (r row) blob(i int) []byte { b, _ := r[i].([]byte); return b }

// code is SQLite's primary result code of err, 0 when it has none.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// broken reports whether err means that the connection, or the file below it, cannot be trusted any more.
func broken(err error) bool {
	switch code(err) {
	case lib.SQLITE_IOERR, lib.SQLITE_CORRUPT, lib.SQLITE_READONLY, lib.SQLITE_NOTADB, lib.SQLITE_CANTOPEN,
		lib.SQLITE_PROTOCOL, lib.SQLITE_NOMEM, lib.SQLITE_MISUSE, lib.SQLITE_INTERNAL, lib.SQLITE_PERM:
		return true
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone)
}
