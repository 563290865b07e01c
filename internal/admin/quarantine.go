package admin

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Quarantine holds what came from Stripe's addresses and did not verify.
type Quarantine interface {
	// List returns at most limit items with a smaller number than before, newest first; 0: from the newest.
	List(ctx context.Context, before int64, limit int) ([]QuarantineItem, error)
	// Recheck releases what verifies by now. With an error, the report says how far it came.
	Recheck(ctx context.Context) (QuarantineReport, error)
	// Drop removes items for good, and returns how many there were.
	Drop(ctx context.Context, ids ...int64) (int, error)
	Stats(ctx context.Context) (QuarantineStats, error)
}

// QuarantineItem is one request that is kept.
type QuarantineItem struct {
	ID        int64
	Source    string
	Received  time.Time
	Expires   time.Time // then it is dropped
	Client    netip.Addr
	Reason    string // of the failed verification
	Diagnosis string // by today's secrets
	Size      int    // of the body in bytes
	EventID   string // as the body claims, which nobody has verified
	EventType string // likewise
}

// QuarantineReport is what a recheck did.
type QuarantineReport struct {
	Checked  int `json:"checked"`
	Released int `json:"released" doc:"Taken as events: delivered, or on their way"`
	Left     int `json:"left"`
}

// QuarantineStats is how the quarantine stands.
type QuarantineStats struct {
	On       bool // something new would be kept
	Items    int64
	Bytes    int64
	MaxBytes int64
	Oldest   time.Time // zero when there is none
	Expires  time.Time // when the oldest is dropped, likewise
}

// Quarantined is a kept request in JSON.
type Quarantined struct {
	ID         int64  `json:"id"`
	Source     string `json:"source"`
	ReceivedAt Time   `json:"received_at"`
	ExpiresAt  Time   `json:"expires_at" doc:"Then it is dropped"`
	Client     string `json:"client" doc:"The address that it came from"`
	Reason     string `json:"reason" doc:"Of the failed verification"`
	Diagnosis  string `json:"diagnosis" doc:"What is most likely wrong, by today's secrets"`
	Size       int    `json:"size" doc:"Of the body, in bytes"`
	EventID    string `json:"event_id" doc:"As the body claims, which nobody has verified"`
	EventType  string `json:"event_type" doc:"As the body claims, which nobody has verified"`
}

// QuarantineList is a part of what is kept, newest first.
type QuarantineList struct {
	On       bool          `json:"on" doc:"Something new would be kept"`
	Count    int64         `json:"count" doc:"Of all that is kept"`
	Bytes    int64         `json:"bytes" doc:"Of all that is kept"`
	MaxBytes int64         `json:"max_bytes"`
	OldestAt Time          `json:"oldest_at"`
	Items    []Quarantined `json:"items" nullable:"false"`
	Next     string        `json:"next" doc:"Cursor of what follows; empty at the end"`
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
	stats, err := a.Quarantine.Stats(ctx)
	if err != nil {
		return nil, a.fail("read the quarantine", err)
	}
	if !stats.On && stats.Items == 0 {
		return nil, errQuarantineOff
	}
	items, err := a.Quarantine.List(ctx, before, in.Limit)
	if err != nil {
		return nil, a.fail("list the quarantine", err)
	}
	out := QuarantineList{
		On: stats.On, Count: stats.Items, Bytes: stats.Bytes, MaxBytes: stats.MaxBytes, OldestAt: Time{stats.Oldest},
		Items: make([]Quarantined, len(items)),
	}
	for i, q := range items {
		out.Items[i] = Quarantined{
			ID: q.ID, Source: q.Source, ReceivedAt: Time{q.Received}, ExpiresAt: Time{q.Expires}, Client: q.Client.String(),
			Reason: q.Reason, Diagnosis: q.Diagnosis, Size: q.Size, EventID: q.EventID, EventType: q.EventType,
		}
	}
	if len(items) == in.Limit {
		out.Next = cursor(items[len(items)-1].ID).String()
	}
	return &quarantineOutput{out}, nil
}

// recheckWithin leaves the server time to answer: released events are delivered one after the other.
const recheckWithin = 50 * time.Second

type recheckOutput struct{ Body QuarantineReport }

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
