package transport

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// checkAddress reports in plain words what is wrong with a host:port; port is
// the one to suggest. An empty host, as in ":1883", means every address.
func checkAddress(address, port string) error {
	if address == "" {
		return fmt.Errorf("address is empty: use 127.0.0.1:%s or 0.0.0.0:%s", port, port)
	}
	if _, err := strconv.Atoi(address); err == nil {
		return fmt.Errorf("address %s has no host: use 127.0.0.1:%s or 0.0.0.0:%s", address, address, address)
	}
	if err := checkBrackets(address, port); err != nil {
		return err
	}
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %s is not host:port", address)
	}
	if _, err := strconv.ParseUint(p, 10, 16); err != nil {
		return fmt.Errorf("address %s: port %q is not a number from 0 to 65535", address, p)
	}
	return nil
}

// checkBrackets finds the addresses whose colons cannot be told apart and
// those that lack the one that matters.
func checkBrackets(address, port string) error {
	switch {
	case !strings.Contains(address, ":"):
		return fmt.Errorf("address %s has no port: use %s:%s", address, address, port)
	case strings.HasPrefix(address, "[") && strings.HasSuffix(address, "]"):
		return fmt.Errorf("address %s has no port: use %s:%s", address, address, port)
	case strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "["):
		return fmt.Errorf("address %s is not host:port; IPv6 is written in brackets, like [::1]:%s", address, port)
	}
	return nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// ipOf returns the IP address inside addr, an IPv4 address in its short form,
// and the zero Addr when there is none.
func ipOf(addr net.Addr) netip.Addr {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// within reports whether ip lies in one of the networks.
func within(ip netip.Addr, networks []netip.Prefix) bool {
	for _, n := range networks {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}
