package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/breakwater-gateway/breakwater/internal/toystripe"
)

// gate answers as a gateway would, and remembers the ids that it was sent.
type gate struct {
	*httptest.Server
	mu  sync.Mutex
	ids []string
}

func newGate(t *testing.T, status func(n int) int) *gate {
	t.Helper()
	g := &gate{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if err := webhook.ValidatePayload(body, r.Header.Get("Stripe-Signature"), "whsec_a"); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"status":"rejected","reason":"no_match"}`)
			return
		}
		var e struct{ ID string }
		if err := json.Unmarshal(body, &e); err != nil {
			t.Error(err)
		}
		g.mu.Lock()
		g.ids = append(g.ids, e.ID)
		n := len(g.ids)
		g.mu.Unlock()
		w.WriteHeader(status(n))
		_, _ = io.WriteString(w, `{"status":"delivered","event":"`+e.ID+`"}`+"\nmore")
	}))
	t.Cleanup(g.Close)
	return g
}

func always(status int) func(int) int { return func(int) int { return status } }

// runSend runs the command and hides what differs from run to run.
func runSend(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), append([]string{"send"}, args...), strings.NewReader(""), &out, &errs)
	stdout = regexp.MustCompile(`evt_[0-9A-Za-z_]{20,}`).ReplaceAllString(out.String(), "evt_ID")
	stdout = regexp.MustCompile(` +[0-9.]+m?s\b`).ReplaceAllString(stdout, " Nms")
	return code, stdout, errs.String()
}

// Tables of one answer.
const (
	delivered = "STATUS  ANSWER                                      COUNT       P50       P99\n" +
		"200     {\"status\":\"delivered\",\"event\":\"evt_...\"}        1 Nms Nms\n"
	rejected = "STATUS  ANSWER                                       COUNT       P50       P99\n" +
		"400     {\"status\":\"rejected\",\"reason\":\"no_match\"}        1 Nms Nms\n"
)

func TestSendCommand(t *testing.T) {
	t.Setenv("STRIPE_SIGNING_SECRET", "")
	dead := httptest.NewServer(nil)
	dead.Close()
	cases := []struct {
		name   string
		status func(int) int
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{
			name: "one", args: []string{"invoice.paid", "--secret", "whsec_a"},
			stdout: "evt_ID  invoice.paid\n\n" + delivered,
		},
		{
			name: "while a secret is rolled", args: []string{"v1.invoice.paid", "--secret", "whsec_b", "--secret", "whsec_a"},
			stdout: "evt_ID  v1.invoice.paid\n\n" + delivered,
		},
		{
			name: "wrong secret", args: []string{"invoice.paid", "--secret", "whsec_b"}, code: exitFailed,
			stdout: "evt_ID  invoice.paid\n\n" + rejected,
			stderr: "breakwater: 1 of 1 not answered 2xx. 400 means that the signature was not believed: is --secret one of the source's signing_secrets?\n",
		},
		{
			name: "stale", args: []string{"invoice.paid", "--secret", "whsec_a", "--stale", "10m"}, code: exitFailed,
			stdout: "evt_ID  invoice.paid\n\n" + rejected,
			stderr: "breakwater: 1 of 1 not answered 2xx\n",
		},
		{
			name: "tampered", args: []string{"invoice.paid", "--secret", "whsec_a", "--tamper"}, code: exitFailed,
			stdout: "evt_ID  invoice.paid\n\n" + rejected,
			stderr: "breakwater: 1 of 1 not answered 2xx\n",
		},
		{
			name: "a type without a sample", args: []string{"invoice.overdue", "--secret", "whsec_a"},
			stdout: "evt_ID  invoice.overdue\n\n" + delivered,
			stderr: "note: there is no sample of invoice.overdue (see --list): the object in it is made up\n",
		},
		{
			name: "many, some refused", args: []string{"invoice.*", "--secret", "whsec_a", "--count", "5", "--concurrency", "3"}, code: exitFailed,
			status: func(n int) int { return map[bool]int{true: 503, false: 200}[n > 20] },
			stdout: "STATUS  ANSWER                                      COUNT       P50       P99\n" +
				"200     {\"status\":\"delivered\",\"event\":\"evt_...\"}       20 Nms Nms\n" +
				"503     {\"status\":\"delivered\",\"event\":\"evt_...\"}       10 Nms Nms\n",
			stderr: "breakwater: 10 of 30 not answered 2xx. 503 means that the gateway could not keep the event, or that its backend has to answer first: its log says which\n",
		},
		{
			name: "redirect", args: []string{"invoice.paid", "--secret", "whsec_a"}, status: always(302), code: exitFailed,
			stdout: "evt_ID  invoice.paid\n\n" +
				"STATUS  ANSWER                                      COUNT       P50       P99\n" +
				"302     {\"status\":\"delivered\",\"event\":\"evt_...\"}        1 Nms Nms\n",
			stderr: "breakwater: 1 of 1 not answered 2xx\n",
		},
		{
			name: "nothing there", args: []string{"all", "--secret", "whsec_a", "--count", "100000", "--to", dead.URL}, code: exitUnreachable,
			stderr: "breakwater: no gateway at " + dead.URL + " (connection refused); is it running? Start it with `make run`\n",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.status == nil {
				c.status = always(200)
			}
			g := newGate(t, c.status)
			code, stdout, stderr := runSend(t, append([]string{"--to", g.URL}, c.args...)...)
			if code != c.code {
				t.Errorf("got exit code %d, want %d", code, c.code)
			}
			if d := cmp.Diff(c.stdout, stdout); d != "" {
				t.Errorf("stdout: %s", d)
			}
			if d := cmp.Diff(c.stderr, stderr); d != "" {
				t.Errorf("stderr: %s", d)
			}
		})
	}
}

func TestSendUsage(t *testing.T) {
	t.Setenv("STRIPE_SIGNING_SECRET", "")
	secret := []string{"--secret", "whsec_a"}
	cases := []struct {
		name string
		args []string
		want string
	}{
		{"no type", secret, "breakwater: which type? For one: breakwater send invoice.paid. For all that there are: breakwater send --list\n"},
		{"no such pattern", append(secret, "foo.*"), "breakwater: foo.*: no sample has such a type; see breakwater send --list\n"},
		{"not a pattern", append(secret, "foo*["), "breakwater: foo*[: not a pattern\n"},
		{"no secret", []string{"invoice.paid"}, "breakwater: no signing secret: give --secret whsec_..., or set STRIPE_SIGNING_SECRET, to one that the source has\n"},
		{"no URL", append(secret, "invoice.paid", "--to", "localhost:8420"), "breakwater: --to localhost:8420: want a URL such as http://127.0.0.1:8420/stripe/webhook\n"},
		{"no count", append(secret, "invoice.paid", "--count", "0"), "breakwater: --count, --concurrency and --timeout must be above 0\n"},
		{"odd rate", append(secret, "invoice.paid", "--rate", "5/y"), "breakwater: --rate 5/y: want a number above 0 such as 50/s or 600/m\n"},
	}
	for _, c := range cases {
		code, stdout, stderr := runSend(t, c.args...)
		if code != exitUsage || stdout != "" {
			t.Errorf("%s: got exit code %d and %q", c.name, code, stdout)
		}
		if d := cmp.Diff(c.want, stderr); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestSendList(t *testing.T) {
	_, stdout, _ := runSend(t, "--list")
	if got := strings.Fields(stdout); !slices.Equal(got, toystripe.Types()) {
		t.Errorf("got %q", got)
	}
	_, stdout, _ = runSend(t, "--list", "--json")
	var got []string
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || !slices.Equal(got, toystripe.Types()) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestSendJSON(t *testing.T) {
	t.Setenv("STRIPE_SIGNING_SECRET", "whsec_a")
	g := newGate(t, always(200))
	var out, errs bytes.Buffer
	args := []string{"send", "customer.created", "invoice.paid", "--to", g.URL, "--json", "--duplicate", "--count", "2", "--concurrency", "1"}
	if code := Main(t.Context(), args, strings.NewReader(""), &out, &errs); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	var got struct {
		Sent, Failed int
		Answers      []sentAnswers
		Events       []sentEvent
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	if got.Sent != 8 || got.Failed != 0 || len(got.Answers) != 1 || got.Answers[0].Count != 8 || len(got.Events) != 8 {
		t.Fatalf("got %s", &out)
	}
	var ids []string
	for i, e := range got.Events {
		ids = append(ids, e.ID)
		if again := i%2 == 1; again && e.ID != ids[i-1] || !again && i > 0 && e.ID == ids[i-1] {
			t.Errorf("event %d is %s after %s", i, e.ID, ids[i-1])
		}
		if want := []string{"customer.created", "invoice.paid"}[i/2%2]; e.Type != want || e.Status != 200 {
			t.Errorf("got %+v, want %s", e, want)
		}
	}
	if !slices.Equal(ids, g.ids) {
		t.Errorf("the gateway got %q, told was %q", g.ids, ids)
	}
}

// Ctrl-C: what was answered is shown, and the exit code says that it was not all.
func TestSendStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := newGate(t, func(n int) int {
		if n == 3 {
			cancel()
		}
		return 200
	})
	var out, errs bytes.Buffer
	args := []string{"send", "invoice.paid", "--to", g.URL, "--secret", "whsec_a", "--count", "1000000", "--concurrency", "1"}
	code := Main(ctx, args, strings.NewReader(""), &out, &errs)
	if want := regexp.MustCompile(`^breakwater: stopped: [23] of 1000000 were answered\n$`); code != exitFailed || !want.MatchString(errs.String()) {
		t.Errorf("got exit code %d and %q", code, &errs)
	}
	if !strings.Contains(out.String(), "STATUS  ANSWER") {
		t.Errorf("got %s", &out)
	}
}

func TestSendKeepsToTheRate(t *testing.T) {
	g := newGate(t, always(200))
	start := time.Now()
	code, _, stderr := runSend(t, "invoice.paid", "--to", g.URL, "--secret", "whsec_a", "--count", "6", "--rate", "50/s")
	if took := time.Since(start); code != exitOK || took < 100*time.Millisecond {
		t.Errorf("exit code %d, 6 at 50/s took %v; %s", code, took, stderr)
	}
}

// The table, with each kind of answer in it.
func TestSendTable(t *testing.T) {
	t.Parallel()
	r := newSendReport(1000, false)
	ev := toystripe.Event{ID: "evt_1", Type: "invoice.paid"}
	for i := range 1000 {
		took := time.Duration(i+1) * 100 * time.Microsecond
		switch {
		case i%100 == 0:
			r.add(ev, 0, "connection reset", took)
		case i%10 == 0:
			r.add(ev, 400, excerpt([]byte(`{"status":"rejected","reason":"no_match"}`), ev.ID), took)
		case i%7 == 0:
			r.add(ev, 200, excerpt([]byte("ok\x00 é\n<b>more</b>"), ev.ID), took)
		case i == 1:
			r.add(ev, 502, excerpt([]byte(strings.Repeat("long ", 40)), ev.ID), 65*time.Second)
		default:
			r.add(ev, 200, excerpt([]byte(`{"status":"stored","event":"evt_1"}`), ev.ID), took)
		}
	}
	var b bytes.Buffer
	b.WriteString(r.bar(4*time.Second, false) + "\n\n")
	if err := r.write(&b, false); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "send.golden"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s\ngot:\n%s", d, &b)
	}
}

func TestSendManyAnswers(t *testing.T) {
	t.Parallel()
	r := newSendReport(1000, false)
	for i := range 1000 {
		r.add(toystripe.Event{}, 200, strings.Repeat("x", i), time.Millisecond)
	}
	rows := r.rows()
	if len(rows) != maxAnswers+1 || rows[0].Answer != "(other answers)" || rows[0].Count != 1000-maxAnswers {
		t.Errorf("got %d rows, the first %+v", len(rows), rows[0])
	}
}

func TestSendSecretsAreNotShown(t *testing.T) {
	t.Setenv("STRIPE_SIGNING_SECRET", "whsec_environment")
	_, stdout, stderr := runSend(t, "--help")
	if strings.Contains(stdout+stderr, "whsec_environment") {
		t.Error("the help shows the secret")
	}
}
