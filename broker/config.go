package broker

import (
	"log/slog"
	"time"

	"github.com/magpiemq/magpie/session"
	"github.com/magpiemq/magpie/store"
)

// Unlimited is the value of a limit that does not limit.
const Unlimited = -1

// NeverExpires is the expiry of a session that stays until a client ends it.
const NeverExpires = session.Never

// Config is how a broker is made. The zero value works: everybody may connect, publish and subscribe.
type Config struct {
	Authenticator Authenticator           // decides who connects; nil lets everybody in
	Enhanced      []EnhancedAuthenticator // the Authentication Methods of enhanced authentication (§4.12)
	Authorizer    Authorizer              // decides every publish, subscription and delivery; nil allows all
	Events        Events
	Limits        Limits
	Store         store.Store               // told every QoS 1, QoS 2 and retained message, which is acknowledged when it is committed; nil keeps nothing
	Listeners     map[string]ListenerConfig // settings of single listeners, by the name that their connections carry

	Logger       *slog.Logger  // nil discards
	SysInterval  time.Duration // how often $SYS is published; zero means 10 s, negative never
	Version      string        // shown in $SYS/broker/version
	Durabilities []Durability  // by topic, the first that matches; others are as safe as Store makes them
	Durability   string        // shown in $SYS/broker/durability and in metrics: what an acknowledgement promises; empty means "memory"

	MemoryUsed func() int64 // bytes that the process takes, compared with Limits.Memory four times a second; nil asks the Go runtime

	IO    IO            // how plain sockets are read and written
	Loops int           // how many loops there are at most; zero means one for each processor that Go uses
	Pace  time.Duration // how long a loop that has much to do waits for more, so that it is done together; zero means 250 µs, negative never

	newPoller func() (poller, error) // what loops wait with; tests replace it

	collect func() // frees what is garbage and gives it back to the system; tests replace it

	CheckPayloadFormat bool     // refuse payloads that claim to be UTF-8 and are not (0x99)
	StrictClientIDs    bool     // hold MQTT 3.1 clients to 23 characters
	ResponsePrefix     string   // Response Information is this followed by the ClientID; empty gives none
	DollarTopics       []string // first levels beginning with $ that clients may publish to; $SYS and $share never
}

// IO says how plain sockets, TCP or Unix, are read and written. Connections with TLS or WebSocket have a goroutine each.
type IO byte

// The kinds of IO.
const (
	IOAuto      IO = iota // IOReactor where that works, else IOGoroutine
	IOReactor             // few loops for all connections: Linux only
	IOGoroutine           // a goroutine for each connection
)

// ListenerConfig overrides Config for the connections of one listener.
type ListenerConfig struct {
	Authenticator  Authenticator // nil means Config's
	MaxConnections int           // zero means no limit of its own
	MaxPacketSize  int           // bytes; zero means Limits.PacketSize
}

