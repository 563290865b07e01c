package proxy

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/breakwater-gateway/breakwater/internal/stripe"
)

// verdict is what Stripe is answered, and what is left to do once it has the answer.
type verdict struct {
	result Result
	status int
	header http.Header
	body   []byte
	reason string // why not, for the log; Stripe gets it only where it holds no detail of ours

	// after is called when the answer was written. answered is the zero time when Stripe may not have it.
	after func(answered time.Time)
	// diagnosis goes to the log only.
	diagnosis []zap.Field
}

// refuse answers with an error status and the reason as JSON.
func refuse(status int, r Result, reason string) verdict {
	body, _ := json.Marshal(map[string]string{"status": string(r), "reason": reason})
	return verdict{result: r, status: status, header: jsonHeader(), reason: reason, body: body}
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// tryLater asks Stripe to come again: it keeps the event for up to three days.
func tryLater(reason string) verdict {
	v := refuse(http.StatusServiceUnavailable, ResultRefused, reason)
	v.header.Set("Retry-After", "10")
	return v
}

// settled is an answer of our own to a verified event.
func settled(status int, r Result, ev *Event) verdict {
	body := make([]byte, 0, 64)
	body = append(body, `{"status":"`...)
	body = append(body, r...)
	body = append(body, `","event":`...)
	body = strconv.AppendQuote(body, ev.ID)
	return verdict{result: r, status: status, header: jsonHeader(), body: append(body, '}')}
}

// reject answers a request whose signature is not good: a short reason for the sender, the diagnosis for the operator.
func (g *Gateway) reject(x *exchange, body []byte, err error) verdict {
	var f *stripe.Failure
	if !errors.As(err, &f) {
		f = &stripe.Failure{Reason: stripe.MalformedHeader, Err: err}
	}
	g.observer.Verified(x.source.name, f.Reason, f.Age)
	x.source.bad(f.Reason, x.start)
	v, kept := g.quarantine(x, body, f.Reason)
	if !kept {
		v = refuse(http.StatusBadRequest, ResultRejected, f.Reason)
	}
	v.diagnosis = []zap.Field{zap.NamedError("diagnosis", err)}
	if f.Age != 0 {
		v.diagnosis = append(v.diagnosis, zap.Int64("age_seconds", int64(f.Age/time.Second)))
	}
	if f.Reason == stripe.NoMatch && g.diagnose.Allow() {
		for _, name := range slices.Sorted(maps.Keys(x.byName)) {
			if name != x.source.name && stripe.MatchesAny(body, x.r.Header["Stripe-Signature"], x.byName[name].secrets) >= 0 {
				v.diagnosis = append(v.diagnosis, zap.String("hint", "matches the secret of source "+name+": is Stripe's URL the right one?"))
			}
		}
	}
	return v
}

// kept out of an answer that is passed on: the server frames it anew, and cookies are not for Stripe.
var droppedAnswerHeaders = []string{"Content-Length", "Content-Encoding", "Set-Cookie", "Trailer"}

// pass is a backend's own answer, so that Stripe's dashboard shows it.
func pass(o outcome) verdict {
	v := verdict{result: ResultDelivered, status: o.Status, header: o.header, body: o.body}
	if o.header.Get("Content-Encoding") != "" {
		v.body = nil // unreadable without its header
	}
	for _, k := range droppedAnswerHeaders {
		v.header.Del(k)
	}
	return v
}

// answer writes the answer out, and returns when Stripe had it: the zero time when it is no 2xx, could not be written
// whole, or was written so late that Stripe may have hung up.
func (g *Gateway) answer(x *exchange, v verdict) time.Time {
	h := x.w.Header()
	maps.Copy(h, v.header)
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // present and nil: net/http does not guess one
	}
	rc := http.NewResponseController(x.w)
	rc.SetWriteDeadline(time.Now().Add(answerIn))
	if v.status != http.StatusNoContent && v.status != http.StatusNotModified {
		h["Content-Length"] = []string{strconv.Itoa(len(v.body))}
	}
	x.w.WriteHeader(v.status)
	_, err := x.w.Write(v.body)
	if v.status == http.StatusNoContent || v.status == http.StatusNotModified {
		err = nil
	}
	if ferr := rc.Flush(); err == nil {
		err = ferr
	}
	now := time.Now()
	if v.status > 299 {
		return time.Time{}
	}
	x.source.health.answered.Store(now.UnixNano())
	if err != nil || x.r.Context().Err() != nil || now.Sub(x.start) > answerIn {
		return time.Time{}
	}
	return now
}

// note counts and logs a request: one line, whatever became of it.
func (g *Gateway) note(x *exchange, v verdict) {
	took := time.Since(x.start)
	name := ""
	if x.source != nil {
		name = x.source.name
	}
	g.observer.Answered(name, x.event, v.result, took)
	level := zap.InfoLevel
	switch v.result {
	case ResultRefused:
		level = zap.ErrorLevel
	case ResultRejected, ResultQuarantined, ResultTooLarge, ResultUnparseable, ResultUnrouted, ResultStored, ResultHeld:
		level = zap.WarnLevel
	}
	e := g.log.Check(level, "event")
	if e == nil {
		return
	}
	fields := make([]zap.Field, 0, 12)
	if x.event != nil {
		fields = append(fields, zap.String(keyEventID, x.event.ID), zap.String(keyEventType, x.event.Type))
	}
	fields = append(fields, zap.String(keySource, name), zap.Int(keyStatus, v.status),
		zap.String(keyOutcome, string(v.result)), millis(took))
	if x.lifted {
		fields = append(fields, zap.String("hold", "lifted: no 2xx to Stripe for 48h, which would disable the endpoint"))
	}
	fields = append(fields, unlessEmpty("reason", v.reason))
	if x.event == nil && x.r != nil {
		fields = append(fields, zap.String("client", x.r.RemoteAddr), zap.String("method", x.r.Method), zap.String("path", x.r.URL.Path[:min(len(x.r.URL.Path), 200)]))
	}
	e.Write(append(fields, v.diagnosis...)...)
}

func unlessEmpty(key, value string) zap.Field {
	if value == "" {
		return zap.Skip()
	}
	return zap.String(key, value)
}
