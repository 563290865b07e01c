package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/quarantine"
	"github.com/breakwater-gateway/breakwater/proxy"
)

// What callers of a Client act on. errors.Is tells them from an error of its methods.
var (
	// ErrUnreachable: nothing answered at the URL, or it went away meanwhile.
	ErrUnreachable = errors.New("gateway not reachable")
	// ErrNotFound: the gateway has no such event, backend, job, or no quarantine.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous: several events have this id. Error.Problems names them by seq.
	ErrAmbiguous = errors.New("several events have this id")
	// ErrConflict: the state of things does not allow it, such as stopping a job that has ended.
	ErrConflict = errors.New("conflict")
	// ErrUnauthorized: the token is missing or wrong.
	ErrUnauthorized = errors.New("not authorized")
)

// Error is an answer that says no: the gateway's problem details.
type Error struct {
	Status   int
	Detail   string
	Problems []Problem
	Foreign  bool // what answered is no gateway's API
	is       error
}

// Problem is one part of an Error: what is wrong with one value, or an event to choose from.
type Problem struct {
	Location string `json:"location"`
	Message  string `json:"message"`
	Value    any    `json:"value"`
}

// Error is what the gateway says.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Detail)
	for _, p := range e.Problems {
		if p.Message == e.Detail {
			continue
		}
		b.WriteString("\n  ")
		if p.Location != "" && p.Location != "path.id" {
			b.WriteString(strings.TrimPrefix(p.Location, "body.") + ": ")
		}
		if v, ok := p.Value.(string); ok && p.Location == "path.id" {
			b.WriteString(v + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.is }

// Client asks a running gateway. Its methods are the operations of the API.
type Client struct {
	base  *url.URL
	token proxy.Secret
	http  *http.Client
}

// NewClient returns a client of the admin listener at base, such as http://127.0.0.1:8421. token may be empty.
func NewClient(base, token string) (*Client, error) {
	u, err := url.Parse(strings.TrimSuffix(base, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is no URL of an admin listener: http://127.0.0.1:8421 is one", base)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = time.Minute
	t.Proxy = elsewhere
	return &Client{base: u, token: proxy.Secret(token), http: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token stays with whom it is for
	}}, nil
}

// elsewhere is the proxy of the environment, but for a gateway on this machine: net/http takes 127.0.0.1 and localhost for
// it and no other name, and the token would leave the machine.
func elsewhere(r *http.Request) (*url.URL, error) {
	via, err := http.ProxyFromEnvironment(r)
	if via == nil || err != nil {
		return via, err
	}
	there, err := net.DefaultResolver.LookupNetIP(r.Context(), "ip", r.URL.Hostname())
	if err != nil || len(there) == 0 { // the proxy may know the name
		return via, nil
	}
	for _, ip := range there {
		if !ip.Unmap().IsLoopback() {
			return via, nil
		}
	}
	return nil, nil
}

// Close lets go of connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ready asks whether the gateway can take events. An *Error is its no, and says why to whom the API would.
func (c *Client) Ready(ctx context.Context) error {
	res, err := c.send(ctx, http.MethodGet, c.base.JoinPath("/readyz"), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil
	}
	why, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return unreachable(ctx, err)
	}
	return &Error{Status: res.StatusCode, Detail: strings.TrimSpace(string(why))}
}

// Events lists events, newest first. cursor is EventList.Next of the list before, limit 0 the gateway's own.
func (c *Client) Events(ctx context.Context, f Filter, cursor string, limit int) (EventList, error) {
	return call[EventList](ctx, c, http.MethodGet, "/events", paged(f.Values(), cursor, limit), nil)
}

// Event returns an event by evt_... or seq:N.
func (c *Client) Event(ctx context.Context, id string) (EventDetail, error) {
	return call[EventDetail](ctx, c, http.MethodGet, "/events/"+url.PathEscape(id), nil, nil)
}

// Body returns the bytes that Stripe sent.
func (c *Client) Body(ctx context.Context, id string) ([]byte, error) {
	res, err := c.do(ctx, http.MethodGet, "/events/"+url.PathEscape(id)+"/body", nil, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	return body, nil
}

// Resend has an event delivered again: to the backends named, else to those it was delivered to, else to those that
// today's routes choose.
func (c *Client) Resend(ctx context.Context, id string, backends ...string) (ResendResult, error) {
	return call[ResendResult](ctx, c, http.MethodPost, "/events/"+url.PathEscape(id)+"/resend", nil, ResendRequest{backends})
}

// BulkResend counts events, or starts a job that has them delivered again.
func (c *Client) BulkResend(ctx context.Context, r BulkResend) (BulkResult, error) {
	return call[BulkResult](ctx, c, http.MethodPost, "/resend", nil, r)
}

// Jobs lists the last jobs, newest first.
func (c *Client) Jobs(ctx context.Context) (JobList, error) {
	return call[JobList](ctx, c, http.MethodGet, "/jobs", nil, nil)
}

// Job returns a job as it is now.
func (c *Client) Job(ctx context.Context, id int64) (Job, error) {
	return call[Job](ctx, c, http.MethodGet, "/jobs/"+strconv.FormatInt(id, 10), nil, nil)
}

// StopJob stops a job. What it has done stays done.
func (c *Client) StopJob(ctx context.Context, id int64) (Job, error) {
	return call[Job](ctx, c, http.MethodPost, "/jobs/"+strconv.FormatInt(id, 10)+"/stop", nil, nil)
}

// Backup starts a job that copies the journal to a file on the gateway's machine.
func (c *Client) Backup(ctx context.Context, path string) (Job, error) {
	return call[Job](ctx, c, http.MethodPost, "/backup", nil, BackupRequest{path})
}

// Conditions lists what wants a person, worst first.
func (c *Client) Conditions(ctx context.Context) (ConditionList, error) {
	return call[ConditionList](ctx, c, http.MethodGet, "/conditions", nil, nil)
}

// Backends lists the backends by name.
func (c *Client) Backends(ctx context.Context) (BackendList, error) {
	return call[BackendList](ctx, c, http.MethodGet, "/backends", nil, nil)
}

// Pause holds a backend's deliveries.
func (c *Client) Pause(ctx context.Context, name string) (Backend, error) {
	return call[Backend](ctx, c, http.MethodPost, "/backends/"+url.PathEscape(name)+"/pause", nil, nil)
}

// Resume ends a pause.
func (c *Client) Resume(ctx context.Context, name string) (Backend, error) {
	return call[Backend](ctx, c, http.MethodPost, "/backends/"+url.PathEscape(name)+"/resume", nil, nil)
}

// Sources lists the sources by name.
func (c *Client) Sources(ctx context.Context) (SourceList, error) {
	return call[SourceList](ctx, c, http.MethodGet, "/sources", nil, nil)
}

// Stats returns figures of the whole gateway.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	return call[Stats](ctx, c, http.MethodGet, "/stats", nil, nil)
}

// Config returns the configuration that is at work.
func (c *Client) Config(ctx context.Context) (Configuration, error) {
	return call[Configuration](ctx, c, http.MethodGet, "/config", nil, nil)
}

// Reload loads routes.yaml again.
func (c *Client) Reload(ctx context.Context) (ReloadResult, error) {
	return call[ReloadResult](ctx, c, http.MethodPost, "/reload", nil, nil)
}

// Audit lists what was changed, newest first; limit 0 is the gateway's own.
func (c *Client) Audit(ctx context.Context, limit int) (AuditList, error) {
	return call[AuditList](ctx, c, http.MethodGet, "/audit", paged(url.Values{}, "", limit), nil)
}

// Quarantine lists what is in quarantine, newest first.
func (c *Client) Quarantine(ctx context.Context, cursor string, limit int) (QuarantineList, error) {
	return call[QuarantineList](ctx, c, http.MethodGet, "/quarantine", paged(url.Values{}, cursor, limit), nil)
}

// RecheckQuarantine releases what verifies by now.
func (c *Client) RecheckQuarantine(ctx context.Context) (quarantine.Report, error) {
	return call[quarantine.Report](ctx, c, http.MethodPost, "/quarantine/recheck", nil, nil)
}

// DropQuarantine removes requests for good.
func (c *Client) DropQuarantine(ctx context.Context, ids ...int64) (DropQuarantineResult, error) {
	return call[DropQuarantineResult](ctx, c, http.MethodPost, "/quarantine/drop", nil, DropQuarantineRequest{ids})
}

// RawMessage is a message of the stream. Data is the JSON of what Event says.
type RawMessage struct {
	Event string
	Data  json.RawMessage
}

// maxMessage bounds a line of the stream.
const maxMessage = 1 << 20

// Stream calls f with each message of the kinds in only, or all, until ctx ends, f returns an error, which Stream then
// returns, or the stream ends, which is ErrUnreachable.
func (c *Client) Stream(ctx context.Context, only []string, f func(RawMessage) error) error {
	query := url.Values{}
	if len(only) > 0 {
		query.Set("only", strings.Join(only, ","))
	}
	res, err := c.do(ctx, http.MethodGet, "/stream", query, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var m RawMessage
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch {
		case len(lines.Bytes()) == 0:
			if m.Data != nil {
				if err := f(m); err != nil {
					return err
				}
			}
			m = RawMessage{}
		case string(name) == "event":
			m.Event = string(value)
		case string(name) == "data":
			m.Data = slices.Clone(value)
		}
	}
	err = lines.Err()
	if err == nil {
		err = errors.New("the stream ended")
	}
	return unreachable(ctx, err)
}

func paged(v url.Values, cursor string, limit int) url.Values {
	if cursor != "" {
		v.Set("cursor", cursor)
	}
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	return v
}

// call does a call whose answer is JSON.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (out T, err error) {
	res, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return out, unreachable(ctx, err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("%s %s: the answer is not the API's: %w", method, path, err)
	}
	return out, nil
}

// do returns a 2xx answer; any other is an *Error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	u := c.base.JoinPath("/api/v1" + path)
	u.RawQuery = query.Encode()
	res, err := c.send(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 200 && res.StatusCode <= 299 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, refusal(res)
}

// send returns whatever answer there is; body, where there is one, is sent as JSON.
func (c *Client) send(ctx context.Context, method string, u *url.URL, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+string(c.token))
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	return res, nil
}

func unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

var sentinels = map[int]error{
	http.StatusNotFound: ErrNotFound, http.StatusConflict: ErrConflict, http.StatusUnauthorized: ErrUnauthorized,
}

func refusal(res *http.Response) error {
	e := &Error{Status: res.StatusCode, Detail: "answered " + res.Status, is: sentinels[res.StatusCode]}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/problem+json") {
		var p struct {
			Detail string    `json:"detail"`
			Errors []Problem `json:"errors"`
		}
		if json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&p) == nil && p.Detail != "" {
			e.Detail, e.Problems = p.Detail, p.Errors
		}
	} else {
		e.Detail += ": that is no gateway's API"
		e.Foreign = true
	}
	if res.StatusCode == http.StatusConflict && len(e.Problems) > 0 {
		e.is = ErrAmbiguous
	}
	return e
}
