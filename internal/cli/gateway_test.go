package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/internal/admin"
	"github.com/breakwater-gateway/breakwater/internal/jsontime"
	"github.com/breakwater-gateway/breakwater/internal/quarantine"
)

// fakeAdmin answers as handle says.
func fakeAdmin(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.URL
}

// run runs a command and returns its exit code and what it said.
func run(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs strings.Builder
	code = Main(ctx, args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func problem(status int, detail string, errors ...map[string]any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "detail": detail, "errors": errors})
	}
}

func TestGatewaySaysNo(t *testing.T) {
	t.Parallel()
	plain := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, status) }
	}
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		args   []string
		code   int
		says   string
	}{
		"no token":         {problem(401, "the admin token is needed"), []string{"backends"}, exitFailed, "wants its admin.token: set BREAKWATER_ADMIN_TOKEN"},
		"no such event":    {problem(404, "no such event"), []string{"event", "evt_1"}, exitNotFound, "breakwater: evt_1: no such event\n"},
		"no such backend":  {problem(404, "no such backend; there are a, b"), []string{"pause", "c"}, exitNotFound, "c: no such backend; there are a, b"},
		"unprocessable":    {problem(422, "no such backend"), []string{"resend", "evt_1", "--backend", "c"}, exitUsage, "no such backend"},
		"another host":     {problem(421, "without a token only loopback names are answered: set admin.token"), []string{"events"}, exitFailed, "set admin.token"},
		"journal down":     {problem(503, "list events: the journal does not answer; the gateway's log says why"), []string{"events"}, exitFailed, "the gateway's log says why"},
		"many jobs":        {problem(409, "4 jobs run already: wait for one, or stop it"), []string{"backup", "/x"}, exitFailed, "4 jobs run already"},
		"no quarantine":    {problem(404, "there is no quarantine: set stripe_ips"), []string{"quarantine", "recheck"}, exitNotFound, "set stripe_ips"},
		"another program":  {plain(200, "<html>hello"), []string{"events"}, exitFailed, "the answer is not the API's"},
		"another server":   {plain(404, "not here"), []string{"events"}, exitUnreachable, "that is no gateway's API. Set --admin"},
		"a proxy's answer": {plain(502, "bad gateway"), []string{"tail"}, exitUnreachable, "answered 502 Bad Gateway"},
		"escape sequences": {problem(503, "\x1b[2Jowned\u202e"), []string{"events"}, exitFailed, `\x1b[2Jowned\u202e`},
		"several events": {
			problem(409, "several events have this id: choose one by seq:N",
				map[string]any{"location": "path.id", "value": "seq:4", "message": "source other, received 2026-11-21T10:00:00Z"},
				map[string]any{"location": "path.id", "value": "seq:3", "message": "source main, received 2026-11-21T09:00:00Z"}),
			[]string{"resend", "evt_1"},
			exitUsage, "choose one by seq:N\n  seq:4: source other, received 2026-11-21T10:00:00Z\n  seq:3: source main",
		},
		"redirects are not followed": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, []string{"events"}, exitUnreachable, "302"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := fakeAdmin(t, c.handle)
			code, stdout, stderr := run(t.Context(), append(c.args, "--admin", url)...)
			if code != c.code || !strings.Contains(stderr, c.says) || stdout != "" {
				t.Errorf("exit code %d, want %d; stdout %q, stderr %q, want %q in it", code, c.code, stdout, stderr, c.says)
			}
			if strings.ContainsAny(stderr, "\x1b\u202e") {
				t.Errorf("%q does something to a terminal", stderr)
			}
		})
	}
}

func TestGatewayUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"events", "--admin", "ftp://x"},
		{"events", "--admin", "http://"},
		{"events", "--state", "lost"},
		{"events", "--since", "soon"},
		{"events", "--limit", "0"},
		{"event"},
		{"event", "1", "--json", "--body"},
		{"resend"},
		{"resend", "1", "--filter", "state=failed"},
		{"resend", "--filter", "state="},
		{"resend", "--filter", "state=lost"},
		{"resend", "1", "--detach"},
		{"pause"},
		{"tail", "--only", "stats"},
		{"tail", "--only", "nothing"},
		{"tail", "--type", "["},
		{"tail", "--backend", "b", "--only", "event"},
		{"quarantine"},
		{"quarantine", "nothing"},
		{"quarantine", "drop"},
		{"quarantine", "drop", "x", "--yes"},
		{"quarantine", "drop", "1"},
		{"quarantine", "list", "--limit", "501"},
		{"jobs", "stop", "x"},
		{"jobs", "stop"},
		{"backup"},
		{"backup", "relative.db", "--admin", "http://192.0.2.1:8421"},
	} {
		// Nothing of this may reach a gateway: there is none at port 1.
		code, _, stderr := run(t.Context(), append([]string{args[0]}, append(args[1:], withoutAdmin(args)...)...)...)
		if code != exitUsage || stderr == "" {
			t.Errorf("%v: exit code %d, %q, want %d", args, code, stderr, exitUsage)
		}
	}
	if code, _, _ := run(t.Context(), "events", "--admin", "127.0.0.1:1"); code != exitUnreachable {
		t.Errorf("exit code %d, want %d", code, exitUnreachable)
	}
}

