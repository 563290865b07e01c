package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCert writes a certificate for 127.0.0.1 that signs itself, with its key, and returns the pool that believes it.
func writeCert(t *testing.T, certFile, keyFile string, serial int64) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "breakwater"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		keyFile:  {Type: "PRIVATE KEY", Bytes: keyDER},
		certFile: {Type: "CERTIFICATE", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

func TestTLSFromFilesThatAreReplaced(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	s := newSite(t, fmt.Sprintf("tls: {cert_file: %s, key_file: %s}", certFile, keyFile), backend{"ledger", l.URL})
	old := writeCert(t, certFile, keyFile, 1)
	s.start(t)

	to := "https://" + s.listen + "/stripe/webhook"
	trusting := func(pool *x509.CertPool) *http.Client {
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	}
	if status, body, err := do(trusting(old), signed(t, to, invoicePaid(), time.Now())); err != nil || status != http.StatusOK {
		t.Fatalf("answered %d %q (%v), want 200", status, body, err)
	}

	renewed := writeCert(t, certFile, keyFile, 2)
	eventually(t, 15*time.Second, "the renewed certificate is served", func() bool {
		status, _, err := do(trusting(renewed), signed(t, to, invoicePaid(), time.Now()))
		return err == nil && status == http.StatusOK
	})
}

// Containers and systemd ask the binary itself: there is no other program in the image.
func TestProbe(t *testing.T) {
	t.Parallel()
	s := newSite(t, "", backend{"nobody", "http://" + freeAddr(t)})
	probe := func() int {
		return start(t, exec.Command(binary, "serve", "--probe"), "BREAKWATER_ADMIN=http://"+s.admin).wait(10 * time.Second)
	}
	if code := probe(); code != 3 {
		t.Errorf("without a gateway: %d, want 3", code)
	}
	s.start(t)
	if code := probe(); code != 0 {
		t.Errorf("with a gateway: %d, want 0", code)
	}
}

// Every configuration that the repository ships is one that the gateway accepts.
func TestShippedConfigurations(t *testing.T) {
	t.Parallel()
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "stripe_signing_secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ file, env string }{
		{"routes.yaml", ""},
		{"deploy/routes.container.yaml", "BACKEND_URL=http://php:8000/webhook.php"},
		{"deploy/routes.systemd.yaml", "STATE_DIRECTORY=/var/lib/breakwater"},
	} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			shipped, err := os.ReadFile(filepath.Join(root, tt.file))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "routes.yaml")
			here := strings.ReplaceAll(string(shipped), "/run/credentials/breakwater.service", credentials)
			if err := os.WriteFile(file, []byte(here), 0o600); err != nil {
				t.Fatal(err)
			}
			p := start(t, exec.Command(binary, "check", "--config", file), tt.env)
			if code := p.wait(10 * time.Second); code != 0 {
				t.Errorf("check ended with %d:\n%s", code, p.out.String())
			}
		})
	}
}
