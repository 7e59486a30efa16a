package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// access is a set of actions that a rule grants, or denied.
type access uint8

const (
	mayRead access = 1 << iota
	mayWrite
	maySubscribe
	denied // everything
)

// rule grants or denies actions on the topics of one filter.
type rule struct {
	line   int    // in the ACL file; zero elsewhere
	filter string // as written, %c and %u included
	access access
	levels []level
	varies bool // has %c or %u
}

// level is one level of a rule's filter.
type level struct {
	kind levelKind
	text string // of a literal
}

type levelKind uint8

const (
	literal levelKind = iota
	single
	multi
	clientVar
	userVar
)

// compileRule prepares a rule. Only where variables is set do %c and %u stand for the client's names.
func compileRule(line int, a access, filter string, variables bool) (rule, error) {
	r := rule{line: line, filter: filter, access: a}
	if err := topic.ValidateFilter(filter, topic.Limits{}); err != nil {
		return r, fmt.Errorf("%q: %w", filter, err)
	}
	if _, _, shared := topic.ParseShare(filter); shared {
		return r, fmt.Errorf("%q: leave out $share/…/: rules are about the filter behind it", filter)
	}
	for text := range strings.SplitSeq(filter, "/") {
		l, err := compileLevel(text, variables)
		if err != nil {
			return r, fmt.Errorf("%q: %w", filter, err)
		}
		r.levels = append(r.levels, l)
		r.varies = r.varies || l.kind == clientVar || l.kind == userVar
	}
	return r, nil
}

func compileLevel(text string, variables bool) (level, error) {
	hasVar := strings.Contains(text, "%c") || strings.Contains(text, "%u")
	switch {
	case text == "+":
		return level{kind: single}, nil
	case text == "#":
		return level{kind: multi}, nil
	case hasVar && !variables:
		return level{}, errors.New(`%c and %u work in "pattern" lines only`)
	case text == "%c":
		return level{kind: clientVar}, nil
	case text == "%u":
		return level{kind: userVar}, nil
	case hasVar:
		return level{}, errors.New("%c and %u must be a whole level, between slashes")
	}
	return level{text: text}, nil
}

// matches reports whether the rule is about a Topic Name. It follows topic.Match on the filter that filterFor returns,
// but does not allocate.
func (r *rule) matches(s *subject, name string) bool {
	if name[0] == '$' && r.levels[0].kind != literal {
		return false // [MQTT-4.7.2-1]; and no client's name begins with $
	}
	for i := range r.levels {
		l := &r.levels[i]
		if l.kind == multi {
			return true
		}
		text, rest, more := strings.Cut(name, "/")
		if !r.matchesLevel(l, s, text) {
			return false
		}
		if !more {
			left := r.levels[i+1:]
			return len(left) == 0 || left[0].kind == multi // # includes the parent level (§4.7.1.2)
		}
		name = rest
	}
	return false
}

func (r *rule) matchesLevel(l *level, s *subject, text string) bool {
	switch l.kind {
	case single:
		return true
	case clientVar:
		return r.matchesVar(s.clientFits, s.client, text)
	case userVar:
		return r.matchesVar(s.userFits, s.user, text)
	}
	return l.text == text
}

// matchesVar compares a level with a client's name. A name that does not fit grants nothing, and escapes no denial:
// there it stands for any level.
func (r *rule) matchesVar(fits bool, name, text string) bool {
	if fits {
		return name == text
	}
	return r.access == denied
}

// filterFor returns the Topic Filter that the rule is about for this client, or false when it is about none.
func (r *rule) filterFor(s *subject) (filter string, ok bool) {
	if !r.varies {
		return r.filter, true
	}
	parts := make([]string, len(r.levels))
	for i, l := range r.levels {
		var fits bool
		switch l.kind {
		case clientVar:
			parts[i], fits = s.client, s.clientFits
		case userVar:
			parts[i], fits = s.user, s.userFits
		case single:
			parts[i], fits = "+", true
		case multi:
			parts[i], fits = "#", true
		default:
			parts[i], fits = l.text, true
		}
		if !fits && r.access != denied {
			return "", false
		} else if !fits {
			parts[i] = "+" // as in matchesVar
		}
	}
	return strings.Join(parts, "/"), true
}

