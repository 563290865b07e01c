package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strings"
)

const (
	masked       = "***"
	leastSecret  = 6 // bytes: what is shorter is found in harmless text too
	leastPartial = 4 // bytes of one, where a long body was cut in the middle of it
)

// maskOf returns how the secrets that an attempt carries may stand in the answer of a backend that echoes its request, as
// debug pages do: plain, or as JSON, HTML and URLs write them.
func (b *Backend) maskOf() []string {
	secrets := plain(b.SigningSecrets)
	for _, v := range b.Headers {
		secrets = append(secrets, string(v))
		scheme, token, ok := strings.Cut(string(v), " ") // "Basic dXNlcjpwYXNz", "Bearer ..."
		if !ok {
			continue
		}
		secrets = append(secrets, token)
		if user, err := base64.StdEncoding.DecodeString(token); err == nil && strings.EqualFold(scheme, "Basic") {
			_, password, _ := strings.Cut(string(user), ":")
			secrets = append(secrets, password)
		}
	}
	if u, err := url.Parse(b.URL); err == nil {
		for pair := range strings.SplitSeq(u.RawQuery, "&") {
			_, value, _ := strings.Cut(pair, "=")
			secrets = append(secrets, value)
			if plain, err := url.QueryUnescape(value); err == nil {
				secrets = append(secrets, plain)
			}
		}
	}
	var forms []string
	for _, s := range secrets {
		if len(s) < leastSecret {
			continue
		}
		quoted, _ := json.Marshal(s)
		inJSON := string(quoted[1 : len(quoted)-1])
		forms = append(forms, s, inJSON, strings.ReplaceAll(inJSON, "/", `\/`), html.EscapeString(s), url.QueryEscape(s))
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) }) // the longest first: one may be part of another
	return slices.Compact(forms)
}

// mask takes secrets out of what came back from a backend, before it is kept, shown or passed on.
func (o *Outcome) mask(secrets []string) {
	for _, s := range secrets {
		if len(s) < leastSecret {
			continue
		}
		if len(o.Body) > 0 {
			o.Body = maskBytes(o.Body, s)
		}
		o.Error = strings.ReplaceAll(o.Error, s, masked)
		for k, values := range o.Header {
			for i, v := range values {
				if strings.Contains(v, s) {
					o.Header[k] = slices.Clone(values)
					o.Header[k][i] = strings.ReplaceAll(v, s, masked)
				}
			}
		}
	}
}

func maskBytes(body []byte, secret string) []byte {
	if bytes.Contains(body, []byte(secret)) {
		body = bytes.ReplaceAll(body, []byte(secret), []byte(masked))
	}
	for n := len(secret) - 1; n >= leastPartial && len(body) >= passedBody-len(secret); n-- {
		if whole, ok := bytes.CutSuffix(body, []byte(secret[:n])); ok {
			return append(slices.Clip(whole), masked...)
		}
	}
	return body
}
