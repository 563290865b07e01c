package proxy

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"
)

// answerIn is how long after its request Stripe certainly still reads. A 2xx written later may not have reached it.
const answerIn = 5 * time.Second

// refusedFor is how long a refused connection may take to end: long enough for the answer to arrive before the reset that
// closing it brings, as the rest of the body was not read.
const refusedFor = time.Second

// answer is what Stripe is told, and what is left to do once it knows.
type answer struct {
	result Result
	status int
	header http.Header
	body   []byte
	reason string      // why it is no success, for the log; Stripe gets it only where it tells nothing of our insides
	fields []zap.Field // for the log only

	// after is called when the answer was written. answered is the zero time when Stripe may not have it.
	after func(answered time.Time)
}

// refuse answers with an error status and the reason as JSON.
func refuse(status int, r Result, reason string) *answer {
	body, _ := json.Marshal(map[string]string{"status": string(r), "reason": reason})
	return &answer{result: r, status: status, header: jsonHeader(), reason: reason, body: body}
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// tryLater asks Stripe to come again: it keeps the event for up to three days.
func tryLater(reason string) *answer {
	ans := refuse(http.StatusServiceUnavailable, ResultRefused, reason)
	ans.header.Set("Retry-After", "10")
	return ans
}

// say tells what became of an event in our own words: {"status":"stored","event":"evt_..."}.
func say(status int, r Result, ev *Event) *answer {
	body := make([]byte, 0, 64)
	body = append(body, `{"status":"`...)
	body = append(body, r...)
	body = append(body, `","event":`...)
	body = strconv.AppendQuote(body, ev.ID)
	return &answer{result: r, status: status, header: jsonHeader(), body: append(body, '}')}
}

// droppedAnswerHeaders are kept out of an answer that is passed on: the server frames it anew, and cookies are not for
// Stripe.
var droppedAnswerHeaders = []string{"Content-Length", "Content-Encoding", "Set-Cookie", "Trailer"}

// pass is a backend's own answer, so that Stripe's dashboard shows it.
func pass(o Outcome) *answer {
	ans := &answer{result: ResultDelivered, status: o.Status, header: o.Header, body: o.Body}
	if o.Header.Get("Content-Encoding") != "" {
		ans.body = nil // unreadable without its header
	}
	for _, k := range droppedAnswerHeaders {
		ans.header.Del(k)
	}
	return ans
}

// hold says whether Stripe is to wait for the backend's own 2xx.
type hold int

const (
	notHeld hold = iota
	holding      // Stripe is asked to come again until the backend has the event
	lifted       // it would be held, but Stripe has had no 2xx from the source for so long that it would disable the endpoint
)

const (
	maxHoldTest = time.Hour      // in test mode Stripe tries three times only
	maxRefused  = 48 * time.Hour // of answers other than 2xx only; Stripe disables an endpoint after nine days
)

// held is the one rule by which an event is held. refusedSince is when Stripe first had another answer than a 2xx since its
// last one from the event's source; zero when it had none. A source that is quiet lifts nothing.
func (m Match) held(ev *Event, now, refusedSince time.Time) hold {
	if m.Answer != AnswerBackend {
		return notHeld
	}
	limit := min(m.HoldFor, maxHoldFor)
	if !ev.Livemode {
		limit = min(limit, maxHoldTest)
	}
	since := ev.Created
	if since.IsZero() {
		since = ev.Received
	}
	switch {
	case now.Sub(since) >= limit:
		return notHeld
	case !refusedSince.IsZero() && now.Sub(refusedSince) >= maxRefused:
		return lifted
	}
	return holding
}

// kept answers for an event that is on stable storage: with ok, unless it is held.
func (a *arrival) kept(ok Result) *answer {
	h := a.match.held(a.event, a.start, unixNano(a.source.health.refused.Load()))
	if h == holding {
		ans := say(http.StatusServiceUnavailable, ResultHeld, a.event)
		ans.header.Set("Retry-After", "60")
		ans.reason = "held until the backend has it (answer: backend)"
		return ans
	}
	ans := say(http.StatusOK, ok, a.event)
	if h == lifted {
		ans.fields = append(ans.fields, zap.String("hold", "lifted: no 2xx to Stripe for 48h, which would disable the endpoint"))
	}
	return ans
}

// write writes the answer out, and returns when Stripe had it: the zero time when it is no 2xx, could not be written
// whole, or was written so late that Stripe may have hung up.
func (x *exchange) write(ans *answer) time.Time {
	h := x.w.Header()
	maps.Copy(h, ans.header)
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // present and nil: net/http does not guess one
	}
	rc := http.NewResponseController(x.w)
	rc.SetWriteDeadline(time.Now().Add(answerIn))
	if !x.verified || x.r.ContentLength < 0 { // only Stripe keeps its connection, and what it sends has a length
		h["Connection"] = []string{"close"}
	}
	if !x.verified { // nobody holds one with a body that does not come
		rc.SetReadDeadline(time.Now().Add(refusedFor))
	}
	bodiless := ans.status == http.StatusNoContent || ans.status == http.StatusNotModified
	if !bodiless {
		h["Content-Length"] = []string{strconv.Itoa(len(ans.body))}
	}
	x.w.WriteHeader(ans.status)
	_, err := x.w.Write(ans.body)
	if bodiless {
		err = nil
	}
	if ferr := rc.Flush(); err == nil {
		err = ferr
	}
	now := time.Now()
	if ans.status > 299 {
		if x.verified { // strangers are refused all the time
			x.source.health.refused.CompareAndSwap(0, now.UnixNano())
		}
		return time.Time{}
	}
	x.source.health.answered.Store(now.UnixNano())
	x.source.health.refused.Store(0)
	if x.verified {
		x.source.health.answeredTo.add(x.signature.String(), now, 2*x.source.Tolerance) // as old as that, and as far ahead
	}
	if err != nil || x.r.Context().Err() != nil || now.Sub(x.start) > answerIn {
		return time.Time{}
	}
	return now
}

