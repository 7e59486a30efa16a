package magpie

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// module is the path of this module.
const module = "github.com/magpiemq/magpie/"

// mayImport is the architecture: data flows one way, a package imports only floors below its own. ARCHITECTURE.md says what
// each one knows.
var mayImport = map[string][]string{
	// Floor 0: no other package of ours.
	"mqtt":      nil, // bytes and control packets, nothing else
	"topic":     nil, // names, filters, matching
	"transport": nil, // byte streams, whatever they mean

	// Floor 1: rules without I/O.
	"session":       {"mqtt"},          // one client's protocol memory
	"store":         {"mqtt"},          // what outlives the process
	"store/journal": {"mqtt", "store"}, // the same on disk

	// Floor 2: the living parts.
	"broker": {"mqtt", "topic", "transport", "session", "store"},
	"client": {"mqtt", "topic", "transport", "session", "store"},

	// Floor 3: only what an outsider could import.
	"auth":     {"mqtt", "topic", "transport", "broker"},
	"platform": {"mqtt", "topic", "broker"},

	// Floor 4: the outside.
	"api":     {"mqtt", "topic", "transport", "broker", "auth", "platform"},
	"console": nil, // speaks HTTP and MQTT like any browser
	"sim":     {"mqtt", "topic", "client"},
}

// roof are the packages that may import all: they wire the others together, or test them from outside.
var roof = []string{"cmd/", "examples", "conformance", "torture", "internal/"}

// TestArchitecture holds the table above.
func TestArchitecture(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if p.ImportPath+"/" == module || slices.ContainsFunc(roof, func(r string) bool { return strings.HasPrefix(name, r) }) {
			continue
		}
		allowed, known := allowedFor(name)
		if !known {
			t.Errorf("package %s has no place in the architecture: give it a row in mayImport, and in ARCHITECTURE.md", name)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, module)
			if ours && !within(other, append(allowed, name, "internal")) {
				t.Errorf("%s imports %s, which is not below it: return a value instead of reaching up, or move the code", name, other)
			}
		}
	}
}

// allowedFor finds the row of a package or of the nearest folder above it.
func allowedFor(name string) (allowed []string, known bool) {
	for {
		if allowed, known = mayImport[name]; known {
			return slices.Clone(allowed), true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return nil, false
		}
		name = name[:i]
	}
}

// within reports whether a package is one of those named, or inside of one.
func within(name string, named []string) bool {
	return slices.ContainsFunc(named, func(n string) bool { return name == n || strings.HasPrefix(name, n+"/") })
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) (all []goPackage) {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages, so nothing was checked", len(all))
	}
	return all
}
