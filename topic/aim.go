package topic

import "strings"

// verdict is what a filter says of one name among the sorted names of Retained.
type verdict int

const (
	match verdict = iota // the name matches
	leap                 // it does not, nor does any name after it and before the target
	done                 // it does not, nor does any name after it
)

// aim compares filter with name level by level. At a leap the target, appended to dst, comes after name in the order of
// compare.
//
// Where the levels part, there are two ways to go. Forward: under the levels that did match, a later name may have
// what the filter wants, so the target is those levels and the wanted one. Or, when the name is already past that,
// out: the next name that can match has another level where the filter has its last +, so the target is what comes
// after everything below the present one. With no + before, nothing can match any more.
func aim(dst []byte, filter, name string) (target []byte, v verdict) {
	if startsWild(filter) && strings.HasPrefix(name, "$") {
		return append(dst, '$'+1), leap // [MQTT-4.7.2-1]
	}
	plusEnd := -1 // where in name the last level ends that met a +
	for at := 0; ; {
		want, filterRest, filterMore := strings.Cut(filter, "/")
		if want == "#" {
			return dst, match
		}
		end := levelEnd(name, at)
		if want == "+" {
			plusEnd = end
		} else if c := strings.Compare(name[at:end], want); c < 0 {
			return append(append(dst, name[:at]...), want...), leap
		} else if c > 0 {
			return leave(dst, name, plusEnd)
		}
		switch nameMore := end < len(name); {
		case !nameMore && (!filterMore || filterRest == "#"):
			return dst, match // the parent level (§4.7.1.2)
		case !nameMore:
			return descend(dst, name, filterRest)
		case !filterMore:
			return leave(dst, name, plusEnd)
		}
		filter, at = filterRest, end+1
	}
}

// descend aims at the first name below name whose next level is the first of rest; at any, if that is a +.
func descend(dst []byte, name, rest string) ([]byte, verdict) {
	want, _, _ := strings.Cut(rest, "/")
	dst = append(append(dst, name...), '/')
	if want == "+" {
		return dst, leap
	}
	return append(dst, want...), leap
}

// leave aims behind everything below name[:plusEnd]. No name holds U+0000, so with one appended, it comes after all
// those that go on with a slash and before all others.
func leave(dst []byte, name string, plusEnd int) ([]byte, verdict) {
	if plusEnd < 0 {
		return dst, done
	}
	return append(append(dst, name[:plusEnd]...), 0), leap
}
