package client

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"time"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/transport"
)

// Option says how a [Client] works. Later options win over earlier ones.
type Option func(*settings)

// settings are what the options make of the defaults.
type settings struct {
	cfg     Config
	servers []string
	keep    bool // the session outlives the program
	lazy    bool
	fixed   bool // no Server Reference is followed
	proxy   string
	login   func(context.Context) (username string, password []byte, err error)
	log     *slog.Logger

	backoffMin, backoffMax time.Duration
	replyTopic             string
	queueDir               string
	queueFS                vfs.FS
	queueSegment           int64
	queueBytes             int64

	onConnect    func(Connected)
	onDisconnect func(error)
	onRetry      func(error, time.Duration)
	onRefused    func(Refused)
}

// What a Client does unless it is told otherwise.
const (
	defaultBackoffMin    = 500 * time.Millisecond
	defaultBackoffMax    = 2 * time.Minute
	defaultSessionExpiry = 10 * time.Minute
	defaultAliases       = 64
	defaultQueueBytes    = 1 << 30
)

func settingsOf(server string, opts []Option) *settings {
	s := &settings{
		servers: []string{server}, log: slog.New(slog.DiscardHandler),
		backoffMin: defaultBackoffMin, backoffMax: defaultBackoffMax, queueFS: vfs.OS{}, queueSegment: queueSegment,
		queueBytes: defaultQueueBytes,
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

// applyProxy notes the proxy of WithProxy, and checks it or that of the configuration.
func (s *settings) applyProxy() error {
	t := &s.cfg.Transport
	if s.proxy != "" {
		u, err := url.Parse(s.proxy)
		if err != nil {
			return errors.New("the proxy's address is not a URL") // without its text: it may hold a password
		}
		t.Proxy, t.Direct = u, false
	}
	if t.Proxy == nil {
		return nil
	}
	return transport.CheckProxy(t.Proxy)
}

// WithConfig sets everything about the connections at once, so it comes first. Session is the Client's own and must be nil; a Version
// that is not zero is kept to; SessionExpiry is how long the server keeps the session while the link is down, zero means 10 min; Handler is
// given what no subscription takes; TopicAliasMaximum is 64 if it is zero.
func WithConfig(cfg Config) Option { return func(s *settings) { s.cfg = cfg } }

// WithClientID sets the Client Identifier. Without it the client makes up a random one and keeps it while it lives.
func WithClientID(id string) Option { return func(s *settings) { s.cfg.ClientID = id } }

// WithVersion keeps to a protocol version. Without it the client speaks MQTT 5.0, and 3.1.1 with a server that does not.
func WithVersion(v mqtt.Version) Option { return func(s *settings) { s.cfg.Version = v } }

// WithLogin sets user name and password; they win over those in the URL.
func WithLogin(username, password string) Option {
	return func(s *settings) { s.cfg.Username, s.cfg.Password = username, []byte(password) }
}

// WithLoginFunc asks for user name and password before each connection, for those that change, such as tokens. An error counts as a
// failed attempt.
func WithLoginFunc(f func(context.Context) (username string, password []byte, err error)) Option {
	return func(s *settings) { s.login = f }
}

// WithExchange logs in by enhanced authentication, see [Scram]. The exchange is this client's alone.
func WithExchange(x Exchange) Option { return func(s *settings) { s.cfg.Exchange = x } }

// WithWill sets what the server publishes if a connection ends abnormally.
func WithWill(w mqtt.Will) Option { return func(s *settings) { s.cfg.Will = &w } }

// WithKeepAlive sets the Keep Alive, see [Config.KeepAlive].
func WithKeepAlive(d time.Duration) Option { return func(s *settings) { s.cfg.KeepAlive = d } }

// WithTLS sets how TLS is spoken. It does not switch TLS on: the URL does.
func WithTLS(t *tls.Config) Option { return func(s *settings) { s.cfg.Transport.TLS = t } }

// WithDialer sets who opens the stream that the URL's scheme is spoken on: for a server in the same program, a tunnel, or a
// test. No proxy is used then but that of WithProxy, which it opens the stream to.
func WithDialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) Option {
	return func(s *settings) { s.cfg.Transport.Dialer, s.cfg.Transport.Direct = dial, true }
}

// WithBroker connects to a broker of the same program, through memory: to [github.com/magpiemq/magpie/broker.Broker], or whatever else takes
// connections. The URL counts for its user and password only.
func WithBroker(b interface{ ServeConn(net.Conn) }) Option {
	return WithDialer(func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		b.ServeConn(far)
		return near, nil
	})
}

