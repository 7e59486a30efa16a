package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

// head is what stands above the tables of the reference.
const head = `# Configuration

<!-- Made by "go generate ./cmd/magpie/...": edit the tags in cmd/magpie/internal/config/config.go instead. -->

The broker needs no configuration. With one, start it by ` + "`magpie serve --config magpie.yaml`" + `; an example of every key is
in [magpie.example.yaml](../magpie.example.yaml). ` + "`magpie check config magpie.yaml`" + ` tries a file without starting anything.

- The file is YAML and read strictly: a key that is unknown or given twice, or a value that makes no sense, is an error
  with file, line and what was probably meant, and the exit code 2. Anchors and aliases are not understood.
- Flags win over the environment (` + "`MAGPIE_MQTT`" + `, ` + "`MAGPIE_HTTP`" + ` and so on: ` + "`magpie serve --help`" + ` lists them), which wins over the file.
- Relative paths start from the directory of the configuration file.
- A listener that other machines can reach needs some authentication, or the express permission to let in anybody:
  ` + "`auth.allow_anonymous: true`" + ` or ` + "`--allow-anonymous`" + `. Without that the broker does not start.
- SIGHUP, and ` + "`reload`" + ` in ` + "`magpie console`" + `, read the file again. What is below ` + "`auth`" + ` (but for ` + "`throttle`" + `) and ` + "`log.level`" + ` changes at
  once; the rest is kept until a restart, and the log says so. A file with a mistake changes nothing. The files that the
  configuration names (users, access control list, keys, certificates) are watched: no signal is needed for them.

| Kind of value | Looks like |
|---|---|
| text | ` + "`bins`" + `, ` + "`\"with: colon\"`" + ` |
| flag | ` + "`true`" + `, ` + "`false`" + ` |
| number | ` + "`1000`" + `, ` + "`10_000`" + `; at least 1 |
| rate | ` + "`100`" + `, ` + "`0.5`" + `: per second, above 0 |
| size | ` + "`512`" + ` (bytes), ` + "`64KiB`" + `, ` + "`1MiB`" + `, ` + "`2GiB`" + `; at least 1 |
| percentage | ` + "`75%`" + `: from 1% to 100% |
| time | ` + "`500ms`" + `, ` + "`10s`" + `, ` + "`5m`" + `, ` + "`2h`" + `, ` + "`7d`" + `; above 0 |
| network | ` + "`10.0.0.0/8`" + `, ` + "`2001:db8::/32`" + `, ` + "`192.0.2.1`" + ` |
| list | ` + "`[a, b]`" + `, or an entry with ` + "`- `" + ` on each line |
`

// WriteReference writes the reference of all keys as Markdown.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(head)
	table(&b, reflect.TypeFor[Config](), "")
	_, err := io.WriteString(w, b.String())
	return err
}

// table writes the keys of one struct, then the tables of those that are structs themselves.
func table(b *strings.Builder, t reflect.Type, path string) {
	title := "Top level"
	if path != "" {
		title = "`" + path + "`"
	}
	fmt.Fprintf(b, "\n## %s\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n", title)
	var inner []reflect.StructField
	for _, f := range keys(t) {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.Tag.Get("yaml"), kind(f), byDefault(f), f.Tag.Get("doc"))
		if sectionOf(f.Type) != nil {
			inner = append(inner, f)
		}
	}
	for _, f := range inner {
		key := f.Tag.Get("yaml")
		if path == "http" && key == "tls" {
			continue // the same as listeners.tls
		}
		if path != "" {
			key = path + "." + key
		}
		table(b, sectionOf(f.Type), key)
	}
}

// keys returns the fields of a struct that are keys.
func keys(t reflect.Type) (fields []reflect.StructField) {
	for _, f := range reflect.VisibleFields(t) {
		if name := f.Tag.Get("yaml"); name != "" && name != "-" {
			fields = append(fields, f)
		}
	}
	return fields
}

// sectionOf returns the struct with keys that t is, points to or lists; nil for anything else.
func sectionOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct && len(keys(t)) > 0 {
		return t
	}
	return nil
}

// kind says in words what values a key takes.
func kind(f reflect.StructField) string {
	if enum := f.Tag.Get("enum"); enum != "" {
		return "`" + strings.ReplaceAll(enum, ",", "`, `") + "`"
	}
	k := typeWord(f.Type)
	if f.Tag.Get("file") != "" {
		k = "path"
	}
	least, most := f.Tag.Get("min"), f.Tag.Get("max")
	switch {
	case least != "" && most != "":
		k += " from " + least + " to " + most
	case least != "":
		k += " from " + least
	case most != "":
		k += " up to " + most
	}
	if word := f.Tag.Get("word"); word != "" {
		k += " or `" + word + "`"
	}
	return k
}

func typeWord(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Count]():
		return "number"
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[Budget]():
		return "size, percentage or `unlimited`"
	case reflect.TypeFor[Share]():
		return "percentage"
	case reflect.TypeFor[Rate]():
		return "rate"
	case reflect.TypeFor[Duration]():
		return "time"
	case reflect.TypeFor[Mode]():
		return "octal digits"
	case reflect.TypeFor[Prefix]():
		return "network"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeWord(t.Elem())
	case reflect.Slice:
		return "list of " + typeWord(t.Elem()) + "s"
	case reflect.Bool:
		return "flag"
	case reflect.Map:
		return "names and texts"
	case reflect.Struct:
		return "section"
	}
	return "text"
}

func byDefault(f reflect.StructField) string {
	switch def := f.Tag.Get("def"); {
	case def != "":
		return def
	case f.Tag.Get("required") != "":
		return "*required*"
	case f.Type.Kind() == reflect.Pointer:
		return "none"
	}
	return ""
}