// Limits bound what clients can take. Zero means the default that each line names, [Unlimited] means none.
type Limits struct {
	Connections           int           // at a time; default Unlimited
	ConnectionsPerAddress int           // at a time from one IP address, one /64 for IPv6; default Unlimited
	Unauthenticated       int           // connections that have not been accepted yet, at a time; default 10,000
	ConnectTimeout        time.Duration // from the first byte to be expected to the CONNACK; default 10 s
	Sessions              int           // connected or not; default Unlimited
	SessionsPerUser       int           // connected or not, of one user who has a name; default Unlimited

	PacketSize     int // bytes of the largest packet from a client, told in CONNACK; default 1 MiB
	ConnectSize    int // the same before the client is accepted; default 64 KiB
	ClientIDBytes  int // default 256
	TopicBytes     int // default 65,535
	TopicLevels    int // default 200
	Subscriptions  int // per session; default 10,000
	TopicAliases   int // that a client may give to us, and we to a client; default 32, Unlimited means 65,535
	ReceiveMaximum int // QoS 1 and 2 handshakes that a client may have open towards us; default 1024; not told to MQTT 3, which may use all 65,535
	MaxInflight    int // handshakes that we have open towards a client, which may ask for fewer; default 1024
	OutboxBytes    int // waiting to be written to one connection; beyond it QoS 0 is dropped and QoS 1 and 2 wait in the queue, beyond four times as much and 64 KiB its client is not read; default 1 MiB

	QueuedMessages      int // waiting in one session; default 100,000, with a Store 1,000,000
	QueuedBytes         int // waiting or unacknowledged in one session; default 64 MiB, with a Store 1 GiB
	UserQueuedMessages  int // waiting in all sessions of one user, who has a name; default Unlimited
	UserQueueBytes      int // the same in bytes, the unacknowledged included; default Unlimited
	TotalQueuedMessages int // waiting in all sessions together; default Unlimited, with a Store 50,000,000
	TotalQueueBytes     int // waiting or unacknowledged in all sessions together; default 1 GiB, with a Store 64 GiB

	Retained      int // retained messages; default 1,000,000
	RetainedBytes int // of all retained messages together, names and properties included and 256 for each; default 1 GiB

	QueuePolicy      QueuePolicy // when a session has reached its quota
	UserQueuePolicy  QueuePolicy // when a user has
	TotalQueuePolicy QueuePolicy // when all together have

	Memory int64 // bytes of the whole process, of which other limits get shares; at its end QoS 0 is dropped and clients that hold much are disconnected; default Unlimited

	SessionExpiry time.Duration // longest that a session outlives its connection; default Unlimited
	MaxKeepAlive  time.Duration // longest Keep Alive granted to MQTT 5.0 clients; default Unlimited

	PublishRate  float64 // messages per second from one client; its connection is read more slowly; default Unlimited
	PublishBurst int     // messages above the rate that may come at once; default one second's worth
}

// withDefaults returns l with every zero replaced, and Unlimited by the largest number. With a store, what waits takes 16 bytes of
// memory.
func (l Limits) withDefaults(stored bool) Limits {
	const most = int(^uint(0) >> 1)
	set := func(v *int, byDefault int) {
		switch {
		case *v == 0:
			*v = byDefault
		case *v < 0:
			*v = most
		}
	}
	set(&l.Connections, most)
	set(&l.ConnectionsPerAddress, most)
	set(&l.Unauthenticated, 10_000)
	set(&l.Sessions, most)
	set(&l.SessionsPerUser, most)
	set(&l.PacketSize, 1<<20)
	set(&l.ConnectSize, 64<<10)
	set(&l.ClientIDBytes, 256)
	set(&l.TopicBytes, 65_535)
	set(&l.TopicLevels, 200)
	set(&l.Subscriptions, 10_000)
	set(&l.TopicAliases, 32)
	set(&l.ReceiveMaximum, 1024)
	set(&l.MaxInflight, 1024)
	set(&l.OutboxBytes, 1<<20)
	set(&l.UserQueuedMessages, most)
	set(&l.UserQueueBytes, most)
	if stored {
		set(&l.QueuedMessages, 1_000_000)
		set(&l.QueuedBytes, 1<<30)
		set(&l.TotalQueuedMessages, 50_000_000)
		set(&l.TotalQueueBytes, int(min(int64(most), 64<<30)))
	}
	set(&l.QueuedMessages, 100_000)
	set(&l.QueuedBytes, 64<<20)
	set(&l.TotalQueuedMessages, most)
	set(&l.TotalQueueBytes, 1<<30)
	set(&l.Retained, 1_000_000)
	set(&l.RetainedBytes, 1<<30)
	for _, v := range []*int{&l.TopicAliases, &l.ReceiveMaximum, &l.MaxInflight} {
		*v = min(*v, 65_535)
	}
	if l.Memory = max(0, l.Memory); l.Memory > 0 && !stored {
		l.TotalQueueBytes = min(l.TotalQueueBytes, int(min(part(l.Memory, queuesPart), int64(most))))
	}
	l.PacketSize = min(l.PacketSize, maxPacket)
	l.ConnectSize = min(l.ConnectSize, l.PacketSize)
	switch {
	case l.ConnectTimeout == 0:
		l.ConnectTimeout = 10 * time.Second
	case l.ConnectTimeout < 0:
		l.ConnectTimeout = NeverExpires
	}
	if l.SessionExpiry <= 0 {
		l.SessionExpiry = NeverExpires
	}
	if l.PublishBurst <= 0 {
		l.PublishBurst = max(1, int(l.PublishRate))
	}
	return l
}
