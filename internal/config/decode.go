package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// decoder walks a document and the structs beside each other, and goes on after each problem.
type decoder struct {
	dir string // that relative paths start from
	env func(string) (string, bool)

	problems Problems
	places   map[string]place  // where each path stands
	texts    map[string]string // what stands there, filled in
	bad      map[string]bool   // paths that have an error, so that nothing that follows from it is told too
	visible  map[place]string  // what excerpts may show, as it is written, beside our own keys
	filled   map[string]string // what was filled in, and the reference that it was filled in for
	read     []string          // files that the document is made of
}

func (d *decoder) failAt(at place, path, format string, args ...any) {
	d.add(at, path, Error, fmt.Sprintf(format, args...))
	if path != "" {
		d.bad[path] = true
	}
}

// fail notes an error at a path's place, or that of the nearest thing around it that is in the file.
func (d *decoder) fail(path, format string, args ...any) {
	d.failAt(d.locate(path), path, format, args...)
}

func (d *decoder) add(at place, path string, s Severity, text string) {
	d.problems = append(d.problems, Problem{Line: at.line, Column: at.col, Path: path, Severity: s, Text: text})
}

func (d *decoder) locate(path string) place {
	for path != "" {
		if at, ok := d.places[path]; ok {
			return at
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return place{1, 1}
}

// spoiled reports whether path, or something around it, has an error already.
func (d *decoder) spoiled(path string) bool {
	for path != "" {
		if d.bad[path] {
			return true
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return false
}

func (d *decoder) decode(n *node, v reflect.Value, path string) {
	t := v.Type()
	if n.kind == broken {
		if !holdsSecret(t) {
			d.show(n)
		}
		d.bad[path] = true
		return
	}
	if s, ok := scalarTypes[t]; ok {
		d.scalar(n, v, s, path)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		d.decode(n, v.Elem(), path)
	case reflect.Struct:
		if n.kind == null {
			n = &node{kind: mapping, at: n.at}
		}
		if d.expect(n, mapping, t, path) {
			d.structure(n, v, path)
		}
	case reflect.Map:
		if d.expect(n, mapping, t, path) {
			d.mapping(n, v, path)
		}
	case reflect.Slice:
		if t == reflect.TypeFor[[]stripeIP]() && n.kind == scalar { // stripe_ips: default
			v.Set(reflect.MakeSlice(t, 1, 1))
			d.decode(n, v.Index(0), path)
			return
		}
		if d.expect(n, list, t, path) {
			v.Set(reflect.MakeSlice(t, len(n.list), len(n.list)))
			for i, item := range n.list {
				at := fmt.Sprintf("%s[%d]", path, i)
				d.places[at] = item.at
				d.decode(item, v.Index(i), at)
			}
		}
	}
}

// expect reports whether n is of kind k, after noting when it is not.
func (d *decoder) expect(n *node, k kind, t reflect.Type, path string) bool {
	if n.kind == k {
		return true
	}
	if n.kind == scalar && !holdsSecret(t) {
		d.show(n)
	}
	name, hint := lastKey(path), ""
	if name == "" {
		name = "the file"
	}
	if k == list && n.kind == scalar {
		hint = ": put it into [ ]"
	}
	d.failAt(n.at, path, "%s must be %s, not %s%s", name, k, n.kind, hint)
	return false
}

func (d *decoder) mapping(n *node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	first := map[string]place{}
	for i, key := range n.keys {
		d.show(key)
		at := join(path, key.text)
		value := reflect.New(v.Type().Elem()).Elem()
		if before, dup := first[key.text]; dup {
			d.failAt(key.at, at, "%q is already there, on line %d", key.text, before.line)
			d.decode(n.list[i], value, at) // for its own mistakes
			continue
		}
		first[key.text] = key.at
		d.place(at, key, n.list[i])
		d.decode(n.list[i], value, at)
		v.SetMapIndex(reflect.ValueOf(key.text), value)
	}
}

// place notes where a key's value stands: a single value at itself, anything longer at its key.
func (d *decoder) place(path string, key, value *node) {
	d.places[path] = key.at
	if value.kind == scalar {
		d.places[path] = value.at
	}
}

func (d *decoder) structure(n *node, v reflect.Value, path string) {
	given := map[string]*node{}
	for i, key := range n.keys {
		at, value := join(path, key.text), n.list[i]
		f, ok := fieldOf(v.Type(), key.text)
		if !ok {
			d.unknownKey(key, value, v.Type(), path)
			continue
		}
		if before := given[key.text]; before != nil {
			d.failAt(key.at, at, "key %q is already there, on line %d", key.text, before.at.line)
			d.decode(value, reflect.New(f.Type).Elem(), at) // for its own mistakes
			continue
		}
		given[key.text] = key
		d.place(at, key, value)
		if value.kind == null { // as if the key were not there
			delete(given, key.text)
			continue
		}
		d.decode(value, v.FieldByIndex(f.Index), at)
		d.checkField(f, v.FieldByIndex(f.Index), at)
	}
	for _, f := range reflect.VisibleFields(v.Type()) {
		key := f.Tag.Get("yaml")
		if at := join(path, key); given[key] == nil {
			d.absent(n, f, v.FieldByIndex(f.Index), at)
		}
	}
}

// checkField checks what the tags say of a value that is in the file.
func (d *decoder) checkField(f reflect.StructField, v reflect.Value, path string) {
	if d.bad[path] {
		return
	}
	name, def := lastKey(path), f.Tag.Get("default")
	switch {
	case f.Tag.Get("enum") != "":
		allowed := strings.Split(f.Tag.Get("enum"), ",")
		if !slices.Contains(allowed, v.String()) {
			d.fail(path, "%s must be %s%s", name, oneOf(allowed), didYouMean(v.String(), allowed))
		}
	case v.CanInt() && v.Int() < 0:
		d.fail(path, "%s must not be negative", name)
	case v.CanInt() && v.Int() == 0 && !strings.HasPrefix(def, "0") && def != "":
		d.fail(path, "%s must be more than 0; when it is left out, it is %s", name, def)
	}
}

// absent fills in the default of a field whose key is not in the file.
func (d *decoder) absent(n *node, f reflect.StructField, v reflect.Value, path string) {
	switch def := f.Tag.Get("default"); {
	case def != "":
		value, err := scalarTypes[f.Type].parse(def)
		if err != nil {
			panic(fmt.Sprintf("default of %s: %v", path, err)) // a tag of ours; Schema's test parses them all
		}
		v.Set(reflect.ValueOf(value))
	case f.Tag.Get("required") != "":
		if !d.bad[path] {
			d.failAt(n.at, path, "missing key %q: %s", f.Tag.Get("yaml"), lowerFirst(strings.TrimSuffix(f.Tag.Get("doc"), ".")))
		}
	case f.Type.Kind() == reflect.Struct:
		d.structure(&node{kind: mapping, at: n.at}, v, path)
	}
}

// keyLike matches what a mistyped key looks like, and a secret does not.
var keyLike = regexp.MustCompile(`^[\pL_. -]{1,24}$`)

func (d *decoder) unknownKey(key, value *node, t reflect.Type, path string) {
	names := keysOf(t)
	text := "unknown key"
	if keyLike.MatchString(key.text) { // else it is a value, most likely, that lost its key
		text = fmt.Sprintf("unknown key %q", key.text)
		d.show(key)
	}
	guess := nearest(key.text, names)
	if guess != "" {
		text += fmt.Sprintf("; did you mean %q?", guess)
		d.bad[join(path, guess)] = true
	} else if where := belongs(key.text); where != "" {
		text += "; it belongs " + where
	}
	if f, ok := fieldOf(t, guess); ok && !holdsSecret(f.Type) && value.kind == scalar {
		d.show(value)
	}
	d.failAt(key.at, "", "%s", text)
}

func (d *decoder) scalar(n *node, v reflect.Value, s scalarType, path string) {
	secret := holdsSecret(v.Type())
	if n.kind == scalar && (!secret || onlyReference.MatchString(n.text)) {
		d.show(n)
	}
	if n.kind == null {
		d.failAt(n.at, path, "%s has no value", lastKey(path))
		return
	}
	if !d.expect(n, scalar, v.Type(), path) {
		return
	}
	text, ok := d.fill(n, path)
	if !ok {
		return
	}
	if refs := references.FindAllString(n.text, -1); secret && strings.HasSuffix(path, "]") && text == "" && refs != nil {
		d.failAt(n.at, path, "%s is empty: %s holds nothing", lastKey(path), strings.Join(refs, ""))
		return
	}
	value, err := s.parse(text)
	if err != nil {
		filled := ""
		if text != n.text {
			filled = ", once its ${...} is filled in,"
		}
		d.failAt(n.at, path, "%s%s %s", lastKey(path), filled, err)
		return
	}
	d.texts[path] = text
	v.Set(reflect.ValueOf(value))
}

// onlyReference matches a text that shows nothing but where a value comes from.
var onlyReference = regexp.MustCompile(`^\$\{[A-Za-z0-9_]+(:-)?\}$|^\$\{file:[^}]*\}$`)

// show lets excerpts show a single value that is known not to be a secret. Everything else in a line is masked, so that
// nothing comes to light which a mistake put into the wrong place.
func (d *decoder) show(n *node) {
	text, _, _ := strings.Cut(strings.TrimSpace(n.raw), "\n")
	d.visible[n.at] = text
}

func holdsSecret(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Slice, reflect.Map, reflect.Pointer:
		return holdsSecret(t.Elem())
	case reflect.Struct:
		return slices.ContainsFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool { return holdsSecret(f.Type) })
	}
	return t == reflect.TypeFor[proxy.Secret]()
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); key != "" && f.Tag.Get("yaml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range reflect.VisibleFields(t) {
		keys = append(keys, f.Tag.Get("yaml"))
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// lastKey returns the last key of a path, with its index: "to[0]" of "routes[2].to[0]".
func lastKey(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
