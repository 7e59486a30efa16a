package config

import (
	"bytes"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/magpiemq/magpie/broker"
)

const examplePath = "../../../../magpie.example.yaml"

// TestMistakes shows what is said about each mistake: the first line of the error.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"lisen: x", `m.yaml:1: unknown key "lisen": did you mean "listeners"?`},
		{"data: x\nlog:\n  levle: info", `m.yaml:3: unknown key "levle": did you mean "level"?`},
		{"memory: {limit: 0}", `m.yaml:1: limit: "0" is none of a size such as 512MiB, a percentage such as 75%, and the word unlimited`},
		{"memory: {limit: 0%}", `m.yaml:1: limit: "0%" is not a percentage from 1% to 100%`},
		{"memory: {limit: 120%}", `m.yaml:1: limit: "120%" is not a percentage from 1% to 100%`},
		{"log:\n  colour: red", `m.yaml:2: unknown key "colour": known here are level, format`},
		{"log: {level: loud}", `m.yaml:1: level: "loud" is none of debug, info, warn, error`},
		{"log: info", `m.yaml:1: log must be keys and values, each as "key: value" on a line of its own, not "info"`},
		{"log:", `m.yaml:1: log must be keys and values, each as "key: value" on a line of its own, not nothing`},
		{"data: a\ndata: b", `m.yaml:2: key "data" is given twice, first on line 1`},
		{"data:", `m.yaml:1: data has no value: give it one, or remove the key`},
		{`data: ""`, `m.yaml:1: data has no value: give it one, or remove the key`},
		{"data: [a]", `m.yaml:1: data must be a single value, not a list`},
		{"strict_client_ids: yes", `m.yaml:1: strict_client_ids: "yes" is neither true nor false`},
		{"limits:\n\n  connections: 0", `m.yaml:3: connections: "0" is not a number from 1 to 9223372036854775807; or the word unlimited`},
		{"limits: {connections: -1}", `m.yaml:1: connections: "-1" is not a number from 1 to 9223372036854775807; or the word unlimited`},
		{"limits: {receive_maximum: unlimited}", `m.yaml:1: receive_maximum: "unlimited" is not a number from 1 to 9223372036854775807`},
		{"limits: {packet_size: 1 MB/s}", `m.yaml:1: packet_size: "1 MB/s" is not a size: write bytes, or a whole number of KiB, MiB or GiB, such as 64KiB; or the word unlimited`},
		{"limits: {packet_size: 99999999999GiB}", `m.yaml:1: packet_size: "99999999999GiB" is not a size: write bytes, or a whole number of KiB, MiB or GiB, such as 64KiB; or the word unlimited`},
		{"limits: {connect_timeout: 10}", `m.yaml:1: connect_timeout: "10" is not a time above 0: write a number with a unit, such as 500ms, 10s, 5m, 2h or 7d`},
		{"limits: {connect_timeout: -1s}", `m.yaml:1: connect_timeout: "-1s" is not a time above 0: write a number with a unit, such as 500ms, 10s, 5m, 2h or 7d`},
		{"limits: {publish_rate: NaN}", `m.yaml:1: publish_rate: "NaN" is not a number above 0; or the word unlimited`},
		{"limits: {packet_size: 10}", `m.yaml:1: packet_size: 10 is too little: at least 64`},
		{"limits: {max_inflight: 65536}", `m.yaml:1: max_inflight: 65536 is too much: at most 65535`},
		{"listeners: 1883", `m.yaml:1: listeners must be a list, each entry as "- …" on a line of its own or all as [a, b], not "1883"`},
		{"listeners:\n- address: x", `m.yaml:2: listeners[0]: the key "network" is missing`},
		{"listeners:\n- {network: tpc, address: 127.0.0.1:1}", `m.yaml:2: network: "tpc" is none of tcp, tls, ws, wss, unix`},
		{"listeners:\n- {network: tcp, address: 1883}", `m.yaml:2: address 1883 has no host: use 127.0.0.1:1883 or 0.0.0.0:1883`},
		{"listeners:\n- {network: tls, address: 127.0.0.1:1}", `m.yaml:2: network "tls" needs TLS settings`},
		{"listeners:\n- network: tls\n  address: 127.0.0.1:1\n  tls:\n    cert: c", `m.yaml:5: tls needs both cert and key`},
		{"listeners:\n- {network: tcp, address: '127.0.0.1:1', ws: {path: /x}}", `m.yaml:2: network tcp takes no ws settings: use ws or wss`},
		{"listeners:\n- {network: tcp, address: '127.0.0.1:1', unix_mode: 600}", `m.yaml:2: network tcp takes no unix_mode`},
		{"listeners:\n- {network: unix, address: s, unix_mode: 888}", `m.yaml:2: unix_mode: "888" is not a file mode: write octal digits, such as 0660`},
		{"listeners:\n- {network: tcp, address: '127.0.0.1:1'}\n- {network: tcp, address: '127.0.0.1:1'}", `m.yaml:3: the listener name "tcp://127.0.0.1:1" is taken: give each listener a name of its own`},
		{"listeners:\n- {name: http, network: tcp, address: '127.0.0.1:1'}", `m.yaml:2: the listener name "http" is taken: give each listener a name of its own`},
		{"listeners:\n- {network: tcp, address: '127.0.0.1:1', proxy_protocol: [lan]}", `m.yaml:2: proxy_protocol[0]: "lan" is not a network: write an address and a length, such as 10.0.0.0/8`},
		{"http: {address: localhost}", `m.yaml:1: http: address localhost has no port: use localhost:1883`},
		{"auth: {scram: true}", `m.yaml:1: auth: scram needs a password_file`},
		{"auth: {http: {connect_url: auth.example.com}}", `m.yaml:1: "auth.example.com" is not a URL like https://host/path`},
		{"auth: {http: {timeout: 1s}}", `m.yaml:1: neither connect_url nor access_url is given`},
		{"auth: {jwt: {format: public}}", `m.yaml:1: jwt: the key "key_file" is missing`},
		{"durability: disk", `m.yaml:1: durability: "disk" is not durable, interval=DUR (such as interval=1s) or memory`},
		{"durability: interval=0s", `m.yaml:1: durability: "interval=0s" is not durable, interval=DUR (such as interval=1s) or memory`},
		{"dollar_topics: [$SYS]", `m.yaml:1: dollar_topics: $SYS is the broker's own: clients cannot publish to it`},
		{"dollar_topics: [a/b]", `m.yaml:1: dollar_topics: "a/b" is not the first level of a topic that begins with $`},
		{"response_prefix: a/#", `m.yaml:1: response_prefix: topic name: misplaced wildcard`},
		{"data: &d x", `m.yaml:1: data: anchors and aliases are not understood here: write the value out`},
		{"a: b: c", `m.yaml:1: not YAML: mapping values are not allowed in this context`},
		{"- a", `m.yaml:1: the file must be keys and values, each as "key: value" on a line of its own, not a list`},
		{"data: a\n---\ndata: b", `m.yaml: more than one document: remove the line ---`},
	} {
		_, err := Parse("m.yaml", []byte(c.file))
		if err == nil {
			t.Errorf("%q was taken, want %s", c.file, c.want)
		} else if got, _, _ := strings.Cut(err.Error(), "\n"); got != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.file, got, c.want)
		}
	}
}

