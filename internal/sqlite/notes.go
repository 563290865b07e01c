package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/journal"
)

const (
	keptJobs  = 100
	keptAudit = 10_000
)

// SetNote implements journal.Notes.
func (d *DB) SetNote(ctx context.Context, key, value string) error {
	return d.do(ctx, &op{size: 256, run: func(t *tx) error {
		q := `INSERT INTO notes (key, value, version) VALUES (?, ?, 1)
			ON CONFLICT DO UPDATE SET value = excluded.value, version = version + 1`
		if value == "" {
			_, err := t.exec(`DELETE FROM notes WHERE key = ?`, key)
			return err
		}
		_, err := t.exec(q, key, value)
		return err
	}})
}

// Notes implements journal.Notes.
func (d *DB) Notes(ctx context.Context, prefix string) (map[string]string, error) {
	out := map[string]string{}
	err := d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return each(ctx, c, func(r row) error { out[r.text(0)] = r.text(1); return nil },
			`SELECT key, value FROM notes WHERE key >= ? AND substr(key, 1, length(?)) = ?`, prefix, prefix, prefix)
	})
	if err != nil {
		return nil, fmt.Errorf("read notes: %w", err)
	}
	return out, nil
}

// SaveJob implements journal.Jobs.
func (d *DB) SaveJob(ctx context.Context, id int64, doc []byte) (int64, error) {
	isNew := id == 0
	doc = bytes.Clone(doc)
	err := d.do(ctx, &op{size: int64(len(doc)), run: func(t *tx) (err error) {
		now := time.Now().UnixMilli()
		if !isNew {
			_, err = t.exec(`UPDATE jobs SET doc = ?, updated = ? WHERE id = ?`, doc, now, id)
			return err
		}
		if id, err = t.number(`INSERT INTO jobs (doc, updated) VALUES (?, ?) RETURNING id`, doc, now); err != nil {
			return err
		}
		_, err = t.exec(`DELETE FROM jobs WHERE id <= ?`, id-keptJobs)
		return err
	}})
	if err != nil {
		return 0, fmt.Errorf("save job: %w", err)
	}
	return id, nil
}

// LoadJobs implements journal.Jobs.
func (d *DB) LoadJobs(ctx context.Context) (map[int64][]byte, error) {
	out := map[int64][]byte{}
	err := d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return each(ctx, c, func(r row) error { out[r.int(0)] = r.blob(1); return nil }, `SELECT id, doc FROM jobs`)
	})
	if err != nil {
		return nil, fmt.Errorf("load jobs: %w", err)
	}
	return out, nil
}

// Audit implements journal.Auditor.
func (d *DB) Audit(ctx context.Context, e journal.AuditEntry) error {
	err := d.do(ctx, &op{size: 256, run: func(t *tx) error {
		seq, err := t.number(`INSERT INTO audit (at, actor, action, detail) VALUES (?, ?, ?, ?) RETURNING seq`, millis(e.At), e.Actor, e.Action, e.Detail)
		if err != nil {
			return err
		}
		_, err = t.exec(`DELETE FROM audit WHERE seq <= ?`, seq-keptAudit)
		return err
	}})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// AuditTrail implements journal.Auditor.
func (d *DB) AuditTrail(ctx context.Context, limit int) (out []journal.AuditEntry, err error) {
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return each(ctx, c, func(r row) error {
			out = append(out, journal.AuditEntry{At: timeOf(r.int(0)), Actor: r.text(1), Action: r.text(2), Detail: r.text(3)})
			return nil
		}, `SELECT at, actor, action, detail FROM audit ORDER BY seq DESC LIMIT ?`, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("read audit trail: %w", err)
	}
	return out, nil
}
