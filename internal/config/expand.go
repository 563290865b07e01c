package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	bareVariable = regexp.MustCompile(`^\$[A-Za-z_][A-Za-z0-9_]*$`)
	references   = regexp.MustCompile(`\$\{[^}]*\}`)
)

// fill returns n's text with its references filled in. It is false, after noting why, when one has no value.
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
				value, err = d.lookup(ref)
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
func (d *decoder) lookup(ref string) (string, error) {
	if file, ok := strings.CutPrefix(ref, "file:"); ok {
		return d.lookupFile(file)
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
	d.filled[value] = "${" + name + "}"
	return value, nil
}

func (d *decoder) lookupFile(name string) (string, error) {
	if name == "" {
		return "", errors.New("${file:} names no file")
	}
	b, err := readFile(d.fromDir(name), 64<<10)
	if err != nil {
		return "", fmt.Errorf("fill in ${file:%s}: %w", name, err)
	}
	value := strings.TrimRight(string(b), "\r\n")
	d.filled[value] = "${file:" + name + "}"
	return value, nil
}

// fromDir returns name as seen from the configuration's folder, and notes that the configuration depends on it.
func (d *decoder) fromDir(name string) string {
	if !filepath.IsAbs(name) {
		name = filepath.Join(d.dir, name)
	}
	d.read = append(d.read, name)
	return name
}
