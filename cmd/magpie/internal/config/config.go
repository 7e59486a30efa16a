// Package config knows what can be configured: the keys of the configuration file, what they mean, which values they take
// and which go together. The structs here are the only source: the file is read into them strictly, and the reference in
// docs/configuration.md is made from them. It refuses to know how a broker is run with them.
//
// A field's tags: yaml is its key, doc its description, def its default in words, enum the values it may have, word a value
// that stands for -1, min and max its bounds, file marks a path, which is relative to the configuration file, required a key that must be there.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/magpiemq/magpie/broker"
)

// Defaults of the addresses and the directory.
const (
	DefaultMQTT = "127.0.0.1:1883"
	DefaultHTTP = "127.0.0.1:8080"
	DefaultData = "magpie-data"
	Off         = "off" // the address of a listener that is not wanted
)

// Pos is where something stands in a configuration file; the zero Pos is not from a file.
type Pos struct {
	File string
	Line int
}

// Errorf makes an error that begins with the position; unless it wraps one that has its own, closer one.
func (p Pos) Errorf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	var closer *placedError
	switch {
	case errors.As(err, &closer):
		return closer
	case p.File == "":
		return err
	}
	return &placedError{p, err}
}

// placedError is an error with a place in a file.
type placedError struct {
	pos Pos
	err error
}

func (e *placedError) Error() string { return fmt.Sprintf("%s:%d: %v", e.pos.File, e.pos.Line, e.err) }
func (e *placedError) Unwrap() error { return e.err }

// Config is a whole configuration file. The zero value is what an empty file says.
type Config struct {
	Pos                Pos               `yaml:"-"`
	Data               string            `yaml:"data" file:"true" def:"magpie-data in the working directory" doc:"Directory of the broker, made with mode 0700 if need be. It holds the socket of the admin console."`
	Durability         string            `yaml:"durability" def:"durable" doc:"What an acknowledgement promises. durable: what is acknowledged is on disk, synced. interval=DUR, such as interval=1s: it is written, and synced that often. memory: a restart forgets it."`
	DurabilityByTopic  []TopicDurability `yaml:"durability_by_topic" def:"none" doc:"Other durabilities for some topics, as a list: the first filter that matches counts. Sessions and subscriptions are kept whenever any topic is."`
	Journal            Journal           `yaml:"journal" doc:"The files in which messages are kept, when durability is not memory."`
	Listeners          []Listener        `yaml:"listeners" def:"tcp on 127.0.0.1:1883" doc:"Where MQTT clients connect, as a list."`
	HTTP               HTTP              `yaml:"http" doc:"The HTTP listener: /metrics, /healthz, /readyz, and MQTT over WebSocket at /mqtt."`
	Auth               Auth              `yaml:"auth" doc:"Who may connect, and what they may do."`
	Limits             Limits            `yaml:"limits" doc:"What clients can take. Each limit is at least 1; where the value says so, the word unlimited lifts it."`
	IO                 IO                `yaml:"io" doc:"How connections are read and written. A restart changes it."`
	Memory             Memory            `yaml:"memory" doc:"How much memory the process may take."`
	Log                Log               `yaml:"log" doc:"What is logged, to standard error."`
	SysInterval        Duration          `yaml:"sys_interval" word:"never" def:"10s" doc:"How often the topics below $SYS are published."`
	CheckPayloadFormat bool              `yaml:"check_payload_format" def:"false" doc:"Refuse messages that claim to be UTF-8 text (Payload Format Indicator 1) and are not."`
	StrictClientIDs    bool              `yaml:"strict_client_ids" def:"false" doc:"Hold MQTT 3.1 clients to client ids of at most 23 characters."`
	ResponsePrefix     string            `yaml:"response_prefix" def:"none" doc:"Clients that ask for Response Information get this, followed by their client id."`
	DollarTopics       []string          `yaml:"dollar_topics" def:"none" doc:"First levels that begin with $ to which clients may publish all the same, such as $ota. Never $SYS or $share."`
}

