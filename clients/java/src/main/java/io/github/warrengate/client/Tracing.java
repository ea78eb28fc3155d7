package io.github.warrengate.client;

import warrengate.v1.Message;

/** The spans of messages; without the OpenTelemetry API there are none. */
interface Tracing {
  /** Starts the span of a message to publish, and writes its context into the headers. */
  Span producer(String destination, Message.Builder message);

  /** Starts the span of a handler; its parent and its link are the context in the message. */
  Span consumer(String queue, Delivery delivery);

  /** A span that was started. */
  interface Span {
    /** Ends the span; with an error unless it is null. */
    void end(Throwable error);

    /** Makes the span the current one of this thread until the scope is closed. */
    Scope activate();
  }

  /** The time in which a span is the current one. */
  interface Scope extends AutoCloseable {
    @Override
    void close();
  }

  /** The tracing of the application, if it has the OpenTelemetry API. */
  static Tracing load() {
    try {
      Class.forName("io.opentelemetry.api.GlobalOpenTelemetry");
    } catch (ClassNotFoundException absent) {
      return new None();
    }
    return new OpenTelemetryTracing();
  }

  /** No spans. */
  final class None implements Tracing, Span {
    @Override
    public Span producer(String destination, Message.Builder message) {
      return this;
    }

    @Override
    public Span consumer(String queue, Delivery delivery) {
      return this;
    }

    @Override
    public void end(Throwable error) {}

    @Override
    public Scope activate() {
      return () -> { };
    }
  }
}
