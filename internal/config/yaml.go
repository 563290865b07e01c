package config

import (
	"bytes"
	"errors"
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
	null kind = iota
	scalar
	list
	mapping
)

func (k kind) String() string {
	return [...]string{"nothing", "a single value", "a list", "a mapping (key: value)"}[k]
}

// node is what we need of YAML: aliases and merge keys are resolved, and every scalar is a text. A node that an alias
// names is shared; it never holds itself.
type node struct {
	kind kind
	at   place
	text string // of a scalar, without quotes
	raw  string // of a scalar, as it stands in the file
	list []*node
	keys []*node // of a mapping, beside list, which holds the values
}

// parseYAML returns the file's document, or nil when there is none, after noting why.
func (d *decoder) parseYAML(src []byte) (root *node) {
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	if !utf8.Valid(src) {
		d.failAt(place{1, 1}, "", "the file is not UTF-8")
		return nil
	}
	defer func() {
		if recover() != nil { // the parser is not ours, and a bad file must not end a running gateway
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
	if root == nil || root.kind == null {
		d.failAt(place{1, 1}, "", "the file is empty")
		return nil
	}
	return root
}

func (d *decoder) syntaxError(err error, src []byte) {
	at, text := place{1, 1}, "not valid YAML"
	var bad yaml.Error
	if errors.As(err, &bad) {
		at, text = position(bad.GetToken()), bad.GetMessage()
	}
	lines := strings.Split(string(src), "\n")
	switch line := lines[min(at.line, len(lines))-1]; {
	case strings.Contains(text, `character '	'`):
		text = "a tab cannot indent: use spaces"
	case strings.Contains(text, "alias name"), text == "unexpected scalar value type" && strings.Contains(line, "*"):
		text = `quote a value that begins with *, as in "*"`
	case strings.HasPrefix(text, "mapping value is not allowed"):
		text = `a ":" does not fit in here: check the indentation, or put the value into quotes`
	}
	d.syntax = true
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
	anchors map[string]*node // complete ones only, so that no node comes to hold itself
}

func (c *converter) node(n ast.Node) *node {
	if n == nil {
		return &node{at: place{1, 1}}
	}
	out := &node{at: position(n.GetToken())}
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
		c.d.failAt(out.at, "", `*%s names no anchor (&%[1]s) above; quote a value that begins with *, as in "*"`, n.Value.GetToken().Value)
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

// merge adds the keys of m that out does not have itself (yaml.org/type/merge.html).
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