func withoutAdmin(args []string) []string {
	for _, a := range args {
		if a == "--admin" {
			return nil
		}
	}
	return []string{"--admin", "http://127.0.0.1:1"}
}

func TestTokenIsSentAndNotShown(t *testing.T) {
	t.Setenv("BREAKWATER_ADMIN_TOKEN", "s3cret-token")
	var got atomic.Value
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Authorization"))
		problem(401, "no")(w, r)
	})
	code, stdout, stderr := run(t.Context(), "backends", "--admin", url)
	if want := "Bearer s3cret-token"; got.Load() != want {
		t.Errorf("sent %q, want %q", got.Load(), want)
	}
	if code != exitFailed || !strings.Contains(stderr, "does not take the token in BREAKWATER_ADMIN_TOKEN") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	_, help, _ := run(t.Context(), "backends", "--help")
	if strings.Contains(stdout+stderr+help, "s3cret") {
		t.Error("the token is shown")
	}
}

func TestBodyIsUntouched(t *testing.T) {
	t.Parallel()
	body := "{\r\n \"a\": \"\x1b[31m\u202e\"}\x00\xff\n\n"
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/events/seq:7/body" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		_, _ = io.WriteString(w, body)
	})
	if code, stdout, stderr := run(t.Context(), "event", "7", "--body", "--admin", url); code != exitOK || stdout != body || stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// TestEventsGoesOnThroughPages: a page may be short, or empty, long before the end.
func TestEventsGoesOnThroughPages(t *testing.T) {
	t.Parallel()
	looked := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		pages := map[string]admin.EventList{
			"":  {Next: "a", LookedTo: jsontime.At(looked.Add(time.Hour)), Events: []admin.Event{{Seq: 9, ID: "evt_9"}}},
			"a": {Next: "b", LookedTo: jsontime.At(looked), Events: []admin.Event{}},
			"b": {Next: "c", Events: []admin.Event{{Seq: 3, ID: "evt_3"}, {Seq: 2, ID: "evt_2"}}},
			"c": {Events: []admin.Event{{Seq: 1, ID: "evt_1"}}},
		}
		q := r.URL.Query()
		if q.Get("q") != "some text" || q.Get("type") != "" {
			t.Errorf("asked for %s", r.URL.RawQuery)
		}
		answerJSON(w, pages[q.Get("cursor")])
	})
	code, stdout, stderr := run(t.Context(), "events", "--q", "some text", "--json", "--admin", url)
	var list admin.EventList
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || code != exitOK || len(list.Events) != 4 || list.Next != "" {
		t.Errorf("exit code %d, %v, %s%s", code, err, stdout, stderr)
	}
	code, stdout, stderr = run(t.Context(), "events", "--q", "some text", "--limit", "3", "--admin", url)
	if code != exitOK || !strings.Contains(stdout, "evt_2") || strings.Contains(stdout, "evt_1") ||
		!strings.Contains(stderr, "there are more:\n  breakwater events --limit 3 --q 'some text' --cursor c") {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
}

func TestWhereNext(t *testing.T) {
	t.Parallel()
	list := admin.EventList{Next: "c", LookedTo: jsontime.At(time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC))}
	got := whereNext(list, filterValues{"q": "it's", "type": "invoice.*"}, defaultLimit)
	if want := "\n  breakwater events --type 'invoice.*' --q 'it'\\''s' --cursor c"; !strings.HasPrefix(got, "looked back to 20") || !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want it to end in %q", got, want)
	}
}

// TestFollow: Ctrl-C, or a gateway that restarts, ends the watching or makes it wait, and never stops the job.
func TestFollow(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		job := admin.Job{ID: 7, Kind: "resend", State: "running", Total: 1204, Done: asked.Add(1)}
		switch {
		case r.Method == http.MethodPost:
			t.Errorf("asked for %s %s", r.Method, r.URL)
		case job.Done == 2: // restarting
			panic(http.ErrAbortHandler)
		case job.Done >= 4:
			job.State, job.Done, job.Skipped, job.Error = "done", 1204, 3, "some were resent meanwhile"
		}
		answerJSON(w, job)
	})
	code, stdout, stderr := run(t.Context(), "jobs", "follow", "7", "--admin", url)
	if want := "job 7 (resend): done, 1,204 of 1,204, 3 skipped, some were resent meanwhile\n"; code != exitOK || stdout != want {
		t.Errorf("exit code %d, %q, want %q; %s", code, stdout, want, stderr)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url = fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			t.Errorf("asked for %s %s", r.Method, r.URL)
		}
		answerJSON(w, admin.Job{ID: 7, Kind: "resend", State: "running"})
		if asked.Add(1) > 6 {
			cancel() // as Ctrl-C does
		}
	})
	code, _, stderr = run(ctx, "jobs", "follow", "7", "--admin", url)
	if code != exitFailed || !strings.Contains(stderr, "goes on in the gateway") || !strings.Contains(stderr, "breakwater jobs stop 7") {
		t.Errorf("exit code %d, %q", code, stderr)
	}

	url = fakeAdmin(t, func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, admin.Job{ID: 7, Kind: "backup", State: "failed", Path: "/x.db", Error: "no space"})
	})
	if code, stdout, _ := run(t.Context(), "jobs", "follow", "7", "--admin", url); code != exitFailed ||
		stdout != "job 7 (backup): failed, /x.db, no space\n" {
		t.Errorf("exit code %d, %q", code, stdout)
	}
}

