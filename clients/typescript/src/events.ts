/** Lifecycle events of a client, and its log. */

/** An event of a stream of the client. */
export type EventKind =
  /** A stream is open. */
  | "connected"
  /** A stream or its connection broke; it is opened again. */
  | "disconnected"
  /** The gateway is stopping; the stream moves to another one. */
  | "draining"
  /** The gateway lost its broker; unsettled deliveries will be repeated. */
  | "interrupted"
  /** The broker is available again. */
  | "resumed"
  /** An open stream continues with a newer token. */
  | "reauthenticated"
  /** Leases expired; these messages are delivered again. */
  | "lease_expired"
  /** The client is closed. */
  | "closed";

/** A lifecycle event. */
export interface LifecycleEvent {
  /** The kind of event. */
  kind: EventKind;
  /** The queue of the consumer, "publisher", or "client". */
  source: string;
  /** A sentence for people; may be empty. */
  detail: string;
}

/** The log of the library; `console` is one. */
export interface Logger {
  /** Details for debugging. */
  debug(message: string): void;
  /** The course of events, for example that a stream is opened again. */
  info(message: string): void;
  /** What may need attention, for example an expired lease. */
  warn(message: string): void;
  /** What needs attention, for example that a consumer has ended. */
  error(message: string): void;
}