// All mistakes of a file are told at once, in order.
func TestEveryMistake(t *testing.T) {
	_, err := Parse("m.yaml", []byte("a: 1\nb: 2\nlog: {level: x}"))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("want three lines, got %v", err)
	}
}

func TestEmpty(t *testing.T) {
	for _, s := range []string{"", "\n# nothing\n", "---\n", "{}"} {
		c, err := Parse("m.yaml", []byte(s))
		if err != nil {
			t.Errorf("%q: %v", s, err)
		} else if c.Pos = (Pos{}); !reflect.DeepEqual(c, &Config{}) {
			t.Errorf("%q: got %+v, want the zero Config", s, c)
		}
	}
}

func TestValues(t *testing.T) {
	c, err := Parse("/etc/magpie/m.yaml", []byte(`
data: state
listeners:
  - {network: unix, address: m.sock, unix_mode: 0600, allow_anonymous: true}
  - {network: tcp, address: "[::1]:1883", proxy_protocol: [10.1.2.3/8, "::1"]}
auth: {password_file: /abs/passwords, acl_file: acl}
limits: {connections: unlimited, packet_size: 2 MiB, connect_timeout: 1m30s, session_expiry: 7d, publish_rate: 0.5}
sys_interval: never
`))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	check("data", c.Data, "/etc/magpie/state")
	check("socket", c.Listeners[0].Transport().Address, "/etc/magpie/m.sock")
	check("mode", uint32(c.Listeners[0].Transport().UnixMode), uint32(0o600))
	check("anonymous", *c.Listeners[0].AllowAnonymous, true)
	check("network", c.Listeners[1].Transport().ProxyProtocol[0].String(), "10.0.0.0/8")
	check("address", c.Listeners[1].Transport().ProxyProtocol[1].String(), "::1/128")
	check("passwords", c.Auth.PasswordFile, "/abs/passwords")
	check("acl", c.Auth.ACLFile, "/etc/magpie/acl")
	check("limits", c.Limits.Broker(), broker.Limits{
		Connections: broker.Unlimited, PacketSize: 2 << 20, ConnectTimeout: 90 * time.Second, SessionExpiry: 7 * 24 * time.Hour, PublishRate: 0.5,
	})
	check("$SYS", c.Interval() < 0, true)
}

