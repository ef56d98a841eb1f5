package natsbus

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"time"
)

// secretName is the name in certificates that come from the secret. Nodes do not tell each
// other apart by certificates: to know the secret is to be a node.
const secretName = "caddy-sse-cluster"

// Certificates that come from the secret are as good as the secret is, however long that
// is: the day does not matter, nor does a clock that is wrong.
var (
	validFrom = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	validTo   = time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)
)

// secretTLS is mutual TLS between all who know a secret. The key of their CA comes from it,
// so that each can make a certificate for itself that all others take.
func secretTLS(seed []byte) (*tls.Config, error) {
	caKey := ed25519.NewKeyFromSeed(seed)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: secretName + " CA"},
		NotBefore: validFrom, NotAfter: validTo,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("making the cluster's CA: %w", err)
	}
	if ca, err = x509.ParseCertificate(raw); err != nil {
		return nil, fmt.Errorf("making the cluster's CA: %w", err)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the node's key: %w", err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: secretName},
		NotBefore: validFrom, NotAfter: validTo,
		DNSNames:    []string{secretName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	chain, err := x509.CreateCertificate(rand.Reader, leaf, ca, public, caKey)
	if err != nil {
		return nil, fmt.Errorf("making the node's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   secretName,
		Certificates: []tls.Certificate{{Certificate: [][]byte{chain}, PrivateKey: key}},
		RootCAs:      pool,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}, nil
}

// mutual is TLS in which both sides show a certificate of the CA.
func (t *TLS) mutual() (*tls.Config, error) {
	config, err := t.client()
	if err != nil {
		return nil, err
	}
	config.ClientCAs = config.RootCAs
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.load() }
	return config, nil
}

// client is TLS to a server.
func (t *TLS) client() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		text, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls: reading the CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("tls: no certificate in %s", t.CA)
		}
	}
	if t.Cert != "" {
		if _, err := t.load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.load() }
	}
	return config, nil
}

// load reads the certificate: it may have been renewed.
func (t *TLS) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: reading the certificate: %w", err)
	}
	return &pair, nil
}
