package conditions

import (
	"strings"
	"testing"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestHint(t *testing.T) {
	t.Parallel()
	const page = "\n<!DOCTYPE html>\n<title>Sign in</title>"
	for _, tt := range []struct {
		outcome string
		status  int
		problem string
		excerpt string
		want    string // a part of the hint; "" for none
	}{
		{"", 0, "", "", ""},
		{proxy.OutcomeDelivered, 200, "", "ok", ""},
		{proxy.OutcomeDelivered, 200, "", page, "success.body_not"},
		{proxy.OutcomeSoftFailure, 200, "", page, "login or error page"},
		{proxy.OutcomeSoftFailure, 204, "answered 204, which success.status does not accept", "", "success rules"},
		{proxy.OutcomeSoftFailure, 200, "the answer is longer than 65536 bytes", "", "shorter body"},
		{proxy.OutcomeReset, 0, `net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0"`, "", "does not speak HTTP"},
		{proxy.OutcomeRedirect, 301, `answered 301 to "https://shop.example/hook/"; redirects are not followed`, "", "url to https://shop.example/hook/"},
		{proxy.OutcomeRedirect, 302, `answered 302 to "https://shop.example/login"; redirects are not followed`, "", "login page"},
		{proxy.OutcomeRedirect, 308, "", "", "final URL"},
		{proxy.OutcomeStatus4xx, 400, "answered 400", "No signatures found matching the expected signature for payload", "signing secret"},
		{proxy.OutcomeStatus4xx, 400, "answered 400", "Timestamp outside the tolerance zone", "clock"},
		{proxy.OutcomeStatus4xx, 403, "answered 403", "Invalid Stripe-Signature", "signing secret"},
		{proxy.OutcomeStatus4xx, 400, "answered 400", "bad", "should answer 2xx"},
		{proxy.OutcomeStatus4xx, 401, "", "", "login"},
		{proxy.OutcomeStatus4xx, 403, "", "CSRF verification failed. Request aborted.", "CSRF"},
		{proxy.OutcomeStatus4xx, 403, "", "Forbidden", "address"},
		{proxy.OutcomeStatus4xx, 419, "", "Page Expired", "CSRF"},
		{proxy.OutcomeStatus4xx, 404, "", "", "nothing at this path"},
		{proxy.OutcomeStatus4xx, 405, "", "", "POST"},
		{proxy.OutcomeStatus4xx, 410, "", "", "gone"},
		{proxy.OutcomeStatus4xx, 413, "", "", "client_max_body_size"},
		{proxy.OutcomeStatus4xx, 415, "", "", "Content-Type"},
		{proxy.OutcomeStatus4xx, 418, "", "", "refused"},
		{proxy.OutcomeStatus429, 429, "", "", "max_in_flight"},
		{proxy.OutcomeStatus5xx, 500, "", "", "log"},
		{proxy.OutcomeStatus5xx, 502, "", "", "does not reach it"},
		{proxy.OutcomeStatus5xx, 503, "", "", "maintenance"},
		{proxy.OutcomeStatus5xx, 504, "", "", "gave up waiting"},
		{proxy.OutcomeTimeout, 0, "no answer in time", "", "Answer first and work later"},
		{proxy.OutcomeDial, 0, "dial tcp 127.0.0.1:8000: connect: connection refused", "", "is it running"},
		{proxy.OutcomeDial, 0, "dial tcp: lookup bakend: no such host", "", "DNS"},
		{proxy.OutcomeDial, 0, "dial tcp 10.0.0.9:80: i/o timeout", "", "firewall"},
		{proxy.OutcomeDial, 0, "", "", "nothing was sent"},
		{proxy.OutcomeTLS, 0, "x509: certificate has expired or is not yet valid", "", "renew"},
		{proxy.OutcomeTLS, 0, "x509: certificate signed by unknown authority", "", "ca_file"},
		{proxy.OutcomeTLS, 0, "x509: certificate is valid for a.example, not b.example", "", "another name"},
		{proxy.OutcomeTLS, 0, "tls: first record does not look like a TLS handshake", "", "http instead of https"},
		{proxy.OutcomeTLS, 0, "", "", "TLS 1.2"},
		{proxy.OutcomeReset, 0, "EOF", "", "restarted"},
		{proxy.OutcomeInterrupted, 0, "", "", "stopped"},
		{proxy.OutcomePanic, 0, "", "", "report"},
	} {
		got := Hint(tt.outcome, tt.status, tt.problem, tt.excerpt)
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s %d %q %q: got %q, want %q in it", tt.outcome, tt.status, tt.problem, tt.excerpt, got, tt.want)
		}
	}
	status := map[string]int{
		proxy.OutcomeDelivered: 200, proxy.OutcomeSoftFailure: 200, proxy.OutcomeRedirect: 302, proxy.OutcomeStatus4xx: 400,
		proxy.OutcomeStatus429: 429, proxy.OutcomeStatus5xx: 500,
	}
	for _, outcome := range proxy.Outcomes {
		if (Hint(outcome, status[outcome], "", "") == "") != (outcome == proxy.OutcomeDelivered) {
			t.Errorf("%s has no hint, or one that it needs not", outcome)
		}
	}
}
