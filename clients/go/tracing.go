package warrengate

import (
	"context"
	"reflect"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// providedTracer is a tracer and the provider that created it.
type providedTracer struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
}

// lastTracer is the tracer of the current provider, because finding it costs more than a span that is not recorded.
var lastTracer atomic.Pointer[providedTracer]

// Without a tracer provider of the application, the API's default does nothing.
func tracer() trace.Tracer {
	provider := otel.GetTracerProvider()
	if last := lastTracer.Load(); last != nil && last.provider == provider {
		return last.tracer
	}
	tracer := provider.Tracer("github.com/warrengate/warrengate/clients/go", trace.WithInstrumentationVersion(Version))
	// Values of other types may not be comparable.
	if reflect.TypeOf(provider).Kind() == reflect.Pointer {
		lastTracer.Store(&providedTracer{provider: provider, tracer: tracer})
	}
	return tracer
}

var traceContext = propagation.TraceContext{}

// headerCarrier writes and reads a trace context in the headers of a message.
type headerCarrier map[string]any

func (c headerCarrier) Get(key string) string {
	text, _ := c[key].(string)
	return text
}

func (c headerCarrier) Set(key, value string) {
	if _, present := c[key]; !present {
		c[key] = value
	}
}

func (c headerCarrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

// startProducer starts the span of a message and writes its context into the headers.
func startProducer(ctx context.Context, exchange, routingKey string, message *Message) trace.Span {
	name := exchange
	if name == "" {
		name = routingKey
	}
	ctx, span := tracer().Start(ctx, "publish "+name, trace.WithSpanKind(trace.SpanKindProducer))
	if span.SpanContext().IsValid() {
		if message.Headers == nil {
			message.Headers = map[string]any{}
		}
		traceContext.Inject(ctx, headerCarrier(message.Headers))
	}
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("messaging.system", "warrengate"),
			attribute.String("messaging.operation.type", "send"),
			attribute.String("messaging.operation.name", "publish"),
			attribute.String("messaging.destination.name", name),
			attribute.String("messaging.message.id", message.ID),
			attribute.Int("messaging.message.body.size", len(message.Body)),
		)
	}
	return span
}

func endSpan(span trace.Span, err *Error) {
	if err != nil {
		span.SetAttributes(attribute.String("error.type", err.Reason))
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// startConsumer starts the span of a handler; its parent and its link are the context in the message.
func startConsumer(ctx context.Context, queue string, delivery *Delivery) (context.Context, trace.Span) {
	parent := traceContext.Extract(ctx, headerCarrier(delivery.Message.Headers))
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)}
	if origin := trace.SpanContextFromContext(parent); origin.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: origin}))
	}
	parent, span := tracer().Start(parent, "process "+queue, options...)
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("messaging.system", "warrengate"),
			attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.operation.name", "process"),
			attribute.String("messaging.destination.name", queue),
			attribute.String("messaging.message.id", delivery.Message.ID),
			attribute.Int("warrengate.attempt", delivery.Attempt),
		)
	}
	return parent, span
}
