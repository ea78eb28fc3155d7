package io.github.warrengate.client;

import io.opentelemetry.api.GlobalOpenTelemetry;
import io.opentelemetry.api.trace.SpanBuilder;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.propagation.TextMapGetter;
import java.util.Map;
import warrengate.v1.Message;
import warrengate.v1.Value;

/** Spans of the application's OpenTelemetry. Without an SDK, its API does nothing. */
final class OpenTelemetryTracing implements Tracing {
  private static final TextMapGetter<Map<String, Value>> HEADERS = new TextMapGetter<>() {
    @Override
    public Iterable<String> keys(Map<String, Value> headers) {
      return headers.keySet();
    }

    @Override
    public String get(Map<String, Value> headers, String name) {
      var value = headers == null ? null : headers.get(name);
      return value == null || !value.hasStringValue() ? null : value.getStringValue();
    }
  };

  private static Tracer tracer() {
    return GlobalOpenTelemetry.getTracerProvider().tracerBuilder("io.github.warrengate.client")
        .setInstrumentationVersion(WarrengateClient.VERSION).build();
  }

  private static SpanBuilder start(String operation, String type, String destination, String messageId) {
    return tracer().spanBuilder(operation + " " + destination)
        .setAttribute("messaging.system", "warrengate")
        .setAttribute("messaging.operation.type", type)
        .setAttribute("messaging.operation.name", operation)
        .setAttribute("messaging.destination.name", destination)
        .setAttribute("messaging.message.id", messageId);
  }

  @Override
  public Span producer(String destination, Message.Builder message) {
    var span = start("publish", "send", destination, message.getMessageId()).setSpanKind(SpanKind.PRODUCER)
        .setAttribute("messaging.message.body.size", message.getBody().size()).startSpan();
    W3CTraceContextPropagator.getInstance().inject(Context.current().with(span), message, (carrier, name, value) -> {
      if (carrier != null && !carrier.containsHeaders(name)) {
        carrier.putHeaders(name, Value.newBuilder().setStringValue(value).build());
      }
    });
    return new Started(span);
  }

  @Override
  public Span consumer(String queue, Delivery delivery) {
    var parent = W3CTraceContextPropagator.getInstance()
        .extract(Context.current(), delivery.message().proto().getHeadersMap(), HEADERS);
    var builder = start("process", "process", queue, delivery.message().id()).setSpanKind(SpanKind.CONSUMER)
        .setParent(parent).setAttribute("warrengate.attempt", (long) delivery.attempt());
    var origin = io.opentelemetry.api.trace.Span.fromContext(parent).getSpanContext();
    if (origin.isValid()) {
      builder.addLink(origin);
    }
    return new Started(builder.startSpan());
  }

  private record Started(io.opentelemetry.api.trace.Span span) implements Span {
    @Override
    public void end(Throwable error) {
      if (error != null) {
        var type = error instanceof WarrengateException own ? own.reason() : error.getClass().getName();
        span.setAttribute("error.type", type);
        span.setStatus(StatusCode.ERROR, String.valueOf(error.getMessage()));
      }
      span.end();
    }

    @Override
    public Scope activate() {
      var scope = span.makeCurrent();
      return scope::close;
    }
  }
}