// overlaps reports whether some Topic Name matches both filters.
func overlaps(a, b string) bool {
	if a[0] == '$' && wildFirst(b) || b[0] == '$' && wildFirst(a) {
		return false // [MQTT-4.7.2-1]
	}
	for {
		la, restA, moreA := strings.Cut(a, "/")
		lb, restB, moreB := strings.Cut(b, "/")
		switch {
		case la == "#" || lb == "#":
			return true
		case la != lb && la != "+" && lb != "+":
			return false
		case !moreA && !moreB:
			return true
		case !moreA:
			return restB == "#"
		case !moreB:
			return restA == "#"
		}
		a, b = restA, restB
	}
}

func wildFirst(filter string) bool { return filter[0] == '+' || filter[0] == '#' }

// rules are evaluated together; their order does not matter, except for which of several is named as the reason.
type rules []rule

// verdict is a decision and the rule behind it, which is nil when no rule speaks.
type verdict struct {
	allowed bool
	rule    *rule
	why     string // in the style of "line 12 denies …", without the line
}

// decide takes several lists as if they were one.
func decide(s *subject, a broker.Action, target string, lists ...rules) verdict {
	switch {
	case target == "":
		return verdict{why: "there is no empty topic"}
	case a == broker.Write:
		return decideName(s, mayWrite, target, lists)
	case a == broker.Read:
		return decideName(s, mayRead, target, lists)
	case a == broker.Subscribe:
		return decideSubscribe(s, target, lists)
	}
	return verdict{why: "there is no such action"}
}

// decideName is the hot path of publishing and delivering: a denial wins, then any grant.
func decideName(s *subject, want access, name string, lists []rules) (v verdict) {
	v.why = "no line allows it"
	for _, list := range lists {
		for i := range list {
			r := &list[i]
			if r.access&(want|denied) == 0 || v.allowed && r.access != denied || !r.matches(s, name) {
				continue
			}
			if r.access == denied {
				return verdict{rule: r, why: "denies it"}
			}
			v = verdict{allowed: true, rule: r, why: "allows it"}
		}
	}
	return v
}

// decideSubscribe decides about a Topic Filter. A denial wins if it takes in the whole filter; one that takes in a part
// is left to the deliveries. Then the lines that grant subscribing decide, if any touches the filter: one must cover
// it. Otherwise the filter is allowed if something readable could match it, and each delivery is checked.
func decideSubscribe(s *subject, filter string, lists []rules) verdict {
	readable := verdict{why: "nothing that it matches may be read"}
	var granted, touched verdict
	for _, list := range lists {
		for i := range list {
			r := &list[i]
			own, ok := r.filterFor(s)
			switch {
			case !ok || r.access == mayWrite || !overlaps(own, filter):
			case r.access == denied:
				if topic.Covers(own, filter) {
					return verdict{rule: r, why: "denies all that it matches"}
				}
			case r.access&maySubscribe == 0:
				if readable.rule == nil {
					readable = verdict{true, r, "allows reading, and each delivery is checked"}
				}
			case topic.Covers(own, filter):
				granted = verdict{true, r, "allows it"}
			default:
				touched = verdict{rule: r, why: "allows subscribing to a part of it only"}
			}
		}
	}
	switch {
	case granted.rule != nil:
		return granted
	case touched.rule != nil:
		return touched
	}
	return readable
}

// coversRead reports whether one rule grants reading everything that the filter matches and no rule denies any of it.
func coversRead(s *subject, filter string, lists ...rules) bool {
	var covered bool
	for _, list := range lists {
		for i := range list {
			r := &list[i]
			own, ok := r.filterFor(s)
			if ok && r.access&mayRead != 0 && topic.Covers(own, filter) {
				covered = true
			}
		}
	}
	return covered && neverDeniesRead(s, filter, lists...)
}

// neverDeniesRead reports whether no rule denies anything that the filter matches.
func neverDeniesRead(s *subject, filter string, lists ...rules) bool {
	for _, list := range lists {
		for i := range list {
			if r := &list[i]; r.access == denied {
				if own, ok := r.filterFor(s); ok && overlaps(own, filter) {
					return false
				}
			}
		}
	}
	return true
}

// answer is what an Authorizer returns for a verdict.
func (v *verdict) answer() error {
	switch {
	case v.allowed:
		return nil
	case v.rule != nil:
		return mqtt.NotAuthorized
	}
	return broker.ErrNoOpinion
}