// Every limit of the broker can be configured, under its own name.
func TestLimitsComplete(t *testing.T) {
	ours, theirs := reflect.TypeFor[Limits](), reflect.TypeFor[broker.Limits]()
	for i := range theirs.NumField() {
		if name := theirs.Field(i).Name; name != "Memory" && !has(ours, name) { // which is memory.limit
			t.Errorf("broker.Limits.%s is no key", name)
		}
	}
	var l Limits
	v := reflect.ValueOf(&l).Elem()
	for i := range v.NumField() {
		v.Field(i).Set(reflect.ValueOf(i + 1).Convert(v.Field(i).Type()))
	}
	b := reflect.ValueOf(l.Broker())
	for i := range v.NumField() {
		name := ours.Field(i).Name
		if got := b.FieldByName(name).Convert(reflect.TypeFor[int]()).Int(); got != int64(i+1) {
			t.Errorf("%s became %d, want %d", name, got, i+1)
		}
	}
}

func has(t reflect.Type, name string) bool { _, ok := t.FieldByName(name); return ok }

// The defaults in the reference are values that the key takes, and those of the limits are the broker's.
func TestDefaultsParse(t *testing.T) {
	var l Limits
	v := reflect.ValueOf(&l).Elem()
	d := &decoder{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Name == "PublishBurst" {
			continue // depends on the rate
		}
		if err := d.set(v.Field(i), f.Tag.Get("def"), f.Tag); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

var setting = regexp.MustCompile(`(?m)^#( *)([a-z_]+:|- )`)

// The example is good as it is, and with every setting in use; then it shows every key.
func TestExample(t *testing.T) {
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse("magpie.example.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Pos = (Pos{}); !reflect.DeepEqual(c, &Config{}) {
		t.Errorf("the example changes something: %+v", c)
	}
	all := setting.ReplaceAll(data, []byte("$1$2"))
	if _, err = Parse("magpie.example.yaml", all); err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(all, &doc); err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	collect(&doc, "", shown)
	for _, key := range allKeys(reflect.TypeFor[Config](), "") {
		if !shown[key] && !strings.HasPrefix(key, "http.tls.") {
			t.Errorf("the example does not show %s", key)
		}
	}
}

// collect notes the path of every key below n.
func collect(n *yaml.Node, path string, keys map[string]bool) {
	for i, e := range n.Content {
		switch {
		case n.Kind != yaml.MappingNode:
			collect(e, path, keys)
		case i%2 == 0:
			keys[path+e.Value] = true
		default:
			collect(e, path+n.Content[i-1].Value+".", keys)
		}
	}
}

func allKeys(t reflect.Type, path string) (names []string) {
	for _, f := range keys(t) {
		key := path + f.Tag.Get("yaml")
		names = append(names, key)
		if s := sectionOf(f.Type); s != nil {
			names = append(names, allKeys(s, key+".")...)
		}
	}
	return names
}

// The limits that the example shows are the defaults of the reference.
func TestExampleShowsDefaults(t *testing.T) {
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse("x", setting.ReplaceAll(data, []byte("$1$2")))
	if err != nil {
		t.Fatal(err)
	}
	var want Limits
	got, v := reflect.ValueOf(&c.Limits).Elem(), reflect.ValueOf(&want).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Name == "PublishBurst" {
			continue
		}
		if err := (&decoder{}).set(v.Field(i), f.Tag.Get("def"), f.Tag); err != nil || !v.Field(i).Equal(got.Field(i)) {
			t.Errorf("%s: the example has %v, the reference %s (%v)", f.Name, got.Field(i), f.Tag.Get("def"), err)
		}
	}
}

// Every key says what it is for, and what holds without it.
func TestDocumented(t *testing.T) {
	var check func(t reflect.Type)
	check = func(typ reflect.Type) {
		for _, f := range keys(typ) {
			optional := f.Tag.Get("required") == "" && sectionOf(f.Type) == nil && f.Tag.Get("yaml") != "cert" && f.Tag.Get("yaml") != "key"
			if f.Tag.Get("doc") == "" || optional && f.Tag.Get("def") == "" {
				t.Errorf("%s.%s lacks doc or def", typ.Name(), f.Name)
			}
			if s := sectionOf(f.Type); s != nil {
				check(s)
			}
		}
	}
	check(reflect.TypeFor[Config]())
}

func TestReferenceIsFresh(t *testing.T) {
	var want bytes.Buffer
	if err := WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/configuration.md is not what the tags say: run go generate ./cmd/magpie/...")
	}
}

