package warrengate

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// closeTimeout is how long a gateway may take to end a stream that was closed.
const closeTimeout = 10 * time.Second

// errEnded is the cause of a stream's cancellation when it was to be closed and did not end in time.
var errEnded = errors.New("the stream did not end in time")

// frames is the part in which publish and subscribe streams differ.
type frames[Request, Response any] interface {
	// open starts the call.
	open(ctx context.Context, channel *grpc.ClientConn) (grpc.BidiStreamingClient[Request, Response], error)
	// opened waits, if necessary, until frames may be written.
	opened(stream grpc.BidiStreamingClient[Request, Response]) error
	// nextFrame returns the frame to write now, or nil and how long to wait before asking again without a wake-up.
	nextFrame() (*Request, time.Duration)
	// gather returns how long to wait for more before the next frame is created.
	gather() time.Duration
	// done reports whether nothing more will be written once the session is closing or draining.
	done() bool
	reauthentication(token string) *Request
	receive(response *Response)
}

// session is one stream from its opening to its end. Reading never waits for writing.
type session[Request, Response any] struct {
	client *Client
	source string
	frames frames[Request, Response]

	channel  *grpc.ClientConn
	token    *token
	newToken atomic.Pointer[token]
	wake     chan struct{}
	closing  atomic.Bool
	draining atomic.Bool
	renewing atomic.Bool
	ctx      context.Context
	cancel   context.CancelCauseFunc
}

func newSession[Request, Response any](client *Client, source string) *session[Request, Response] {
	s := &session[Request, Response]{client: client, source: source, wake: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancelCause(client.ctx)
	return s
}

func (s *session[Request, Response]) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run opens the stream and serves it until it ends; nil when it was closed in order.
func (s *session[Request, Response]) run() error {
	defer s.cancel(context.Canceled)
	var err error
	if s.token, err = s.client.tokens.get(s.ctx); err != nil {
		return s.failure(err)
	}
	if s.channel, err = s.client.connection.channel(); err != nil {
		return err
	}
	stream, err := s.frames.open(withToken(s.ctx, s.token), s.channel)
	if err != nil {
		return s.failure(err)
	}
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		s.write(stream)
	}()
	for {
		response, err := stream.Recv()
		if err == nil {
			s.frames.receive(response)
			continue
		}
		s.cancel(context.Canceled)
		<-writing
		return s.failure(err)
	}
}

func (s *session[Request, Response]) failure(err error) error {
	if context.Cause(s.ctx) == errEnded { //nolint:errorlint // the cause is this very value
		return nil
	}
	if errors.Is(err, io.EOF) {
		if s.closing.Load() || s.draining.Load() {
			return nil
		}
		return lostError("the gateway ended the stream")
	}
	return fromRPC(err, s.client.connection.endpoint)
}

func (s *session[Request, Response]) write(stream grpc.BidiStreamingClient[Request, Response]) {
	// The reading side reports why writing is not possible.
	if s.frames.opened(stream) != nil {
		return
	}
	for {
		if next := s.newToken.Swap(nil); next != nil {
			s.token = next
			if stream.Send(s.frames.reauthentication(next.text)) != nil {
				return
			}
			s.client.emit(EventReauthenticated, s.source, "")
			continue
		}
		frame, pause := s.frames.nextFrame()
		if frame != nil {
			if stream.Send(frame) != nil || !s.gather() {
				return
			}
			continue
		}
		if (s.closing.Load() || s.draining.Load()) && s.frames.done() {
			s.endWithin(closeTimeout)
			_ = stream.CloseSend()
			return
		}
		if !s.wait(pause) {
			return
		}
	}
}

func (s *session[Request, Response]) wait(pause time.Duration) bool {
	var timer <-chan time.Time
	if pause > 0 {
		timer = time.After(pause)
	}
	select {
	case <-s.wake:
	case <-timer:
	case <-s.ctx.Done():
		return false
	}
	return s.gather()
}

