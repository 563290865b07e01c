package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/breakwater-gateway/breakwater/proxy"
)

// inherit returns the sockets that systemd opened for us: the one named "admin" (FileDescriptorName=admin) and the
// first of any other name, nil where there is none. A listening socket that outlives the process queues connections
// while it restarts: none is refused.
func inherit() (webhook, admin net.Listener, err error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, nil, fmt.Errorf("take sockets from systemd: %w", err)
	}
	for name, listeners := range named {
		for _, l := range listeners {
			switch {
			case l == nil: // not a stream socket
			case name == "admin" && admin == nil:
				admin = l
			case name != "admin" && webhook == nil:
				webhook = l
			default:
				return nil, nil, errors.New("take sockets from systemd: one for webhooks and one named admin are known, there are more")
			}
		}
	}
	return webhook, admin, nil
}

// listen opens key's address, where systemd did not.
func listen(ctx context.Context, inherited net.Listener, key, address string) (net.Listener, error) {
	if inherited != nil {
		return inherited, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is taken by another program: stop it, or choose another address", key, address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s: not allowed to listen on %s: ports below 1024 need CAP_NET_BIND_SERVICE or socket activation", key, address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return l, nil
}

// guarded refuses an admin listener that other machines can reach and no token guards. Package config has seen to the
// address in the file; a name may stand for another address, and systemd brings its own.
func guarded(a net.Addr, token proxy.Secret) error {
	if tcp, ok := a.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && token == "" {
		return fmt.Errorf("admin: %s can be reached from other machines: set admin.token, or listen on 127.0.0.1", a)
	}
	return nil
}

// certificate is what TLS shows at this moment.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

func loadCertificate(certFile, keyFile string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &pair, nil
}
