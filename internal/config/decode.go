package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// decoder fills the structs of a document from its nodes, and goes on after each problem. Its paths are written as
// routes[2].to[0].
type decoder struct {
	dir string                      // where relative paths start from
	env func(string) (string, bool) // os.LookupEnv

	problems Problems
	places   map[string]place  // where the value of each path stands
	texts    map[string]string // the text of each single value, by its path, with its references filled in
	bad      map[string]bool   // paths that have an error: what only follows from it is not told
	visible  map[place]string  // texts of the file that excerpts may show, besides our own keys
	filled   []filled          // what references were filled in with
	literal  bool              // a secret stands in the file itself
	oddNames []string          // keys that are no fit name, and so may be a value that lost its key
	files    []string          // every other file that the document names
}

func (d *decoder) failAt(at place, path, format string, args ...any) {
	d.add(at, path, Error, fmt.Sprintf(format, args...))
	if path != "" {
		d.bad[path] = true
	}
}

// fail adds an error at a path's place. A key that is not in the file has that of the nearest thing around it.
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

// spoiled reports whether path, or anything around it, has an error already.
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

// expect reports whether n is of kind k; when it is not, that is told.
func (d *decoder) expect(n *node, k kind, t reflect.Type, path string) bool {
	if n.kind == k {
		return true
	}
	if n.kind == scalar && !holdsSecret(t) {
		d.show(n)
	}
	name, remedy := lastKey(path), ""
	if name == "" {
		name = "the file"
	}
	if k == list && n.kind == scalar {
		remedy = ": put it into [ ]"
	}
	d.failAt(n.at, path, "%s must be %s, not %s%s", name, k, n.kind, remedy)
	return false
}

func (d *decoder) mapping(n *node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	seen := map[string]place{}
	header := v.Type().Elem() == reflect.TypeFor[proxy.Secret]()
	for i, key := range n.keys {
		name := key.text
		if nameLike.MatchString(name) && (!header || headerLike.MatchString(name) && n.list[i].kind != null) {
			d.show(key)
		} else if name != "" {
			d.oddNames = append(d.oddNames, name)
			d.place(join(path, name), key, n.list[i]) // where proxy finds fault with it
			name = hiddenText
		}
		at := join(path, name)
		value := reflect.New(v.Type().Elem()).Elem()
		if before, dup := seen[key.text]; dup {
			d.failAt(key.at, at, "%q is already there, on line %d", name, before.line)
			d.decode(n.list[i], value, at) // for its own mistakes
			continue
		}
		seen[key.text] = key.at
		d.place(at, key, n.list[i])
		d.decode(n.list[i], value, at)
		v.SetMapIndex(reflect.ValueOf(key.text), value)
	}
}

// place remembers where problems with a key's value point: at a single value itself, at the key of anything longer.
func (d *decoder) place(path string, key, value *node) {
	d.places[path] = key.at
	if value.kind == scalar {
		d.places[path] = value.at
	}
}

func (d *decoder) structure(n *node, v reflect.Value, path string) {
	if def, ok := defaults()[v.Type()]; ok {
		v.Set(def)
	}
	def := reflect.ValueOf(v.Interface())
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
		d.checkField(f, v.FieldByIndex(f.Index), def.FieldByIndex(f.Index), at)
	}
	for _, f := range reflect.VisibleFields(v.Type()) {
		key := f.Tag.Get("yaml")
		if at := join(path, key); given[key] == nil && f.Tag.Get("required") != "" && !d.bad[at] {
			d.failAt(n.at, at, "missing key %q: %s", key, lowerFirst(strings.TrimSuffix(f.Tag.Get("doc"), ".")))
		}
	}
}

// checkField checks a value that is in the file: a word against its enum, a number against its sign and the most that it
// may be, and a zero against a default that means something else.
func (d *decoder) checkField(f reflect.StructField, v, def reflect.Value, path string) {
	if d.bad[path] {
		return
	}
	name := lastKey(path)
	switch {
	case f.Tag.Get("enum") != "":
		allowed := strings.Split(f.Tag.Get("enum"), ",")
		if !slices.Contains(allowed, v.String()) {
			d.fail(path, "%s must be %s%s", name, oneOf(allowed), didYouMean(v.String(), allowed))
		}
	case v.CanInt() && v.Int() < 0:
		d.fail(path, "%s must not be negative", name)
	case v.CanInt() && v.Int() == 0 && name == "hold_for": // its default is proxy's, and only with answer: backend
		hold := proxy.Routes{{Answer: proxy.AnswerBackend}}.Match(&proxy.Event{}).HoldFor
		d.fail(path, "hold_for must be more than 0; when it is left out, it is %s, and for a 2xx at once there is answer: always", shortDuration(hold))
	case v.CanInt() && v.Int() == 0 && def.Int() != 0:
		d.fail(path, "%s must be more than 0; when it is left out, it is %v", name, rendered(def))
	case f.Tag.Get("most") != "":
		if most, err := scalarTypes[f.Type].parse(f.Tag.Get("most")); err == nil && v.Int() > reflect.ValueOf(most).Int() {
			d.fail(path, "%s is at most %s", name, f.Tag.Get("most"))
		}
	}
}

