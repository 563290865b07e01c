package server

import (
	"context"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// until lists and counts by what the database can list today.
type until struct{ database }

func (u *until) Events(ctx context.Context, f proxy.Filter) (proxy.Page, error) {
	found, next, err := u.database.(interface {
		Events(context.Context, proxy.Filter) ([]proxy.Known, int64, error)
	}).Events(ctx, f)
	return proxy.Page{Events: found, Next: next}, err
}

func (u *until) Count(ctx context.Context, f proxy.Filter) (n int64, err error) {
	for {
		p, err := u.Events(ctx, f)
		n += int64(len(p.Events))
		if err != nil || p.Next == 0 {
			return n, err
		}
		f.Before = p.Next
	}
}
