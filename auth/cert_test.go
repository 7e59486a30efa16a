package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/mqtt"
)

// commonNamed returns a certificate with these common names, as parsing makes it.
func commonNamed(names ...string) *x509.Certificate {
	c := &x509.Certificate{NotAfter: time.Unix(99, 0)}
	for _, n := range names {
		c.Subject.CommonName = n
		c.Subject.Names = append(c.Subject.Names, pkix.AttributeTypeAndValue{Type: oidCommonName, Value: n})
	}
	return c
}

func TestCertificate(t *testing.T) {
	san := commonNamed("cn")
	san.DNSNames = []string{"dev1.example"}
	san.EmailAddresses = []string{"a@example", "b@example"}
	san.URIs = []*url.URL{{Scheme: "spiffe", Host: "example", Path: "/dev1"}}
	verified := func(c *x509.Certificate) *tls.ConnectionState {
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
	}
	tests := []struct {
		name string
		by   CertificateName
		tls  *tls.ConnectionState
		want mqtt.ReasonCode // UnspecifiedError stands for no opinion
		user string
	}{
		{"no TLS", CommonName, nil, mqtt.UnspecifiedError, ""},
		{"no certificate", CommonName, &tls.ConnectionState{}, mqtt.UnspecifiedError, ""},
		{"not verified", CommonName, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{commonNamed("dev1")}}, mqtt.UnspecifiedError, ""},
		{"empty chain", CommonName, &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{}}}, mqtt.UnspecifiedError, ""},
		{"CN", CommonName, verified(commonNamed("dev1")), mqtt.Success, "dev1"},
		{"no CN", CommonName, verified(commonNamed()), mqtt.BadUserNameOrPassword, ""},
		{"empty CN", CommonName, verified(commonNamed("")), mqtt.BadUserNameOrPassword, ""},
		{"two CNs", CommonName, verified(commonNamed("admin", "dev1")), mqtt.BadUserNameOrPassword, ""},
		{"NUL in CN", CommonName, verified(commonNamed("admin\x00.evil")), mqtt.BadUserNameOrPassword, ""},
		{"DNS", DNSName, verified(san), mqtt.Success, "dev1.example"},
		{"URI", URIName, verified(san), mqtt.Success, "spiffe://example/dev1"},
		{"two e-mail addresses", EmailName, verified(san), mqtt.BadUserNameOrPassword, ""},
		{"no such kind", CertificateName(9), verified(san), mqtt.BadUserNameOrPassword, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := login("admin", "x") // what the client claims does not matter
			r.TLS = test.tls
			g, err := Certificate{test.by}.Authenticate(t.Context(), r)
			wantCode(t, err, test.want)
			want := broker.Grant{}
			if test.want == mqtt.Success {
				want = broker.Grant{User: test.user, Expires: time.Unix(99, 0)}
			}
			if g != want {
				t.Errorf("got %+v, want %+v", g, want)
			}
		})
	}
}
