package admin

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-gateway/breakwater/internal/jsontime"
)

// BackupRequest says where a backup goes.
type BackupRequest struct {
	Path string `json:"path" minLength:"1" maxLength:"4000" doc:"Absolute, on the gateway's machine; nothing may be there yet"`
}

type backupInput struct{ Body BackupRequest }

func (a *api) startBackup(ctx context.Context, in *backupInput) (*jobOutput, error) {
	path := filepath.Clean(in.Body.Path)
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return nil, huma.Error422UnprocessableEntity("path must be absolute: it is on the gateway's machine")
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, huma.Error409Conflict(path + " is there already: a backup overwrites nothing")
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || !fi.IsDir() {
		return nil, huma.Error422UnprocessableEntity(filepath.Dir(path) + " is no folder that the gateway can see")
	}
	job, err := a.startJob(ctx, jobDoc{Job: Job{
		Kind: kindBackup, Path: path, Actor: actorOf(ctx), CreatedAt: jsontime.At(time.Now().Truncate(time.Millisecond)),
	}})
	if err != nil {
		return nil, err
	}
	return &jobOutput{job}, nil
}

func (c *core) backup(ctx context.Context, t *task) error {
	return c.Journal.Backup(ctx, t.snapshot().Path, func(done, total int64) {
		t.update(func(d *jobDoc) { d.Done, d.Total = done, total })
	})
}
