package mosquitto

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Note says what of a file has no counterpart, or another one than one may think, and why.
type Note struct {
	File string
	Line int
	Text string
}

func (n Note) String() string { return fmt.Sprintf("%s:%d: %s", n.File, n.Line, n.Text) }

// Config is what a mosquitto.conf says, in our terms.
type Config struct {
	Listeners      []*Listener
	Persistence    bool
	Location       string // folder of the mosquitto.db; may be empty
	DBName         string
	AllowAnonymous *bool
	PasswordFile   string
	ACLFile        string
	Limits         []Setting // below limits:
	Others         []Setting // at the top
	LogLevel       string
	Notes          []Note

	file        string // being read
	line        int
	current     *Listener // that options are about; nil is the one that has no listener line
	plain       Listener  // the one without a listener line
	plainUsed   bool
	perListener bool
	plugins     bool
	inBridge    bool
	depth       int
}

// Setting is a key and its value as YAML has them.
type Setting struct{ Key, Value string }

// Listener is where clients connect.
type Listener struct {
	Address        string // host:port, or a path
	Unix           bool
	WebSocket      bool
	Cert, Key, CA  string
	RequireCert    bool
	CertIsUser     bool
	MinTLS         string
	MaxConnections int
	AllowAnonymous *bool
	Origins        []string

	line int
	port int
	host string
}

// maxConfig is the largest configuration file that is read, in bytes.
const maxConfig = 4 << 20

// ReadConfig reads a mosquitto.conf and what it includes.
func ReadConfig(path string) (*Config, error) {
	c := &Config{DBName: "mosquitto.db"}
	if err := c.readFile(path); err != nil {
		return nil, err
	}
	c.finish()
	return c, nil
}

func (c *Config) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxConfig || bytes.IndexByte(data, 0) >= 0 {
		return fmt.Errorf("%s is not a configuration file", path)
	}
	outerFile, outerLine := c.file, c.line
	c.file, c.line = path, 0
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		c.line++
		if err := c.option(s.Text()); err != nil {
			return err
		}
	}
	c.file, c.line = outerFile, outerLine
	return nil
}

// note notes something about the present line.
func (c *Config) note(format string, args ...any) {
	c.Notes = append(c.Notes, Note{c.file, c.line, fmt.Sprintf(format, args...)})
}

// option reads a line: a word, and the rest as its value.
func (c *Config) option(line string) error {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	name, value := line, ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		name, value = line[:i], strings.TrimSpace(line[i:])
	}
	if name == "include_dir" {
		return c.include(value)
	}
	switch set, reason := options[name], unmapped[name]; {
	case name == "connection":
		c.inBridge = true
		c.note("connection %s: bridges are not imported, nor is what the file says about this one", value)
	case c.inBridge && (bridgeOptions[name] || strings.HasPrefix(name, "bridge_")):
		// was said
	case set != nil:
		if !set(c, value) {
			c.note("%s %s is not understood", name, value)
		}
	case reason != "":
		c.plugins = c.plugins || reason == pluginReason
		c.note("%s: %s", name, reason)
	case strings.HasPrefix(name, "plugin_opt_"), strings.HasPrefix(name, "auth_opt_"), harmless[name]:
		// was said with the plugin, or says nothing
	default:
		c.note("%s is not an option that is known here", name)
	}
	return nil
}

