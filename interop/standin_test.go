package interop

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// launchMosquitto starts Debian's mosquitto in magpie's place.
func launchMosquitto(t *testing.T, dir string, listeners []listener, certs *certificates, passwords string) map[string]string {
	addresses := make(map[string]string)
	for _, l := range listeners {
		addresses[l.name] = cmp.Or(freeAddress(t, l), l.address)
	}
	config := filepath.Join(dir, "mosquitto.conf")
	write(t, config, mosquittoConfig(listeners, addresses, certs, passwords))
	run(t, command(t, "/usr/sbin/mosquitto", "-c", config), func(line string) bool {
		return strings.HasSuffix(line, " running")
	})
	return addresses
}

// freeAddress picks a port for a program that cannot let the kernel choose. Somebody else may take it before the program does.
func freeAddress(t *testing.T, l listener) string {
	if l.network == "unix" {
		return ""
	}
	probe, err := net.Listen("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	return probe.Addr().String()
}

func mosquittoConfig(listeners []listener, addresses map[string]string, certs *certificates, passwords string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "user root\nlog_type all\nallow_anonymous %t\n", passwords == "")
	if passwords != "" {
		fmt.Fprintf(&b, "password_file %s\n", passwords)
	}
	for _, l := range listeners {
		if l.network == "unix" {
			fmt.Fprintf(&b, "listener 0 %s\n", addresses[l.name])
			continue
		}
		host, port, _ := net.SplitHostPort(addresses[l.name])
		fmt.Fprintf(&b, "listener %s %s\n", port, host)
		if l.network == "ws" || l.network == "wss" {
			b.WriteString("protocol websockets\n")
		}
		if l.network == "tls" || l.network == "wss" {
			fmt.Fprintf(&b, "certfile %s\nkeyfile %s\n", certs.serverCert, certs.serverKey)
		}
		if l.name == "mtls" {
			fmt.Fprintf(&b, "cafile %s\nrequire_certificate true\n", certs.authority)
		}
	}
	return b.String()
}
