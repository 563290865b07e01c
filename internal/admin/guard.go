package admin

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// access knows who may ask; the package's doc says who that is.
type access struct {
	*core
	sessions *sessions
	guesses  *guesses
}

func newAccess(c *core) *access { return &access{c, newSessions(), newGuesses()} }

// guard lets through who may ask.
func (a *access) guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		actor, ok := "", false
		if a.Token == "" {
			if !loopback(r.Host) {
				problem(w, http.StatusMisdirectedRequest, "without a token only loopback names are answered: set admin.token")
				return
			}
			actor = "loopback"
		} else if actor, ok = a.actor(w, r); !ok {
			return
		}
		if err := crossOrigin.Check(r); err != nil {
			problem(w, http.StatusForbidden, "a page of another site may not do this")
			return
		}
		next.ServeHTTP(w, as(r, actor))
	})
}

// actor says who makes a request to a listener with a token. It has answered those who may not.
func (a *access) actor(w http.ResponseWriter, r *http.Request) (actor string, ok bool) {
	if actor, ok := a.sessions.actor(r); ok {
		return actor, true
	}
	if r.URL.Path == loginPath || r.URL.Path == logoutPath || strings.HasPrefix(r.URL.Path, "/static/") && r.Method == http.MethodGet {
		return "", true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case token == "" && r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html"):
		http.Redirect(w, r, loginPath+"?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
		return "", false
	case token != "" && !a.guesses.allowed(r):
		w.Header().Set("Retry-After", "10")
		problem(w, http.StatusTooManyRequests, "too many wrong tokens from this address")
		return "", false
	case strings.EqualFold(scheme, "Bearer") && a.isToken(token):
		return "token", true
	case token != "":
		a.guesses.wrong(r)
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="breakwater"`)
	problem(w, http.StatusUnauthorized, "the admin token is needed: Authorization: Bearer ...")
	return "", false
}

// loopback reports whether host, as in a Host header, can only mean this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// headers gives every answer what keeps a browser from doing more with it than show it.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// problems serves mux, and turns its own plain texts for an unknown path or method into problem details.
func problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r) // not h: only ServeHTTP sets the path's values
			return
		}
		s := statusOnly{ResponseWriter: w}
		h.ServeHTTP(&s, r)
		detail := "no such path: / lists what there is"
		if s.status == http.StatusMethodNotAllowed {
			detail = "this path takes " + w.Header().Get("Allow")
		}
		problem(w, s.status, detail)
	})
}

// statusOnly keeps the headers and the status of an answer and drops the rest.
type statusOnly struct {
	http.ResponseWriter
	status int
}

func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(&huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail})
}
