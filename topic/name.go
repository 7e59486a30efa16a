package topic

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// What can be wrong with a Topic Name or a Topic Filter. The Validate functions wrap these; tell them apart by
// errors.Is.
var (
	ErrEmpty         = errors.New("empty")
	ErrTooLong       = errors.New("too many bytes")
	ErrTooManyLevels = errors.New("too many levels")
	ErrUTF8          = errors.New("not well-formed UTF-8")
	ErrNUL           = errors.New("contains U+0000")
	ErrWildcard      = errors.New("misplaced wildcard")
	ErrShare         = errors.New("malformed shared subscription")
)

// maxBytes is what the two length bytes of an MQTT string can say.
const maxBytes = 65535

// Limits bounds Topic Names and Topic Filters more narrowly than MQTT does.
type Limits struct {
	MaxBytes  int // longest name or filter, in bytes of UTF-8, "$share/…/" included; zero, or more than 65535, means 65535
	MaxLevels int // most levels, which is one more than there are slashes, "$share/…/" not counted; zero means any number
}

// ValidateName checks a Topic Name, as in PUBLISH or a Will (§4.7). The error wraps one of the Err variables above and
// never quotes the name, which may be hostile. It does not allocate when the name is valid.
func ValidateName(name string, lim Limits) error {
	if err := checkName(name, lim); err != nil {
		return fmt.Errorf("topic name: %w", err)
	}
	return nil
}

// ValidateFilter checks a Topic Filter, as in SUBSCRIBE and UNSUBSCRIBE (§4.7), shared ones included (§4.8.2). The
// error wraps one of the Err variables above and never quotes the filter. It does not allocate when the filter is
// valid.
func ValidateFilter(filter string, lim Limits) error {
	if err := checkFilter(filter, lim); err != nil {
		return fmt.Errorf("topic filter: %w", err)
	}
	return nil
}

func checkName(name string, lim Limits) error {
	if err := checkText(name, lim); err != nil {
		return err
	}
	if strings.IndexByte(name, '+') >= 0 || strings.IndexByte(name, '#') >= 0 {
		return ErrWildcard // [MQTT-3.3.2-2], [MQTT-4.7.0-1]
	}
	return lim.checkLevels(name)
}

func checkFilter(filter string, lim Limits) error {
	if err := checkText(filter, lim); err != nil {
		return err
	}
	group, rest, shared := ParseShare(filter)
	if shared {
		if err := checkShare(group, rest); err != nil {
			return err
		}
	}
	if err := checkWildcards(rest); err != nil {
		return err
	}
	return lim.checkLevels(rest)
}

// checkText checks what holds for names and filters alike.
func checkText(s string, lim Limits) error {
	switch {
	case s == "":
		return ErrEmpty // [MQTT-4.7.3-1]
	case len(s) > lim.maxBytes():
		return ErrTooLong // [MQTT-4.7.3-3]
	case strings.IndexByte(s, 0) >= 0:
		return ErrNUL // [MQTT-4.7.3-2]
	case !utf8.ValidString(s):
		return ErrUTF8 // [MQTT-1.5.4-1]
	}
	return nil
}

// checkWildcards checks that each wildcard has a level for itself and that # is the last.
func checkWildcards(filter string) error {
	if strings.IndexByte(filter, '+') < 0 && strings.IndexByte(filter, '#') < 0 {
		return nil
	}
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if level == "#" && more {
			return ErrWildcard // [MQTT-4.7.1-1]
		}
		if len(level) > 1 && (strings.IndexByte(level, '+') >= 0 || strings.IndexByte(level, '#') >= 0) {
			return ErrWildcard // [MQTT-4.7.1-1], [MQTT-4.7.1-2]
		}
	}
	return nil
}

func (l Limits) maxBytes() int {
	if l.MaxBytes <= 0 {
		return maxBytes
	}
	return min(l.MaxBytes, maxBytes)
}

func (l Limits) checkLevels(s string) error {
	if l.MaxLevels > 0 && strings.Count(s, "/") >= l.MaxLevels {
		return ErrTooManyLevels
	}
	return nil
}
