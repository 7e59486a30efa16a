package main

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// The scripts only carry words between the shell and the program, which knows its own commands: so they never fall behind it.
//
//go:embed completion/magpie.bash
var bashScript string

//go:embed completion/magpie.zsh
var zshScript string

//go:embed completion/magpie.fish
var fishScript string

// completionCmd prints the script of a shell.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is shown by kong below the usage line.
func (completionCmd) Help() string {
	return examples(
		"source <(magpie completion bash)", "bash, for this shell; for all to come, put the line into ~/.bashrc",
		"source <(magpie completion zsh)", "zsh, below compinit in ~/.zshrc",
		"magpie completion fish | source", "fish, in ~/.config/fish/config.fish",
	)
}

// Run prints it.
func (c completionCmd) Run() error {
	_, err := io.WriteString(os.Stdout, map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell])
	return err
}

// completeWord is the argument by which the scripts ask what may come next.
const completeWord = "__complete"

// suggestion is a word that may come next.
type suggestion struct{ word, help string }

// suggester is a type of flags and arguments that knows its values. Before are the arguments that it has been given already, more than
// one if it takes several; none means that it takes no more.
type suggester interface {
	suggest(before []string) []suggestion
}

// kinds of what may come next.
const (
	someWords = "words"
	someFiles = "files"
	someDirs  = "dirs"
)

// printSuggestions answers a script: a line with the kind of what comes next, and a line for each word, in the way of the shell.
func printSuggestions(out io.Writer, model *kong.Node, args []string) {
	if len(args) < 2 {
		return
	}
	shell, words := args[0], args[1:]
	if shell == "bash" {
		words = shellWords(args[1])
	}
	kind, found, prefix := suggest(model, words)
	fmt.Fprintln(out, kind)
	for _, s := range found {
		switch shell {
		case "bash": // takes what is behind the = for a word of its own
			fmt.Fprintln(out, s.word)
		case "zsh":
			fmt.Fprintf(out, "%s:%s\n", strings.ReplaceAll(prefix+s.word, ":", `\:`), s.help)
		default:
			fmt.Fprintf(out, "%s\t%s\n", prefix+s.word, s.help)
		}
	}
}

// suggest returns what the last word may become, given those before it. The prefix is what the last one has before its value, --qos= for
// example.
func suggest(root *kong.Node, words []string) (kind string, found []suggestion, prefix string) {
	p := position{node: root}
	last := words[len(words)-1]
	for _, w := range words[:len(words)-1] {
		p.take(w)
	}
	kind = someWords
	switch name, value, isValue := strings.Cut(last, "="); {
	case p.flag != nil:
		kind, found = valuesOf(p.flag.Value, p.flag.PlaceHolder, p.given)
	case !p.plain && isValue && strings.HasPrefix(last, "--"):
		last, prefix = value, name+"="
		if f := p.find(name); f != nil && !f.IsBool() {
			kind, found = valuesOf(f.Value, f.PlaceHolder, nil)
		}
	case !p.plain && strings.HasPrefix(last, "-"):
		found = p.flags()
	default:
		kind, found = p.arguments()
	}
	found = slices.DeleteFunc(found, func(s suggestion) bool { return !strings.HasPrefix(s.word, last) })
	return kind, found, prefix
}

// position is where a command line has got to.
type position struct {
	node  *kong.Node
	flag  *kong.Flag // takes the next word; nil mostly
	given []string   // what it has taken already
	plain bool       // -- has come: no flags any more
	args  []string   // arguments of the command
}

// take moves on by one word.
func (p *position) take(w string) {
	switch {
	case p.flag != nil:
		p.given = append(p.given, w)
		if s, ok := suggesterOf(p.flag.Value); !ok || s.suggest(p.given) == nil {
			p.flag, p.given = nil, nil
		}
	case p.plain:
		p.args = append(p.args, w)
	case w == "--":
		p.plain = true
	case strings.HasPrefix(w, "--"):
		if f := p.find(w); f != nil && !f.IsBool() {
			p.flag = f
		}
	case len(w) > 1 && w[0] == '-':
		p.takeShort(w[1:])
	default:
		p.takeArgument(w)
	}
}

