package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// guard lets through who may ask; the package's doc says who that is.
func (a *api) guard(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(a.Token))
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.Token == "" {
			if !loopback(r.Host) {
				problem(w, http.StatusMisdirectedRequest, "without a token only loopback names are answered: set admin.token")
				return
			}
		} else {
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			got := sha256.Sum256([]byte(token))
			if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
				w.Header().Set("WWW-Authenticate", `Bearer realm="breakwater"`)
				problem(w, http.StatusUnauthorized, "the admin token is needed: Authorization: Bearer ...")
				return
			}
		}
		if err := crossOrigin.Check(r); err != nil {
			problem(w, http.StatusForbidden, "a page of another site may not do this")
			return
		}
		next.ServeHTTP(w, r)
	})
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
