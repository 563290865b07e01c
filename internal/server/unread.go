package server

import (
	"context"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/config"
	"github.com/breakwater-gateway/breakwater/internal/sqlite"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// unread stands in for the reading side of the journal until that is written.
type unread struct{ *sqlite.DB }

func (unread) Events(context.Context, proxy.Filter) ([]proxy.Known, int64, error) { return nil, 0, nil }
func (unread) Lookup(context.Context, string) ([]proxy.Known, error)              { return nil, nil }
func (unread) Body(context.Context, int64) ([]byte, error)                        { return nil, proxy.ErrNotFound }
func (unread) Totals(context.Context) ([]proxy.Total, error)                      { return nil, nil }
func (unread) Prune(context.Context, time.Time, config.Retention, int) (int, error) {
	return 0, nil
}
