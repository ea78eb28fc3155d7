package warrengate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

// Config has the gateway's address and the client's credentials. Set either ClientID and ClientSecret, or a token.
type Config struct {
	// Endpoint is the gateway's address, such as https://127.0.0.1:8443.
	Endpoint string
	// CAFile is a PEM file with the authority to trust; without it, and without CA, the system's authorities are
	// trusted.
	CAFile string
	// CA is the content of such a file.
	CA []byte
	// ClientID and ClientSecret are the client's credentials.
	ClientID, ClientSecret string
	// Token is a token from elsewhere. It cannot be renewed.
	Token string
	// TokenSource fetches a token when one is needed.
	TokenSource TokenSource
	// TokenLifetime is the lifetime to request for tokens; zero leaves it to the gateway.
	TokenLifetime time.Duration
	// ConnectTimeout is how long Connect tries to reach the gateway (10 s).
	ConnectTimeout time.Duration
	// CallTimeout limits unary calls whose context has no deadline (30 s).
	CallTimeout time.Duration
	// OnEvent is called with lifecycle events, one after another; it must not block.
	OnEvent func(Event)
	// Logger defaults to slog.Default(). It never receives a secret.
	Logger *slog.Logger
}

// String describes the configuration without its secrets.
func (c Config) String() string {
	return fmt.Sprintf("{Endpoint:%s ClientID:%s}", c.Endpoint, c.ClientID)
}

// GoString is the same as String.
func (c Config) GoString() string { return "warrengate.Config" + c.String() }

// LogValue logs the configuration without its secrets.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// ConfigFromEnv reads WARRENGATE_ENDPOINT, WARRENGATE_CA (a path), and WARRENGATE_CLIENT_ID and
// WARRENGATE_CLIENT_SECRET, or WARRENGATE_TOKEN.
func ConfigFromEnv() Config {
	return Config{
		Endpoint: os.Getenv("WARRENGATE_ENDPOINT"), CAFile: os.Getenv("WARRENGATE_CA"),
		ClientID: os.Getenv("WARRENGATE_CLIENT_ID"), ClientSecret: os.Getenv("WARRENGATE_CLIENT_SECRET"),
		Token: os.Getenv("WARRENGATE_TOKEN"),
	}
}

// Client is a connection to a gateway. It is safe for concurrent use.
type Client struct {
	// Topology manages queues, exchanges and bindings.
	Topology *Topology
	// DeadLetters manages dead letters.
	DeadLetters *DeadLetters

	config     Config
	connection *connection
	tokens     *tokens
	log        *slog.Logger
	ctx        context.Context
	cancel     context.CancelFunc
	events     sync.Mutex

	mu         sync.Mutex
	closed     bool
	publishers map[*Publisher]struct{}
	consumers  map[*Consumer]struct{}
	replies    *replies
}

// FromEnv connects with the configuration from the environment; see ConfigFromEnv.
func FromEnv(ctx context.Context) (*Client, error) {
	config := ConfigFromEnv()
	if config.Endpoint == "" {
		return nil, configurationError("WARRENGATE_ENDPOINT is not set: the gateway's address, such as https://127.0.0.1:8443")
	}
	return Connect(ctx, config)
}

// Connect connects to a gateway. It fails when the gateway cannot be reached in time or refuses the credentials.
func Connect(ctx context.Context, config Config) (*Client, error) {
	if config.Token == "" && config.TokenSource == nil && (config.ClientID == "" || config.ClientSecret == "") {
		return nil, configurationError("credentials are missing: set a client id and its secret, or a token")
	}
	orElse(&config.ConnectTimeout, 10*time.Second)
	orElse(&config.CallTimeout, 30*time.Second)
	link, err := newConnection(config.Endpoint, config.CAFile, config.CA)
	if err != nil {
		return nil, err
	}
	c := &Client{
		config: config, connection: link, log: config.Logger,
		publishers: map[*Publisher]struct{}{}, consumers: map[*Consumer]struct{}{},
	}
	orElse(&c.log, slog.Default())
	c.tokens = &tokens{
		connection: link, log: c.log, clientID: config.ClientID, secret: config.ClientSecret,
		source: config.TokenSource, static: config.Token, lifetime: config.TokenLifetime,
	}
	// Only the source of tokens needs them, and the fields of a client can be printed.
	c.config.ClientSecret, c.config.Token = "", ""
	c.ctx, c.cancel = context.WithCancel(context.Background())
	stubs := pb.NewTopologyClient(authorized{c})
	c.Topology, c.DeadLetters = &Topology{TopologyClient: stubs}, &DeadLetters{stubs: stubs, client: c}
	if err := c.authenticate(ctx); err != nil {
		c.cancel()
		link.close()
		return nil, err
	}
	return c, nil
}

// authenticate connects to the gateway and checks the credentials; it retries until the timeout.
func (c *Client) authenticate(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, c.config.ConnectTimeout)
	defer cancel()
	var waits retryDelays
	for {
		err := c.check(ctx)
		if err == nil {
			return nil
		}
		if parent.Err() != nil {
			return fromContext(parent)
		}
		failure := fromRPC(err, c.config.Endpoint)
		if ctx.Err() != nil {
			return &Error{
				Reason: reasonUnreachable, Code: codes.Unavailable, Retryable: true,
				Message: "the gateway at " + c.config.Endpoint + " cannot be reached: no answer within " + c.config.ConnectTimeout.String(),
			}
		}
		delay := waits.delay(failure.RetryAfter)
		deadline, _ := ctx.Deadline()
		if !failure.Retryable || time.Now().Add(delay).After(deadline) || !sleep(ctx, delay) {
			return failure
		}
	}
}

