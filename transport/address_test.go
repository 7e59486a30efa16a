package transport

import (
	"strings"
	"testing"
)

func TestCheckAddress(t *testing.T) {
	for _, tt := range []struct{ address, want string }{
		{"127.0.0.1:1883", ""},
		{"[::1]:0", ""},
		{"[fe80::1%eth0]:1883", ""},
		{"localhost:65535", ""},
		{":1883", ""},
		{"", "address is empty: use 127.0.0.1:1883 or 0.0.0.0:1883"},
		{"1884", "address 1884 has no host: use 127.0.0.1:1884 or 0.0.0.0:1884"},
		{"localhost", "address localhost has no port: use localhost:1883"},
		{"10.0.0.1", "address 10.0.0.1 has no port: use 10.0.0.1:1883"},
		{"[::1]", "address [::1] has no port: use [::1]:1883"},
		{"::1", "address ::1 is not host:port; IPv6 is written in brackets, like [::1]:1883"},
		{"::1:1883", "in brackets, like [::1]:1883"},
		{"fe80::1%eth0:1883", "in brackets"},
		{"host:mqtt", `port "mqtt" is not a number from 0 to 65535`},
		{"host:65536", `port "65536" is not a number`},
		{"host:-1", `port "-1" is not a number`},
		{"host:", `port "" is not a number`},
		{"[::1]x:1", "address [::1]x:1 is not host:port"},
		{"a:b:c", "address a:b:c is not host:port"},
	} {
		err := checkAddress(tt.address, "1883")
		if tt.want == "" {
			if err != nil {
				t.Errorf("%q: %v", tt.address, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want %q", tt.address, err, tt.want)
		}
	}
}

func TestLoopback(t *testing.T) {
	for _, tt := range []struct {
		network, address string
		want             bool
	}{
		{TCP, "127.0.0.1:1883", true},
		{TCP, "127.8.8.8:1883", true},
		{TCP, "[::1]:1883", true},
		{TCP, "[::ffff:127.0.0.1]:1883", true},
		{TLS, "localhost:8883", true},
		{Unix, "/run/x.sock", true},
		{TCP, "0.0.0.0:1883", false},
		{TCP, "[::]:1883", false},
		{TCP, ":1883", false},
		{TCP, "192.0.2.1:1883", false},
		{TCP, "127.0.0.1.example.com:1883", false},
		{TCP, "nonsense", false},
	} {
		if got := (Config{Network: tt.network, Address: tt.address}).Loopback(); got != tt.want {
			t.Errorf("%s %s: %v, want %v", tt.network, tt.address, got, tt.want)
		}
	}
}
