/** Spans of the OpenTelemetry API, if it is installed. */
import type * as Otel from "@opentelemetry/api";
import { WarrengateError } from "./errors.js";
import type { HeaderValue, Message, ReceivedMessage } from "./message.js";

const otel: typeof Otel | undefined = await import("@opentelemetry/api").catch(() => undefined);

/** The span of a message that is published. */
export interface ProducerSpan {
  /** The headers of the message, and the context of the span. */
  headers: Record<string, HeaderValue>;
  /** Ends the span with the outcome; absent when it is not recorded. */
  end: ((error?: unknown) => void) | undefined;
}

/** Starts the span of a message. */
export function startProducer(exchange: string, routingKey: string, message: Message, messageId: string): ProducerSpan | undefined {
  if (!otel) return undefined;
  const { context, propagation, SpanKind, SpanStatusCode, trace } = otel;
  const name = exchange || routingKey;
  const span = trace.getTracer("warrengate").startSpan(`publish ${name}`, { kind: SpanKind.PRODUCER });
  const carrier: Record<string, string> = {};
  propagation.inject(trace.setSpan(context.active(), span), carrier);
  const headers = { ...carrier, ...message.headers };
  if (!span.isRecording()) return { headers, end: undefined };
  span.setAttributes({
    "messaging.system": "warrengate",
    "messaging.operation.type": "send",
    "messaging.operation.name": "publish",
    "messaging.destination.name": name,
    "messaging.message.id": messageId,
    "messaging.message.body.size": message.body.length,
  });
  const end = (error?: unknown) => {
    if (error) {
      const text = error instanceof Error ? error.message : "failed";
      span.setAttribute("error.type", error instanceof WarrengateError ? error.reason : "error");
      span.setStatus({ code: SpanStatusCode.ERROR, message: text });
    }
    span.end();
  };
  return { headers, end };
}

/** Runs work in a span whose parent, and link, is the context in the message. */
export async function inConsumerSpan(queue: string, message: ReceivedMessage, attempt: number, work: () => Promise<void>): Promise<void> {
  if (!otel) return work();
  const { context, propagation, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = otel;
  const parent = propagation.extract(ROOT_CONTEXT, message.headers, {
    keys: (headers) => Object.keys(headers),
    get: (headers, key) => (typeof headers[key] === "string" ? headers[key] : undefined),
  });
  const origin = trace.getSpanContext(parent);
  const attributes = {
    "messaging.system": "warrengate",
    "messaging.operation.type": "process",
    "messaging.operation.name": "process",
    "messaging.destination.name": queue,
    "messaging.message.id": message.messageId,
    "warrengate.attempt": attempt,
  };
  const links = origin ? [{ context: origin }] : [];
  const span = trace.getTracer("warrengate").startSpan(`process ${queue}`, { kind: SpanKind.CONSUMER, attributes, links }, parent);
  try {
    await context.with(trace.setSpan(parent, span), work);
  } catch (error) {
    span.recordException(error as Error);
    span.setStatus({ code: SpanStatusCode.ERROR });
    throw error;
  } finally {
    span.end();
  }
}
