package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
)

// maxFile bounds the size of a configuration file, in bytes.
const maxFile = 1 << 20

// Load reads a configuration file. The error has a line for every mistake, each with its place.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes: is it a configuration file?", path, maxFile)
	}
	return Parse(path, data)
}

// Parse is Load for content that was read already; path is for messages, and the place that relative paths start from.
func Parse(path string, data []byte) (*Config, error) {
	c := &Config{}
	d := &decoder{file: path}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return c, nil // empty
	case err != nil:
		return nil, syntaxError(path, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one document: remove the line ---", path)
	}
	if root := doc.Content[0]; root.Tag != "!!null" {
		d.value(root, reflect.ValueOf(c).Elem(), "the file", "")
	}
	if len(d.errs) == 0 {
		d.errs = append(d.errs, c.Validate()...)
	}
	return c, errors.Join(d.errs...)
}

// syntaxError puts the library's "yaml: line 12: …" into the form of all other errors.
func syntaxError(path string, err error) error {
	line := 1 // which the library leaves out
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if n, _ := fmt.Sscanf(msg, "line %d:", &line); n == 1 {
		_, msg, _ = strings.Cut(msg, ": ")
	}
	return Pos{path, line}.Errorf("not YAML: %s", msg)
}

// decoder puts nodes into values and collects what is wrong.
type decoder struct {
	file string
	errs []error
}

func (d *decoder) errorf(n *yaml.Node, format string, args ...any) {
	d.errs = append(d.errs, Pos{d.file, n.Line}.Errorf(format, args...))
}

// parser is a type that reads itself from text.
type parser interface{ Parse(s string) error }

// value decodes n, the value of key, into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, key string, tag reflect.StructTag) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.errorf(n, "%s: anchors and aliases are not understood here: write the value out", key)
		return
	}
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), key, tag)
		v.Set(p)
		return
	}
	if _, ok := v.Addr().Interface().(parser); ok {
		d.scalar(n, v, key, tag)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, key)
	case reflect.Slice:
		d.list(n, v, key, tag)
	case reflect.Map:
		d.dict(n, v, key)
	default:
		d.scalar(n, v, key, tag)
	}
}

// mapping decodes keys into the fields of a struct.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n, "%s must be keys and values, each as \"key: value\" on a line of its own, not %s", key, describe(n))
		return
	}
	if pos := v.FieldByName("Pos"); pos.IsValid() {
		pos.Set(reflect.ValueOf(Pos{d.file, n.Line}))
	}
	seen := make(map[string]int)
	for i := 0; i < len(n.Content); i += 2 {
		d.pair(n.Content[i], n.Content[i+1], v, seen)
	}
	for _, f := range reflect.VisibleFields(v.Type()) {
		if name := f.Tag.Get("yaml"); f.Tag.Get("required") != "" && seen[name] == 0 {
			d.errorf(n, "%s: the key %q is missing", key, name)
		}
	}
}

// pair decodes one key and its value.
func (d *decoder) pair(k, val *yaml.Node, v reflect.Value, seen map[string]int) {
	var known []string
	for _, f := range reflect.VisibleFields(v.Type()) {
		name := f.Tag.Get("yaml")
		if name == k.Value && name != "-" {
			if line := seen[name]; line != 0 {
				d.errorf(k, "key %q is given twice, first on line %d", name, line)
				return
			}
			seen[name] = k.Line
			d.value(val, v.FieldByIndex(f.Index), name, f.Tag)
			return
		}
		known = append(known, name)
	}
	d.errorf(k, "unknown key %q%s", k.Value, suggest(k.Value, known))
}

// suggest names the key that was probably meant: a near one, or in lack of that all of a short list.
func suggest(key string, known []string) string {
	known = slices.DeleteFunc(known, func(s string) bool { return s == "-" })
	if near := text.DidYouMean(key, known); near != "" {
		return near
	}
	return ": known here are " + strings.Join(known, ", ")
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, key string, tag reflect.StructTag) {
	if n.Kind != yaml.SequenceNode {
		d.errorf(n, "%s must be a list, each entry as \"- …\" on a line of its own or all as [a, b], not %s", key, describe(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, e := range n.Content {
		d.value(e, list.Index(i), fmt.Sprintf("%s[%d]", key, i), tag)
	}
	v.Set(list)
}

// dict decodes names that the user chooses.
func (d *decoder) dict(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.MappingNode {
		d.errorf(n, "%s must be keys and values, not %s", key, describe(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	for i := 0; i < len(n.Content); i += 2 {
		val := reflect.New(v.Type().Elem()).Elem()
		d.value(n.Content[i+1], val, n.Content[i].Value, "")
		m.SetMapIndex(reflect.ValueOf(n.Content[i].Value), val)
	}
	v.Set(m)
}

// scalar decodes a single value.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, key string, tag reflect.StructTag) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.errorf(n, "%s must be a single value, not %s", key, describe(n))
	case n.Tag == "!!null" || n.Value == "":
		d.errorf(n, "%s has no value: give it one, or remove the key", key)
	default:
		if err := d.set(v, n.Value, tag); err != nil {
			d.errorf(n, "%s: %w", key, err)
		}
	}
}

// set puts the text of a value into v.
func (d *decoder) set(v reflect.Value, s string, tag reflect.StructTag) error {
	if word := tag.Get("word"); word != "" && s == word {
		v.Set(reflect.ValueOf(-1).Convert(v.Type()))
		return nil
	}
	if p, ok := v.Addr().Interface().(parser); ok {
		err := p.Parse(s)
		if word := tag.Get("word"); err != nil && word != "" {
			return fmt.Errorf("%w; or the word %s", err, word)
		}
		if err != nil {
			return err
		}
		return bounded(v, s, tag)
	}
	if v.Kind() == reflect.Bool {
		if s != "true" && s != "false" {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		v.SetBool(s == "true")
		return nil
	}
	if enum := tag.Get("enum"); enum != "" && !slices.Contains(strings.Split(enum, ","), s) {
		return fmt.Errorf("%q is none of %s", s, strings.ReplaceAll(enum, ",", ", "))
	}
	if tag.Get("file") != "" {
		s = d.resolve(s)
	}
	v.SetString(s)
	return nil
}

// bounded refuses a number that is outside of what its tags min and max say.
func bounded(v reflect.Value, s string, tag reflect.StructTag) error {
	if least := tag.Get("min"); least != "" {
		if n, _ := strconv.ParseInt(least, 10, 0); v.Int() < n {
			return fmt.Errorf("%s is too little: at least %s", s, least)
		}
	}
	if most := tag.Get("max"); most != "" {
		if n, _ := strconv.ParseInt(most, 10, 0); v.Int() > n {
			return fmt.Errorf("%s is too much: at most %s", s, most)
		}
	}
	return nil
}

// resolve makes a path relative to the configuration file one that is good from here.
func (d *decoder) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(d.file), path)
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" {
		return "nothing"
	}
	return fmt.Sprintf("%q", n.Value)
}