// WithProxy sets the proxy to go through: http, https (both with CONNECT) or socks5, user and password included, such as
// "http://user:password@proxy:3128". Without it, the environment says, see [transport.DialConfig.Proxy]. A proxy that refuses is a
// [transport.ProxyError].
func WithProxy(proxy string) Option { return func(s *settings) { s.proxy = proxy } }

// WithServers adds servers to try in this order after the first one.
func WithServers(urls ...string) Option {
	return func(s *settings) { s.servers = append(s.servers, urls...) }
}

// WithoutServerReference stays with the servers that were named: without it, a server of MQTT 5.0 may send the client to another.
func WithoutServerReference() Option { return func(s *settings) { s.fixed = true } }

// WithSession continues the session of the client id and leaves it to the server at the end, for that long: what is published meanwhile
// arrives at the next start. It needs [WithClientID]. Without it the session begins and ends with the client.
//
// MQTT 3 knows sessions that last for ever or as long as the connection, and nothing between. With this option it is the former, whatever
// the expiry. Without it each connection of MQTT 3 starts anew: what others publish while the link is down is lost to this client, and a
// message of QoS 2 at which the link broke may arrive twice.
func WithSession(expiry time.Duration) Option {
	return func(s *settings) { s.keep, s.cfg.SessionExpiry = true, expiry }
}

// WithBackoff sets the time between attempts to connect: it doubles from least to most, and a random part of up to a half is
// taken off. Zeros mean 500 ms and 2 min.
func WithBackoff(least, most time.Duration) Option {
	return func(s *settings) {
		s.backoffMin, s.backoffMax = defaultBackoffMin, defaultBackoffMax
		if least > 0 {
			s.backoffMin = least
		}
		if most > 0 {
			s.backoffMax = most
		}
	}
}

// WithLazyConnect lets Dial return at once, and the client connect in the background for as long as it takes.
func WithLazyConnect() Option { return func(s *settings) { s.lazy = true } }

// WithLogger sets where the client writes what happens to its connections. Without it, nowhere.
func WithLogger(l *slog.Logger) Option { return func(s *settings) { s.log = l } }

// OnConnect sets a function that is called when a server has accepted. It and the other On… functions are called on a goroutine of
// their own, one after the other: they may block and call the client. One that falls behind by far misses events.
func OnConnect(f func(Connected)) Option { return func(s *settings) { s.onConnect = f } }

// OnDisconnect sets a function that is called with the reason when a connection has ended.
func OnDisconnect(f func(reason error)) Option { return func(s *settings) { s.onDisconnect = f } }

// OnRetry sets a function that is called when no server could be connected to, with the reason and the time until the next attempt.
func OnRetry(f func(reason error, wait time.Duration)) Option {
	return func(s *settings) { s.onRetry = f }
}

// OnRefused sets a function that is called with each message that will not arrive and for which no caller waits.
func OnRefused(f func(Refused)) Option { return func(s *settings) { s.onRefused = f } }

// WithReplyTopic sets the topic that replies to [Client.Request] come on: all of them, so nobody else's. Without it, one that the
// server suggests or a random one below "reply/".
func WithReplyTopic(name string) Option { return func(s *settings) { s.replyTopic = name } }

// WithQueue keeps messages of QoS 1 and 2 in a folder from Publish until the server has acknowledged them, so that they
// survive the end of the program. They are sent in their order by the next client with this folder, which must have the same client
// id and, for QoS 2 to arrive exactly once, [WithSession]. One process at a time has the folder, until [Client.Done].
//
// It also remembers which messages of QoS 2 from the server were handled, so that after a crash they are not handled again; the package's
// documentation says what is promised. Each of them costs two records of a few bytes, and waits for the disk.
func WithQueue(dir string) Option { return func(s *settings) { s.queueDir = dir } }

