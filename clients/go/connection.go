package warrengate

import (
	"crypto/tls"
	"crypto/x509"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// replacedGrace is how long streams of a replaced connection may take to end.
const replacedGrace = 5 * time.Minute

// connection is the current channel to the gateway. A replaced channel is closed later, and no new call uses it.
type connection struct {
	endpoint string
	dial     func() (*grpc.ClientConn, error)

	mu      sync.Mutex
	present *grpc.ClientConn
	old     map[*grpc.ClientConn]*time.Timer
}

func newConnection(endpoint, caFile string, caPEM []byte) (*connection, error) {
	address, err := url.Parse(endpoint)
	if err != nil || address.Hostname() == "" || (address.Scheme != "https" && address.Scheme != "http") ||
		(address.Path != "" && address.Path != "/") {
		return nil, configurationError("%q is not a gateway address: use the form https://127.0.0.1:8443", endpoint)
	}
	transport, err := transportCredentials(address, caFile, caPEM)
	if err != nil {
		return nil, err
	}
	target := "dns:///" + address.Host
	if address.Port() == "" {
		target += ":8443"
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		// A silent connection is detected within the sum of both times.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// The gateway limits the size of its responses; the default limit of 4 MiB is smaller than the largest of them.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
	}
	c := &connection{endpoint: endpoint, old: map[*grpc.ClientConn]*time.Timer{}}
	c.dial = func() (*grpc.ClientConn, error) { return grpc.NewClient(target, options...) }
	c.present, err = c.dial()
	if err != nil {
		return nil, configurationError("%q is not a gateway address: %s", endpoint, err)
	}
	return c, nil
}

func transportCredentials(address *url.URL, caFile string, caPEM []byte) (credentials.TransportCredentials, error) {
	if address.Scheme == "http" {
		switch address.Hostname() {
		case "127.0.0.1", "::1", "localhost":
			return insecure.NewCredentials(), nil
		}
		return nil, configurationError("http:// is for loopback addresses only: secrets and tokens need TLS")
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if caPEM == nil && caFile != "" {
		var err error
		if caPEM, err = os.ReadFile(caFile); err != nil {
			return nil, configurationError("the CA file cannot be read: %s", err)
		}
	}
	if caPEM != nil {
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(caPEM) {
			return nil, configurationError("the CA file %s contains no certificate in PEM form", caFile)
		}
	}
	return credentials.NewTLS(settings), nil
}

// channel returns the channel for new calls.
func (c *connection) channel() (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.present == nil {
		return nil, closedError("client")
	}
	return c.present, nil
}

// replace creates a new channel for new calls, unless this one was replaced already.
func (c *connection) replace(old *grpc.ClientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.present != old || old == nil {
		return
	}
	next, err := c.dial()
	if err != nil {
		return
	}
	c.present = next
	c.old[old] = time.AfterFunc(replacedGrace, func() {
		c.mu.Lock()
		delete(c.old, old)
		c.mu.Unlock()
		_ = old.Close()
	})
}

func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for old, timer := range c.old {
		timer.Stop()
		_ = old.Close()
	}
	clear(c.old)
	if c.present != nil {
		_ = c.present.Close()
		c.present = nil
	}
}

// retryDelays returns the delays between attempts: exponential from 0.1 s to 5 s, with jitter.
type retryDelays struct{ next time.Duration }

func (p *retryDelays) reset() { p.next = 0 }

func (p *retryDelays) delay(atLeast time.Duration) time.Duration {
	if p.next == 0 {
		p.next = 100 * time.Millisecond
	}
	delay := time.Duration(float64(p.next) * (0.5 + rand.Float64()/2)) //nolint:gosec // jitter needs no secrecy
	p.next = min(p.next*2, 5*time.Second)
	return max(delay, min(atLeast, time.Minute))
}
