package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/magpiemq/magpie/client"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/topic"
)

// argument is one taken as it is: it may begin with a dash, hold commas, or be empty.
type argument string

// Decode takes the next argument, whatever it looks like.
func (a *argument) Decode(ctx *kong.DecodeContext) error {
	s, err := popArgument(ctx, "a value")
	*a = argument(s)
	return err
}

// arguments are those of a flag that may be repeated.
type arguments []string

// Decode takes one more.
func (a *arguments) Decode(ctx *kong.DecodeContext) error {
	s, err := popArgument(ctx, "a value")
	*a = append(*a, s)
	return err
}

func popArgument(ctx *kong.DecodeContext, what string) (string, error) {
	t := ctx.Scan.Pop()
	if t.IsEOL() {
		return "", fmt.Errorf("%s is missing", what)
	}
	return fmt.Sprint(t.Value), nil
}

// connFlags are the flags that pub, sub and req share: mosquitto's where it has one.
type connFlags struct {
	Host    argument `short:"h" default:"localhost" placeholder:"HOST" group:"Connection" help:"Broker's host (localhost)."`
	Port    int      `short:"p" placeholder:"PORT" group:"Connection" help:"Its port (1883, with TLS 8883)."`
	Unix    argument `placeholder:"PATH" group:"Connection" help:"Connect to a Unix socket instead."`
	URL     argument `name:"url" short:"L" placeholder:"URL" group:"Connection" help:"mqtt[s]://[user[:password]@]host[:port][/topic], or ws[s]://host[:port][/path]."`
	Bind    argument `short:"A" placeholder:"ADDR" group:"Connection" help:"Local address to connect from."`
	Proxy   argument `placeholder:"URL" group:"Connection" help:"Go through a proxy: socks5h://, http:// or https://."`
	NoDelay bool     `name:"nodelay" hidden:"" group:"Connection" help:"Accepted for mosquitto's sake: always on."`

	Version   argument `name:"protocol-version" short:"V" default:"5" placeholder:"V" group:"Session" help:"mqttv5, mqttv311 or mqttv31; 5, 311, 31 for short (5)."`
	ID        argument `name:"id" short:"i" placeholder:"ID" group:"Session" help:"Client id (the broker chooses one)."`
	IDPrefix  argument `name:"id-prefix" short:"I" placeholder:"PREFIX" group:"Session" help:"Client id is this and the process id."`
	Username  argument `short:"u" placeholder:"USER" group:"Session" help:"User name."`
	Password  argument `name:"pw" aliases:"password" short:"P" placeholder:"PASSWORD" group:"Session" help:"Password; $MAGPIE_PASSWORD keeps it out of the process list."`
	Scram     bool     `group:"Session" help:"Log in with SCRAM-SHA-256: the password is not sent (MQTT 5.0)."`
	KeepAlive int      `name:"keepalive" short:"k" default:"60" placeholder:"SECONDS" group:"Session" help:"Keep alive; 0 switches it off (60)."`
	Keep      bool     `name:"disable-clean-session" short:"c" group:"Session" help:"Continue the session of client id -i, and leave it behind."`
	Expiry    argument `name:"session-expiry-interval" short:"x" placeholder:"SECONDS" group:"Session" help:"How long the broker keeps the session; -1 for ever (MQTT 5.0)."`

	WillTopic   argument `name:"will-topic" placeholder:"TOPIC" group:"Will" help:"Topic of the will."`
	WillPayload argument `name:"will-payload" placeholder:"TEXT" group:"Will" help:"Its payload."`
	WillQoS     int      `name:"will-qos" placeholder:"QOS" group:"Will" help:"Its QoS."`
	WillRetain  bool     `name:"will-retain" group:"Will" help:"Retain it."`

	TLS      bool     `name:"tls" aliases:"tls-use-os-certs" group:"TLS" help:"TLS, trusting the authorities of the system."`
	CAFile   argument `name:"cafile" placeholder:"FILE" group:"TLS" help:"TLS, trusting the authorities of this PEM file."`
	Cert     argument `placeholder:"FILE" group:"TLS" help:"Client certificate (PEM)."`
	Key      argument `placeholder:"FILE" group:"TLS" help:"Its private key (PEM)."`
	Insecure bool     `group:"TLS" help:"Do not check that the certificate is the host's: anybody with a certificate of the authority can listen in."`
	ALPN     argument `name:"tls-alpn" placeholder:"PROTOCOL" group:"TLS" help:"Application protocol to ask for."`

	Props propFlags `name:"property" short:"D" placeholder:"PACKET NAME [KEY] VALUE" group:"Session" help:"Property of MQTT 5.0, as in: -D publish user-property k v."`
	Debug bool      `short:"d" group:"Output" help:"Say on stderr what happens."`
	Quiet bool      `group:"Output" help:"Print no errors."`

	dialURL  string // found by config
	urlTopic string // the one in URL
}

