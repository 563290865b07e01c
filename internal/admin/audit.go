package admin

import (
	"context"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/journal"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
)

type actorKey struct{}

// as says who makes a request: "token", "session " and four characters of it, or "loopback".
func as(r *http.Request, actor string) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), actorKey{}, actor))
}

func actorOf(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

// audit writes down a change that was made. It was made, so a journal that does not take the row stops nothing: the log
// has it then.
func (c *core) audit(ctx context.Context, action, detail string) {
	actor := actorOf(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	fields := []zap.Field{zap.String("actor", actor), zap.String("action", action), zap.String("detail", detail)}
	if err := c.Journal.Audit(ctx, journal.AuditEntry{At: time.Now(), Actor: actor, Action: action, Detail: detail}); err != nil {
		c.Log.Error("change without an audit row", append(fields, zap.Error(err))...)
		return
	}
	c.Log.Info("change", fields...)
}

// AuditEntry is one change that somebody made.
type AuditEntry struct {
	At     Time   `json:"at"`
	Actor  string `json:"actor" doc:"token, session and its first four characters, or loopback"`
	Action string `json:"action"`
	Detail string `json:"detail"`
}

// AuditList is the answer to a question for what was changed.
type AuditList struct {
	Entries []AuditEntry `json:"entries" nullable:"false" doc:"Newest first"`
}

type auditInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type auditOutput struct{ Body AuditList }

func (a *api) listAudit(ctx context.Context, in *auditInput) (*auditOutput, error) {
	entries, err := a.Journal.AuditTrail(ctx, in.Limit)
	if err != nil {
		return nil, a.fail("read the audit trail", err)
	}
	return &auditOutput{AuditList{wireAudit(entries)}}, nil
}

func wireAudit(entries []journal.AuditEntry) []AuditEntry {
	list := make([]AuditEntry, len(entries))
	for i, e := range entries {
		list[i] = AuditEntry{jsontime.At(e.At), e.Actor, e.Action, e.Detail}
	}
	return list
}