// takeShort takes flags of one letter in one word; the rest behind one with a value is that value.
func (p *position) takeShort(letters string) {
	for i, r := range letters {
		f := p.find("-" + string(r))
		if f == nil {
			return
		}
		if !f.IsBool() {
			if i+len(string(r)) == len(letters) {
				p.flag = f
			}
			return
		}
	}
}

func (p *position) takeArgument(w string) {
	for _, c := range p.node.Children {
		if c.Name == w || slices.Contains(c.Aliases, w) {
			p.node = c
			return
		}
	}
	p.args = append(p.args, w)
}

// find returns the flag that a word with its dashes names.
func (p *position) find(word string) *kong.Flag {
	for _, group := range p.node.AllFlags(false) {
		for _, f := range group {
			if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) ||
				slices.ContainsFunc(f.Aliases, func(a string) bool { return word == "--"+a }) {
				return f
			}
		}
	}
	return nil
}

// flags returns the long names of the flags that are not hidden.
func (p *position) flags() (found []suggestion) {
	for _, group := range p.node.AllFlags(true) {
		for _, f := range group {
			found = append(found, suggestion{"--" + f.Name, f.Help})
			if f.Tag.Negatable != "" {
				found = append(found, suggestion{"--no-" + f.Name, f.Help})
			}
		}
	}
	return found
}

// arguments returns subcommands, or the values of the argument that comes next.
func (p *position) arguments() (kind string, found []suggestion) {
	for _, c := range p.node.Children {
		if !c.Hidden {
			found = append(found, suggestion{c.Name, c.Help})
		}
	}
	if len(found) > 0 || len(p.node.Positional) == 0 {
		return someWords, found
	}
	i := min(len(p.args), len(p.node.Positional)-1)
	v := p.node.Positional[i]
	if i < len(p.args) && !v.IsCumulative() {
		return someWords, nil
	}
	return valuesOf(v, strings.ToUpper(v.Name), p.args[i:])
}

// valuesOf returns the values that a flag or argument may have. What it is called tells most.
func valuesOf(v *kong.Value, name string, given []string) (kind string, found []suggestion) {
	if s, ok := suggesterOf(v); ok {
		return someWords, s.suggest(given)
	}
	if v.Enum != "" {
		return someWords, suggestWords(slices.DeleteFunc(v.EnumSlice(), func(w string) bool { return w == "" })...)
	}
	switch name {
	case "FILE", "PATH", "SOCKET":
		return someFiles, nil
	case "DIR", "NEWDIR":
		return someDirs, nil
	case "QOS":
		return someWords, []suggestion{{"0", "at most once"}, {"1", "at least once"}, {"2", "exactly once"}}
	case "COMMAND":
		return someWords, suggestConsole(given)
	case "V":
		return someWords, suggestWords("mqttv5", "mqttv311", "mqttv31")
	}
	return someWords, nil
}

// suggestConsole returns the commands of the console.
func suggestConsole(given []string) (found []suggestion) {
	if len(given) > 0 {
		return nil
	}
	for _, c := range commands() {
		found = append(found, suggestion{c.name, c.help})
	}
	return found
}

func suggesterOf(v *kong.Value) (suggester, bool) {
	s, ok := v.Target.Interface().(suggester)
	return s, ok
}

func suggestWords(words ...string) (found []suggestion) {
	for _, w := range words {
		found = append(found, suggestion{word: w})
	}
	return found
}

// shellWords cuts a command line as bash does, without expanding anything, and leaves out the first word. The last word is what the cursor
// is at, perhaps nothing yet.
func shellWords(line string) []string {
	var words []string
	var word strings.Builder
	quote := rune(0)
	escaped, begun := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, begun = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if begun {
				words = append(words, word.String())
				word.Reset()
			}
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	words = append(words, word.String())
	return words[min(1, len(words)-1):]
}
