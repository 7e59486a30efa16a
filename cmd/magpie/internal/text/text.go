// Package text knows how strangers' words are shown: hostile text so that it cannot touch the terminal, mistaken words with
// the one that was probably meant.
package text

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape returns s with everything that is not printable, and the backslash, as Go writes it in a string: \n, \x1b, \u202e.
// What comes out cannot move a cursor, change a colour, or look like another line.
func Escape(s string) string {
	if !strings.ContainsFunc(s, hostile) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case hostile(r):
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

func hostile(r rune) bool { return r == '\\' || !unicode.IsPrint(r) && r != utf8.RuneError }

// Payload is Escape for the first limit bytes of a payload. What was left out is counted at the end: "… (+300 bytes)".
func Payload(p []byte, limit int) string {
	if len(p) <= limit {
		return Escape(string(p))
	}
	cut := limit
	for i := 0; i < utf8.UTFMax && cut > 0 && !utf8.RuneStart(p[cut]); i++ { // not in the middle of a character
		cut--
	}
	return fmt.Sprintf("%s… (+%d bytes)", Escape(string(p[:cut])), len(p)-cut)
}

// Nearest returns the word among known that s was probably meant to be: the one with the fewest edits, in lack of that the
// one with the longest common beginning; or "" when none is near.
func Nearest(s string, known []string) string {
	best, least := "", max(1, len(s)/3)+1
	for _, k := range known {
		if d := distance(s, k, least); d < least {
			best, least = k, d
		}
	}
	if best != "" {
		return best
	}
	most := 2
	for _, k := range known {
		if n := common(s, k); n > most {
			best, most = k, n
		}
	}
	return best
}

// common counts the bytes with which both words begin.
func common(a, b string) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// DidYouMean returns `: did you mean "x"?` for the nearest word, or "" when none is near.
func DidYouMean(s string, known []string) string {
	if n := Nearest(s, known); n != "" {
		return fmt.Sprintf(": did you mean %q?", n)
	}
	return ""
}

// distance counts the edits from a to b: insert, delete, replace, or swap two neighbours, each one. It may return most for
// anything farther.
func distance(a, b string, most int) int {
	if len(a)-len(b) >= most || len(b)-len(a) >= most {
		return most
	}
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row := rows[(i-1)%3], rows[i%3], rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