func TestBackupIsNamedByItsWholePath(t *testing.T) {
	t.Parallel()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		var request admin.BackupRequest
		_ = json.NewDecoder(r.Body).Decode(&request)
		answerJSON(w, admin.Job{ID: 1, Kind: "backup", State: "done", Path: request.Path, Total: 12, Done: 12})
	})
	code, stdout, stderr := run(t.Context(), "backup", "sub/../copy.db", "--admin", url)
	if want := fmt.Sprintf("job 1 (backup): done, 12 of 12 pages, %s/copy.db\n", wd); code != exitOK || stdout != want {
		t.Errorf("exit code %d, %q, want %q; %s", code, stdout, want, stderr)
	}
}

func TestQuarantineCommands(t *testing.T) {
	t.Parallel()
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /api/v1/quarantine":
			answerJSON(w, admin.QuarantineList{On: true, Count: 2, Next: "n", Items: []quarantine.Rejected{{ID: 12, Source: "main", Diagnosis: "was it rolled?"}}})
		case "POST /api/v1/quarantine/recheck":
			answerJSON(w, quarantine.Report{Checked: 3, Released: 2, Left: 1})
		case "POST /api/v1/quarantine/drop":
			b, _ := io.ReadAll(r.Body)
			if string(b) != `{"ids":[12,13]}` {
				t.Errorf("asked to drop %s", b)
			}
			answerJSON(w, admin.DropQuarantineResult{Dropped: 2})
		}
	})
	for _, c := range []struct{ args, stdout, stderr string }{
		{"quarantine list", "was it rolled?\n", "2 items in all; there are more:\n  breakwater quarantine list --cursor n"},
		{"quarantine list --json", `"diagnosis": "was it rolled?"`, ""},
		{"quarantine recheck", "checked 3, released 2, left 1\n", "matches no secret"},
		{"quarantine recheck --json", `"released": 2`, ""},
		{"quarantine drop 12 13 --yes", "2 items removed\n", ""},
		{"quarantine drop 12 13 -y --json", `"dropped": 2`, ""},
	} {
		code, stdout, stderr := run(t.Context(), append(strings.Fields(c.args), "--admin", url)...)
		if code != exitOK || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
}

// TestTailComesBack: a lost connection is made again; what is refused then is an error.
func TestTailComesBack(t *testing.T) {
	t.Parallel()
	var connections atomic.Int64
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		n := connections.Add(1)
		if n == 2 {
			panic(http.ErrAbortHandler)
		}
		if n == 4 {
			problem(401, "no")(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "retry: 2000\n\nevent: backend\ndata: {\"name\":\"legacy\"}\n\n:\n\n")
		fmt.Fprintf(w, "event: attempt\ndata: {\"id\":\"evt_%d\",\"type\":\"invoice.paid\",\"backend\":\"legacy\",\"outcome\":\"delivered\",\"status\":200}\n\n", n)
	})
	code, stdout, stderr := run(t.Context(), "tail", "--admin", url)
	if code != exitFailed || strings.Count(stdout, "\n") != 2 || !strings.Contains(stdout, "evt_1 ") || !strings.Contains(stdout, "evt_3 ") {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	if strings.Count(stderr, "was lost; trying again") != 2 || strings.Count(stderr, "connected again") != 1 || !strings.Contains(stderr, "BREAKWATER_ADMIN_TOKEN") {
		t.Errorf("stderr %q", stderr)
	}
}

// TestTailEnds: Ctrl-C is how it ends, and no failure.
func TestTailEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "event: backend\ndata: {}\n\n")
		_ = http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	})
	if code, _, stderr := run(ctx, "tail", "--json", "--only", "backend", "--admin", url); code != exitOK || stderr != "" {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// TestResendGoesOnPastAMissingEvent: one that is gone does not keep the others from it.
func TestResendGoesOnPastAMissingEvent(t *testing.T) {
	t.Parallel()
	url := fakeAdmin(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "evt_gone") {
			problem(404, "no such event")(w, r)
			return
		}
		answerJSON(w, admin.ResendResult{ID: "evt_1", Deliveries: []admin.Resent{
			{Backend: "a", Turn: 2, Result: "new_turn"}, {Backend: "b", Turn: 1, Result: "due_now"}, {Backend: "c", Turn: 1, Result: "in_flight"},
		}})
	})
	code, stdout, stderr := run(t.Context(), "resend", "evt_gone", "evt_1", "--admin", url)
	want := "evt_1  a: is sent again, turn 2\nevt_1  b: it was waiting and is sent now\nevt_1  c: it is being sent at this moment and was left alone\n"
	if code != exitNotFound || stdout != want || stderr != "breakwater: evt_gone: no such event\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}