// report counts and logs what was answered: one line, whatever became of it. src is nil for an unknown path, ev when no
// event was verified.
func (g *Gateway) report(src *source, ev *Event, start time.Time, ans *answer, more ...zap.Field) {
	took := time.Since(start)
	name := src.called()
	g.observers.Answered(name, ev, ans.result, took)
	level := zap.InfoLevel
	switch ans.result {
	case ResultRefused:
		level = zap.ErrorLevel
	case ResultRejected, ResultQuarantined, ResultTooLarge, ResultUnparseable, ResultUnrouted, ResultStored, ResultHeld:
		level = zap.WarnLevel
	}
	line := g.log.Check(level, "event")
	if line == nil {
		return
	}
	fields := make([]zap.Field, 0, 12)
	if ev != nil {
		fields = append(fields, zap.String(keyEventID, ev.ID), zap.String(keyEventType, ev.Type))
	}
	fields = append(fields, zap.String(keySource, name), zap.Int(keyStatus, ans.status), zap.String(keyResult, string(ans.result)),
		millis(took), unlessEmpty("reason", ans.reason))
	line.Write(append(append(fields, more...), ans.fields...)...)
}

// reportRefusal does what report does for a request from which no event came. Strangers could fill a disk with such lines:
// they are short, and most of those that come fast are only counted.
func (g *Gateway) reportRefusal(x *exchange, ans *answer) {
	if !g.refusals.Allow() {
		g.unlogged.Add(1)
		g.observers.Answered(x.source.called(), nil, ans.result, time.Since(x.start))
		return
	}
	method, path := x.r.Method, x.r.URL.Path
	fields := []zap.Field{
		zap.String("client", x.r.RemoteAddr), zap.String("method", method[:min(len(method), 20)]), zap.String("path", path[:min(len(path), 200)]),
	}
	if n := g.unlogged.Swap(0); n > 0 {
		fields = append(fields, zap.Int64("not_logged", n))
	}
	g.report(x.source, nil, x.start, ans, fields...)
}

// Field names of the log. Dashboards and searches rest on them.
const (
	keyEventID   = "event_id"
	keyEventType = "event_type"
	keySource    = "source"
	keyBackend   = "backend"
	keyAttempt   = "attempt"
	keyStatus    = "status"
	keyResult    = "result"  // of an event
	keyOutcome   = "outcome" // of an attempt
)

func millis(d time.Duration) zap.Field {
	return zap.Float64("duration_ms", float64(d.Microseconds())/1000)
}

func unlessEmpty(key, value string) zap.Field {
	if value == "" {
		return zap.Skip()
	}
	return zap.String(key, value)
}