// Journal says how the files are laid out.
type Journal struct {
	SegmentSize Size  `yaml:"segment_size" min:"8192" max:"1073741824" def:"64MiB" doc:"Size of one file of the journal; larger messages get larger files. After every four files what is in force is written anew, so small ones make starts faster and writing dearer. It may change from start to start."`
	FullAt      Share `yaml:"full_at" def:"85%" doc:"How full the disk may be, by whatever is on it. Above, new QoS 1, QoS 2 and retained messages are refused (0x97; MQTT 3 clients are disconnected), until it is one percent less; everything else goes on. 100% takes messages while there is space."`
	CleanRate   Size  `yaml:"clean_rate" def:"8MiB" doc:"Bytes per second that may be copied so that files in which little is in use can be given back."`
}

// Listener is one place where MQTT clients connect.
type Listener struct {
	Pos            Pos      `yaml:"-"`
	Name           string   `yaml:"name" def:"network://address" doc:"Shown in logs and metrics; must be unique."`
	Network        string   `yaml:"network" required:"true" enum:"tcp,tls,ws,wss,unix" doc:"How clients connect: tcp, tls, WebSocket (ws), WebSocket over TLS (wss), or Unix socket (unix)."`
	Address        string   `yaml:"address" required:"true" doc:"host:port, an IPv6 host in brackets, port 0 for any free one; for unix the path of the socket."`
	TLS            *TLS     `yaml:"tls" doc:"Certificates; needed by tls and wss."`
	WS             *WS      `yaml:"ws" doc:"Settings of ws and wss."`
	ProxyProtocol  []Prefix `yaml:"proxy_protocol" def:"none" doc:"Networks of load balancers whose connections begin with a PROXY header, version 1 or 2, such as 10.0.0.0/8."`
	MaxConnections Count    `yaml:"max_connections" word:"unlimited" def:"unlimited" doc:"Connections to this listener at a time."`
	MaxPacketSize  Size     `yaml:"max_packet_size" min:"64" def:"limits.packet_size" doc:"Largest packet from a client of this listener."`
	AllowAnonymous *bool    `yaml:"allow_anonymous" def:"auth.allow_anonymous" doc:"Let in clients without credentials on this listener; stronger than auth.allow_anonymous and --allow-anonymous."`
	UnixMode       Mode     `yaml:"unix_mode" def:"0660" doc:"Permissions of the Unix socket, in octal."`
}

// TLS is the TLS side of a listener.
type TLS struct {
	Pos          Pos           `yaml:"-"`
	Cert         string        `yaml:"cert" file:"true" doc:"PEM file of the certificate, its intermediates behind it. Read again when it changes, like all files here."`
	Key          string        `yaml:"key" file:"true" doc:"PEM file of its private key."`
	Certificates []Certificate `yaml:"certificates" def:"none" doc:"Further certificates, chosen by the server name that a client asks for."`
	MinVersion   string        `yaml:"min_version" def:"1.2" enum:"1.2,1.3" doc:"Lowest version of TLS."`
	ClientCA     string        `yaml:"client_ca" file:"true" def:"none" doc:"PEM file of the authorities that sign client certificates."`
	ClientAuth   string        `yaml:"client_auth" def:"none" enum:"none,request,require" doc:"Whether clients show a certificate: not asked, asked but may have none, or must."`
	Identity     string        `yaml:"identity" def:"none" enum:"cn,dns,email,uri" doc:"Who shows a certificate is the user named there, as common name or as alternative name, and needs no password."`
}

// Certificate is a certificate and its key.
type Certificate struct {
	Cert string `yaml:"cert" file:"true" required:"true" doc:"PEM file of the certificate, its intermediates behind it."`
	Key  string `yaml:"key" file:"true" required:"true" doc:"PEM file of its private key."`
}

// WS is the WebSocket side of a listener.
type WS struct {
	Path           string   `yaml:"path" def:"/mqtt" doc:"Path of the URL."`
	Origins        []string `yaml:"origins" def:"the own host only" doc:"Web sites whose scripts may connect, such as *.example.com; * is any. Programs send no origin and may always."`
	TrustedProxies []Prefix `yaml:"trusted_proxies" def:"none" doc:"Networks of proxies whose X-Forwarded-For is believed."`
}

