package topic

import "strings"

const sharePrefix = "$share/"

// ParseShare takes the Topic Filter of a Shared Subscription (§4.8.2) apart: "$share/g/a/b" gives "g", "a/b" and true.
// Any other filter comes back as rest, with an empty group and false; so does "$share" alone, which is an ordinary
// filter. The parts share memory with filter. ParseShare does not validate: ValidateFilter does.
func ParseShare(filter string) (group, rest string, shared bool) {
	after, shared := strings.CutPrefix(filter, sharePrefix)
	if !shared {
		return "", filter, false
	}
	group, rest, _ = strings.Cut(after, "/")
	return group, rest, true
}

// checkShare checks the two parts of a Shared Subscription's filter. A ShareName cannot hold a slash: ParseShare cut
// there.
func checkShare(group, rest string) error {
	if group == "" {
		return ErrShare // [MQTT-4.8.2-1]
	}
	if strings.ContainsAny(group, "+#") || rest == "" {
		return ErrShare // [MQTT-4.8.2-2]
	}
	if strings.HasPrefix(rest, sharePrefix) {
		return ErrShare // what follows the ShareName is the filter of a non-shared subscription, so it cannot share again
	}
	return nil
}
