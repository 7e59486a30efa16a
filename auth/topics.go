package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// maxTopics bounds the filters that one credential may carry.
const maxTopics = 1000

// Topics allows what its filters say and denies everything else: what a token or an HTTP answer grants. It is
// immutable and safe for many goroutines.
type Topics struct{ rules rules }

// NewTopics allows publishing to topics that match a filter of pub, and subscribing and reading by those of sub. In
// filters %c and %u stand for the client's names, as in the pattern lines of an [ACL]. At most 1000 filters in all.
func NewTopics(pub, sub []string) (*Topics, error) {
	if len(pub)+len(sub) > maxTopics {
		return nil, fmt.Errorf("%d filters are more than %d", len(pub)+len(sub), maxTopics)
	}
	t := &Topics{}
	if err := t.add(mayWrite, pub); err != nil {
		return nil, fmt.Errorf("pub: %w", err)
	}
	if err := t.add(mayRead, sub); err != nil {
		return nil, fmt.Errorf("sub: %w", err)
	}
	return t, nil
}

func (t *Topics) add(a access, filters []string) error {
	for _, filter := range filters {
		r, err := compileRule(0, a, filter, true)
		if err != nil {
			return err
		}
		t.rules = append(t.rules, r)
	}
	return nil
}

// Authorize allows what a filter allows and denies the rest. It neither blocks nor, for Write and Read, allocates.
func (t *Topics) Authorize(c *broker.ClientInfo, act broker.Action, topic string) error {
	s := subjectOf(c)
	if v := decide(&s, act, topic, t.rules); v.allowed {
		return nil
	}
	return mqtt.NotAuthorized
}

// DecidesAtOnce is true: nobody else is asked; see [broker.Prompt].
func (*Topics) DecidesAtOnce() bool { return true }

// CoversRead reports whether one filter covers another; see [broker.Coverer].
func (t *Topics) CoversRead(c *broker.ClientInfo, filter string) bool {
	s := subjectOf(c)
	return filter != "" && coversRead(&s, filter, t.rules)
}

// topicLists is how JSON carries topics: {"pub":[…],"sub":[…]}.
type topicLists struct {
	Pub []string `json:"pub"`
	Sub []string `json:"sub"`
}

// parseTopicLists reads topicLists. Whatever else stands there is refused: it may have been meant to restrict.
func parseTopicLists(raw []byte) (*Topics, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var lists *topicLists
	if err := d.Decode(&lists); err != nil || lists == nil {
		return nil, errors.New(`not of the form {"pub":[filters],"sub":[filters]}`)
	}
	return NewTopics(lists.Pub, lists.Sub)
}