// HTTP is the HTTP listener.
type HTTP struct {
	Pos            Pos      `yaml:"-"`
	Address        string   `yaml:"address" def:"127.0.0.1:8080" doc:"host:port, or the word off. When only the default is taken, the broker says so and runs without."`
	TLS            *TLS     `yaml:"tls" doc:"Certificates, for HTTPS: the keys of listeners.tls, but for identity."`
	Origins        []string `yaml:"origins" def:"the own host only" doc:"As listeners.ws.origins, for /mqtt."`
	TrustedProxies []Prefix `yaml:"trusted_proxies" def:"none" doc:"As listeners.ws.trusted_proxies."`
}

// Auth says who may connect, and what they may do.
type Auth struct {
	Pos            Pos      `yaml:"-"`
	AllowAnonymous *bool    `yaml:"allow_anonymous" def:"true on loopback without other authentication, else false" doc:"Let in clients without credentials. They are nobody in particular: an acl_file may say what they can do."`
	PasswordFile   string   `yaml:"password_file" file:"true" def:"none" doc:"Users and their hashed passwords; write it with magpie passwd. Files of mosquitto_passwd work."`
	Scram          bool     `yaml:"scram" def:"false" doc:"Offer enhanced authentication by SCRAM-SHA-256 to the users of password_file; magpie passwd --scram writes what it takes."`
	ClientID       string   `yaml:"client_id" def:"any" doc:"Form of the client id of users: %u stands for the user, a * at the end for any rest, as in %u-*. Anonymous clients are not held to it."`
	ACLFile        string   `yaml:"acl_file" file:"true" def:"none: everything is allowed" doc:"Access control list in Mosquitto's format; try it with magpie check acl."`
	JWT            *JWT     `yaml:"jwt" doc:"Let in who brings a JSON Web Token."`
	HTTP           *Web     `yaml:"http" doc:"Ask a web service."`
	Throttle       Throttle `yaml:"throttle" doc:"How failed logins slow down further ones, by address and by user."`
}

// JWT says which tokens are good.
type JWT struct {
	Pos          Pos               `yaml:"-"`
	KeyFile      string            `yaml:"key_file" file:"true" required:"true" doc:"Keys that sign tokens."`
	Format       string            `yaml:"format" def:"public" enum:"public,secret" doc:"public: PEM public keys or certificates, or a JWKS; secret: the file is one HMAC key of at least 32 bytes."`
	FromUsername bool              `yaml:"from_username" def:"false" doc:"The token is the user name instead of the password."`
	UserClaim    string            `yaml:"user_claim" def:"sub" doc:"The claim that names the user."`
	Match        map[string]string `yaml:"match" def:"none" doc:"What other claims must be, by name; %c stands for the client id, %u for the user name of the CONNECT."`
	Audience     string            `yaml:"audience" def:"any" doc:"Required audience."`
	Issuer       string            `yaml:"issuer" def:"any" doc:"Required issuer."`
	Leeway       Duration          `yaml:"leeway" def:"none" doc:"Difference allowed between our clock and the issuer's."`
	AllowEternal bool              `yaml:"allow_eternal" def:"false" doc:"Accept tokens that never end."`
}

// Web is the call-out to a web service.
type Web struct {
	Pos           Pos      `yaml:"-"`
	ConnectURL    string   `yaml:"connect_url" def:"none" doc:"Asked by POST when a client connects: 200 is yes, 204 no opinion, 4xx no."`
	AccessURL     string   `yaml:"access_url" def:"none" doc:"Asked when a client publishes or subscribes."`
	BearerFile    string   `yaml:"bearer_file" file:"true" def:"none" doc:"File of the token that the broker shows to the service."`
	CAFile        string   `yaml:"ca_file" file:"true" def:"those of the system" doc:"PEM file of the authorities that sign the service's certificate."`
	Timeout       Duration `yaml:"timeout" def:"5s" doc:"For one question. Without an answer nobody is let in."`
	Cache         Duration `yaml:"cache" word:"never" def:"30s" doc:"How long an answer is remembered."`
	CacheSize     Count    `yaml:"cache_size" def:"10000" doc:"How many answers are remembered."`
	MaxConcurrent Count    `yaml:"max_concurrent" def:"64" doc:"Questions under way at a time."`
}