// nameLike matches what a person may call a source or backend, headerLike what a header is called. A URL is neither, nor is
// a header with its value.
var (
	nameLike   = regexp.MustCompile(`^[\pL\pN_][\pL\pN_. -]{0,63}$`)
	headerLike = regexp.MustCompile(`^[^ ]+$`)
)

// keyLike matches what a mistyped key may look like and a secret does not.
var keyLike = regexp.MustCompile(`^[\pL_. -]{1,24}$`)

func (d *decoder) unknownKey(key, value *node, t reflect.Type, path string) {
	names := keysOf(t)
	text := "unknown key"
	guess := nearest(key.text, names)
	if keyLike.MatchString(key.text) && (value.kind != null || guess != "") { // else it is most likely a value that lost its key
		text = fmt.Sprintf("unknown key %q", key.text)
		d.show(key)
	}
	if guess != "" {
		text += fmt.Sprintf("; did you mean %q?", guess)
		d.bad[join(path, guess)] = true
	} else if where := belongs(key.text); where != "" {
		text += "; it belongs " + where
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
	if secret {
		d.checkSecret(n, path)
	}
	d.texts[path] = text
	v.Set(reflect.ValueOf(value))
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

var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	bareVariable = regexp.MustCompile(`^\$[A-Za-z_][A-Za-z0-9_]*$`)
	references   = regexp.MustCompile(`\$\{[^}]*\}`)
)

// fill returns n's text with its references filled in. It returns false when one has no value, which is told.
func (d *decoder) fill(n *node, path string) (string, bool) {
	if bareVariable.MatchString(n.text) {
		d.add(n.at, path, Warning, "$NAME is taken as it is: a variable is written ${NAME}")
	}
	var out strings.Builder
	complete := true
	for rest := n.text; ; {
		before, after, found := strings.Cut(rest, "$")
		out.WriteString(before)
		switch {
		case !found:
			return out.String(), complete
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			rest = after[1:]
		case !strings.HasPrefix(after, "{"):
			out.WriteByte('$')
			rest = after
		default:
			ref, tail, closed := strings.Cut(after[1:], "}")
			value, err := "", errors.New("${ has no }: a literal ${ is written $${")
			if closed {
				value, err = d.lookup(ref, path)
			}
			if err != nil {
				d.failAt(n.at, path, "%v", err)
				complete = false
			}
			out.WriteString(value)
			rest = tail
		}
	}
}

// lookup returns what the reference between ${ and } stands for.
func (d *decoder) lookup(ref, path string) (string, error) {
	if file, ok := strings.CutPrefix(ref, "file:"); ok {
		return d.lookupFile(file, path)
	}
	name, def, hasDefault := strings.Cut(ref, ":-")
	if !variableName.MatchString(name) {
		return "", errors.New("${...} holds NAME, NAME:-default or file:/path; a literal ${ is written $${")
	}
	if strings.Contains(def, "${") {
		return "", fmt.Errorf("the default of ${%s:-...} cannot hold another ${...}", name)
	}
	value, set := d.env(name)
	switch {
	case hasDefault && value == "":
		return def, nil
	case !set:
		return "", fmt.Errorf("environment variable %s is not set; set it, or write a default: ${%[1]s:-...}", name)
	}
	d.filled = append(d.filled, filled{value, "${" + name + "}", path})
	return value, nil
}

func (d *decoder) lookupFile(name, path string) (string, error) {
	if name == "" {
		return "", errors.New("${file:} names no file")
	}
	b, err := readFile(d.fromDir(name), 64<<10)
	if err != nil {
		return "", fmt.Errorf("fill in ${file:%s}: %w", name, err)
	}
	value := strings.TrimRight(string(b), "\r\n")
	d.filled = append(d.filled, filled{value, "${file:" + name + "}", path})
	return value, nil
}

// fromDir returns name as seen from the configuration's folder, and adds it to the files that the document names.
func (d *decoder) fromDir(name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(d.dir, name)
	}
	d.files = append(d.files, name)
	return name
}
