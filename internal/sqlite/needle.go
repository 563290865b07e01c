package sqlite

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// needle is a text to look for whatever its case.
type needle struct {
	lower []byte
	ascii bool
	buf   []byte
}

func newNeedle(s string) *needle {
	n := &needle{lower: bytes.ToLower([]byte(s)), ascii: true}
	for _, b := range n.lower {
		n.ascii = n.ascii && b < utf8.RuneSelf
	}
	return n
}

// in reports whether b contains the text. It is most of what a search costs, so ASCII goes 8 bytes at a time.
func (n *needle) in(b []byte) bool {
	if !n.ascii {
		return bytes.Contains(bytes.ToLower(b), n.lower)
	}
	n.buf = append(n.buf[:0], b...)
	b = n.buf
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, lower8(binary.LittleEndian.Uint64(b)))
		b = b[8:]
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return bytes.Contains(n.buf, n.lower)
}

// lower8 lowers those of 8 bytes that are ASCII capitals. A byte's top bit serves as its flag.
func lower8(x uint64) uint64 {
	const each, top = 0x0101010101010101, 0x8080808080808080
	low := x &^ top
	fromA := low + each*(0x80-'A')
	aboveZ := low + each*(0x7f-'Z')
	return x | (fromA&^aboveZ&^x&top)>>2
}
