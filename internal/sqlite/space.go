package sqlite

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// space watches the disk.
type space struct {
	path    string
	reserve int64
	log     *zap.Logger
	full    atomic.Bool
	since   atomic.Pointer[time.Time]
}

func (s *space) init(path string, reserve int64, log *zap.Logger) {
	s.path, s.reserve, s.log = path, reserve, log
}

func (s *space) exhausted() {}

func (d *DB) checkSpace(context.Context) {}