func (c *Client) check(ctx context.Context) error {
	if _, err := c.tokens.get(ctx); err != nil {
		return err
	}
	_, err := c.WhoAmI(ctx)
	return err
}

// WhoAmI returns the client's own identity and grants.
func (c *Client) WhoAmI(ctx context.Context) (*pb.WhoAmIResponse, error) {
	return pb.NewAuthClient(authorized{c}).WhoAmI(ctx, &pb.WhoAmIRequest{})
}

// Admin returns the administration service. The client's token is attached to its calls.
func (c *Client) Admin() pb.AdminClient { return pb.NewAdminClient(authorized{c}) }

// authorized makes calls of generated stubs with the token attached; it returns errors of this library.
type authorized struct{ client *Client }

// Invoke implements grpc.ClientConnInterface.
func (a authorized) Invoke(ctx context.Context, method string, request, response any, options ...grpc.CallOption) error {
	c, caller := a.client, ctx
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.config.CallTimeout)
		defer cancel()
	}
	options = append(options, grpc.WaitForReady(true))
	triedAnotherToken := false
	for {
		channel, err := c.connection.channel()
		if err != nil {
			return err
		}
		used, err := c.tokens.get(ctx)
		if err != nil {
			return err
		}
		if err = channel.Invoke(withToken(ctx, used), method, request, response, options...); err == nil {
			return nil
		}
		if errors.Is(caller.Err(), context.Canceled) {
			return fromContext(caller)
		}
		failure := fromRPC(err, c.connection.endpoint)
		if failure.Code != codes.Unauthenticated || triedAnotherToken || !c.tokens.renewable() {
			return failure
		}
		triedAnotherToken = true
		if _, err := c.tokens.newerThan(ctx, used); err != nil {
			return err
		}
	}
}

// NewStream implements grpc.ClientConnInterface.
func (a authorized) NewStream(ctx context.Context, description *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	used, err := a.client.tokens.get(ctx)
	if err != nil {
		return nil, err
	}
	channel, err := a.client.connection.channel()
	if err != nil {
		return nil, err
	}
	stream, err := channel.NewStream(withToken(ctx, used), description, method, options...)
	if err != nil {
		return nil, fromCall(ctx, err, a.client.connection.endpoint)
	}
	return stream, nil
}

// Publisher creates a publisher for an exchange.
func (c *Client) Publisher(config PublisherConfig) *Publisher {
	publisher := newPublisher(c, config)
	c.mu.Lock()
	defer c.mu.Unlock()
	publisher.closed = c.closed
	c.publishers[publisher] = struct{}{}
	return publisher
}

// Consume calls a handler for each message of a queue. It returns when the gateway has accepted the subscription; the
// consumer ends by Close, or by an error that Err returns.
func (c *Client) Consume(ctx context.Context, queue string, handler Handler, config ConsumeConfig) (*Consumer, error) {
	return c.consume(ctx, queue, handler, config)
}

// Messages opens a consumer to iterate over with All or Next.
func (c *Client) Messages(ctx context.Context, queue string, config ConsumeConfig) (*Consumer, error) {
	return c.consume(ctx, queue, nil, config)
}

func (c *Client) consume(ctx context.Context, queue string, handler Handler, config ConsumeConfig) (*Consumer, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.config.CallTimeout, timeoutError("the subscription of "+queue+" did not start in time"))
		defer cancel()
	}
	consumer := newConsumer(c, queue, handler, config)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, closedError("client")
	}
	c.consumers[consumer] = struct{}{}
	c.mu.Unlock()
	if err := consumer.start(ctx); err != nil {
		return nil, err
	}
	return consumer, nil
}

func (c *Client) forgetPublisher(publisher *Publisher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.publishers, publisher)
}

func (c *Client) forgetConsumer(consumer *Consumer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.consumers, consumer)
}

func (c *Client) emit(kind EventKind, source, detail string) {
	c.log.Debug("event", "kind", string(kind), "source", source, "detail", detail)
	if c.config.OnEvent != nil {
		c.events.Lock()
		defer c.events.Unlock()
		c.config.OnEvent(Event{Kind: kind, Source: source, Detail: detail})
	}
}

// Close stops consuming, waits for handlers and outcomes until ctx ends, and closes the connection.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	consumers := keys(c.consumers)
	c.mu.Unlock()
	err := each(consumers, func(consumer *Consumer) error { return consumer.Close(ctx) })
	c.mu.Lock()
	publishers := keys(c.publishers)
	c.mu.Unlock()
	if failure := each(publishers, func(publisher *Publisher) error { return publisher.Close(ctx) }); err == nil {
		err = failure
	}
	c.cancel()
	c.connection.close()
	c.emit(EventClosed, "client", "")
	return err
}

func keys[Key comparable](set map[Key]struct{}) []Key {
	result := make([]Key, 0, len(set))
	for key := range set {
		result = append(result, key)
	}
	return result
}

// each calls a function with all items concurrently, and returns one of its errors.
func each[Item any](items []Item, function func(Item) error) error {
	failures := make(chan error, len(items))
	for _, item := range items {
		go func() { failures <- function(item) }()
	}
	var err error
	for range items {
		if failure := <-failures; failure != nil {
			err = failure
		}
	}
	return err
}
