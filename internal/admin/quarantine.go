package admin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
)

// Quarantine is what the API needs of a quarantine.Quarantine.
type Quarantine interface {
	List(ctx context.Context, before int64, limit int) ([]quarantine.Rejected, error)
	Recheck(ctx context.Context) (quarantine.Report, error)
	Drop(ctx context.Context, ids ...int64) (int, error)
	Stats() quarantine.Stats
}

// QuarantineList is a part of what is kept, newest first.
type QuarantineList struct {
	On       bool                  `json:"on" doc:"Something new would be kept"`
	Count    int64                 `json:"count" doc:"Of all that is kept"`
	Bytes    int64                 `json:"bytes" doc:"Of all that is kept"`
	MaxBytes int64                 `json:"max_bytes"`
	OldestAt Time                  `json:"oldest_at"`
	Items    []quarantine.Rejected `json:"items" nullable:"false"`
	Next     string                `json:"next" doc:"Cursor of what follows; empty at the end"`
}

var errQuarantineOff = huma.Error404NotFound("there is no quarantine: set stripe_ips in routes.yaml, and what comes from Stripe's " +
	"addresses is kept although it does not verify")

type quarantineInput struct {
	Cursor string `query:"cursor" doc:"next of the answer before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

type quarantineOutput struct{ Body QuarantineList }

func (a *api) listQuarantine(ctx context.Context, in *quarantineInput) (*quarantineOutput, error) {
	before, err := parseCursor(in.Cursor)
	if err != nil {
		return nil, badCursor(err)
	}
	if a.Quarantine == nil {
		return nil, errQuarantineOff
	}
	stats := a.Quarantine.Stats()
	if !stats.On && stats.Items == 0 {
		return nil, errQuarantineOff
	}
	list, err := a.Quarantine.List(ctx, before, in.Limit)
	if err != nil {
		return nil, a.fail("list the quarantine", err)
	}
	out := QuarantineList{
		On: stats.On, Count: stats.Items, Bytes: stats.Bytes, MaxBytes: stats.MaxBytes, OldestAt: jsontime.At(stats.Oldest), Items: list,
	}
	if len(list) == in.Limit {
		out.Next = cursor(list[len(list)-1].ID).String()
	}
	return &quarantineOutput{out}, nil
}

// recheckWithin leaves the server time to answer: released events are delivered one after the other.
const recheckWithin = 50 * time.Second

type recheckOutput struct{ Body quarantine.Report }

func (a *api) recheckQuarantine(ctx context.Context, _ *struct{}) (*recheckOutput, error) {
	if a.Quarantine == nil {
		return nil, errQuarantineOff
	}
	own, cancel := context.WithTimeout(ctx, recheckWithin)
	defer cancel()
	report, err := a.Quarantine.Recheck(own)
	a.audit(ctx, "recheck quarantine", fmt.Sprintf("%d checked, %d released", report.Checked, report.Released))
	if err != nil && own.Err() != nil {
		return nil, huma.Error503ServiceUnavailable(fmt.Sprintf("%d were released within %s, and there are more: ask again", report.Released, recheckWithin))
	}
	if err != nil {
		return nil, a.fail(fmt.Sprintf("recheck the quarantine (%d released)", report.Released), err)
	}
	return &recheckOutput{report}, nil
}

// DropQuarantineRequest names what to drop.
type DropQuarantineRequest struct {
	IDs []int64 `json:"ids" minItems:"1" maxItems:"1000" nullable:"false"`
}

// DropQuarantineResult says what was dropped.
type DropQuarantineResult struct {
	Dropped int `json:"dropped"`
}

type dropInput struct{ Body DropQuarantineRequest }

type dropOutput struct{ Body DropQuarantineResult }

func (a *api) dropQuarantine(ctx context.Context, in *dropInput) (*dropOutput, error) {
	if a.Quarantine == nil {
		return nil, errQuarantineOff
	}
	n, err := a.Quarantine.Drop(ctx, in.Body.IDs...)
	if err != nil {
		return nil, a.fail("drop from the quarantine", err)
	}
	if n == 0 {
		return nil, huma.Error404NotFound("none of these is in the quarantine")
	}
	a.audit(ctx, "drop from quarantine", strings.Trim(fmt.Sprint(in.Body.IDs), "[]"))
	return &dropOutput{DropQuarantineResult{n}}, nil
}
