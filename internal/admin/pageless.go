//go:build !pagewip

package admin

import (
	"fmt"
	"net/http"
)

// pages stands in for the web page.
func (a *api) pages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "Breakwater %s: the API is described at /openapi.json\n", a.Version)
	})
}
