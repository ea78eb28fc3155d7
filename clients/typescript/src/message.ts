/** Messages, and their conversion from and to protobuf. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Durability, type Message as Wire, MessageSchema, NullValue, type Value, ValueSchema } from "./generated/warrengate/v1/message_pb.js";

/** The types of header values. Whole numbers, and bigints, are 64-bit integers; times have whole seconds. */
export type HeaderValue = string | number | bigint | boolean | Uint8Array | Date | null | HeaderValue[] | { [name: string]: HeaderValue };

/** A body and its properties. */
export interface Message {
  /** The payload. Text is encoded as UTF-8. */
  body: Uint8Array | string;
  /** Identifies the message for its consumers. The publisher generates it when it is absent. */
  messageId?: string;
  /** Relates a reply to its request. */
  correlationId?: string;
  /** The queue for the reply. */
  replyTo?: string;
  /** MIME type of the body. */
  contentType?: string;
  /** Encoding of the body, as in HTTP. */
  contentEncoding?: string;
  /** The kind of message, such as "order.created". */
  type?: string;
  /** The application that published it. */
  appId?: string;
  /** 0 to 255. */
  priority?: number;
  /** The maximum time in a queue, in milliseconds. */
  ttlMs?: number;
  /** Whether it may be lost when the broker restarts. */
  transient?: boolean;
  /** When it was published, in whole seconds. The gateway sets it when it is absent. */
  publishTime?: Date;
  /** Application headers. */
  headers?: Record<string, HeaderValue>;
}

/** A received message, in which every property has a value. */
export class ReceivedMessage implements Required<Omit<Message, "ttlMs" | "publishTime">> {
  readonly body: Uint8Array;
  readonly messageId: string;
  readonly correlationId: string;
  readonly replyTo: string;
  readonly contentType: string;
  readonly contentEncoding: string;
  readonly type: string;
  readonly appId: string;
  readonly priority: number;
  readonly transient: boolean;
  /** The maximum time in a queue, in milliseconds. */
  readonly ttlMs: number | undefined;
  /** When it was published. */
  readonly publishTime: Date | undefined;
  readonly headers: Record<string, HeaderValue>;

  constructor(wire: Wire | undefined) {
    const message = wire ?? create(MessageSchema);
    this.body = message.body;
    this.messageId = message.messageId;
    this.correlationId = message.correlationId;
    this.replyTo = message.replyTo;
    this.contentType = message.contentType;
    this.contentEncoding = message.contentEncoding;
    this.type = message.type;
    this.appId = message.appId;
    this.priority = message.priority;
    this.transient = message.durability === Durability.TRANSIENT;
    this.ttlMs = message.ttl && durationMs(message.ttl);
    this.publishTime = message.publishTime && timestampDate(message.publishTime);
    this.headers = fromEntries(message.headers);
  }

  /** The body decoded as UTF-8. */
  get text(): string {
    return new TextDecoder().decode(this.body);
  }

  /** The body decoded as JSON. */
  json(): unknown {
    return JSON.parse(this.text);
  }
}

/** Fills in the defaults of a message. */
export function toMessage(message: Message | Uint8Array | string): Message {
  return typeof message === "string" || message instanceof Uint8Array ? { body: message } : message;
}

const UTF8 = new TextEncoder();

/** Converts to protobuf, with this id, and with more headers if there are any. */
export function toWire(message: Message, messageId = message.messageId ?? "", headers: Record<string, HeaderValue> | undefined = message.headers): Wire {
  // Several times as fast as `create`.
  return {
    $typeName: "warrengate.v1.Message",
    body: typeof message.body === "string" ? UTF8.encode(message.body) : message.body,
    messageId,
    correlationId: message.correlationId ?? "",
    replyTo: message.replyTo ?? "",
    contentType: message.contentType ?? "",
    contentEncoding: message.contentEncoding ?? "",
    type: message.type ?? "",
    publishTime: message.publishTime && timestampFromDate(message.publishTime),
    ttl: message.ttlMs === undefined ? undefined : durationFromMs(message.ttlMs),
    priority: message.priority ?? 0,
    durability: message.transient ? Durability.TRANSIENT : Durability.UNSPECIFIED,
    headers: headers ? toEntries(headers) : {},
    appId: message.appId ?? "",
  };
}

/** Converts headers to protobuf. */
export function toEntries(headers: Record<string, HeaderValue>): Record<string, Value> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, create(ValueSchema, { kind: toKind(value) })]));
}

function toKind(value: HeaderValue): NonNullable<MessageInitShape<typeof ValueSchema>["kind"]> {
  switch (typeof value) {
    case "string":
      return { case: "stringValue", value };
    case "boolean":
      return { case: "boolValue", value };
    case "bigint":
      return { case: "intValue", value };
    case "number":
      return Number.isSafeInteger(value) ? { case: "intValue", value: BigInt(value) } : { case: "doubleValue", value };
    default:
      break;
  }
  if (value === null) return { case: "nullValue", value: NullValue.UNSPECIFIED };
  if (value instanceof Uint8Array) return { case: "bytesValue", value };
  if (value instanceof Date) return { case: "timestampValue", value: timestampFromDate(value) };
  if (Array.isArray(value)) return { case: "listValue", value: { values: value.map((item) => ({ kind: toKind(item) })) } };
  return { case: "tableValue", value: { entries: toEntries(value) } };
}

function fromEntries(entries: Record<string, Value>): Record<string, HeaderValue> {
  return Object.fromEntries(Object.entries(entries).map(([name, value]) => [name, fromValue(value)]));
}

function fromValue({ kind }: Value): HeaderValue {
  switch (kind.case) {
    case "intValue": {
      const number = Number(kind.value);
      return Number.isSafeInteger(number) ? number : kind.value;
    }
    case "timestampValue":
      return timestampDate(kind.value);
    case "listValue":
      return kind.value.values.map(fromValue);
    case "tableValue":
      return fromEntries(kind.value.entries);
    case "nullValue":
    case undefined:
      return null;
    default:
      return kind.value;
  }
}
