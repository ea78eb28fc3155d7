package warrengate

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

// TokenSource fetches a token (a JWT without "Bearer"). It is called again before the last one expires.
type TokenSource func(ctx context.Context) (string, error)

const tokenTimeout = 20 * time.Second

// token is a token and its lifetime by the local clock.
type token struct {
	text    string
	renewAt time.Time
	endsAt  time.Time
}

// LogValue hides the token from logs.
func (token) LogValue() slog.Value { return slog.StringValue("(token)") }

// tokens caches the token of a client. At most one request for a token is in progress at a time.
type tokens struct {
	connection *connection
	log        *slog.Logger
	clientID   string
	secret     string
	source     TokenSource
	static     string
	lifetime   time.Duration

	mu       sync.Mutex
	present  *token
	fetching *fetch
}

type fetch struct {
	done  chan struct{}
	token *token
	err   error
}

func (t *tokens) renewable() bool { return t.static == "" }

// get returns a token that has not expired, and starts to renew one that expires soon.
func (t *tokens) get(ctx context.Context) (*token, error) {
	t.mu.Lock()
	if t.static != "" {
		if t.present == nil {
			t.present = &token{text: t.static}
		}
		defer t.mu.Unlock()
		return t.present, nil
	}
	now := time.Now()
	if present := t.present; present != nil && (present.endsAt.IsZero() || now.Before(present.endsAt)) {
		if !present.renewAt.IsZero() && now.After(present.renewAt) && t.fetching == nil {
			t.start()
		}
		t.mu.Unlock()
		return present, nil
	}
	return t.wait(ctx, t.start())
}

// newerThan returns a token other than this one: the current one if it was replaced, otherwise a new one.
func (t *tokens) newerThan(ctx context.Context, old *token) (*token, error) {
	t.mu.Lock()
	if t.present != nil && t.present != old {
		defer t.mu.Unlock()
		return t.present, nil
	}
	if !t.renewable() {
		t.mu.Unlock()
		return nil, &Error{
			Reason: "TOKEN_EXPIRED", Code: codes.Unauthenticated,
			Message: "the token has expired and cannot be renewed: connect with a client id and its secret",
		}
	}
	return t.wait(ctx, t.start())
}

// start starts a request unless one is in progress; the caller holds the lock.
func (t *tokens) start() *fetch {
	if t.fetching == nil {
		current := &fetch{done: make(chan struct{})}
		t.fetching = current
		go t.run(current)
	}
	return t.fetching
}

func (t *tokens) wait(ctx context.Context, current *fetch) (*token, error) {
	t.mu.Unlock()
	select {
	case <-current.done:
		return current.token, current.err
	case <-ctx.Done():
		return nil, fromContext(ctx)
	}
}

func (t *tokens) run(current *fetch) {
	// A cancelled caller must not cancel the request for the others.
	ctx, cancel := context.WithTimeout(context.Background(), tokenTimeout)
	defer cancel()
	current.token, current.err = t.request(ctx)
	t.mu.Lock()
	if current.err == nil {
		t.present = current.token
	} else if t.present != nil {
		t.log.Warn("the token could not be renewed before it expires", "error", current.err)
	}
	t.fetching = nil
	t.mu.Unlock()
	close(current.done)
}

func (t *tokens) request(ctx context.Context) (*token, error) {
	began := time.Now()
	if t.source != nil {
		text, err := t.source(ctx)
		if err != nil {
			return nil, &Error{
				Reason: "TOKEN_SOURCE_FAILED", Code: codes.Unavailable, Retryable: true, cause: err,
				Message: "the source of tokens failed: " + err.Error(),
			}
		}
		return withLifetime(text, began, lifetimeOf(text)), nil
	}
	channel, err := t.connection.channel()
	if err != nil {
		return nil, err
	}
	request := &pb.IssueTokenRequest{ClientId: t.clientID, ClientSecret: t.secret}
	if t.lifetime != 0 {
		request.Lifetime = durationpb.New(t.lifetime)
	}
	response, err := pb.NewAuthClient(channel).IssueToken(ctx, request)
	if err != nil {
		return nil, fromRPC(err, t.connection.endpoint)
	}
	// The lifetime is taken from the token itself, so that the clocks need not agree.
	text := response.GetAccessToken()
	lifetime := lifetimeOf(text)
	if lifetime == 0 {
		lifetime = t.lifetime
	}
	return withLifetime(text, began, lifetime), nil
}

func withLifetime(text string, began time.Time, lifetime time.Duration) *token {
	if lifetime == 0 {
		return &token{text: text}
	}
	// Clients that started at the same time do not renew at the same time.
	share := 0.6 + rand.Float64()*0.15 //nolint:gosec // jitter needs no secrecy
	return &token{
		text:    text,
		renewAt: began.Add(time.Duration(float64(lifetime) * share)),
		endsAt:  began.Add(time.Duration(float64(lifetime) * 0.98)),
	}
}

// lifetimeOf reads exp - iat of a JWT without verification, which is the gateway's task. Zero when it cannot be read.
func lifetimeOf(text string) time.Duration {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return 0
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0
	}
	var claims struct {
		Exp float64 `json:"exp"`
		Iat float64 `json:"iat"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp <= claims.Iat || claims.Iat == 0 {
		return 0
	}
	return time.Duration((claims.Exp - claims.Iat) * float64(time.Second))
}
