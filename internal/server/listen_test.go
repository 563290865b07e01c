package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-gateway/breakwater/proxy"
)

func TestAddressTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	text := strings.Replace(configuration("http://127.0.0.1:1", ""), "listen: 127.0.0.1:0", "listen: "+l.Addr().String(), 1)
	write(t, filepath.Join(dir, "routes.yaml"), text)
	err = Run(t.Context(), Options{ConfigPath: filepath.Join(dir, "routes.yaml")})
	if err == nil || !strings.Contains(err.Error(), "listen: "+l.Addr().String()+" is taken") {
		t.Errorf("got %v", err)
	}
}

func TestAnAdminListenerForAllNeedsAToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		addr  net.Addr
		token proxy.Secret
		ok    bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, "", true},
		{&net.TCPAddr{IP: net.IPv6loopback}, "", true},
		{&net.UnixAddr{Name: "/run/admin"}, "", true},
		{&net.TCPAddr{IP: net.IPv6unspecified}, "", false},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 7)}, "", false},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 7)}, "token", true},
	} {
		if err := guarded(c.addr, c.token); (err == nil) != c.ok {
			t.Errorf("%v, token %t: %v", c.addr, c.token != "", err)
		}
	}
}

// newCertificate writes a certificate for 127.0.0.1 with that serial number.
func newCertificate(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func TestTLSTakesARenewedCertificate(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	newCertificate(t, dir, 1)
	path := filepath.Join(dir, "routes.yaml")
	text := configuration(b.URL, "tls: {cert_file: cert.pem, key_file: key.pem}")
	write(t, path, text)
	g := start(t, dir)
	serial := func() int64 {
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
		}}
		res, err := client.Get(g.Webhook + "/")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial %d", got)
	}
	newCertificate(t, dir, 2)
	eventually(t, "the renewed certificate is shown", func() bool { return serial() == 2 })

	write(t, path, text+"nonsense: true\n")
	newCertificate(t, dir, 3)
	eventually(t, "it is shown although routes.yaml has a fault", func() bool { return serial() == 3 })

	conn, err := tls.Dial("tcp", strings.TrimPrefix(g.Webhook, "https://"), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

// One connection that is counted carries one request at a time, whatever its client would like.
func TestHTTP1Only(t *testing.T) {
	t.Parallel()
	b, dir := newBackend(t), t.TempDir()
	newCertificate(t, dir, 1)
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, "tls: {cert_file: cert.pem, key_file: key.pem}"))
	g := start(t, dir)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: protocols, DisableKeepAlives: true,
	}}
	if _, status, _ := g.send(t, client, secret); status != 200 {
		t.Errorf("a client that knows both: %d", status)
	}
	res, err := client.Get(g.Webhook)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.ProtoMajor != 1 {
		t.Errorf("it speaks %s", res.Proto)
	}
	address := strings.TrimPrefix(g.Webhook, "https://")
	if conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); err == nil {
		t.Errorf("with a client that knows only HTTP/2 it agrees on %q", conn.ConnectionState().NegotiatedProtocol)
		conn.Close()
	}
	plain := new(http.Protocols)
	plain.SetUnencryptedHTTP2(true)
	dir = t.TempDir()
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	h2c := &http.Client{Transport: &http.Transport{Protocols: plain}}
	if res, err := h2c.Get(start(t, dir).Webhook); err == nil {
		t.Errorf("without TLS it speaks %s", res.Proto)
		res.Body.Close()
	}
}

// TestSystemdIsTold is not parallel: it sets NOTIFY_SOCKET.
func TestSystemdIsTold(t *testing.T) {
	b, dir := newBackend(t), t.TempDir()
	socket := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	next := func() string {
		buf := make([]byte, 1024)
		if err := conn.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	write(t, filepath.Join(dir, "routes.yaml"), configuration(b.URL, ""))
	g := start(t, dir)
	if got := next(); got != "READY=1" {
		t.Errorf("at the start: %q", got)
	}
	call(t, "POST", g.Admin+"/api/v1/reload")
	if got := next(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("at a reload: %q", got)
	}
	if got := next(); got != "READY=1" {
		t.Errorf("after a reload: %q", got)
	}
	g.stop()
	if got := next(); got != "STOPPING=1" {
		t.Errorf("at the end: %q", got)
	}
}
