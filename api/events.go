package api

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// Kinds of an [Event].
const (
	Connected    = "connected"
	Disconnected = "disconnected"
	Refused      = "refused"   // a connection that was not accepted
	Published    = "published" // a message accepted from a client
	Delivered    = "delivered" // a message handed to a client's connection
	Dropped      = "dropped"   // a message not delivered to a client
	Lost         = "lost"      // Count events were not told because they came faster than they were read
)

// Event is one thing that happened, as the admin interface streams it. Texts are as clients sent them: escape before showing.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`
	Client  string    `json:"client,omitempty"`
	User    string    `json:"user,omitempty"`
	Version string    `json:"version,omitempty"` // of the protocol, as in "3.1.1"
	Address string    `json:"address,omitempty"`
	Reason  string    `json:"reason,omitempty"` // why the client left or was refused, or the message was dropped; empty after a normal DISCONNECT
	Topic   string    `json:"topic,omitempty"`
	Payload []byte    `json:"payload,omitempty"` // at most PayloadShown bytes
	Size    int       `json:"size,omitempty"`    // bytes of the whole payload
	QoS     byte      `json:"qos,omitempty"`
	Retain  bool      `json:"retain,omitempty"`
	Count   int64     `json:"count,omitempty"`
}

// PayloadShown is how many bytes of a payload an [Event] has at most.
const PayloadShown = 200

// backlog is how many events wait for a reader who does not keep up; further ones are counted and dropped.
const backlog = 1024

// feed collects events between the broker, which must not wait, and one reader.
type feed struct {
	events chan pending
	lost   atomic.Int64
}

// pending is an event whose texts are not made yet: that is the reader's work, not the broker's.
type pending struct {
	kind    string
	at      time.Time
	client  *broker.ClientInfo
	request *broker.ConnectRequest
	message *mqtt.Message
	reason  error
}

func newFeed() *feed { return &feed{events: make(chan pending, backlog)} }

func (f *feed) put(p pending) {
	p.at = time.Now()
	select {
	case f.events <- p:
	default:
		f.lost.Add(1)
	}
}

// connections returns the events of connections coming and going.
func (f *feed) connections() broker.Events {
	return broker.Events{
		Connected:    func(c *broker.ClientInfo) { f.put(pending{kind: Connected, client: c}) },
		Disconnected: func(c *broker.ClientInfo, err error) { f.put(pending{kind: Disconnected, client: c, reason: err}) },
		Refused: func(r *broker.ConnectRequest, err error) {
			if r != nil {
				kept := *r // good for the duration of the call only
				kept.Password = nil
				r = &kept
			}
			f.put(pending{kind: Refused, request: r, reason: err})
		},
	}
}

// messages returns the events of messages: of every publication that the filter matches; or, for one client, of all that it
// publishes and gets.
func (f *feed) messages(client, filter string) broker.Events {
	wanted := func(c *broker.ClientInfo, m *mqtt.Message) bool {
		return (client == "" || c != nil && c.ClientID == client) && topic.Match(filter, m.Topic)
	}
	tell := func(kind string) func(*broker.ClientInfo, *mqtt.Message) {
		return func(c *broker.ClientInfo, m *mqtt.Message) {
			if wanted(c, m) {
				f.put(pending{kind: kind, client: c, message: m})
			}
		}
	}
	e := broker.Events{Published: tell(Published)}
	if client != "" {
		e.Delivered = tell(Delivered)
		e.Dropped = func(c *broker.ClientInfo, m *mqtt.Message, r broker.DropReason) {
			if wanted(c, m) {
				f.put(pending{kind: Dropped, client: c, message: m, reason: errors.New(r.String())})
			}
		}
	}
	return e
}

// event makes the texts.
func (p pending) event() Event {
	e := Event{Time: p.at, Kind: p.kind}
	if c := p.client; c != nil {
		e.Client, e.User, e.Version, e.Address = c.ClientID, c.User, c.Version.String(), addressOf(c.Remote)
	}
	if r := p.request; r != nil {
		e.Client, e.User, e.Version, e.Address = r.ClientID, r.Username, r.Version.String(), addressOf(r.Remote)
	}
	if p.reason != nil {
		e.Reason = p.reason.Error()
	}
	if m := p.message; m != nil {
		e.Topic, e.Payload, e.Size = m.Topic, m.Payload[:min(len(m.Payload), PayloadShown)], len(m.Payload)
		e.QoS, e.Retain = byte(m.QoS), m.Retain
	}
	return e
}
