package io.github.warrengate.client;

/**
 * A change of a client's connection or streams.
 *
 * @param kind what happened
 * @param source "publisher", "client", or the queue of a consumer
 * @param detail a description for people; may be empty
 */
public record Event(Kind kind, String source, String detail) {
  /** The lifecycle events. */
  public enum Kind {
    /** A stream is open. */
    CONNECTED,
    /** A stream or its connection broke; it is opened again. */
    DISCONNECTED,
    /** The gateway is about to stop; the streams move to another one. */
    DRAINING,
    /** The gateway lost its broker. */
    INTERRUPTED,
    /** The gateway has its broker again. */
    RESUMED,
    /** An open stream continues with a newer token. */
    REAUTHENTICATED,
    /** Leases expired, and their messages are delivered again. */
    LEASE_EXPIRED,
    /** The client is closed. */
    CLOSED
  }
}
