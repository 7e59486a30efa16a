package transport

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	files := []CertFiles{{Cert: "a.crt", Key: "a.key"}}
	ok := &TLSConfig{Certificates: files}
	for _, tt := range []struct {
		name string
		cfg  Config
		want string // empty: valid
	}{
		{"tcp", Config{Network: TCP, Address: "127.0.0.1:1883"}, ""},
		{"wss", Config{Network: WSS, Address: "127.0.0.1:1883", TLS: ok, WS: &WSConfig{Path: "/x", Origins: []string{"*.example.com"}}}, ""},
		{"unknown network", Config{Network: "udp", Address: "127.0.0.1:1"}, `unknown network "udp"`},
		{"no address", Config{Network: TCP}, "address is empty"},
		{"default port of wss", Config{Network: WSS, Address: "", TLS: ok}, "127.0.0.1:8084"},
		{"TLS on tcp", Config{Network: TCP, Address: "127.0.0.1:1", TLS: ok}, `use "tls"`},
		{"TLS on ws", Config{Network: WS, Address: "127.0.0.1:1", TLS: ok}, `use "wss"`},
		{"tls without", Config{Network: TLS, Address: "127.0.0.1:1"}, "needs TLS settings"},
		{"no certificate", Config{Network: TLS, Address: "127.0.0.1:1", TLS: &TLSConfig{}}, "no certificate"},
		{"no key", Config{Network: TLS, Address: "127.0.0.1:1", TLS: &TLSConfig{Certificates: []CertFiles{{Cert: "a"}}}}, "both files"},
		{"no authority", Config{Network: TLS, Address: "127.0.0.1:1", TLS: &TLSConfig{Certificates: files, ClientAuth: RequireClientCert}}, "file of their authority"},
		{"idle authority", Config{Network: TLS, Address: "127.0.0.1:1", TLS: &TLSConfig{Certificates: files, ClientCA: "ca"}}, "no effect"},
		{"client auth", Config{Network: TLS, Address: "127.0.0.1:1", TLS: &TLSConfig{Certificates: files, ClientAuth: "maybe"}}, `"maybe"`},
		{"TLS 1.1", Config{Network: TLS, Address: "127.0.0.1:1", TLS: &TLSConfig{Certificates: files, MinVersion: 0x302}}, "TLS 1.1"},
		{"ws path", Config{Network: WS, Address: "127.0.0.1:1", WS: &WSConfig{Path: "mqtt"}}, "does not begin with /"},
		{"origin", Config{Network: WS, Address: "127.0.0.1:1", WS: &WSConfig{Origins: []string{"[a"}}}, `origin pattern "[a"`},
		{"no path", Config{Network: Unix}, "path of the unix socket is empty"},
		{"TLS on unix", Config{Network: Unix, Address: "x", TLS: ok}, "no TLS"},
		{"PROXY on unix", Config{Network: Unix, Address: "x", ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("::/0")}}, "no PROXY"},
		{"mode", Config{Network: Unix, Address: "x", UnixMode: 0o1777 << 9}, "permission bits"},
		{"timeout", Config{Network: Unix, Address: "x", HandshakeTimeout: -1}, "negative"},
		{"pending", Config{Network: Unix, Address: "x", MaxPending: -1}, "negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.cfg.Validate()
			if tt.want == "" && err == nil {
				return
			}
			if tt.want == "" || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestListenNamesTheListener(t *testing.T) {
	_, err := Listen(Config{Network: TCP, Address: "1883"})
	wantError(t, err, "listener tcp://1883: address 1883 has no host")
	_, err = Listen(Config{Name: "front", Network: TCP})
	wantError(t, err, "listener front: ")
}
