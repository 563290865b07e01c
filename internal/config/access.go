package config

import (
	"slices"
	"strings"
	"unicode"
)

// placeholders stand in tokens that somebody meant to replace, and in those that a person would try first.
var placeholders = []string{
	"changeme", "changethis", "replaceme", "replacethis", "placeholder", "yourtoken", "admintoken", "secrettoken", "supersecret",
	"password", "breakwater", "12345678",
}

// tokenFault says what is wrong with an admin token, "" when nothing is.
func tokenFault(token string) string {
	letters := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, token)
	different := map[rune]bool{}
	for _, r := range token {
		different[r] = true
	}
	fault := ""
	switch {
	case strings.ContainsFunc(token, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		fault = "token must have no blanks and line breaks"
	case len(token) < 16:
		fault = "token must have at least 16 characters"
	case len(different) < 5 || slices.ContainsFunc(placeholders, func(p string) bool { return strings.Contains(letters, p) }):
		fault = "token can be guessed"
	default:
		return ""
	}
	return fault + ": make one with openssl rand -hex 32"
}