// Throttle slows guessers down.
type Throttle struct {
	Base  Duration `yaml:"base" def:"500ms" doc:"Wait after the first failed login; it doubles with each further one."`
	Max   Duration `yaml:"max" def:"30s" doc:"Longest wait."`
	Decay Duration `yaml:"decay" def:"1m" doc:"Failures are forgotten one by one, each after this time."`
	Burst Count    `yaml:"burst" def:"32" doc:"Logins of one address that are checked at the same time while none has failed."`
}

// Limits are those of the broker, field by field of the same name.
type Limits struct {
	Connections           Count    `yaml:"connections" word:"unlimited" def:"unlimited" doc:"Connections at a time."`
	ConnectionsPerAddress Count    `yaml:"connections_per_address" word:"unlimited" def:"unlimited" doc:"Connections at a time from one IP address (one /64 for IPv6)."`
	Unauthenticated       Count    `yaml:"unauthenticated" word:"unlimited" def:"10000" doc:"Connections at a time that have not been accepted yet."`
	ConnectTimeout        Duration `yaml:"connect_timeout" def:"10s" doc:"Time to log in."`
	Sessions              Count    `yaml:"sessions" word:"unlimited" def:"unlimited" doc:"Sessions, connected or not."`
	SessionsPerUser       Count    `yaml:"sessions_per_user" word:"unlimited" def:"unlimited" doc:"Sessions of one user, connected or not."`
	PacketSize            Size     `yaml:"packet_size" min:"64" max:"268435460" word:"unlimited" def:"1MiB" doc:"Largest packet from a client."`
	ConnectSize           Size     `yaml:"connect_size" min:"64" def:"64KiB" doc:"Largest packet before the client is accepted."`
	ClientIDBytes         Size     `yaml:"client_id_bytes" word:"unlimited" def:"256" doc:"Longest client id."`
	TopicBytes            Size     `yaml:"topic_bytes" max:"65535" def:"65535" doc:"Longest Topic Name or Topic Filter."`
	TopicLevels           Count    `yaml:"topic_levels" word:"unlimited" def:"200" doc:"Most levels of a Topic Name or Topic Filter."`
	Subscriptions         Count    `yaml:"subscriptions" word:"unlimited" def:"10000" doc:"Subscriptions of one session."`
	TopicAliases          Count    `yaml:"topic_aliases" max:"65535" word:"unlimited" def:"32" doc:"Topic aliases of one connection in each direction."`
	ReceiveMaximum        Count    `yaml:"receive_maximum" max:"65535" def:"1024" doc:"QoS 1 and 2 messages that a client may have under way to the broker."`
	MaxInflight           Count    `yaml:"max_inflight" max:"65535" def:"1024" doc:"QoS 1 and 2 messages that the broker has under way to a client."`
	OutboxBytes           Size     `yaml:"outbox_bytes" word:"unlimited" def:"1MiB" doc:"Waiting to be written to one connection. Beyond it QoS 0 is dropped; QoS 1 and 2 wait in the queue."`
	QueuedMessages        Count    `yaml:"queued_messages" word:"unlimited" def:"1000000" doc:"Messages waiting in one session. With durability: memory the default is 100000."`
	QueuedBytes           Size     `yaml:"queued_bytes" word:"unlimited" def:"1GiB" doc:"The same in bytes, and what is not acknowledged yet. With durability: memory the default is 64MiB."`
	QueuePolicy           Policy   `yaml:"queue_policy" enum:"reject-new,drop-oldest,disconnect" def:"reject-new" doc:"When a session has reached its quota. reject-new: it gets no further message, and a publisher whom nobody else hears is answered 0x97 (an MQTT 3 client is not told). drop-oldest: it loses what has waited longest. disconnect: as reject-new, and its connection ends."`
	UserQueuedMessages    Count    `yaml:"user_queued_messages" word:"unlimited" def:"unlimited" doc:"Messages waiting in all sessions of one user."`
	UserQueueBytes        Size     `yaml:"user_queue_bytes" word:"unlimited" def:"unlimited" doc:"The same in bytes."`
	UserQueuePolicy       Policy   `yaml:"user_queue_policy" enum:"reject-new,drop-oldest,disconnect" def:"reject-new" doc:"When a user has reached that."`
	TotalQueuedMessages   Count    `yaml:"total_queued_messages" word:"unlimited" def:"50000000" doc:"Messages waiting in all sessions together. Each takes 16 bytes of memory. With durability: memory the default is unlimited."`
	TotalQueueBytes       Size     `yaml:"total_queue_bytes" word:"unlimited" def:"64GiB" doc:"The same in bytes. With durability: memory the default is 1GiB."`
	TotalQueuePolicy      Policy   `yaml:"total_queue_policy" enum:"reject-new,drop-oldest,disconnect" def:"reject-new" doc:"When that is reached. Sessions that keep up are not affected."`
	Retained              Count    `yaml:"retained" word:"unlimited" def:"1000000" doc:"Retained messages. Beyond it a new one is refused; replacing and removing works."`
	RetainedBytes         Size     `yaml:"retained_bytes" word:"unlimited" def:"1GiB" doc:"The same in bytes, names and properties included and 256 for each."`
	SessionExpiry         Duration `yaml:"session_expiry" word:"unlimited" def:"unlimited" doc:"Longest that a session outlives its connection."`
	MaxKeepAlive          Duration `yaml:"max_keep_alive" word:"unlimited" def:"unlimited" doc:"Longest Keep Alive of MQTT 5.0 clients."`
	PublishRate           Rate     `yaml:"publish_rate" word:"unlimited" def:"unlimited" doc:"Messages per second from one client. Beyond it its connection is read more slowly."`
	PublishBurst          Count    `yaml:"publish_burst" def:"one second's worth" doc:"Messages above the rate that may come at once."`
}

