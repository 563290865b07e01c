package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v76/webhook"
)

// TestPeersVerify keeps the comparison honest: a peer that did not verify would be cheap.
func TestPeersVerify(t *testing.T) {
	var forwarded []byte
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		forwarded, _ = io.ReadAll(r.Body)
	}))
	defer backend.Close()
	to, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	peers := []struct {
		name     string
		handler  http.Handler
		forwards bool
	}{
		{"handler", http.HandlerFunc(answerVerified), false},
		{"proxy", forwardVerified(to), true},
	}

	now := time.Now()
	body := `{"id":"evt_1","object":"event"}`
	large := strings.Repeat("x", peerBody)
	sign := func(at time.Time, body, secret string) string {
		return fmt.Sprintf("t=%d,v1=%x", at.Unix(), webhook.ComputeSignature(at, []byte(body), secret))
	}
	good := sign(now, body, signingSecret)
	stamp, v1, _ := strings.Cut(good, ",")
	for _, c := range []struct {
		name, body, signature string
		chunked               bool
		want                  int
	}{
		{name: "good", body: body, signature: good, want: 200},
		{name: "length unknown", body: body, signature: good, chunked: true, want: 200},
		{name: "second of two signatures", body: body, signature: stamp + ",v1=" + strings.Repeat("0", 64) + "," + v1, want: 200},
		{name: "time last", body: body, signature: v1 + "," + stamp, want: 200},
		{name: "large", body: large, signature: sign(now, large, signingSecret), want: 200},
		{name: "tampered body", body: strings.Replace(body, "1", "2", 1), signature: good, want: 400},
		{name: "shortened body", body: body[:len(body)-1], signature: good, want: 400},
		{name: "wrong secret", body: body, signature: sign(now, body, "whsec_other"), want: 400},
		{name: "another time", body: body, signature: fmt.Sprintf("t=%d,%s", now.Unix()-1, v1), want: 400},
		{name: "stale", body: body, signature: sign(now.Add(-6*time.Minute), body, signingSecret), want: 400},
		{name: "ahead", body: body, signature: sign(now.Add(6*time.Minute), body, signingSecret), want: 400},
		{name: "no signature", body: body, want: 400},
		{name: "no time", body: body, signature: v1, want: 400},
		{name: "no v1", body: body, signature: stamp, want: 400},
		{name: "no hex", body: body, signature: stamp + ",v1=" + strings.Repeat("x", 64), want: 400},
		{name: "too large", body: large + "x", signature: sign(now, large+"x", signingSecret), want: 400},
		{name: "too large, length unknown", body: large + "x", signature: sign(now, large+"x", signingSecret), chunked: true, want: 400},
	} {
		for _, p := range peers {
			t.Run(c.name+"/"+p.name, func(t *testing.T) {
				forwarded = nil
				r := httptest.NewRequest(http.MethodPost, webhookPath, strings.NewReader(c.body))
				if c.chunked {
					r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
				}
				if c.signature != "" {
					r.Header.Set("Stripe-Signature", c.signature)
				}
				w := httptest.NewRecorder()
				p.handler.ServeHTTP(w, r)
				if w.Code != c.want {
					t.Fatalf("answered %d, want %d", w.Code, c.want)
				}
				if want := p.forwards && c.want == http.StatusOK; want != (forwarded != nil) {
					t.Fatalf("forwarded %v, want %v", !want, want)
				} else if want && !bytes.Equal(forwarded, []byte(c.body)) {
					t.Fatal("the body changed on its way")
				}
			})
		}
	}
}
