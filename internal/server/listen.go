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
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

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

const (
	adminConnections = 128 // at once, to the admin listener
	ownFiles         = 128 // at most, of the journal, the log, the watcher and the like
)

// roomFor returns how many of Stripe's connections can be taken, of as many as were asked for: the journal, the backends
// and the operators must find descriptors too, however many connections strangers open. That the soft limit of open files
// is the hard one is the doing of Go's runtime.
func (s *server) roomFor(connections int) int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		s.Log.Warn("the limit of open files cannot be read", zap.Error(err))
		return connections
	}
	others := adminConnections + ownFiles
	for _, b := range s.gateway.Backends() {
		others += b.MaxInFlight
	}
	room := fitting(connections, others, files.Cur)
	if room < connections {
		s.Log.Warn("limits.connections is more than this process may open: fewer are taken. "+
			"Raise its limit of open files (LimitNOFILE=, ulimit -n), or lower limits.connections",
			zap.Int("connections", connections), zap.Int("taken", room), zap.Uint64("open_files", files.Cur),
			zap.Int("open_files_needed", connections+others))
	}
	return room
}

// fitting is how many connections leave room for others among so many files, at most as many as were asked for. A few
// there must be.
func fitting(connections, others int, files uint64) int {
	if uint64(connections+others) <= files {
		return connections
	}
	return min(connections, max(16, int(files)-others))
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
