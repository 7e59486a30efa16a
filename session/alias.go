package session

import "github.com/magpiemq/magpie/mqtt"

// AliasesIn are the Topic Aliases that the peer has given on one connection (§3.3.2.3.4).
type AliasesIn struct {
	max   uint16
	names []string // by alias - 1; grows with what is used
}

// Reset forgets every alias [MQTT-3.3.2-7] and allows them up to max; zero allows none [MQTT-3.2.2-17].
func (a *AliasesIn) Reset(max uint16) { a.max, a.names = max, nil }

// Set lets the alias stand for the name from now on.
func (a *AliasesIn) Set(alias uint16, name string) error {
	if alias == 0 || alias > a.max {
		return mqtt.TopicAliasInvalid // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
	}
	for int(alias) > len(a.names) {
		a.names = append(a.names, "")
	}
	a.names[alias-1] = name
	return nil
}

// Get returns the name that the alias stands for.
func (a *AliasesIn) Get(alias uint16) (string, error) {
	if alias == 0 || alias > a.max {
		return "", mqtt.TopicAliasInvalid
	}
	if int(alias) > len(a.names) || a.names[alias-1] == "" {
		return "", mqtt.ProtocolError // §3.3.2.3.4: no mapping was set
	}
	return a.names[alias-1], nil
}

// AliasesOut are the Topic Aliases that we have given to the peer on one connection: to the names that came first, as
// many as it allows.
type AliasesOut struct {
	max   uint16
	given map[string]uint16
}

// Reset forgets every alias and allows them up to max; zero allows none [MQTT-3.1.2-26], [MQTT-3.1.2-27].
func (a *AliasesOut) Reset(max uint16) { a.max, a.given = max, nil }

// Enabled reports whether the peer allows aliases.
func (a *AliasesOut) Enabled() bool { return a.max > 0 }

// Use returns the alias to send for the name, zero for none, and whether the peer knows it already, so that the name
// can be left out. The packet must then be sent: the peer learns a new alias from it.
func (a *AliasesOut) Use(name string) (alias uint16, known bool) {
	if alias, known = a.given[name]; known {
		return alias, true
	}
	if len(a.given) >= int(a.max) {
		return 0, false
	}
	if a.given == nil {
		a.given = make(map[string]uint16)
	}
	alias = uint16(len(a.given) + 1)
	a.given[name] = alias
	return alias, false
}
