package stripe

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

const maxDepth = 512 // Stripe's events have about ten levels

const (
	ones   = 0x0101010101010101 // one in each of eight bytes
	highs  = 0x80 * ones
	spaces = ' ' * ones
)

// allPlain reports whether each of the eight bytes of x is ASCII that stands for itself in a string: no quote, no
// backslash, no control character.
func allPlain(x uint64) bool {
	quote, backslash := x^'"'*ones, x^'\\'*ones
	return (x|(x-0x20*ones)|((quote-ones)&^quote)|((backslash-ones)&^backslash))&highs == 0
}

// scanner reads JSON (RFC 8259) from its position on. After an error it stands still: err is the first one, and every
// loop ends.
type scanner struct {
	b     []byte
	i     int
	depth int // objects entered with first and not yet left
	err   error
}

// fail keeps the first error, at the position.
func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("offset %d: %s", s.i, fmt.Sprintf(format, args...))
	}
}

func (s *scanner) unexpected(want string) {
	if s.i >= len(s.b) {
		s.fail("the body ends where %s should be", want)
		return
	}
	s.fail("%q where %s should be", s.b[s.i], want)
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	i := s.i
	for i+8 <= len(s.b) && binary.LittleEndian.Uint64(s.b[i:]) == spaces { // Stripe indents: a third of a body is spaces
		i += 8
	}
	for i < len(s.b) && blank[s.b[i]] {
		i++
	}
	s.i = i
	if i < len(s.b) {
		return s.b[i]
	}
	return 0
}

// first enters the object at the position. It returns the first key and stands before its value; or it has left the
// object, which is empty, and returns false.
func (s *scanner) first() (key []byte, ok bool) {
	s.i++
	s.depth++
	if s.peek() == '}' {
		s.i++
		s.depth--
		return nil, false
	}
	return s.member()
}

// next does for the other keys what first does.
func (s *scanner) next() (key []byte, ok bool) {
	switch c := s.peek(); {
	case s.err != nil:
	case c == ',':
		s.i++
		return s.member()
	case c == '}':
		s.i++
		s.depth--
	default:
		s.unexpected(`"," or "}"`)
	}
	return nil, false
}

func (s *scanner) member() (key []byte, ok bool) {
	quoted, escaped := s.key()
	switch {
	case s.err != nil:
		return nil, false
	case escaped:
		return []byte(unquote(quoted, maxName)), true
	}
	return quoted[1 : len(quoted)-1], true
}

// key passes a key and its colon.
func (s *scanner) key() (quoted []byte, escaped bool) {
	if s.peek() != '"' {
		s.unexpected("a key")
		return nil, false
	}
	from := s.i
	escaped = s.str()
	quoted = s.b[from:s.i]
	if s.peek() != ':' {
		s.unexpected("a colon")
	}
	s.i++
	return quoted, escaped
}

// text reads the string at the position; "" when it has more than most bytes.
func (s *scanner) text(most int) string {
	from := s.i
	escaped := s.str()
	switch {
	case s.err != nil:
		return ""
	case escaped:
		return unquote(s.b[from:s.i], most)
	case s.i-from-len(`""`) > most:
		return ""
	}
	return string(s.b[from+1 : s.i-1])
}

// unquote decodes a string that str has passed; "" when it has more than most bytes.
func unquote(quoted []byte, most int) string {
	var s string
	if len(quoted) > len(`""`)+len(`\u0000`)*most || json.Unmarshal(quoted, &s) != nil || len(s) > most {
		return ""
	}
	return s
}

// nest remembers of each open level whether it is an object.
type nest struct {
	objects [maxDepth / 64]uint64
	levels  int
}

func (n *nest) push(object bool) {
	bit := uint64(1) << (n.levels % 64)
	if object {
		n.objects[n.levels/64] |= bit
	} else {
		n.objects[n.levels/64] &^= bit
	}
	n.levels++
}