func TestBudget(t *testing.T) {
	for text, want := range map[string]int64{"1KiB": 1 << 10, "50%": 1001 / 2, "100%": 1001, "1%": 10, "unlimited": 0} {
		var b Budget
		if err := b.Parse(text); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got, err := b.Of(1001); err != nil || got != want {
			t.Errorf("%s of 1001: %d, %v; want %d", text, got, err, want)
		}
	}
	if got, err := (Budget{}).Of(1000); err != nil || got != 750 {
		t.Errorf("the default of 1000: %d, %v", got, err)
	}
	if got, err := (Budget{}).Of(0); err != nil || got != 0 {
		t.Errorf("the default where nobody knows: %d, %v", got, err)
	}
	if _, err := (Budget{Percent: 50}).Of(0); err == nil {
		t.Error("half of nobody knows what")
	}
	for _, text := range []string{"-1", "1.5GiB", "%", "75 percent", "999999999999999GiB"} {
		if err := new(Budget).Parse(text); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func TestLoadTooLarge(t *testing.T) {
	path := t.TempDir() + "/big.yaml"
	if err := os.WriteFile(path, bytes.Repeat([]byte("# \n"), maxFile/2), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "is it a configuration file?") {
		t.Errorf("got %v", err)
	}
}

// Whatever the file holds, there is an error or a Config, and errors have a place.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"listeners:\n- &a {network: tcp}\n- *a\n", "limits: {packet_size: 1MiB, session_expiry: 7d}", "log:\n  level: x\n", "auth: {jwt: {match: {a: b}}}",
		"http: {origins: [a]}\ndata: x\ndata: y", "? [a]\n: b", "<<: {data: x}", "a: !!binary x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse("m.yaml", data); err != nil && !strings.HasPrefix(err.Error(), "m.yaml:") {
			t.Errorf("error without a place: %v", err)
		}
	})
}
