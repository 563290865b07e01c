package config

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// didYouMean returns `; did you mean "x"?`, or nothing when no name is near.
func didYouMean(name string, names []string) string {
	if guess := nearest(name, names); guess != "" {
		return fmt.Sprintf("; did you mean %q?", guess)
	}
	return ""
}

// nearest returns the name that name was most likely meant to be, "" when none is near: one edit, or a third of its
// letters, away.
func nearest(name string, names []string) string {
	best, limit := "", max(1, utf8.RuneCountInString(name)/3)
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "_", " ", "_").Replace(s)) }
	for _, candidate := range names {
		if d := edits(plain(name), plain(candidate)); d <= limit && utf8.RuneCountInString(name) > 1 {
			best, limit = candidate, d-1
		}
	}
	return best
}

// edits counts the letters to insert, delete, replace or swap with their neighbour that lead from a to b (optimal string
// alignment).
func edits(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 64 || len(y) > 64 {
		return 64
	}
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(x)][len(y)]
}

// belongs says where in the file a key has its place, for one that stands in the wrong one; "" when it is no key at all.
func belongs(key string) string { return keyPlaces()[key] }

var keyPlaces = sync.OnceValue(func() map[string]string {
	places := map[string]string{}
	addKeys(places, reflect.TypeFor[document](), "")
	return places
})

// addKeys adds the keys of a struct, and of those below it, where they are not known yet.
func addKeys(places map[string]string, t reflect.Type, path string) {
	where := "under " + path
	if path == "" {
		where = "at the top"
	}
	for _, key := range keysOf(t) {
		if places[key] == "" {
			places[key] = where
		}
	}
	for _, f := range reflect.VisibleFields(t) {
		below, name := f.Type, join(path, f.Tag.Get("yaml"))
		switch below.Kind() {
		case reflect.Map:
			below, name = below.Elem(), name+".NAME"
		case reflect.Slice, reflect.Pointer:
			below = below.Elem()
		}
		if scalarTypes[below].parse == nil && below.Kind() == reflect.Struct {
			addKeys(places, below, name)
		}
	}
}

func oneOf(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func lowerFirst(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}
