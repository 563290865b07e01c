package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"breakwater": func() {
			os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// leakChecked fails the tests when a goroutine outlives them.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// TestScripts runs testdata/*.txt. Beside testscript's own commands there are
//
//	get URL            prints the body of the answer and fails unless it is 200
//	until ARGS...      runs breakwater with these arguments again and again until it succeeds
//	status CODE URL    asks again and again until the answer has this status
//	shows RE ARGS...   runs breakwater with these arguments again and again until its output matches
//	hanging            waits until HANGING has an event
//	answers CODE TEXT  sets what MOODY answers from now on; at first 200
//
// and the variables BACKEND, a backend that answers 200, HANGING, one that never does, MOODY, and PORT and ADMIN_PORT,
// which are free. BREAKWATER_ADMIN is at ADMIN_PORT.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, "thanks")
			}))
			env.Defer(backend.Close)
			env.Setenv("BACKEND", backend.URL)
			arrived, ended := make(chan struct{}, 1), make(chan struct{})
			hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				select {
				case arrived <- struct{}{}:
				default:
				}
				<-ended
			}))
			env.Defer(hanging.Close)
			env.Defer(func() { close(ended) })
			env.Setenv("HANGING", hanging.URL)
			env.Values["arrived"] = arrived
			mood := &mood{status: http.StatusOK}
			moody := httptest.NewServer(mood)
			env.Defer(moody.Close)
			env.Setenv("MOODY", moody.URL)
			env.Values["mood"] = mood
			env.Setenv("PORT", freePort(t))
			port := freePort(t)
			env.Setenv("ADMIN_PORT", port)
			env.Setenv("BREAKWATER_ADMIN", "http://127.0.0.1:"+port)
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // under -race each command would take a second longer
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"get": func(ts *testscript.TestScript, neg bool, args []string) {
				res, err := http.Get(args[0])
				ts.Check(err)
				defer res.Body.Close()
				_, err = io.Copy(ts.Stdout(), res.Body)
				ts.Check(err)
				if (res.StatusCode == http.StatusOK) == neg {
					ts.Fatalf("%s: %s", args[0], res.Status)
				}
			},
			"hanging": func(ts *testscript.TestScript, _ bool, _ []string) {
				select {
				case <-ts.Value("arrived").(chan struct{}):
				case <-time.After(20 * time.Second):
					ts.Fatalf("no event came")
				}
			},
			"status": func(ts *testscript.TestScript, _ bool, args []string) {
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					res, err := http.Get(args[1])
					if err == nil {
						res.Body.Close()
						if strconv.Itoa(res.StatusCode) == args[0] {
							return
						}
					}
					if time.Now().After(deadline) {
						ts.Fatalf("%s: no %s", args[1], args[0])
					}
				}
			},
			"answers": func(ts *testscript.TestScript, _ bool, args []string) {
				status, err := strconv.Atoi(args[0])
				ts.Check(err)
				ts.Value("mood").(*mood).set(status, strings.Join(args[1:], " "))
			},
			"shows": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := regexp.Compile("(?m)" + args[0])
				ts.Check(err)
				for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
					if ts.Exec("breakwater", args[1:]...) == nil && want.MatchString(ts.ReadFile("stdout")) {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("breakwater %v does not show %s", args[1:], args[0])
					}
				}
			},
			"until": func(ts *testscript.TestScript, _ bool, args []string) {
				for deadline := time.Now().Add(20 * time.Second); ts.Exec("breakwater", args...) != nil; {
					if time.Now().After(deadline) {
						ts.Fatalf("breakwater %v does not succeed", args)
					}
					time.Sleep(50 * time.Millisecond)
				}
			},
		},
	})
}

// mood is a backend that answers as it is told.
type mood struct {
	mu     sync.Mutex
	status int
	text   string
}

func (m *mood) set(status int, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status, m.text = status, text
}

func (m *mood) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	m.mu.Lock()
	defer m.mu.Unlock()
	w.WriteHeader(m.status)
	fmt.Fprint(w, m.text)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// TestExitCodes: scripts can tell these apart, testscript cannot.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, exitOK},
		{[]string{"--help"}, exitOK},
		{[]string{"nothing"}, exitUsage},
		{[]string{"version", "--no-such-flag"}, exitUsage},
		{[]string{"version", "extra"}, exitUsage},
		{[]string{"demo", "--rate", "0/s"}, exitUsage},
		{[]string{"check", "--config", "testdata/nothing.yaml"}, exitUsage},
		{[]string{"serve", "--config", "testdata/nothing.yaml"}, exitUsage},
		{[]string{"route", "invoice.paid", "--config", "testdata/nothing.yaml"}, exitUsage},
		{[]string{"serve", "--probe", "--admin", "http://127.0.0.1:1"}, exitUnreachable},
		{[]string{"serve", "--probe", "--admin", ":"}, exitUsage},
	} {
		if got := Main(t.Context(), c.args, nil, io.Discard, io.Discard); got != c.want {
			t.Errorf("breakwater %v: exit code %d, want %d", c.args, got, c.want)
		}
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not ready: stopping", http.StatusServiceUnavailable)
	}))
	defer s.Close()
	var said strings.Builder
	code := Main(t.Context(), []string{"serve", "--probe", "--admin", s.URL + "/"}, nil, io.Discard, &said)
	if code != exitFailed || !strings.Contains(said.String(), "not ready: stopping") {
		t.Errorf("exit code %d, %q", code, said.String())
	}
}
