package auth

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"github.com/magpiemq/magpie/broker"
)

// CertificateName says which name in a client certificate is the user.
type CertificateName int

// Where the user stands. The certificate must have exactly one name of the kind.
const (
	CommonName CertificateName = iota // CN of the subject
	DNSName                           // Subject Alternative Name of the kind DNS
	EmailName                         // … e-mail address
	URIName                           // … URI, as a SPIFFE ID
)

// Certificate lets in clients whose certificate the listener verified, as the user that the certificate names; the
// User Name of the CONNECT does not matter. Clients without a verified certificate are left to others. It knows only
// what TLS verified: who may sign client certificates is the listener's business, and must be nobody but you.
type Certificate struct {
	Name CertificateName
}

// Authenticate takes the user from the certificate. It does not block.
func (a Certificate) Authenticate(_ context.Context, r *broker.ConnectRequest) (broker.Grant, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return broker.Grant{}, broker.ErrNoOpinion
	}
	leaf := r.TLS.VerifiedChains[0][0]
	user, err := a.Name.of(leaf)
	if err != nil {
		return broker.Grant{}, refuse("client certificate: %w", err)
	}
	return broker.Grant{User: user, Expires: leaf.NotAfter}, nil
}

// of returns the one name of the kind. Of several, an attacker might choose.
func (n CertificateName) of(c *x509.Certificate) (string, error) {
	var names []string
	switch n {
	case CommonName:
		names = commonNames(c)
	case DNSName:
		names = c.DNSNames
	case EmailName:
		names = c.EmailAddresses
	case URIName:
		for _, u := range c.URIs {
			names = append(names, u.String())
		}
	}
	if len(names) != 1 {
		return "", fmt.Errorf("%d names of the kind asked for, not one", len(names))
	}
	return names[0], checkText("name", names[0])
}

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

func commonNames(c *x509.Certificate) (names []string) {
	for _, attr := range c.Subject.Names {
		if text, ok := attr.Value.(string); ok && attr.Type.Equal(oidCommonName) {
			names = append(names, text)
		}
	}
	return names
}
