/** Lifecycle events of a client, and its log. */

/** What happened to a stream of the client. */
export type EventKind =
  /** A stream is open. */
  | "connected"
  /** A stream or its connection broke; it is opened again. */
  | "disconnected"
  /** The gateway is going away; the stream moves to another one. */
  | "draining"
  /** The gateway lost its broker; unsettled deliveries will come again. */
  | "interrupted"
  /** The broker is back. */
  | "resumed"
  /** An open stream continues with a newer token. */
  | "reauthenticated"
  /** Leases ran out; these messages are delivered again. */
  | "lease_expired"
  /** The client is closed. */
  | "closed";

/** A lifecycle event. */
export interface LifecycleEvent {
  /** What happened. */
  kind: EventKind;
  /** The queue of the consumer, "publisher", or "client". */
  source: string;
  /** A sentence for people; may be empty. */
  detail: string;
}

/** Where the library logs; `console` is one. */
export interface Logger {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}