// include reads the files of a folder, in the order in which Mosquitto does: names in upper and lower case alike.
func (c *Config) include(dir string) error {
	if c.depth++; c.depth > 10 {
		return fmt.Errorf("%s:%d: folders include one another", c.file, c.line)
	}
	defer func() { c.depth-- }()
	all, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("%s:%d: %w", c.file, c.line, err)
	}
	var names []string
	for _, e := range all {
		if !e.IsDir() && strings.HasSuffix(e.Name(), ".conf") {
			names = append(names, e.Name())
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	for _, name := range names {
		if err := c.readFile(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// options are those that have a counterpart. They say whether they understand the value.
var options = map[string]func(c *Config, value string) bool{
	"listener":               (*Config).listener,
	"port":                   func(c *Config, v string) bool { return c.plainPort(v) },
	"bind_address":           func(c *Config, v string) bool { c.plain.host, c.plainUsed = v, true; return v != "" },
	"socket_domain":          (*Config).socketDomain,
	"protocol":               (*Config).protocol,
	"max_connections":        (*Config).maxConnections,
	"certfile":               func(c *Config, v string) bool { c.here().Cert = v; return v != "" },
	"keyfile":                func(c *Config, v string) bool { c.here().Key = v; return v != "" },
	"cafile":                 func(c *Config, v string) bool { c.here().CA = v; return v != "" },
	"require_certificate":    func(c *Config, v string) bool { return boolean(v, &c.here().RequireCert) },
	"tls_version":            (*Config).tlsVersion,
	"websockets_origin":      func(c *Config, v string) bool { c.here().Origins = append(c.here().Origins, v); return v != "" },
	"allow_anonymous":        (*Config).allowAnonymous,
	"per_listener_settings":  func(c *Config, v string) bool { return boolean(v, &c.perListener) },
	"password_file":          func(c *Config, v string) bool { return c.one("password_file", &c.PasswordFile, v) },
	"acl_file":               func(c *Config, v string) bool { return c.one("acl_file", &c.ACLFile, v) },
	"persistence":            func(c *Config, v string) bool { return boolean(v, &c.Persistence) },
	"persistence_location":   func(c *Config, v string) bool { c.Location = v; return v != "" },
	"persistence_file":       func(c *Config, v string) bool { c.DBName = v; return v != "" },
	"max_inflight_messages":  func(c *Config, v string) bool { return c.limit("max_inflight", v, "65535") },
	"max_queued_messages":    (*Config).maxQueued,
	"max_queued_bytes":       func(c *Config, v string) bool { return c.limit("queued_bytes", v, "unlimited") },
	"max_packet_size":        func(c *Config, v string) bool { return c.limit("packet_size", v, "unlimited") },
	"message_size_limit":     (*Config).messageSize,
	"max_keepalive":          func(c *Config, v string) bool { return c.limitOf("max_keep_alive", v, "s", "unlimited") },
	"global_max_connections": func(c *Config, v string) bool { return c.limit("connections", v, "unlimited") },
	"max_topic_alias":        (*Config).topicAlias,
	"sys_interval":           (*Config).sysInterval,
	"log_type":               (*Config).logType,
	"log_dest":               (*Config).logDest,

	"use_identity_as_username":     func(c *Config, v string) bool { return boolean(v, &c.here().CertIsUser) },
	"listener_allow_anonymous":     func(c *Config, v string) bool { return optional(v, &c.here().AllowAnonymous) },
	"persistent_client_expiration": (*Config).sessionExpiry,
}

// harmless are options that need no counterpart, since nothing is missing without them.
var harmless = map[string]bool{
	"set_tcp_nodelay": true, "log_timestamp": true, "log_timestamp_format": true, "autosave_interval": true, "autosave_on_changes": true,
	"retry_interval": true, "store_clean_interval": true, "max_log_entries": true, "allow_zero_length_clientid": true,
	"retain_expiry_interval": true, "websockets_headers_size": true, "websockets_log_level": true, "packet_buffer_size": true,
}

// unmapped are options that have no counterpart, with the reason.
var unmapped = map[string]string{
	"plugin":                          pluginReason,
	"global_plugin":                   pluginReason,
	"auth_plugin":                     pluginReason,
	"plugin_load":                     pluginReason,
	"plugin_use":                      pluginReason,
	"auth_plugin_deny_special_chars":  "names with + # / never match %c and %u in access control lists",
	"psk_file":                        "keys shared in advance are not offered: use certificates or passwords",
	"psk_hint":                        "keys shared in advance are not offered: use certificates or passwords",
	"crlfile":                         "lists of revoked certificates are not read: until then, deny their users in the access control list",
	"capath":                          "write the certificates of the authorities into one file and name it as client_ca",
	"ciphers":                         "Go chooses the cipher suites",
	"ciphers_tls1.3":                  "Go chooses the cipher suites",
	"dhparamfile":                     "only suites with elliptic curves are offered",
	"tls_engine":                      "there are no OpenSSL engines",
	"tls_keyform":                     "there are no OpenSSL engines",
	"tls_engine_kpass_sha1":           "there are no OpenSSL engines",
	"disable_client_cert_date_checks": "certificates that have expired are refused",
	"use_subject_as_username":         "a certificate names the user by its common name or an alternative name (identity)",
	"use_username_as_clientid":        "auth.client_id: \"%u\" refuses clients with another id instead of renaming them",
	"mount_point":                     "topics are the same on all listeners",
	"max_qos":                         "QoS is not limited",
	"maximum_qos":                     "QoS is not limited",
	"accept_protocol_versions":        "all versions of MQTT are accepted",
	"bind_interface":                  "name an address of the interface in the listener",
	"http_dir":                        "files are not served",
	"http_api":                        "see http in the configuration: metrics and health",
	"enable_proxy_protocol":           "name the networks of the load balancers as proxy_protocol of the listener",
	"proxy_protocol_v2_require_tls":   "name the networks of the load balancers as proxy_protocol of the listener",
	"auto_id_prefix":                  "client ids that the broker gives have no prefix",
	"listener_auto_id_prefix":         "client ids that the broker gives have no prefix",
	"clientid_prefixes":               "auth.client_id holds users to a form of client id",
	"allow_duplicate_messages":        "a message comes once, also through overlapping subscriptions",
	"queue_qos0_messages":             "messages of QoS 0 do not wait for clients that are away: subscribe with QoS 1",
	"upgrade_outgoing_qos":            "a message is delivered with at most the QoS of its publisher, as MQTT says",
	"retain_available":                "retained messages are always there: deny publishing them by an access control list or an embedding program",
	"retained_persistence":            "what is retained is kept like everything else",
	"check_retain_source":             "retained messages stay when their publisher loses the permission",
	"max_inflight_bytes":              "what is on its way is limited by number: limits.max_inflight",
	"memory_limit":                    "see memory in the configuration",
	"global_max_clients":              "limits.sessions bounds the sessions, connected or not",
	"enable_control_api":              "the admin socket and magpie console take its place",
	"user":                            "start magpie as the user that it is to run as",
	"pid_file":                        "the service manager knows the process",
	"log_facility":                    "logs go to standard error, which the service manager keeps",
	"connection_messages":             "connections are logged at level info",
	"cafile_client":                   "see client_ca of the listener",
}

const pluginReason = "plugins are not imported: whoever it let in or refused needs another rule before this broker is opened"

// bridgeOptions are about the connection above them.
var bridgeOptions = map[string]bool{
	"address": true, "addresses": true, "topic": true, "cleansession": true, "clientid": true, "keepalive_interval": true, "local_cleansession": true,
	"local_clientid": true, "local_password": true, "local_username": true, "notifications": true, "notifications_local_only": true,
	"notification_topic": true, "password": true, "remote_clientid": true, "remote_password": true, "remote_username": true,
	"restart_timeout": true, "round_robin": true, "start_type": true, "threshold": true, "idle_timeout": true, "try_private": true, "username": true,
}

// boolean reads true or false.
func boolean(v string, into *bool) bool {
	switch v {
	case "true", "1":
		*into = true
	case "false", "0":
		*into = false
	default:
		return false
	}
	return true
}

func optional(v string, into **bool) bool {
	var b bool
	if !boolean(v, &b) {
		return false
	}
	*into = &b
	return true
}

// here is the listener that options are about.
func (c *Config) here() *Listener {
	if c.current == nil {
		c.plainUsed = true
		return &c.plain
	}
	return c.current
}

// listener begins one: a port and maybe an address, or 0 and a path.
func (c *Config) listener(v string) bool {
	f := strings.Fields(v)
	if len(f) == 0 {
		return false
	}
	port, err := strconv.Atoi(f[0])
	if err != nil || port < 0 || port > 65535 || port == 0 && len(f) < 2 {
		return false
	}
	l := &Listener{port: port, line: c.line}
	if len(f) > 1 {
		l.host = strings.Join(f[1:], " ")
	}
	if port == 0 {
		l.Unix, l.Address = true, l.host
	}
	c.inBridge, c.current = false, l
	c.Listeners = append(c.Listeners, l)
	return true
}

func (c *Config) plainPort(v string) bool {
	n, err := strconv.Atoi(v)
	c.plain.port, c.plainUsed = n, true
	return err == nil && n > 0 && n < 65536
}

func (c *Config) socketDomain(v string) bool {
	switch l := c.here(); {
	case l.host != "":
	case v == "ipv4":
		l.host = "0.0.0.0"
	case v == "ipv6":
		l.host = "::"
	}
	return v == "ipv4" || v == "ipv6"
}

func (c *Config) protocol(v string) bool {
	c.here().WebSocket = v == "websockets"
	if c.here().WebSocket {
		c.note("WebSocket clients connect at the path /mqtt here, and at any path there: set ws.path if they use another")
	}
	return v == "websockets" || v == "mqtt"
}

func (c *Config) maxConnections(v string) bool {
	n, err := strconv.Atoi(v)
	c.here().MaxConnections = max(n, 0)
	return err == nil
}

func (c *Config) tlsVersion(v string) bool {
	switch v {
	case "tlsv1.3":
		c.here().MinTLS = "1.3"
	case "tlsv1.2":
		c.here().MinTLS = "1.2"
	default:
		c.note("tls_version %s: TLS 1.2 is the lowest version", v)
	}
	return true
}

func (c *Config) allowAnonymous(v string) bool {
	if c.perListener && c.current != nil {
		return optional(v, &c.current.AllowAnonymous)
	}
	return optional(v, &c.AllowAnonymous)
}

// one notes a file of which there is one for all listeners.
func (c *Config) one(what string, into *string, v string) bool {
	if *into != "" && *into != v {
		c.note("%s %s: there is one for all listeners, and %s stays", what, v, *into)
		return true
	}
	*into = v
	return v != ""
}

// limit notes a limit of which 0 means none.
func (c *Config) limit(key, v, none string) bool { return c.limitOf(key, v, "", none) }

func (c *Config) limitOf(key, v, unit, none string) bool {
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return v == "-1" // no limit, as without it
	}
	value := v + unit
	if n == 0 {
		value = none
	}
	c.set(&c.Limits, key, value)
	return true
}

// set sets a key, in place of an earlier value.
func (c *Config) set(all *[]Setting, key, value string) {
	for i := range *all {
		if (*all)[i].Key == key {
			(*all)[i].Value = value
			return
		}
	}
	*all = append(*all, Setting{key, value})
}

func (c *Config) maxQueued(v string) bool {
	c.note("max_queued_messages: beyond it a publisher hears Quota exceeded; limits.queue_policy: drop-oldest drops silently instead")
	return c.limit("queued_messages", v, "unlimited")
}

func (c *Config) messageSize(v string) bool {
	if v == "0" {
		return true
	}
	c.note("message_size_limit: limits.packet_size is about whole packets, and who exceeds it is disconnected")
	return c.limit("packet_size", v, "unlimited")
}

func (c *Config) topicAlias(v string) bool {
	if v == "0" {
		c.note("max_topic_alias 0: topic aliases are always offered; 1 is the least")
		v = "1"
	}
	return c.limit("topic_aliases", v, "1")
}

func (c *Config) sysInterval(v string) bool {
	n, err := strconv.ParseUint(v, 10, 31)
	value := v + "s"
	if n == 0 {
		value = "never"
	}
	if err == nil {
		c.set(&c.Others, "sys_interval", value)
	}
	return err == nil
}

// sessionExpiry reads a number and s, h, d, w, m or y.
func (c *Config) sessionExpiry(v string) bool {
	if v == "" {
		return false
	}
	hours := map[byte]uint64{'h': 1, 'd': 24, 'w': 7 * 24, 'm': 30 * 24, 'y': 365 * 24}[v[len(v)-1]]
	n, err := strconv.ParseUint(v[:len(v)-1], 10, 16)
	switch {
	case err != nil || n == 0:
		return false
	case hours > 0:
		c.set(&c.Limits, "session_expiry", fmt.Sprintf("%dh", n*hours))
	case strings.HasSuffix(v, "s"):
		c.set(&c.Limits, "session_expiry", v)
	}
	return hours > 0 || strings.HasSuffix(v, "s")
}

func (c *Config) logType(v string) bool {
	switch {
	case v == "debug" || v == "all":
		c.LogLevel = "debug"
	case c.LogLevel == "debug":
	case v == "information" || v == "notice" || v == "subscribe" || v == "unsubscribe":
		c.LogLevel = "info"
	case c.LogLevel == "info":
	case v == "warning":
		c.LogLevel = "warn"
	case c.LogLevel == "" && (v == "error" || v == "none"):
		c.LogLevel = "error"
	}
	return true
}

func (c *Config) logDest(v string) bool {
	if v != "stderr" && v != "stdout" {
		c.note("log_dest %s: logs go to standard error, which the service manager keeps", v)
	}
	return true
}

// Open says whether the broker knows no users: everybody is let in without being asked who he is.
func (c *Config) Open() bool {
	for _, l := range c.Listeners {
		if l.CertIsUser {
			return false
		}
	}
	return c.PasswordFile == "" && !c.plugins
}
