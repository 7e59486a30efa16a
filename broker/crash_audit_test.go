package broker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// audit holds what the parties have, once everything has come to its end, against what they were promised.
func (s *stage) audit() {
	s.Helper()
	for _, p := range s.l.parties {
		if p.link != nil && len(p.sending) > 0 {
			s.fatalf("%s: handshakes that nobody ends: %+v", p.id, p.sending)
		}
		if p.link != nil && len(p.open) > 0 {
			s.fatalf("%s: messages that nobody releases: %v", p.id, p.open)
		}
	}
	for _, m := range s.l.postings {
		s.auditPosting(m)
	}
	s.auditRetained()
}

func (s *stage) auditPosting(m *posting) {
	s.Helper()
	members, twice := 0, 0
	for _, p := range s.l.parties {
		times := p.got[m.n]
		if times == nil {
			times = new([3]int)
		}
		total := times[0] + times[1] + times[2]
		if p.filters[shared] > 0 && strings.HasPrefix(m.name, "s/") {
			members += total
			twice += times[2]
		}
		switch {
		case m.empty:
		case m.fate == accepted && m.must[p.index] && total == 0:
			st, _ := s.b.Client(p.id)
			s.fatalf("%s never got %d on %s, QoS %d of %s, which was acknowledged; waiting for it: %d, in flight %d",
				p.id, m.n, m.name, m.qos, s.l.parties[m.from].id, st.QueuedMessages, st.InFlight)
		case m.fate == accepted && m.exact[p.index] && m.qos == mqtt.ExactlyOnce && times[2] != 1:
			s.fatalf("%s got %d on %s %d times with QoS 2", p.id, m.n, m.name, times[2])
		case total > 0 && !p.mayGet(m.name):
			s.fatalf("%s got %d on %s, for which it has never asked", p.id, m.n, m.name)
		}
	}
	if m.fate == accepted && m.group && m.qos > 0 && members == 0 {
		s.fatalf("no member of the shared subscription got %d on %s, QoS %d", m.n, m.name, m.qos)
	}
	if twice > 1 {
		s.fatalf("members of the shared subscription got %d on %s %d times with QoS 2", m.n, m.name, twice)
	}
}

func (p *party) mayGet(name string) bool {
	for filter := range p.filters {
		if topic.Match(strings.TrimPrefix(filter, "$share/g/"), name) {
			return true
		}
	}
	return false
}

// auditRetained wants under each topic what was acknowledged last, or something later.
func (s *stage) auditRetained() {
	s.Helper()
	now := make(map[string]int)
	b := &s.b.retained
	b.mu.RLock()
	for name, k := range b.tree.All() {
		var n int
		fmt.Sscanf(string(k.Payload), "%d:", &n)
		now[name] = n
	}
	b.mu.RUnlock()
	for name, versions := range s.l.retained {
		first := 0
		for i, n := range versions {
			if s.l.postings[n-1].fate == accepted {
				first = i
			}
		}
		allowed := versions[first:]
		none := s.l.postings[versions[0]-1].fate != accepted && first == 0 // nothing was ever acknowledged
		for _, n := range allowed {
			none = none || s.l.postings[n-1].empty
		}
		n, there := now[name]
		if delete(now, name); there && !slices.Contains(allowed, n) || !there && !none {
			s.fatalf("retained on %s is %d (there: %v), want one of %v", name, n, there, allowed)
		}
	}
	if len(now) > 0 {
		s.fatalf("retained, though nobody sent that: %v", now)
	}
}
