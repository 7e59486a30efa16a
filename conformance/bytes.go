package conformance

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var variable = regexp.MustCompile(`\$[a-zA-Z][a-zA-Z0-9]*`)

// expand replaces the variables in s that are bound and leaves others, such as
// $share, alone.
func expand(s string, vars map[string]string) string {
	return variable.ReplaceAllStringFunc(s, func(name string) string {
		if value, ok := vars[name[1:]]; ok {
			return value
		}
		return name
	})
}

// textOf evaluates the value of a field: bare, quoted, repeated, or hex:….
func textOf(w string, vars map[string]string) (string, error) {
	if digits, ok := strings.CutPrefix(w, "hex:"); ok {
		b, err := hex.DecodeString(digits)
		return string(b), err
	}
	body, times, err := repetition(w)
	if err != nil {
		return "", err
	}
	if n := len(body); n >= 2 && (body[0] == '"' || body[0] == '\'') && body[n-1] == body[0] {
		body = body[1 : n-1]
	} else if times != 1 {
		return "", fmt.Errorf("%s: only quoted text and bytes can be repeated", w)
	}
	return strings.Repeat(expand(body, vars), times), nil
}

// repetition splits body*N; without *N, N is 1.
func repetition(w string) (body string, times int, err error) {
	i := strings.LastIndexByte(w, '*')
	if i <= 0 || strings.ContainsAny(w[i:], `"'`) {
		return w, 1, nil
	}
	times, err = strconv.Atoi(w[i+1:])
	return w[:i], times, err
}

// encodeBytes evaluates words of bytes, { and } included.
func encodeBytes(words []string, vars map[string]string) ([]byte, error) {
	stack := [][]byte{nil} // one entry per open brace
	for _, w := range words {
		top := len(stack) - 1
		switch w {
		case "{":
			stack = append(stack, nil)
		case "}":
			if top == 0 {
				return nil, fmt.Errorf("} without {")
			}
			inner := stack[top]
			stack = stack[:top]
			stack[top-1] = append(appendVarint(stack[top-1], len(inner)), inner...)
		default:
			b, err := bytesOf(w, vars)
			if err != nil {
				return nil, err
			}
			stack[top] = append(stack[top], b...)
		}
	}
	if len(stack) != 1 {
		return nil, fmt.Errorf("{ without }")
	}
	return stack[0], nil
}

// bytesOf evaluates one word: hexadecimal digits, 'text' or s"text".
func bytesOf(w string, vars map[string]string) ([]byte, error) {
	if quoted, ok := strings.CutPrefix(w, "s"); ok {
		text, err := textOf(quoted, vars)
		return appendString(nil, text), err
	}
	if w[0] == '"' || w[0] == '\'' {
		text, err := textOf(w, vars)
		return []byte(text), err
	}
	if value, ok := vars[strings.TrimPrefix(w, "$")]; ok && w[0] == '$' {
		n, err := strconv.Atoi(value)
		return binary.BigEndian.AppendUint16(nil, uint16(n)), err
	}
	digits, times, err := repetition(w)
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return nil, fmt.Errorf("%s is neither bytes nor text", w)
	}
	return []byte(strings.Repeat(string(b), times)), nil
}

// matchBytes compares a packet with words that may contain .. and *.
func matchBytes(words []string, got []byte, vars map[string]string) error {
	if slices.Contains(words, "{") { // then there are no wildcards
		want, err := encodeBytes(words, vars)
		if err == nil && !bytes.Equal(want, got) {
			err = fmt.Errorf("it is not % X", want)
		}
		return err
	}
	rest := got
	for i, w := range words {
		switch w {
		case "*":
			return nil
		case "..":
			if len(rest) == 0 {
				return fmt.Errorf("packet ends before word %d", i+1)
			}
			rest = rest[1:]
		default:
			want, err := bytesOf(w, vars)
			if err != nil {
				return err
			}
			if len(rest) < len(want) || string(rest[:len(want)]) != string(want) {
				return fmt.Errorf("word %d, %s, does not match", i+1, w)
			}
			rest = rest[len(want):]
		}
	}
	if len(rest) != 0 {
		return fmt.Errorf("%d bytes more than expected", len(rest))
	}
	return nil
}

func appendVarint(b []byte, n int) []byte {
	return binary.AppendUvarint(b, uint64(n)) // the same encoding, up to four bytes
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
