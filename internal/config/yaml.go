package config

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// place is a position in the file, from 1; columns count characters.
type place struct{ line, col int }

type kind int

const (
	broken kind = iota // an alias of nothing, which is told
	null
	scalar
	list
	mapping
)

func (k kind) String() string {
	return [...]string{"nothing", "nothing", "a single value", "a list", "a mapping (key: value)"}[k]
}

// node is what we need of YAML: aliases and merge keys are resolved, and every scalar is a text. Aliases share the node
// that they name; no node holds itself.
type node struct {
	kind kind
	at   place
	text string  // of a scalar, without quotes
	raw  string  // of a scalar, as it stands in the file
	list []*node // the items of a list, or the values of a mapping
	keys []*node // of a mapping: keys[i] is the key of list[i]
}

// parseYAML returns the file's document, or nil when there is none, which is told.
func (d *decoder) parseYAML(src []byte) (root *node) {
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	switch {
	case !utf8.Valid(src):
		d.failAt(place{1, 1}, "", "the file is not UTF-8")
		return nil
	case deep(src):
		d.failAt(place{1, 1}, "", "the file is nested too deeply to be a routes.yaml")
		return nil
	}
	defer func() {
		if recover() != nil { // the parser is not ours, and a bad file must not stop a running gateway
			d.failAt(place{1, 1}, "", "this is not YAML that can be read")
			root = nil
		}
	}()
	file, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntaxError(err, src)
		return nil
	}
	c := &converter{d: d, anchors: map[string]*node{}}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.DirectiveType:
		case root != nil:
			d.failAt(position(doc.Start), "", "a second document begins here: one file holds one")
			return root
		default:
			root = c.node(doc.Body)
		}
	}
	switch {
	case root == nil || root.kind == null:
		d.failAt(place{1, 1}, "", "the file is empty")
	case root.kind != mapping:
		d.failAt(root.at, "", "the file must be %s, not %s", mapping, root.kind)
	default:
		return root
	}
	return nil
}

// deep reports whether src nests deeper than any routes.yaml does. The parser's memory grows with the square of the depth.
func deep(src []byte) bool {
	const limit = 50
	depth := 0
	for line := range bytes.Lines(src) {
		marks := 0 // "- - - a" nests, as does "? ? ? a"
		for _, word := range bytes.Fields(line) {
			if len(word) > 1 && word[0] != '!' && word[0] != '&' || !bytes.ContainsAny(word[:1], "-?!&") {
				break
			}
			marks++
		}
		for _, c := range line {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(depth-1, 0)
			}
			if depth > limit || marks > limit {
				return true
			}
		}
	}
	return false
}

// repeated matches what a message of the parser repeats of the file, which may be a secret.
var repeated = regexp.MustCompile(`:? *"(?:[^"\\]|\\.)*"`)

func (d *decoder) syntaxError(err error, src []byte) {
	at, text := place{1, 1}, "not valid YAML"
	var bad yaml.Error
	if errors.As(err, &bad) {
		at, text = position(bad.GetToken()), repeated.ReplaceAllString(bad.GetMessage(), "")
	}
	lines := linesOf(src)
	switch line := lines[min(at.line, len(lines))-1]; {
	case strings.Contains(text, `character '	'`):
		text = "a tab cannot indent: use spaces"
	case strings.Contains(text, "alias name"), text == "unexpected scalar value type" && strings.Contains(line, "*"):
		text = `quote a value that begins with *, as in "*"`
	case strings.Contains(line, "${"):
		text += `; inside { } and [ ], put "${...}" into quotes`
	case strings.HasPrefix(text, "mapping value is not allowed"):
		text = `a ":" does not fit in here: check the indentation, or put the value into quotes`
	}
	d.failAt(at, "", "%s", text)
}

func position(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{1, 1}
	}
	return place{max(t.Position.Line, 1), max(t.Position.Column, 1)}
}

type converter struct {
	d       *decoder
	anchors map[string]*node // added once they are complete, so that no node comes to hold itself
}

func (c *converter) node(n ast.Node) *node {
	if n == nil {
		return &node{kind: null, at: place{1, 1}}
	}
	out := &node{kind: null, at: position(n.GetToken())}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.MappingNode:
		c.mapping(out, n.Values)
	case *ast.MappingValueNode:
		c.mapping(out, []*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		out.kind = list
		for _, v := range n.Values {
			out.list = append(out.list, c.node(v))
		}
	case *ast.TagNode:
		return c.node(n.Value)
	case *ast.AnchorNode:
		out = c.node(n.Value)
		c.anchors[n.Name.GetToken().Value] = out
	case *ast.AliasNode:
		if known := c.anchors[n.Value.GetToken().Value]; known != nil {
			return known
		}
		c.d.failAt(out.at, "", `this names no anchor (&...) above; quote a value that begins with *, as in "*"`)
		out.kind, out.raw = broken, "*"+n.Value.GetToken().Origin
	case *ast.LiteralNode:
		out.kind, out.text, out.raw = scalar, n.Value.Value, n.Value.GetToken().Origin
	case *ast.StringNode:
		out.kind, out.text, out.raw = scalar, n.Value, n.Token.Origin
	default:
		out.kind, out.text, out.raw = scalar, n.GetToken().Value, n.GetToken().Origin
	}
	return out
}

func (c *converter) mapping(out *node, values []*ast.MappingValueNode) {
	out.kind = mapping
	var merged []*node
	for i, v := range values {
		key := c.node(v.Key)
		if i == 0 && out.at.line >= key.at.line { // a block mapping's own token is its first colon
			out.at = key.at
		}
		value := c.node(v.Value)
		switch {
		case v.Key.IsMergeKey():
			merged = append(merged, value)
		case key.kind != scalar:
			c.d.failAt(key.at, "", "a key must be a plain text")
		default:
			out.keys, out.list = append(out.keys, key), append(out.list, value)
		}
	}
	for _, m := range merged {
		c.merge(out, m)
	}
}

// merge adds the keys of m that out does not have itself, as "<<: *m" asks (yaml.org/type/merge.html).
func (c *converter) merge(out, m *node) {
	if m.kind == list {
		for _, item := range m.list {
			if item.kind == mapping {
				c.merge(out, item)
			}
		}
		return
	}
	for i, key := range m.keys {
		if out.value(key.text) == nil {
			out.keys, out.list = append(out.keys, key), append(out.list, m.list[i])
		}
	}
}

// value returns the value of a mapping's key, or nil.
func (n *node) value(key string) *node {
	for i, k := range n.keys {
		if k.text == key {
			return n.list[i]
		}
	}
	return nil
}
