package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// KeepRejected implements journal.Quarantine.
func (d *DB) KeepRejected(ctx context.Context, r proxy.Rejected) (id int64, err error) {
	if d.space.full.Load() {
		return 0, proxy.ErrFull
	}
	headers, forwarded, sum := appendHeader(nil, r.Header), appendHeader(nil, r.Forwarded), sha256.Sum256(r.Body)
	r.Body = bytes.Clone(r.Body)
	err = d.do(ctx, &op{full: true, size: int64(len(r.Body) + len(headers) + 512), run: func(t *tx) (err error) {
		id, err = t.number(`INSERT INTO quarantine (source, received, client, reason, query, headers, forwarded, sha256, body)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq`, r.Source, millis(r.Received), r.Client.String(), r.Reason, r.Query,
			blob(headers), blob(forwarded), sum[:], content(r.Body))
		return err
	}})
	if err != nil {
		return 0, fmt.Errorf("keep rejected request: %w", err)
	}
	return id, nil
}

// ListRejected implements journal.Quarantine.
func (d *DB) ListRejected(ctx context.Context, before int64, limit int) (out []proxy.Rejected, err error) {
	if before <= 0 {
		before = 1 << 62
	}
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return each(ctx, c, func(r row) (err error) {
			v := proxy.Rejected{
				ID: r.int(0), Source: r.text(1), Received: timeOf(r.int(2)), Reason: r.text(4), Query: r.text(5), Body: r.blob(8),
			}
			v.Client, _ = netip.ParseAddr(r.text(3)) // an invalid one was kept as such
			if v.Header, err = decodeHeader(r.blob(6)); err != nil {
				return err
			}
			if v.Forwarded, err = decodeHeader(r.blob(7)); err != nil {
				return err
			}
			out = append(out, v)
			return nil
		}, `SELECT seq, source, received, client, reason, query, headers, forwarded, body FROM quarantine WHERE seq < ?
			ORDER BY seq DESC LIMIT ?`, before, limit)
	})
	if err != nil {
		return nil, fmt.Errorf("list rejected requests: %w", err)
	}
	return out, nil
}

// DropRejected implements journal.Quarantine.
func (d *DB) DropRejected(ctx context.Context, ids ...int64) (dropped int, err error) {
	ids = slices.Clone(ids)
	err = d.do(ctx, &op{size: 256, run: func(t *tx) error {
		dropped = 0
		for _, id := range ids {
			n, err := t.exec(`DELETE FROM quarantine WHERE seq = ?`, id)
			if err != nil {
				return err
			}
			dropped += int(n)
		}
		return nil
	}})
	if err != nil {
		return 0, fmt.Errorf("drop rejected requests: %w", err)
	}
	return dropped, nil
}

// RejectedSize implements journal.Quarantine. It reads all requests, but not their bodies: the quarantine is bounded.
func (d *DB) RejectedSize(ctx context.Context) (n, bytes int64, oldest time.Time, err error) {
	err = d.file.read(ctx, func(ctx context.Context, c *sql.Conn) error {
		return each(ctx, c, func(r row) error {
			n, bytes, oldest = r.int(0), r.int(1), timeOf(r.int(2))
			return nil
		}, `SELECT count(*), coalesce(sum(length(body) + coalesce(length(headers), 0) + 512), 0), coalesce(min(received), 0) FROM quarantine`)
	})
	if err != nil {
		err = fmt.Errorf("measure rejected requests: %w", err)
	}
	return n, bytes, oldest, err
}
