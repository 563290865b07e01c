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

// Why a request was turned away.
const (
	DeniedHost      = "host"        // there is no token, and the request names another host than this machine
	DeniedProxied   = "proxied"     // there is no token, and the request came through a proxy
	DeniedNoToken   = "no_token"    // there is a token, and the request has none
	DeniedToken     = "wrong_token" // there is another one
	DeniedCrossSite = "cross_site"  // a page of another site would change something
)

// DeniedReasons are all of them: the labels of a metric.
var DeniedReasons = []string{DeniedHost, DeniedProxied, DeniedNoToken, DeniedToken, DeniedCrossSite}

// access knows who may ask; the package's doc says who that is.
type access struct {
	*core
	crossSite *http.CrossOriginProtection
	sessions  *sessions
	guesses   *guesses
}

func newAccess(c *core) *access {
	return &access{c, http.NewCrossOriginProtection(), newSessions(), newGuesses()}
}

// guard lets through who may ask.
func (a *access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		actor, denied := a.actor(r)
		if denied != "" && a.Token != "" && toSignIn(r) {
			denied = ""
		}
		if denied == "" && a.crossSite.Check(r) != nil {
			denied = DeniedCrossSite
		}
		if denied != "" {
			a.deny(w, r, denied)
			return
		}
		next.ServeHTTP(w, as(r, actor))
	})
}

// actor says who makes a request, or why it is to be denied. The right token is never held up: a gateway that is being
// guessed at can still be operated.
func (a *access) actor(r *http.Request) (actor, denied string) {
	if a.Token == "" {
		switch {
		case !loopback(r.Host):
			return "", DeniedHost
		case proxied(r):
			return "", DeniedProxied
		}
		return "loopback", ""
	}
	if actor, ok := a.sessions.actor(r); ok {
		return actor, ""
	}
	switch scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); {
	case token == "":
		return "", DeniedNoToken
	case strings.EqualFold(scheme, "Bearer") && a.isToken(token):
		return "token", ""
	}
	return "", DeniedToken
}

// toSignIn reports whether r is for what it takes to sign in and out.
func toSignIn(r *http.Request) bool {
	return r.URL.Path == loginPath || r.URL.Path == logoutPath || strings.HasPrefix(r.URL.Path, "/static/") && r.Method == http.MethodGet
}

func (a *access) deny(w http.ResponseWriter, r *http.Request, reason string) {
	if reason == DeniedNoToken && r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Redirect(w, r, loginPath+"?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
		return
	}
	a.count(reason)
	switch reason {
	case DeniedHost:
		problem(w, http.StatusMisdirectedRequest, "without a token only loopback names are answered: set admin.token")
	case DeniedProxied:
		problem(w, http.StatusForbidden, "this came through a proxy, and without a token each of its visitors would be an operator: set admin.token")
	case DeniedCrossSite:
		problem(w, http.StatusForbidden, "a page of another site may not do this")
	case DeniedToken:
		if a.guessed(w, r) {
			problem(w, http.StatusTooManyRequests, "too many wrong tokens from this address")
			return
		}
		fallthrough
	default:
		w.Header().Set("WWW-Authenticate", `Bearer realm="breakwater"`)
		problem(w, http.StatusUnauthorized, "the admin token is needed: Authorization: Bearer ...")
	}
}

func (a *access) count(denied string) {
	if a.Denied != nil {
		a.Denied(denied)
	}
}

// proxied reports whether r was passed on by a proxy, as far as it can be told: nginx adds nothing by itself, and speaks
// HTTP/1.0 by default before 1.30. Local tools that do so are rare.
func proxied(r *http.Request) bool {
	for name := range r.Header {
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return true
		}
	}
	return !r.ProtoAtLeast(1, 1)
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

// notReady answers a probe, and tells the reason to whom the API would tell it. The log has it too.
func (a *access) notReady(w http.ResponseWriter, r *http.Request, why error) {
	text := "not ready"
	switch _, denied := a.actor(r); denied {
	case "":
		text += ": " + why.Error()
	case DeniedToken:
		a.count(denied)
		a.guessed(w, r)
	}
	http.Error(w, text, http.StatusServiceUnavailable)
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
