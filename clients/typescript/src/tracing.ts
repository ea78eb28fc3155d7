/** Spans of the OpenTelemetry API, if it is installed. */
import type * as Otel from "@opentelemetry/api";
import { WarrengateError } from "./errors.js";
import type { Message, ReceivedMessage } from "./message.js";

const otel: typeof Otel | undefined = await import("@opentelemetry/api").catch(() => undefined);

/** Starts the span of a message and writes its context into the headers; call the result with the outcome. */
export function startProducer(exchange: string, routingKey: string, message: Message & { headers: Record<string, unknown> }): ((error?: unknown) => void) | undefined {
  if (!otel) return undefined;
  const { context, propagation, SpanKind, SpanStatusCode, trace } = otel;
  const name = exchange || routingKey;
  const span = trace.getTracer("warrengate").startSpan(`publish ${name}`, { kind: SpanKind.PRODUCER });
  const carrier: Record<string, string> = {};
  propagation.inject(trace.setSpan(context.active(), span), carrier);
  message.headers = { ...carrier, ...message.headers };
  if (!span.isRecording()) return undefined;
  span.setAttributes({
    "messaging.system": "warrengate",
    "messaging.operation.type": "send",
    "messaging.operation.name": "publish",
    "messaging.destination.name": name,
    "messaging.message.id": message.messageId ?? "",
    "messaging.message.body.size": message.body.length,
  });
  return (error) => {
    if (error) {
      const text = error instanceof Error ? error.message : "failed";
      span.setAttribute("error.type", error instanceof WarrengateError ? error.reason : "error");
      span.setStatus({ code: SpanStatusCode.ERROR, message: text });
    }
    span.end();
  };
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
