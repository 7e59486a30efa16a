package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/magpiemq/magpie/cmd/magpie/internal/text"
)

// checkCertCmd checks certificates.
type checkCertCmd struct {
	Files []string `arg:"" name:"file" help:"PEM files: each a certificate, its intermediates behind it."`
	CA    string   `name:"ca" help:"PEM file of authorities that the chain must lead to." placeholder:"FILE"`
	Days  int      `help:"Days that a certificate must still be valid." default:"0"`
}

// Help is shown by kong below the usage line.
func (*checkCertCmd) Help() string {
	return examples(
		"magpie check cert server.crt", "whose it is, and how long it is valid",
		"magpie check cert --ca ca.crt --days 30 server.crt", "exit code 1 unless it leads to this authority and is valid for 30 days more",
	)
}

// Run prints a line for each file and one for each problem; with a problem the exit code is 1.
func (c *checkCertCmd) Run() error {
	var roots *x509.CertPool
	if c.CA != "" {
		authorities, err := readCertificates(c.CA)
		if err != nil {
			return usage(err, "")
		}
		roots = x509.NewCertPool()
		for _, a := range authorities {
			roots.AddCert(a)
		}
	}
	bad := false
	for _, file := range c.Files {
		chain, err := readCertificates(file)
		if err != nil {
			fmt.Println(err)
			bad = true
			continue
		}
		now := time.Now()
		fmt.Printf("%s: %s\n", file, certificateWords(chain[0], now))
		for _, problem := range chainProblems(chain, roots, now, c.Days) {
			fmt.Printf("%s: problem: %s\n", file, problem)
			bad = true
		}
	}
	if bad {
		return errQuiet
	}
	return nil
}

// readCertificates returns the certificates of a PEM file, at least one.
func readCertificates(file string) (chain []*x509.Certificate, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for n := 1; ; {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", file, n, err)
		}
		chain = append(chain, cert)
		n++
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%s: no certificate in PEM format", file)
	}
	return chain, nil
}

// checkPair reports whether a certificate and a key can be read and belong together.
func checkPair(cert, key string) error {
	if _, err := readCertificates(cert); err != nil {
		return err
	}
	if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
		return fmt.Errorf("%s with %s: %w", cert, key, errors.New(strings.TrimPrefix(err.Error(), "tls: ")))
	}
	return nil
}

// certificateWords says what a certificate is for, and how long.
func certificateWords(c *x509.Certificate, now time.Time) string {
	days := int(c.NotAfter.Sub(now) / (24 * time.Hour))
	return fmt.Sprintf("%s, issued by %s, %s left (until %s), names: %s", nameOf(c.Subject.String()), issuer(c), count(max(0, days), "day"),
		c.NotAfter.UTC().Format(time.DateOnly), nameOf(strings.Join(names(c), ", ")))
}

func nameOf(s string) string {
	if s == "" {
		return "(none)"
	}
	return text.Escape(s)
}

func issuer(c *x509.Certificate) string {
	if bytes.Equal(c.RawIssuer, c.RawSubject) {
		return "itself"
	}
	return nameOf(c.Issuer.String())
}

// names returns the alternative names, which are what clients compare with the name they connect to.
func names(c *x509.Certificate) (all []string) {
	all = append(all, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	return append(all, c.EmailAddresses...)
}

// chainProblems says what is wrong with the first certificate of a file and those behind it.
func chainProblems(chain []*x509.Certificate, roots *x509.CertPool, now time.Time, days int) (problems []string) {
	for i, c := range chain {
		which := fmt.Sprintf("certificate %d (%s) ", i+1, nameOf(c.Subject.String()))
		switch {
		case now.After(c.NotAfter):
			problems = append(problems, which+"expired on "+c.NotAfter.UTC().Format(time.DateOnly))
		case now.Before(c.NotBefore):
			problems = append(problems, which+"is not valid before "+c.NotBefore.UTC().Format(time.DateOnly))
		case c.NotAfter.Sub(now) < time.Duration(days)*24*time.Hour:
			problems = append(problems, fmt.Sprintf("%sends in less than %s", which, count(days, "day")))
		}
		if i+1 < len(chain) && c.CheckSignatureFrom(chain[i+1]) != nil {
			problems = append(problems, fmt.Sprintf("%swas not signed by the certificate that follows it", which))
		}
	}
	if len(names(chain[0])) == 0 && !chain[0].IsCA {
		problems = append(problems, "it has no alternative name: clients compare no other and will refuse it")
	}
	if err := verify(chain, roots, now); err != nil {
		problems = append(problems, "does not lead to the authorities given: "+text.Escape(err.Error()))
	}
	return problems
}

// verify tries the chain against authorities, if there are any.
func verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	if roots == nil {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}