// gather waits for more before the next frame is created, and reports whether the stream still exists.
func (s *session[Request, Response]) gather() bool {
	pause := s.frames.gather()
	if pause == 0 {
		return true
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-s.wake:
			if s.frames.gather() == 0 {
				return true
			}
		case <-timer.C:
			return true
		case <-s.ctx.Done():
			return false
		}
	}
}

// close ends the stream when everything is written.
func (s *session[Request, Response]) close() {
	s.closing.Store(true)
	s.wakeUp()
}

// endWithin ends the stream after this time at the latest.
func (s *session[Request, Response]) endWithin(limit time.Duration) {
	timer := time.AfterFunc(limit, func() { s.cancel(errEnded) })
	context.AfterFunc(s.ctx, func() { timer.Stop() })
}

// onDraining prepares to leave the gateway.
func (s *session[Request, Response]) onDraining(deadline *timestamppb.Timestamp) {
	s.draining.Store(true)
	s.client.emit(EventDraining, s.source, "")
	// A tolerance for clock differences.
	s.endWithin(min(max(time.Until(deadline.AsTime()), 0), 5*time.Minute) + 2*time.Second)
	s.wakeUp()
}

// onExpiring renews the token of the stream.
func (s *session[Request, Response]) onExpiring() {
	if s.client.tokens.renewable() && s.renewing.CompareAndSwap(false, true) {
		go s.renew()
	}
}

func (s *session[Request, Response]) renew() {
	defer s.renewing.Store(false)
	var waits retryDelays
	for {
		next, err := s.client.tokens.newerThan(s.ctx, s.token)
		if err == nil {
			s.newToken.Store(next)
			s.wakeUp()
			return
		}
		if s.ctx.Err() != nil {
			return
		}
		s.client.log.Warn("the token of a stream could not be renewed", "stream", s.source, "error", err)
		failure := fromRPC(err, s.client.connection.endpoint)
		if !failure.Retryable || !sleep(s.ctx, waits.delay(failure.RetryAfter)) {
			return
		}
	}
}

// recovery decides, after a stream ended, whether and when the next one is opened.
type recovery struct {
	client            *Client
	source            string
	waits             retryDelays
	works             atomic.Bool
	triedAnotherToken bool
}

// after waits until the next stream may be opened; it returns the error if another stream would not help.
func (r *recovery) after(ctx context.Context, channel *grpc.ClientConn, used *token, err error) error {
	if r.works.Swap(false) {
		r.waits.reset()
		r.triedAnotherToken = false
	}
	var failure *Error
	if err != nil {
		failure = fromRPC(err, r.client.connection.endpoint)
	}
	if failure == nil || failure.Reason == reasonDraining {
		r.client.connection.replace(channel)
		var atLeast time.Duration
		if failure != nil {
			atLeast = failure.RetryAfter
		}
		return r.sleep(ctx, atLeast)
	}
	if failure.Code == codes.Unauthenticated && used != nil && r.client.tokens.renewable() && !r.triedAnotherToken {
		if _, tokenErr := r.client.tokens.newerThan(ctx, used); tokenErr == nil {
			r.triedAnotherToken = true
			return nil
		} else if refusal := fromRPC(tokenErr, r.client.connection.endpoint); refusal.Retryable || isTokenReason(failure.Reason) {
			// Otherwise the refusal is less informative than the end of the stream.
			failure = refusal
		}
	}
	if !failure.Retryable {
		return failure
	}
	r.client.log.Info("a stream ended and is opened again", "stream", r.source, "error", failure)
	r.client.emit(EventDisconnected, r.source, failure.Error())
	return r.sleep(ctx, failure.RetryAfter)
}

func (r *recovery) sleep(ctx context.Context, atLeast time.Duration) error {
	if !sleep(ctx, r.waits.delay(atLeast)) {
		return closedError("client")
	}
	return nil
}

func isTokenReason(reason string) bool { return len(reason) > 6 && reason[:6] == "TOKEN_" }

// sleep waits, and reports whether the context lasted as long.
func sleep(ctx context.Context, duration time.Duration) bool {
	select {
	case <-time.After(duration):
		return true
	case <-ctx.Done():
		return false
	}
}

func withToken(ctx context.Context, token *token) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token.text)
}
