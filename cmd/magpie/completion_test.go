package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func model(t testing.TB) *kong.Node {
	t.Helper()
	parser, err := newParser(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model.Node
}

func TestSuggest(t *testing.T) {
	root := model(t)
	for line, want := range map[string]string{
		"magpie ser":                                   "words serve",
		"magpie serve ":                                "words",
		"magpie serve --config ":                       "files",
		"magpie serve --config=":                       "files",
		"magpie serve --unix /ru":                      "files",
		"magpie serve --data ":                         "dirs",
		"magpie serve --log-format ":                   "words text json",
		"magpie serve --log-format=j":                  "words json",
		"magpie serve --console x":                     "words",
		"magpie check c":                               "words config cert",
		"magpie check config ":                         "files",
		"magpie check cert a.pem b":                    "files",
		"magpie check acl a.acl ":                      "words",
		"magpie check acl --action ":                   "words write read subscribe",
		"magpie store dump ":                           "dirs",
		"magpie store dump a ":                         "words",
		"magpie console ":                              "words clients subs kick stats top trace reload help exit shutdown",
		"magpie console kick ":                         "words",
		"magpie console --data d k":                    "words kick",
		"magpie backup --admin ":                       "files",
		"magpie pub --message --qo":                    "words",
		"magpie pub -t --message --qo":                 "words --qos",
		"magpie pub -t -- --qo":                        "words --qos",
		"magpie pub -- --qo":                           "words",
		"magpie pub -tx -q":                            "words",
		"magpie pub -q ":                               "words 0 1 2",
		"magpie pub -rq":                               "words",
		"magpie pub -V ":                               "words mqttv5 mqttv311 mqttv31",
		"magpie pub --passwor":                         "words",
		"magpie pub --no-rec":                          "words --no-reconnect",
		"magpie pub --nodel":                           "words",
		"magpie pub --queue ":                          "dirs",
		"magpie pub -D p":                              "words publish",
		"magpie pub -D publish content-":               "words content-type",
		"magpie pub -D publish content-type ":          "words",
		"magpie pub -D publish content-type a --hel":   "words --help",
		"magpie pub -D publish user-property a --hel":  "words",
		"magpie pub -D publish user-property a b --re": "words --retain --repeat --repeat-delay --reconnect",
		"magpie completion ":                           "words bash zsh fish",
		"magpie completion --help":                     "words --help",
		"magpie nonsense --":                           "words --help",
	} {
		kind, found, _ := suggest(root, shellWords(line))
		got := []string{kind}
		for _, s := range found {
			got = append(got, s.word)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestShellWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                         {""},
		"magpie":                   {"magpie"},
		"magpie ":                  {""},
		"magpie  a\tb":             {"a", "b"},
		`magpie 'a "b' "c 'd" `:    {`a "b`, `c 'd`, ""},
		`magpie a\ b '\' "\"" c'd`: {"a b", `\`, `"`, "cd"},
		"magpie '' x":              {"", "x"},
	} {
		if got := shellWords(line); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// FuzzComplete: no line makes completion panic, and each word that it offers begins as the line does.
func FuzzComplete(f *testing.F) {
	f.Add("magpie pub -D publish user-property a b --re")
	f.Add("magpie sub --qos=")
	f.Add(`magpie "`)
	root := model(f)
	f.Fuzz(func(t *testing.T, line string) {
		words := shellWords(line)
		last := words[len(words)-1]
		_, found, prefix := suggest(root, words)
		for _, s := range found {
			if !strings.HasPrefix(prefix+s.word, last) {
				t.Errorf("%q: %q", line, prefix+s.word)
			}
		}
		for _, shell := range []string{"bash", "zsh", "fish"} {
			printSuggestions(io.Discard, root, []string{shell, line})
		}
	})
}