// IO says how sockets are served.
type IO struct {
	Pos   Pos      `yaml:"-"`
	Core  string   `yaml:"core" enum:"auto,reactor,goroutine" def:"auto" doc:"reactor: few loops serve all plain TCP and Unix connections, which costs the least (Linux only). goroutine: each connection has one, as connections with TLS or WebSocket always have. auto: reactor where it works."`
	Loops Count    `yaml:"loops" max:"1024" def:"one for each processor" doc:"How many loops there are at most. One serves, while it keeps up; the others help when it does not."`
	Pace  Duration `yaml:"pace" word:"never" def:"250us" doc:"How long a loop waits for more when several clients have sent something at the same time, so that all of it is written together: less work, and that much more delay. never: no longer than it must."`
}

// Memory bounds the process.
type Memory struct {
	Pos   Pos    `yaml:"-"`
	Limit Budget `yaml:"limit" def:"75%" doc:"Of what the control group of the process or the machine has, or in bytes; at least 32MiB. Near the limit new connections wait and what clients keep does not grow (85 %); then QoS 0 is dropped, and the client that holds most is disconnected with 0x97 (95 %). An eighth of it bounds the packets that are on their way in, so a packet may not be larger; retained messages get at most a third, and without a journal what waits for clients a quarter."`
}

// Log says what is logged.
type Log struct {
	Level  string `yaml:"level" def:"info" enum:"debug,info,warn,error" doc:"Least level that is logged."`
	Format string `yaml:"format" def:"text" enum:"text,json" doc:"text for people, json for programs: an object per line."`
}

// Count is a number of things, at least 1.
type Count int

// Size is a number of bytes, at least 1.
type Size int

// Policy is what happens at a quota.
type Policy broker.QueuePolicy

