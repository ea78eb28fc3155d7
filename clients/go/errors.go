package warrengate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/warrengate/warrengate/clients/go/warrengatev1"
)

// Outcome is the outcome of a published message.
type Outcome string

// The outcomes of a message that was not confirmed.
const (
	// OutcomeUnroutable: no queue is bound for the exchange and routing key. The message is not stored.
	OutcomeUnroutable Outcome = "UNROUTABLE"
	// OutcomeRejected: the broker or the gateway refused the message. It is not stored.
	OutcomeRejected Outcome = "REJECTED"
	// OutcomeDenied: the client's grants do not cover the exchange and routing key. The message is not stored.
	OutcomeDenied Outcome = "DENIED"
	// OutcomeThrottled: the message exceeds a limit of the plan. It is not stored; send it again after RetryAfter.
	OutcomeThrottled Outcome = "THROTTLED"
	// OutcomeUnknown: the message may or may not be stored. Send it again with the same message id.
	OutcomeUnknown Outcome = "UNKNOWN"
	// OutcomeNotSent: the message was never sent to a gateway. It is not stored.
	OutcomeNotSent Outcome = "NOT_SENT"
)

// Error is the type of every error of this library, except that of a context which the caller has cancelled: it is
// returned unchanged. Its text never contains a secret.
type Error struct {
	// Reason is stable, in upper snake case: the gateway's, or one of the library such as CONNECTION_LOST.
	Reason string
	// Code is the gRPC status code, or the closest one.
	Code codes.Code
	// Message is a description for people.
	Message string
	// Retryable reports whether sending the same thing again is safe and may succeed.
	Retryable bool
	// RetryAfter is the time after which another attempt may succeed, if the gateway sent one.
	RetryAfter time.Duration
	// Field is the request field that caused the error, if the gateway named one.
	Field string
	// TraceID is the id of the trace that recorded the failure.
	TraceID string
	// Outcome is set for published messages.
	Outcome Outcome
	// MessageID is the id of the published message; use the same id when the message is sent again.
	MessageID string

	cause error
}

// Unwrap returns the application's own error, if it caused this one: that of its [TokenSource].
func (e *Error) Unwrap() error { return e.cause }

// Error implements error.
func (e *Error) Error() string {
	if e.Reason == "" {
		return e.Message
	}
	return e.Message + " [" + e.Reason + "]"
}

// Is reports whether target describes this error: one of the sentinel errors below, or context.DeadlineExceeded for an
// answer that did not come in time.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrUnroutable:
		return e.Outcome == OutcomeUnroutable
	case ErrRejected:
		return e.Outcome == OutcomeRejected
	case ErrDenied:
		return e.Outcome == OutcomeDenied
	case ErrThrottled:
		return e.Outcome == OutcomeThrottled
	case ErrUnknownOutcome:
		return e.Outcome == OutcomeUnknown
	case ErrNotSent:
		return e.Outcome == OutcomeNotSent
	case ErrClosed:
		return e.Reason == reasonClosed
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	}
	return false
}

// Sentinel errors for errors.Is. The error itself is always an *Error with the details.
var (
	ErrUnroutable     = errors.New("the message is unroutable")
	ErrRejected       = errors.New("the message was rejected")
	ErrDenied         = errors.New("the message is not granted")
	ErrThrottled      = errors.New("the message was throttled")
	ErrUnknownOutcome = errors.New("the outcome of the message is unknown")
	ErrNotSent        = errors.New("the message was not sent")
	ErrClosed         = errors.New("closed")
)

const (
	errorDomain          = "warrengate"
	reasonClosed         = "CLOSED"
	reasonConnectionLost = "CONNECTION_LOST"
	reasonUnreachable    = "GATEWAY_UNREACHABLE"
	reasonRequestTimeout = "REQUEST_TIMEOUT"
	reasonDraining       = "DRAINING"
)

var retryableRejections = []string{"BROKER_UNREACHABLE", "BROKER_REJECTED", reasonDraining}

func configurationError(format string, arguments ...any) *Error {
	return &Error{Reason: "CONFIGURATION", Code: codes.InvalidArgument, Message: fmt.Sprintf(format, arguments...)}
}

func closedError(what string) *Error {
	return &Error{Reason: reasonClosed, Code: codes.FailedPrecondition, Message: "the " + what + " is closed"}
}

func lostError(detail string) *Error {
	return &Error{
		Reason: reasonConnectionLost, Code: codes.Unavailable, Retryable: true,
		Message: "the connection to the gateway was lost: " + detail,
	}
}