var versionWords = map[string]mqtt.Version{
	"mqttv31": mqtt.V31, "31": mqtt.V31, "3.1": mqtt.V31,
	"mqttv311": mqtt.V311, "311": mqtt.V311, "3.1.1": mqtt.V311,
	"mqttv5": mqtt.V5, "5": mqtt.V5, "5.0": mqtt.V5,
}

// config makes the client's configuration of the flags; packets are those that the command sends and -D can mean. Its errors are of
// usage.
func (f *connFlags) config(packets ...string) (cfg client.Config, err error) {
	if err := f.address(); err != nil {
		return cfg, err
	}
	v, ok := versionWords[string(f.Version)]
	if !ok {
		return cfg, fmt.Errorf("-V %s: no such version: use mqttv5, mqttv311 or mqttv31", f.Version)
	}
	if f.KeepAlive < 0 || f.KeepAlive > 65_535 {
		return cfg, fmt.Errorf("-k %d: keep alive is 0 to 65535 seconds", f.KeepAlive)
	}
	cfg = client.Config{
		Version: v, Username: string(f.Username), KeepAlive: time.Duration(f.KeepAlive) * time.Second, MaxPacketSize: mqtt.MaxPacket,
	}
	if f.KeepAlive == 0 {
		cfg.KeepAlive = -1
	}
	for _, step := range []func(*client.Config) error{f.identify, f.keepSession, f.setWill, f.setTLS, f.setRoute} {
		if err := step(&cfg); err != nil {
			return cfg, err
		}
	}
	return cfg, f.setProps(&cfg, append(packets, "connect", "disconnect", "will"))
}

func (f *connFlags) identify(cfg *client.Config) error {
	cfg.ClientID = string(f.ID)
	if f.IDPrefix != "" {
		if f.ID != "" {
			return errors.New("-i and -I exclude each other")
		}
		cfg.ClientID = string(f.IDPrefix) + strconv.Itoa(os.Getpid())
	}
	password := string(f.Password)
	if password == "" && f.Username != "" {
		password = os.Getenv("MAGPIE_PASSWORD")
	}
	if f.Scram {
		if f.Username == "" || password == "" {
			return errors.New("--scram needs a user (-u) and a password (-P or $MAGPIE_PASSWORD)")
		}
		cfg.Exchange = client.Scram(string(f.Username), password)
		return nil
	}
	if password != "" {
		cfg.Password = []byte(password)
	}
	return nil
}

func (f *connFlags) keepSession(cfg *client.Config) error {
	if f.Keep {
		if cfg.ClientID == "" {
			return errors.New("-c needs a client id (-i): the broker finds the session by it")
		}
		cfg.Session = new(client.Session)
		cfg.SessionExpiry = client.NeverExpires
	}
	switch f.Expiry {
	case "":
		return nil
	case "-1", "∞":
		cfg.SessionExpiry = client.NeverExpires
	default:
		n, err := strconv.ParseUint(string(f.Expiry), 10, 32)
		if err != nil {
			return fmt.Errorf("-x %s: session expiry is 0 to 4294967295 seconds, or -1", f.Expiry)
		}
		cfg.SessionExpiry = time.Duration(n) * time.Second
		if n == 1<<32-1 {
			cfg.SessionExpiry = client.NeverExpires
		}
	}
	if cfg.Version != mqtt.V5 {
		return fmt.Errorf("-x needs MQTT 5.0, not %v", cfg.Version)
	}
	return nil
}