// Share is a part of a whole, in percent from 1 to 100.
type Share int

// Rate is a number per second, above 0.
type Rate float64

// Duration is a time span, above 0.
type Duration time.Duration

// Budget is a number of bytes, a percentage of what there is, or no limit; the zero value is 75 %.
type Budget struct {
	Bytes     int64
	Percent   int
	Unlimited bool
}

// Mode is the permission bits of a file.
type Mode fs.FileMode

// Prefix is a network of addresses.
type Prefix netip.Prefix

// Parse reads a whole number.
func (c *Count) Parse(s string) error {
	n, err := strconv.ParseInt(strings.ReplaceAll(s, "_", ""), 10, 0)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number from 1 to %d", s, math.MaxInt)
	}
	*c = Count(n)
	return nil
}

// Parse reads the name of a policy.
func (p *Policy) Parse(s string) error {
	policy, err := broker.ParseQueuePolicy(s)
	*p = Policy(policy)
	return err
}

// Parse reads a percentage.
func (s *Share) Parse(text string) error {
	n, err := strconv.ParseUint(strings.TrimSuffix(text, "%"), 10, 7)
	if err != nil || n < 1 || n > 100 || !strings.HasSuffix(text, "%") {
		return fmt.Errorf("%q is not a percentage from 1%% to 100%%", text)
	}
	*s = Share(n)
	return nil
}

var units = []struct {
	suffix string
	bytes  uint64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1},
}

// Parse reads a number of bytes with an optional unit.
func (z *Size) Parse(s string) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 1 || n > math.MaxInt/u.bytes {
			break
		}
		*z = Size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size: write bytes, or a whole number of KiB, MiB or GiB, such as 64KiB", s)
}

// Parse reads a number.
func (r *Rate) Parse(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > 0) || math.IsInf(f, 0) {
		return fmt.Errorf("%q is not a number above 0", s)
	}
	*r = Rate(f)
	return nil
}

// Parse reads a time span as Go writes it, or a whole number of days.
func (d *Duration) Parse(s string) error {
	v, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a time above 0: write a number with a unit, such as 500ms, 10s, 5m, 2h or 7d", s)
	}
	*d = Duration(v)
	return nil
}

// Parse reads a number of bytes with an optional unit, a percentage, or the word unlimited.
func (b *Budget) Parse(s string) error {
	if s == "unlimited" {
		*b = Budget{Unlimited: true}
		return nil
	}
	if digits, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 8)
		if err != nil || n < 1 || n > 100 {
			return fmt.Errorf("%q is not a percentage from 1%% to 100%%", s)
		}
		*b = Budget{Percent: int(n)}
		return nil
	}
	var z Size
	if z.Parse(s) != nil {
		return fmt.Errorf("%q is none of a size such as 512MiB, a percentage such as 75%%, and the word unlimited", s)
	}
	*b = Budget{Bytes: int64(z)}
	return nil
}

// Of returns the budget in bytes, zero for no limit, when there are that many bytes; zero is an unknown number, of which there is no
// percentage.
func (b Budget) Of(available int64) (int64, error) {
	switch {
	case b.Unlimited:
		return 0, nil
	case b.Bytes > 0:
		return b.Bytes, nil
	case b.Percent == 0:
		b.Percent = 75
	case available == 0:
		return 0, fmt.Errorf("limit: this system does not say how much memory there is: give a size instead of %d%%", b.Percent)
	}
	return available/100*int64(b.Percent) + available%100*int64(b.Percent)/100, nil
}

// Parse reads octal digits.
func (m *Mode) Parse(s string) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return fmt.Errorf("%q is not a file mode: write octal digits, such as 0660", s)
	}
	*m = Mode(n)
	return nil
}

// Parse reads an address with the length of its prefix; a single address means just that.
func (p *Prefix) Parse(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		*p = Prefix(netip.PrefixFrom(a, a.BitLen()))
		return nil
	}
	n, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%q is not a network: write an address and a length, such as 10.0.0.0/8", s)
	}
	*p = Prefix(n.Masked())
	return nil
}
