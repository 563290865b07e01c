package conditions

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// Hint says what to do about an attempt that ended as told: one or two sentences for a person, or "" where all is well.
// outcome is one of proxy.Outcomes; status is 0 without an answer. problem is Attempt.Error and excerpt the beginning of
// the answer's body; either may be empty, the hint is then less exact.
func Hint(outcome string, status int, problem, excerpt string) string {
	switch outcome {
	case "":
		return ""
	case proxy.OutcomeDelivered:
		if looksLikeHTML(excerpt) {
			return "It answered 2xx, but with an HTML page: a login or error page, perhaps? Then nothing was done. If so, name a text of " +
				"that page in success.body_not, and it counts as a failure."
		}
		return ""
	case proxy.OutcomeSoftFailure:
		if strings.Contains(problem, "the answer is longer than") {
			return "It answered, but with more than can be relayed to Stripe: have it send a shorter body."
		}
		if looksLikeHTML(excerpt) {
			return "It answered 2xx with an HTML page that the backend's success rules refuse: a login or error page stands in front of " +
				"the handler."
		}
		return "It answered 2xx, but the backend's success rules in routes.yaml do not take that for done."
	case proxy.OutcomeRedirect:
		return redirectHint(problem)
	case proxy.OutcomeDial:
		return dialHint(problem)
	case proxy.OutcomeTLS:
		return tlsHint(problem)
	case proxy.OutcomeTimeout:
		return "The backend took longer than its timeout. It may have done the work all the same, so it must look at the event's id. " +
			"Answer first and work later, or raise the backend's timeout."
	case proxy.OutcomeReset:
		if strings.Contains(problem, "malformed HTTP") {
			return "What answers there does not speak HTTP: is the port of the backend's url right, and is it https rather than http?"
		}
		return "The connection ended before there was an answer: the backend was restarted or its worker died. If it goes on, look for " +
			"crashes and memory limits in the backend's log."
	case proxy.OutcomeInterrupted:
		return "The gateway itself was stopped meanwhile. The event is sent again."
	case proxy.OutcomePanic:
		return "The gateway failed inside. The event is sent again; please report what its log says."
	}
	return statusHint(status, excerpt)
}

func redirectHint(problem string) string {
	to := ""
	if _, rest, found := strings.Cut(problem, ` to "`); found {
		to, _, _ = strings.Cut(rest, `"`)
	}
	switch lower := strings.ToLower(to); {
	case to == "":
		return "Redirects are not followed, by Stripe neither: set the backend's url to the final URL. Often it is https for http, " +
			"www, or a slash at the end; a redirect to a login page means that auth stands in front of the handler."
	case strings.Contains(lower, "login"), strings.Contains(lower, "signin"), strings.Contains(lower, "sign_in"), strings.Contains(lower, "auth"):
		return fmt.Sprintf("It sends the gateway to a login page (%s): exempt the webhook's path from authentication.", to)
	}
	return fmt.Sprintf("Redirects are not followed, by Stripe neither: set the backend's url to %s, if that is the handler.", to)
}

func dialHint(problem string) string {
	switch {
	case strings.Contains(problem, "connection refused"):
		return "Nothing listens at the backend's address: is it running, and is the port right?"
	case strings.Contains(problem, "no such host"), strings.Contains(problem, "lookup "):
		return "The backend's name cannot be resolved: is it spelled right, and does DNS work on this machine?"
	case strings.Contains(problem, "timeout"), strings.Contains(problem, "no route to host"), strings.Contains(problem, "unreachable"):
		return "The backend's address does not answer: is the machine up, and does a firewall let this gateway in? It sees the gateway's " +
			"address, not Stripe's."
	}
	return "No connection to the backend: nothing was sent. Is it running, and are address and port right?"
}

func tlsHint(problem string) string {
	switch {
	case strings.Contains(problem, "expired"):
		return "The backend's certificate has expired, or this machine's clock is wrong: renew it."
	case strings.Contains(problem, "unknown authority"):
		return "The backend's certificate is signed by an authority that this machine does not know: set the backend's ca_file, or serve " +
			"the whole chain."
	case strings.Contains(problem, "valid for"), strings.Contains(problem, "IP SANs"):
		return "The backend's certificate is for another name: use the name that it is made for in the backend's url."
	case strings.Contains(problem, "first record does not look like a TLS handshake"), strings.Contains(problem, "HTTP response to HTTPS"):
		return "The backend does not speak TLS on this port: http instead of https in the backend's url?"
	}
	return "The TLS handshake failed: look at the backend's certificate, its chain, and that it speaks TLS 1.2 or later."
}

func statusHint(status int, excerpt string) string {
	text := strings.ToLower(excerpt)
	switch {
	case status == http.StatusBadRequest && strings.Contains(text, "tolerance"), strings.Contains(text, "timestamp outside"):
		return "The backend refused the signature for its time: compare its clock with this machine's, or lower resign_after."
	case status >= 400 && status <= 499 && strings.Contains(text, "signature"):
		return "The backend refused the signature. Does it hold this source's signing secret, or have its own signing_secrets in " +
			"routes.yaml? And does it verify the raw body, before any parser has changed it?"
	case status == http.StatusForbidden && strings.Contains(text, "csrf"), status == 419:
		return "CSRF protection refused the event: exempt the webhook's path from it. The signature is what proves where it comes from."
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return "Something in front of the handler asks for a login, a CSRF token or an address that it knows: exempt the webhook's path, let " +
			"the gateway's address in, or set the backend's headers (Authorization)."
	case status == http.StatusNotFound:
		return "There is nothing at this path. Is the backend's url right, to the last slash? If it is the handler that does not know the " +
			"object, it should answer 2xx: trying again does not help."
	case status == http.StatusMethodNotAllowed:
		return "The path does not take POST: is the backend's url the webhook's, and not a page's?"
	case status == http.StatusGone:
		return "The backend says that this path is gone for good: set the backend's url, or remove it from the routes."
	case status == http.StatusRequestEntityTooLarge:
		return "The backend takes no body of this size: raise its limit (nginx client_max_body_size, PHP post_max_size) to 1 MiB at least."
	case status == http.StatusUnsupportedMediaType:
		return "The backend wants another Content-Type: Stripe sends application/json; charset=utf-8, and so does the gateway."
	case status == http.StatusRequestTimeout, status == http.StatusGatewayTimeout:
		return "A proxy in front of the backend gave up waiting for it: answer first and work later, or raise that proxy's timeout."
	case status == http.StatusTooManyRequests:
		return "The backend asks for fewer requests: its Retry-After is honoured. Lower max_in_flight, or set rate."
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable:
		return "A proxy in front of the backend does not reach it, or it is in maintenance. The event is kept and tried again."
	case status >= 500:
		return "The handler failed. Its log says why; once it is mended, the event is tried again, or resend it."
	case status == http.StatusBadRequest, status == http.StatusUnprocessableEntity:
		return "The handler refused the event: its log should say why. If it is an event that it need not handle, it should answer 2xx."
	case status >= 400:
		return "The backend refused the event; what it answered should say why."
	}
	return ""
}

func looksLikeHTML(excerpt string) bool {
	text := strings.ToLower(strings.TrimSpace(excerpt))
	return strings.HasPrefix(text, "<!doctype html") || strings.HasPrefix(text, "<html") || strings.HasPrefix(text, "<head") ||
		strings.HasPrefix(text, "<?xml") && strings.Contains(text, "<html")
}
