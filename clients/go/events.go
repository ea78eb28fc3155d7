package warrengate

// EventKind is the kind of an event of a connection or a stream.
type EventKind string

// The lifecycle events.
const (
	// EventConnected: a stream is open.
	EventConnected EventKind = "connected"
	// EventDisconnected: a stream or its connection broke; it is opened again.
	EventDisconnected EventKind = "disconnected"
	// EventDraining: the gateway is about to stop; the streams move to another one.
	EventDraining EventKind = "draining"
	// EventInterrupted: the gateway lost its broker.
	EventInterrupted EventKind = "interrupted"
	// EventResumed: the gateway has its broker again.
	EventResumed EventKind = "resumed"
	// EventReauthenticated: an open stream continues with a newer token.
	EventReauthenticated EventKind = "reauthenticated"
	// EventLeaseExpired: leases expired, and their messages are delivered again.
	EventLeaseExpired EventKind = "lease_expired"
	// EventClosed: the client is closed.
	EventClosed EventKind = "closed"
)

// Event is an event of a client's connection or streams.
type Event struct {
	// Kind is the kind of event.
	Kind EventKind
	// Source is "publisher", "client", or the queue of a consumer.
	Source string
	// Detail is a description for people; it may be empty.
	Detail string
}