func timeoutError(detail string) *Error {
	return &Error{Reason: reasonRequestTimeout, Code: codes.DeadlineExceeded, Retryable: true, Message: detail}
}

// fromRPC decodes a gRPC error: the gateway's own, or a connection error.
func fromRPC(err error, endpoint string) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	state := status.Convert(err)
	var info *errdetails.ErrorInfo
	result := &Error{Code: state.Code(), Message: state.Message()}
	hasDelay := false
	for _, detail := range state.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				info = detail
			}
		case *errdetails.RetryInfo:
			result.RetryAfter, hasDelay = detail.GetRetryDelay().AsDuration(), true
		case *errdetails.BadRequest:
			if violations := detail.GetFieldViolations(); len(violations) > 0 {
				result.Field = violations[0].GetField()
			}
		}
	}
	if info != nil {
		result.Reason = info.GetReason()
		result.TraceID = info.GetMetadata()["trace_id"]
		result.Retryable = result.Code == codes.Unavailable || result.Code == codes.Aborted || hasDelay ||
			info.GetMetadata()["retry_may_help"] == "true"
		return result
	}
	switch result.Code {
	case codes.Unavailable, codes.Internal, codes.Canceled, codes.Unknown, codes.ResourceExhausted:
		return connectionError(result.Message, endpoint)
	case codes.DeadlineExceeded:
		return timeoutError("no answer within the time limit: " + result.Message)
	}
	return result
}

func connectionError(message, endpoint string) *Error {
	switch {
	case strings.Contains(message, "failed to verify certificate"):
		return &Error{
			Reason: "CERTIFICATE_NOT_TRUSTED", Code: codes.Unavailable,
			Message: "the certificate of the gateway at " + endpoint + " has no trusted authority: set its CA certificate",
		}
	case strings.Contains(message, "Error while dialing"), strings.Contains(message, "handshake failed"):
		return &Error{
			Reason: reasonUnreachable, Code: codes.Unavailable, Retryable: true,
			Message: "the gateway at " + endpoint + " cannot be reached: " + message,
		}
	}
	return lostError(message)
}

// fromContext returns the error of a context that has ended; the caller's own cancellation is passed on unchanged.
func fromContext(ctx context.Context) error {
	return context.Cause(ctx)
}

// fromCall returns the error of a call: that of its context if the caller has cancelled it.
func fromCall(ctx context.Context, err error, endpoint string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fromContext(ctx)
	}
	return fromRPC(err, endpoint)
}

// fromResult returns the error of an outcome other than CONFIRMED.
func fromResult(result *pb.PublishResult) *Error {
	reason, message, found := strings.Cut(result.GetReason(), ": ")
	if !found {
		message = reason
	}
	err := &Error{
		Reason: reason, Message: message, TraceID: result.GetTraceId(), MessageID: result.GetMessageId(),
		RetryAfter: result.GetRetryAfter().AsDuration(), Retryable: slices.Contains(retryableRejections, reason),
	}
	switch result.GetOutcome() {
	case pb.Outcome_OUTCOME_UNROUTABLE:
		err.Outcome, err.Code = OutcomeUnroutable, codes.NotFound
	case pb.Outcome_OUTCOME_REJECTED:
		err.Outcome, err.Code = OutcomeRejected, codes.FailedPrecondition
	case pb.Outcome_OUTCOME_DENIED:
		err.Outcome, err.Code = OutcomeDenied, codes.PermissionDenied
	case pb.Outcome_OUTCOME_THROTTLED:
		err.Outcome, err.Code, err.Retryable = OutcomeThrottled, codes.ResourceExhausted, true
	default:
		err.Outcome, err.Code, err.Retryable = OutcomeUnknown, codes.Unavailable, true
	}
	return err
}

func unknownOutcome(messageID, cause, reason string) *Error {
	return &Error{
		Reason: reason, Code: codes.Unavailable, Retryable: true, Outcome: OutcomeUnknown, MessageID: messageID,
		Message: "the message may or may not be stored (" + cause + "): send it again with the same message id",
	}
}

func notSent(messageID, cause string) *Error {
	return &Error{
		Reason: string(OutcomeNotSent), Code: codes.DeadlineExceeded, Retryable: true, Outcome: OutcomeNotSent,
		MessageID: messageID, Message: "the message was not sent in time (" + cause + "); it is not stored",
	}
}