func (f *connFlags) setWill(cfg *client.Config) error {
	if f.WillTopic == "" {
		if f.WillPayload != "" || f.WillQoS != 0 || f.WillRetain || len(f.Props.of("will")) > 0 {
			return errors.New("a will needs a topic (--will-topic)")
		}
		return nil
	}
	if err := topic.ValidateName(string(f.WillTopic), topic.Limits{}); err != nil {
		return fmt.Errorf("--will-topic: %w", err)
	}
	if err := checkQoS("--will-qos", f.WillQoS); err != nil {
		return err
	}
	props, err := f.Props.properties("will")
	cfg.Will = &mqtt.Will{Topic: string(f.WillTopic), Payload: []byte(f.WillPayload), QoS: mqtt.QoS(f.WillQoS), Retain: f.WillRetain, Props: props}
	return err
}

// setProps checks all properties, so that nobody need look at errors later.
func (f *connFlags) setProps(cfg *client.Config, packets []string) (err error) {
	if len(f.Props) > 0 && cfg.Version != mqtt.V5 {
		return fmt.Errorf("-D needs MQTT 5.0, not %v", cfg.Version)
	}
	for _, p := range f.Props {
		if !slices.Contains(packets, p.packet) {
			return fmt.Errorf("-D %s: this command sends none", p.packet)
		}
		if _, err := f.Props.properties(p.packet); err != nil {
			return err
		}
	}
	cfg.Props, err = f.Props.properties("connect")
	return err
}

func (f *connFlags) setTLS(cfg *client.Config) error {
	if (f.Cert == "") != (f.Key == "") {
		return errors.New("--cert and --key belong together")
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ALPN != "" {
		t.NextProtos = []string{string(f.ALPN)}
	}
	if f.CAFile != "" {
		pem, err := os.ReadFile(string(f.CAFile))
		if err != nil {
			return fmt.Errorf("--cafile: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--cafile: no certificate in %s", f.CAFile)
		}
	}
	if f.Cert != "" {
		cert, err := tls.LoadX509KeyPair(string(f.Cert), string(f.Key))
		if err != nil {
			return fmt.Errorf("--cert %s with --key %s: %w", f.Cert, f.Key, err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	if f.Insecure {
		trustAnyHost(t)
	}
	cfg.Transport.TLS = t
	return nil
}

// trustAnyHost checks the certificate's chain, not whose it is.
func trustAnyHost(t *tls.Config) {
	t.InsecureSkipVerify = true // replaced by what follows
	t.VerifyConnection = func(s tls.ConnectionState) error {
		rest := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			rest.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: t.RootCAs, Intermediates: rest})
		return err
	}
}

func (f *connFlags) setRoute(cfg *client.Config) error {
	if f.Proxy != "" {
		u, err := url.Parse(string(f.Proxy))
		if err != nil {
			return errors.New("--proxy: not a URL")
		}
		cfg.Transport.Proxy = u
	}
	if f.Bind == "" {
		return nil
	}
	ip := net.ParseIP(string(f.Bind))
	if ip == nil {
		return fmt.Errorf("-A %s: not an IP address", f.Bind)
	}
	cfg.Transport.Dialer = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}).DialContext
	return nil
}

// address finds the URL to dial, and what else is in -L.
func (f *connFlags) address() error {
	switch {
	case f.URL != "" && f.Unix != "":
		return errors.New("-L and --unix exclude each other")
	case f.URL != "":
		return f.splitURL(string(f.URL))
	case f.Unix != "":
		f.dialURL = (&url.URL{Scheme: "unix", Path: string(f.Unix)}).String()
		if !strings.HasPrefix(string(f.Unix), "/") {
			return fmt.Errorf("--unix %s: the path must begin with a slash", f.Unix)
		}
		return nil
	}
	if f.Port < 0 || f.Port > 65_535 {
		return fmt.Errorf("-p %d: a port is 1 to 65535", f.Port)
	}
	scheme, port := "mqtt", 1883
	if f.TLS || f.CAFile != "" || f.Cert != "" || f.Port == 8883 {
		scheme, port = "mqtts", 8883
	}
	if f.Port != 0 {
		port = f.Port
	}
	host := strings.Trim(string(f.Host), "[]")
	f.dialURL = scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port))
	return nil
}

