package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/magpiemq/magpie/mqtt"
)

// ErrNoOpinion is returned by an [Authenticator] or [Authorizer] that neither allows nor denies, so that the next one
// of a chain decides. When nobody has an opinion, the answer is no.
var ErrNoOpinion = errors.New("no opinion")

// ConnectRequest is what a client brings to be let in. It is good for the duration of the call.
type ConnectRequest struct {
	ClientID    string // empty when the server is asked to assign one
	HasUsername bool
	Username    string
	HasPassword bool
	Password    []byte
	Version     mqtt.Version
	Listener    string               // the listener's name
	Remote      net.Addr             // the client's address, as a trusted proxy declared it if there is one
	TLS         *tls.ConnectionState // nil without TLS
}

// Grant is what an [Authenticator] gives to a client that it lets in.
type Grant struct {
	User    string     // who this is, for access control and for owning the session; empty means anonymous
	Access  Authorizer // asked before the broker's Authorizer for this client alone; nil has no opinion
	Expires time.Time  // when the credentials end, and the connection with them (0xA0); zero means never
}

// Authenticator decides who may connect. Authenticate may block until ctx is done; it holds up this one connection.
// It returns nil to let the client in; ErrNoOpinion to leave it to others; or the [mqtt.ReasonCode] that the client
// hears (wrapped, if there is more to log), BadUserNameOrPassword for anything that a guesser must not learn from.
// It is called by many goroutines at once.
type Authenticator interface {
	Authenticate(ctx context.Context, r *ConnectRequest) (Grant, error)
}

// Exchange is one run of enhanced authentication (§4.12), used by one goroutine.
type Exchange interface {
	// Next takes the client's Authentication Data and returns the server's. While done is false, the data goes out in an
	// AUTH with Continue authentication; when it is true, in the CONNACK, or in an AUTH with Success. An error refuses the
	// client, as for Authenticator. It may block until ctx is done.
	Next(ctx context.Context, data []byte) (reply []byte, done bool, err error)
	// Grant is valid once done.
	Grant() Grant
}

// EnhancedAuthenticator is one Authentication Method, such as SCRAM-SHA-256.
type EnhancedAuthenticator interface {
	Method() string
	Start(r *ConnectRequest) (Exchange, error)
}

// Action is what a client wants to do with a topic.
type Action uint8

// The actions that an [Authorizer] decides about.
const (
	Write     Action = iota + 1 // publish to a Topic Name (aliases resolved); Wills too
	Read                        // receive a message with that Topic Name
	Subscribe                   // subscribe to a Topic Filter, without the prefix of a Shared Subscription
)

// String returns "write", "read" or "subscribe".
func (a Action) String() string {
	switch a {
	case Write:
		return "write"
	case Read:
		return "read"
	case Subscribe:
		return "subscribe"
	}
	return "unknown"
}

// Authorizer decides every publish, subscription and delivery. Authorize returns nil to allow, ErrNoOpinion to leave it
// to others, or a [mqtt.ReasonCode] to deny, NotAuthorized as a rule. It is called by many goroutines at once.
//
// For Write and Subscribe it may block: it holds up that one client (see [Prompt]). For Read it must not block: it is called while a
// publisher's message is routed, and for each subscription not covered (see [Coverer]). Decisions about writing are
// remembered until [Broker.Reauthorize].
type Authorizer interface {
	Authorize(c *ClientInfo, a Action, topic string) error
}

// Coverer is an [Authorizer] that can say once, when a subscription is made, that the client may read every topic that
// the filter matches. Then its deliveries are not checked one by one.
type Coverer interface {
	CoversRead(c *ClientInfo, filter string) bool
}

// Prompt is an [Authorizer] that can say that it waits for nobody, another process for instance. Then a loop, which serves many clients, asks
// it without a goroutine for that.
type Prompt interface {
	DecidesAtOnce() bool
}

// ClientInfo describes a connected client. It is immutable.
type ClientInfo struct {
	ClientID    string
	User        string // empty means anonymous
	Version     mqtt.Version
	Listener    string
	Remote      net.Addr
	ConnectedAt time.Time
	KeepAlive   time.Duration // as it is enforced, without the half on top; zero means none
	CleanStart  bool
	Expiry      time.Duration        // Session Expiry Interval at CONNECT; [NeverExpires] means never
	Certificate *tls.ConnectionState // nil without TLS
	Access      Authorizer           // from the client's Grant; may be nil
}

// DropReason says why a message was not delivered.
type DropReason uint8

// The reasons for drops.
const (
	DropSlow       DropReason = iota // QoS 0 for a client that does not read fast enough
	DropQueue                        // the session's queue is full
	DropUser                         // the queues of the user's sessions together are full
	DropTotal                        // the queues of all sessions together are full
	DropExpired                      // the Message Expiry Interval passed
	DropTooLarge                     // larger than the client's Maximum Packet Size [MQTT-3.1.2-25]
	DropDenied                       // the client may not read the topic
	DropSessionEnd                   // the session ended with the message in its queue
	DropMemory                       // the process is short of memory
	dropReasons
)

var dropNames = [...]string{"slow", "queue_full", "user_full", "total_full", "expired", "too_large", "denied", "session_end", "memory"}

// String returns the reason as metrics name it.
func (r DropReason) String() string { return dropNames[r] }

// DropReasons returns every reason there is.
func DropReasons() []DropReason {
	all := make([]DropReason, dropReasons)
	for i := range all {
		all[i] = DropReason(i)
	}
	return all
}

// Events are notifications; nil ones are skipped. They run on the goroutine on which the thing happens, with no lock
// held: they must return quickly and must not wait for the broker. Messages are shared and must not be changed.
type Events struct {
	Connected    func(*ClientInfo)
	Disconnected func(c *ClientInfo, reason error)     // nil after a normal DISCONNECT
	Refused      func(r *ConnectRequest, reason error) // r is nil when no CONNECT could be read
	Subscribed   func(*ClientInfo, mqtt.Subscription)
	Unsubscribed func(c *ClientInfo, filter string)
	Published    func(*ClientInfo, *mqtt.Message) // accepted from a client; c is nil for messages published in process
	Delivered    func(*ClientInfo, *mqtt.Message) // handed to a client's connection
	Dropped      func(c *ClientInfo, m *mqtt.Message, r DropReason)
}