func (n *nest) inObject() bool {
	top := n.levels - 1
	return n.objects[top/64]>>(top%64)&1 == 1
}

// skip passes one value of any kind.
func (s *scanner) skip() {
	var n nest
	s.value(&n)
	for s.after(&n) {
		s.value(&n)
	}
}

// value passes a scalar or an empty array or object up to its closing bracket, entering others on the way.
func (s *scanner) value(n *nest) {
	for s.err == nil {
		switch c := s.peek(); c {
		case '{', '[':
			if s.depth+n.levels >= maxDepth {
				s.fail("more than %d levels", maxDepth)
				return
			}
			n.push(c == '{')
			s.i++
			if s.peek() == c+2 { // in ASCII the closing bracket of both kinds
				return
			}
			if c == '{' {
				s.key()
			}
		case '"':
			s.str()
			return
		case 't', 'f', 'n':
			s.literal()
			return
		default:
			s.number()
			return
		}
	}
}

// after passes closing brackets and reports whether another value follows.
func (s *scanner) after(n *nest) bool {
	for s.err == nil && n.levels > 0 {
		closing := byte(']')
		if n.inObject() {
			closing = '}'
		}
		switch c := s.peek(); c {
		case closing:
			s.i++
			n.levels--
		case ',':
			s.i++
			if closing == '}' {
				s.key()
			}
			return s.err == nil
		default:
			s.unexpected(`"," or "` + string(closing) + `"`)
		}
	}
	return false
}

var blank = [256]bool{' ': true, '\t': true, '\n': true, '\r': true}

// plain has the bytes that stand for themselves in a string and need no further look.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// str passes the string at the position and reports whether it has escapes.
func (s *scanner) str() (escaped bool) {
	from, wide := s.i, false
	s.i++
	for {
		i := s.i
		for i+8 <= len(s.b) && allPlain(binary.LittleEndian.Uint64(s.b[i:])) {
			i += 8
		}
		for i < len(s.b) && plain[s.b[i]] {
			i++
		}
		if s.i = i; i == len(s.b) {
			s.unexpected("the rest of a string")
			return escaped
		}
		switch c := s.b[i]; {
		case c == '"':
			s.i++
			if wide && !utf8.Valid(s.b[from:s.i]) {
				s.i = from
				s.fail("a string is not UTF-8")
			}
			return escaped
		case c == '\\':
			escaped = true
			if s.escape(); s.err != nil {
				return escaped
			}
		case c >= utf8.RuneSelf:
			wide = true
			s.i++
		default:
			s.fail("control character %#02x in a string", c)
			return escaped
		}
	}
}

func (s *scanner) escape() {
	rest := s.b[s.i+1:]
	if len(rest) > 0 && strings.IndexByte(`"\/bfnrt`, rest[0]) >= 0 {
		s.i += 2
		return
	}
	if len(rest) < 5 || rest[0] != 'u' {
		s.fail("not an escape")
		return
	}
	for _, c := range rest[1:5] {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			s.fail("not an escape")
			return
		}
	}
	s.i += len(`\u0000`)
}

// literal passes true, false or null and returns it.
func (s *scanner) literal() string {
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(s.b[s.i:], []byte(word)) {
			s.i += len(word)
			return word
		}
	}
	s.unexpected("a value")
	return ""
}

func (s *scanner) number() {
	from := s.i
	if s.at('-') {
		s.i++
	}
	switch {
	case s.at('0'):
		s.i++
	case !s.digits():
		s.i = from
		s.unexpected("a value")
		return
	}
	if s.at('.') {
		s.i++
		if !s.digits() {
			s.unexpected("a digit")
		}
	}
	if s.at('e') || s.at('E') {
		s.i++
		if s.at('+') || s.at('-') {
			s.i++
		}
		if !s.digits() {
			s.unexpected("a digit")
		}
	}
}

func (s *scanner) at(c byte) bool { return s.i < len(s.b) && s.b[s.i] == c }

// digits passes digits and reports whether there was one.
func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > from
}