// splitURL cuts the topic off, as it stands: a # in it is no fragment. What follows the host of ws and wss is a path, and no topic.
func (f *connFlags) splitURL(raw string) error {
	scheme, rest, _ := strings.Cut(raw, "://")
	switch scheme {
	case "mqtt", "mqtts":
		rest, f.urlTopic, _ = strings.Cut(rest, "/")
	case "ws", "wss":
	default:
		return errors.New("-L: the URL must begin with mqtt://, mqtts://, ws:// or wss://")
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil || u.Host == "" {
		return errors.New("-L: not a URL") // without its text: it may hold a password
	}
	if u.User != nil && f.Username == "" {
		f.Username = argument(u.User.Username())
		if password, ok := u.User.Password(); ok && f.Password == "" {
			f.Password = argument(password)
		}
	}
	u.User = nil
	f.dialURL = u.String()
	return nil
}

func checkQoS(flag string, q int) error {
	if q < 0 || q > 2 {
		return fmt.Errorf("%s %d: QoS is 0, 1 or 2", flag, q)
	}
	return nil
}

// dial connects.
func (f *connFlags) dial(ctx context.Context, cfg client.Config) (*client.Conn, error) {
	c, err := client.DialConn(ctx, f.dialURL, cfg)
	if ctx.Err() != nil && err != nil {
		return nil, ended(ctx)
	}
	if err != nil {
		return nil, hinted(err, connectHint(err, f.dialURL))
	}
	f.debug("connected: client id %q, MQTT %v, session present: %v", c.ClientID(), c.Version(), c.Connack().SessionPresent)
	return c, nil
}

// connectHint says what to do about a connection that did not come about.
func connectHint(err error, address string) string {
	var code mqtt.ReasonCode
	var unknown x509.UnknownAuthorityError
	var badHost x509.HostnameError
	var lookup *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED) && isHere(address):
		return "start a broker with: magpie serve"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check -h and -p"
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return "there is no such host: check -h"
	case errors.As(err, &unknown):
		return "name the broker's authority with --cafile"
	case errors.As(err, &badHost):
		return "connect to a name that is in the certificate, or check it with: magpie check cert"
	case errors.As(err, &tls.RecordHeaderError{}):
		return "the broker does not speak TLS on this port: leave out --tls, --cafile and mqtts"
	case !errors.As(err, &code):
		return ""
	}
	switch code {
	case mqtt.UnsupportedProtocolVersion:
		return "try another version: -V 311"
	case mqtt.BadUserNameOrPassword, mqtt.NotAuthorized:
		return "say who you are with -u USER -P PASSWORD"
	case mqtt.ClientIdentifierNotValid:
		return "choose another client id with -i"
	}
	return ""
}

// isHere reports whether the URL names this machine.
func isHere(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "unix" || u.Hostname() == "localhost" || ip.IsLoopback()
}

// debug tells what happens, with -d.
func (f *connFlags) debug(format string, args ...any) {
	if f.Debug {
		fmt.Fprintf(os.Stderr, "magpie: "+format+"\n", args...)
	}
}

// hush drops an error that is not of usage, with --quiet.
func (f *connFlags) hush(err error) error {
	var bad *failure
	if err == nil || !f.Quiet || errors.As(err, &bad) && bad.code == 2 {
		return err
	}
	return errQuiet
}

// errInterrupted is the end by a signal.
var errInterrupted = errors.New("interrupted")

// ended says why a context of a command is done.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errTimeUp) || takenOver(cause) {
		return cause
	}
	return errInterrupted
}

// interruptible returns a context that SIGINT and SIGTERM end; a second signal ends the process.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// goodbye ends the connection with the properties of -D disconnect.
func (f *connFlags) goodbye(c *client.Conn) error {
	props, _ := f.Props.properties("disconnect") // was checked
	return f.disconnect(c, mqtt.Disconnect{Props: props})
}

func (f *connFlags) disconnect(c *client.Conn, d mqtt.Disconnect) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.Disconnect(ctx, d)
}