// WithQueueLimit sets how many bytes of messages may wait in the queue before Publish blocks. Zero means 1 GiB.
func WithQueueLimit(bytes int64) Option {
	return func(s *settings) {
		if s.queueBytes = bytes; bytes == 0 {
			s.queueBytes = defaultQueueBytes
		}
	}
}

// PublishOption says how a message is published.
type PublishOption interface {
	ofPublish(outgoing) outgoing
}

// SubscribeOption says how a subscription works.
type SubscribeOption interface {
	ofSubscribe(interest) interest
}

// outgoing is a message to be published.
type outgoing struct {
	mqtt.Message
	expiry time.Duration // zero for none
	queued bool
}

// interest is what a subscriber wants.
type interest struct {
	mqtt.Subscription
	manual bool
}

// QoS is an option of Publish, and of Subscribe: the highest at which messages are to be received. Both are [AtLeastOnce] without it.
type QoS mqtt.QoS

// The levels of quality of service, as options.
const (
	AtMostOnce  = QoS(mqtt.AtMostOnce)
	AtLeastOnce = QoS(mqtt.AtLeastOnce)
	ExactlyOnce = QoS(mqtt.ExactlyOnce) // unless a side loses the session: then it is AtLeastOnce for what was on its way
)

func (q QoS) ofPublish(o outgoing) outgoing {
	o.QoS = mqtt.QoS(q)
	return o
}

func (q QoS) ofSubscribe(i interest) interest {
	i.QoS = mqtt.QoS(q)
	return i
}

// publishFlag is an option of Publish that is on or off.
type publishFlag byte

const (
	// Retain asks the server to keep the message for those who subscribe later.
	Retain publishFlag = iota
	// Queued lets Publish return as soon as the message is safely queued: on the disk with [WithQueue], else in memory. What
	// becomes of it later, [OnRefused] tells. It means nothing for QoS 0.
	Queued
)

func (f publishFlag) ofPublish(o outgoing) outgoing {
	switch f {
	case Retain:
		o.Retain = true
	case Queued:
		o.queued = true
	}
	return o
}

// subscribeFlag is an option of Subscribe that is on or off.
type subscribeFlag byte

const (
	// ManualAck leaves the acknowledgement of messages to [Delivery.Acknowledge]. They are the receiver's to keep.
	ManualAck subscribeFlag = iota
	// NoLocal leaves out what this client publishes (MQTT 5.0).
	NoLocal
	// RetainAsPublished shows in Retain whether a message was published to be retained, not whether it is an old one (MQTT 5.0).
	RetainAsPublished
	// NoRetained leaves out the retained messages of the time of subscribing (MQTT 5.0).
	NoRetained
)

func (f subscribeFlag) ofSubscribe(i interest) interest {
	switch f {
	case ManualAck:
		i.manual = true
	case NoLocal:
		i.NoLocal = true
	case RetainAsPublished:
		i.RetainAsPublished = true
	case NoRetained:
		i.RetainHandling = mqtt.DoNotSendRetained
	}
	return i
}

type publishFunc func(outgoing) outgoing

func (f publishFunc) ofPublish(o outgoing) outgoing { return f(o) }

// Expiry lets the server drop the message after that time, rounded up to seconds (MQTT 5.0); it is not sent later by this client either.
func Expiry(d time.Duration) PublishOption {
	return publishFunc(func(o outgoing) outgoing {
		o.expiry = d
		return o
	})
}

// Props sets properties of the message (MQTT 5.0): Content Type, User Properties and the others that travel with it. With MQTT 3 they are
// left out.
func Props(p mqtt.Properties) PublishOption {
	return publishFunc(func(o outgoing) outgoing {
		o.Props = append(o.Props[:len(o.Props):len(o.Props)], p...)
		return o
	})
}

// UserProperty adds a User Property (MQTT 5.0). It panics when key or value is longer than 65,535 bytes.
func UserProperty(key, value string) PublishOption {
	return Props(mqtt.Properties(nil).WithUser(key, value))
}
