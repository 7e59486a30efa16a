package topic

import "strings"

// Match reports whether filter matches name (§4.7). It walks both level by level and does not allocate. It is the
// oracle for Tree and Retained, so it shares no code with them.
func Match(filter, name string) bool {
	if name == "" || startsWild(filter) && name[0] == '$' {
		return false // [MQTT-4.7.2-1]
	}
	for {
		want, filterRest, filterMore := strings.Cut(filter, "/")
		level, nameRest, nameMore := strings.Cut(name, "/")
		switch {
		case want == "#":
			return true
		case want != "+" && want != level:
			return false
		case !nameMore:
			return !filterMore || filterRest == "#" // a/# matches the parent level a, too (§4.7.1.2)
		case !filterMore:
			return false
		}
		filter, name = filterRest, nameRest
	}
}

// Covers reports whether general matches every name that specific matches: who may subscribe to general may also
// subscribe to specific. Both are filters; a name without wildcards will do. It does not allocate.
func Covers(general, specific string) bool {
	if startsWild(general) && strings.HasPrefix(specific, "$") {
		return false // [MQTT-4.7.2-1]
	}
	if specific == "#" {
		return general == "#" || general == "+/#" // the same names: each name has a first level
	}
	for {
		want, generalRest, generalMore := strings.Cut(general, "/")
		level, specificRest, specificMore := strings.Cut(specific, "/")
		switch {
		case want == "#":
			return true
		case level == "#":
			return false // specific also matches the parent level and every depth, general does not
		case want != "+" && want != level:
			return false
		case !specificMore:
			return !generalMore || generalRest == "#"
		case !generalMore:
			return false
		}
		general, specific = generalRest, specificRest
	}
}

// startsWild reports whether the first level of filter is a wildcard: such a filter matches no name that begins with $.
func startsWild(filter string) bool {
	return filter != "" && (filter[0] == '+' || filter[0] == '#')
}
