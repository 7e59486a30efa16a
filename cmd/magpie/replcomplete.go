package main

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/magpiemq/magpie/api"
)

const (
	askTime   = 500 * time.Millisecond // for the client ids that complete a word
	mostShown = 50                     // words above the prompt
)

// complete is what the tabulator does: it finishes the last word of a line, as far as there is one way to do so, and shows the ways when there
// are several. Its type is that of term.Terminal.AutoCompleteCallback.
func (c *console) complete(line string, pos int, key rune) (newLine string, newPos int, ok bool) {
	if key != '\t' || pos != len(line) || !utf8.ValidString(line) {
		return "", 0, false
	}
	before, last := cutLast(line)
	words, err := split(before)
	if err != nil {
		return "", 0, false
	}
	found := slices.DeleteFunc(c.next(words), func(w string) bool { return !strings.HasPrefix(w, last) })
	slices.Sort(found)
	switch found = slices.Compact(found); {
	case len(found) == 0:
		return "", 0, false
	case len(found) == 1:
		newLine = before + found[0] + " "
	default:
		if newLine = before + commonStart(found); newLine == line {
			c.show(found)
			return "", 0, false
		}
	}
	return newLine, len(newLine), true
}

// cutLast cuts a line before the last word, which may be empty or begin with a quote that is still open.
func cutLast(line string) (before, last string) {
	start, quoted := 0, false
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\' && quoted:
			i++
		case line[i] == '"' && (quoted || i == start):
			quoted = !quoted
		case !quoted && (line[i] == ' ' || line[i] == '\t'):
			start = i + 1
		}
	}
	return line[:start], line[start:]
}

// next returns what may follow, as it is typed in.
func (c *console) next(words []string) (found []string) {
	all := commands()
	if len(words) == 0 {
		for _, k := range all {
			found = append(found, k.name)
		}
		return found
	}
	i := slices.IndexFunc(all, func(k command) bool { return k.name == words[0] })
	if i < 0 {
		return nil
	}
	args := strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(all[i].args))
	if len(words) > len(args) {
		return nil
	}
	for _, a := range strings.Split(args[len(words)-1], "|") {
		switch {
		case a == "CLIENT":
			ctx, cancel := context.WithTimeout(context.Background(), askTime)
			defer cancel()
			for _, id := range c.sessions(ctx) {
				found = append(found, word(id))
			}
		case a == strings.ToLower(a):
			found = append(found, a)
		}
	}
	return found
}

// sessionNames asks for the client ids of all sessions. Without an answer there are none.
func sessionNames(ctx context.Context, client *api.AdminClient) (ids []string) {
	list, err := client.Clients(ctx, true)
	if err != nil {
		return nil
	}
	for _, k := range list {
		ids = append(ids, k.ClientID)
	}
	return ids
}

// show writes words above the prompt.
func (c *console) show(words []string) {
	more := ""
	if n := len(words) - mostShown; n > 0 {
		words, more = words[:mostShown], "  …"
	}
	c.print("%s", strings.Join(words, "  ")+more)
}

// commonStart returns how all words begin, in whole characters.
func commonStart(words []string) string {
	start := words[0]
	for _, w := range words[1:] {
		for !strings.HasPrefix(w, start) {
			_, n := utf8.DecodeLastRuneInString(start)
			start = start[:len(start)-n]
		}
	}
	return start
}
