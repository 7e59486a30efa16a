package conformance

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// expectation is what a script wants to receive.
type expectation struct {
	words  []string
	event  string // "EOF" or "silence"
	raw    bool   // words are bytes
	maybe  bool   // the end of the connection will do as well
	name   string
	codes  []string // alternatives joined by |
	fields []field  // values unexpanded
	absent []string
}

func parseExpectation(words []string, vars map[string]string) (*expectation, error) {
	if len(words) == 0 {
		return nil, fmt.Errorf("nothing to expect")
	}
	maybe := words[0] == "maybe" && len(words) > 1
	if maybe {
		words = words[1:]
	}
	e := &expectation{words: words, name: words[0], maybe: maybe}
	switch {
	case words[0] == "EOF" || words[0] == "silence":
		e.event = words[0]
		return e, nil
	case !slices.Contains(packetNames, words[0]):
		e.raw = true
		return e, checkPattern(words, vars)
	}
	for _, w := range words[1:] {
		if err := e.word(w, vars); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func checkPattern(words []string, vars map[string]string) error {
	if slices.Contains(words, "{") {
		_, err := encodeBytes(words, vars)
		return err
	}
	for _, w := range words {
		if w == "*" || w == ".." {
			continue
		}
		if _, err := bytesOf(w, vars); err != nil {
			return err
		}
	}
	return nil
}

func (e *expectation) word(w string, vars map[string]string) error {
	if name, ok := strings.CutPrefix(w, "!"); ok {
		e.absent = append(e.absent, name)
		return knownField(name)
	}
	name, value, ok := strings.Cut(w, "=")
	if !ok {
		e.codes = append(e.codes, strings.ToLower(w))
		return checkCodes(w)
	}
	text, err := textOf(value, vars)
	if err != nil {
		return err
	}
	e.fields = append(e.fields, field{name, text})
	return knownField(name)
}

func checkCodes(alternatives string) error {
	for code := range strings.SplitSeq(alternatives, "|") {
		if b, err := hex.DecodeString(code); err != nil || len(b) != 1 {
			return fmt.Errorf("%s is neither a field nor a Reason Code", code)
		}
	}
	return nil
}

func knownField(name string) error {
	if _, ok := propertyNamed(name); ok || slices.Contains(fieldNames, name) {
		return nil
	}
	return fmt.Errorf("no field or property is called %s", name)
}

// match compares p with what is wanted. On success it binds variables.
func (e *expectation) match(p *packet, vars map[string]string) error {
	if e.raw {
		return matchBytes(e.words, p.raw, vars)
	}
	if p.name != e.name {
		return fmt.Errorf("it is not a %s", e.name)
	}
	if p.version == V5 || p.name == "CONNACK" || p.name == "SUBACK" { // others had no codes before
		if err := e.matchCodes(p.codes); err != nil {
			return err
		}
	}
	for _, name := range e.absent {
		if p.has(name) {
			return fmt.Errorf("%s is present", name)
		}
	}
	bound := map[string]string{}
	if err := e.matchFields(p, vars, bound); err != nil {
		return err
	}
	for name, value := range bound {
		vars[name] = value
	}
	return nil
}

func (e *expectation) matchCodes(got []byte) error {
	want := e.codes
	if len(want) == 0 {
		want = slices.Repeat([]string{"00"}, len(got))
		if e.name == "SUBACK" || e.name == "UNSUBACK" {
			want = nil
		}
	}
	if len(want) != len(got) {
		return fmt.Errorf("it has %d Reason Codes", len(got))
	}
	for i, code := range got {
		if !slices.Contains(strings.Split(want[i], "|"), fmt.Sprintf("%02x", code)) {
			return fmt.Errorf("it has Reason Code %02X", code)
		}
	}
	return nil
}

// matchFields checks each wanted field against those of the packet, in order
// where a name repeats; what a PUBLISH has beyond them is an error.
func (e *expectation) matchFields(p *packet, vars, bound map[string]string) error {
	rest := slices.Clone(p.fields)
	for _, want := range e.wanted() {
		value := expand(want.value, vars)
		i := slices.IndexFunc(rest, func(f field) bool {
			anyOrder := f.name == "subid" // [MQTT-3.3.4-4]
			return f.name == want.name && (!anyOrder || accepts(value, f.value, bound))
		})
		if i < 0 {
			return fmt.Errorf("%s=%s is missing", want.name, value)
		}
		if !accepts(value, rest[i].value, bound) {
			return fmt.Errorf("%s is not %s", rest[i], value)
		}
		rest = slices.Delete(rest, i, i+1)
	}
	if e.name != "PUBLISH" {
		return nil
	}
	rest = slices.DeleteFunc(rest, func(f field) bool { return f.name == "id" })
	if len(rest) > 0 {
		return fmt.Errorf("%s is not expected", rest[0])
	}
	return e.userOrder(p)
}

// wanted adds the fields that are zero unless the script says otherwise.
func (e *expectation) wanted() []field {
	defaults := map[string][]field{
		"PUBLISH": {{"qos", "0"}, {"retain", "0"}, {"dup", "0"}, {"payload", ""}},
		"CONNACK": {{"sp", "0"}},
	}
	all := slices.Clone(e.fields)
	for _, d := range defaults[e.name] {
		if !slices.ContainsFunc(all, func(f field) bool { return f.name == d.name }) {
			all = append(all, d)
		}
	}
	return all
}

// userOrder checks that User Properties come in the order of the script, also
// those of different names.
func (e *expectation) userOrder(p *packet) error {
	names := func(fields []field) (list []string) {
		for _, f := range fields {
			if strings.HasPrefix(f.name, "user:") {
				list = append(list, f.name)
			}
		}
		return list
	}
	if want, got := names(e.fields), names(p.fields); !slices.Equal(want, got) {
		return fmt.Errorf("its User Properties are in the order %v", got)
	}
	return nil
}

// accepts compares one value: *, a range, alternatives, a variable to bind, or text.
func accepts(want, got string, bound map[string]string) bool {
	if want == "*" || want == got {
		return true
	}
	if name, ok := strings.CutPrefix(want, "$"); ok && variable.FindString(want) == want {
		bound[name] = got
		return true
	}
	if low, high, ok := strings.Cut(want, ".."); ok {
		return within(low, high, got)
	}
	return strings.Contains(want, "|") && slices.Contains(strings.Split(want, "|"), got)
}

func within(low, high, got string) bool {
	a, errA := strconv.Atoi(low)
	b, errB := strconv.Atoi(high)
	n, errN := strconv.Atoi(got)
	return errA == nil && errB == nil && errN == nil && a <= n && n <= b
}
