/**
 * Encoding and decoding of the two frames of which a publisher has many, several times as fast as the generated
 * descriptions allow. Whatever is not usual in them is left to `toBinary` and `fromBinary`.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Message } from "./generated/warrengate/v1/message_pb.js";
import {
  Outcome, type Publication, PublicationSchema, type PublishRequest, PublishRequestSchema, type PublishResponse, PublishResponseSchema, type PublishResult,
} from "./generated/warrengate/v1/messaging_pb.js";

/** The bytes that are read or written, and the position in them. */
let buffer: Buffer = Buffer.alloc(0);
let at = 0;

/** Encodes a frame from the publisher. */
export function encodePublishRequest(request: PublishRequest): Buffer {
  if (request.frame.case !== "publications") return whole(toBinary(PublishRequestSchema, request));
  const { publications } = request.frame.value;
  const parts: Part[] = [];
  let size = 0;
  for (const publication of publications) {
    const part = measure(publication);
    size += lengthDelimited(part.size);
    parts.push(part);
  }
  buffer = Buffer.allocUnsafe(lengthDelimited(size));
  at = 0;
  writeTag(1, size);
  for (const part of parts) {
    writeTag(1, part.size);
    if (part.bytes) writeBytes(part.bytes);
    else writePublication(part.publication, part.messageSize);
  }
  return buffer;
}

/** Decodes a frame to the publisher. */
export function decodePublishResponse(bytes: Buffer): PublishResponse {
  buffer = bytes;
  at = 0;
  const results = readResults();
  if (!results) return fromBinary(PublishResponseSchema, bytes);
  return { $typeName: "warrengate.v1.PublishResponse", event: { case: "results", value: { $typeName: "warrengate.v1.PublishResults", results } } };
}

// Encoding.

/** A publication with its size, and encoded if it is not usual. */
interface Part {
  publication: Publication;
  size: number;
  messageSize: number;
  bytes: Uint8Array | undefined;
}

function measure(publication: Publication): Part {
  const { sequence, exchange, routingKey, message } = publication;
  if (!message || !isUsual(message) || sequence > Number.MAX_SAFE_INTEGER || !isAscii(exchange) || !isAscii(routingKey)) {
    const bytes = toBinary(PublicationSchema, publication);
    return { publication, size: bytes.length, messageSize: 0, bytes };
  }
  const messageSize =
    textSize(message.body.length) +
    textSize(message.messageId.length) +
    textSize(message.correlationId.length) +
    textSize(message.replyTo.length) +
    textSize(message.contentType.length) +
    textSize(message.contentEncoding.length) +
    textSize(message.type.length) +
    textSize(message.appId.length) +
    numberSize(message.priority) +
    numberSize(message.durability);
  const size =
    numberSize(Number(sequence)) +
    textSize(exchange.length) +
    textSize(routingKey.length) +
    lengthDelimited(messageSize) +
    (publication.allowUnroutable ? 2 : 0);
  return { publication, size, messageSize, bytes: undefined };
}

/** Whether a message has only properties that `writePublication` can write. */
function isUsual(message: Message): boolean {
  if (message.publishTime || message.ttl || !(message.body instanceof Uint8Array)) return false;
  for (const _ in message.headers) return false;
  return (
    isAscii(message.messageId) &&
    isAscii(message.correlationId) &&
    isAscii(message.replyTo) &&
    isAscii(message.contentType) &&
    isAscii(message.contentEncoding) &&
    isAscii(message.type) &&
    isAscii(message.appId) &&
    Number.isInteger(message.priority) &&
    message.priority >= 0 &&
    message.priority <= 0xffffffff
  );
}

/** Whether every character of a text is one byte in UTF-8. */
function isAscii(text: string): boolean {
  let bits = 0;
  for (let index = 0; index < text.length; index += 1) bits |= text.charCodeAt(index);
  return bits < 0x80;
}

function writePublication({ sequence, exchange, routingKey, message, allowUnroutable }: Publication, messageSize: number): void {
  writeNumber(1, Number(sequence));
  writeText(2, exchange);
  writeText(3, routingKey);
  writeTag(4, messageSize);
  if (message) writeMessage(message);
  if (allowUnroutable) writeNumber(5, 1);
}

function writeMessage(message: Message): void {
  if (message.body.length > 0) {
    writeTag(1, message.body.length);
    writeBytes(message.body);
  }
  writeText(2, message.messageId);
  writeText(3, message.correlationId);
  writeText(4, message.replyTo);
  writeText(5, message.contentType);
  writeText(6, message.contentEncoding);
  writeText(7, message.type);
  writeNumber(10, message.priority);
  writeNumber(11, message.durability);
  writeText(13, message.appId);
}

/** The size of a field with this length, whose number is less than 16. */
function lengthDelimited(length: number): number {
  return 1 + varintSize(length) + length;
}

/** The size of a field that is absent when it is empty. */
function textSize(length: number): number {
  return length === 0 ? 0 : lengthDelimited(length);
}

function numberSize(value: number): number {
  return value === 0 ? 0 : 1 + varintSize(value);
}

function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size += 1;
  return size;
}

function writeVarint(value: number): void {
  let rest = value;
  while (rest >= 0x80) {
    buffer[at++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  buffer[at++] = rest;
}

/** Writes the start of a field with a length. */
function writeTag(field: number, length: number): void {
  buffer[at++] = (field << 3) | 2;
  writeVarint(length);
}

function writeNumber(field: number, value: number): void {
  if (value === 0) return;
  buffer[at++] = field << 3;
  writeVarint(value);
}

function writeText(field: number, text: string): void {
  if (text.length === 0) return;
  writeTag(field, text.length);
  for (let index = 0; index < text.length; index += 1) buffer[at++] = text.charCodeAt(index);
}

function writeBytes(bytes: Uint8Array): void {
  buffer.set(bytes, at);
  at += bytes.length;
}

function whole(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// Decoding.

/** By number. */
const OUTCOMES = [
  Outcome.UNSPECIFIED, Outcome.CONFIRMED, Outcome.UNROUTABLE, Outcome.REJECTED, Outcome.DENIED, Outcome.THROTTLED, Outcome.UNKNOWN,
];

/** Reads the results of a frame that has nothing else, or returns nothing. */
function readResults(): PublishResult[] | undefined {
  if (buffer[at++] !== 0x0a || readVarint() !== buffer.length - at) return undefined;
  const results: PublishResult[] = [];
  while (at < buffer.length) {
    if (buffer[at++] !== 0x0a) return undefined;
    const result = readResult(readVarint());
    if (!result) return undefined;
    results.push(result);
  }
  return results;
}

function readResult(length: number): PublishResult | undefined {
  const end = at + length;
  // Also when the length could not be read.
  if (!(end <= buffer.length)) return undefined;
  let sequence = 0;
  let outcome: Outcome | undefined = Outcome.UNSPECIFIED;
  let messageId = "";
  let reason = "";
  let traceId = "";
  while (at < end) {
    switch (buffer[at++]) {
      case 0x08:
        sequence = readVarint();
        break;
      case 0x10:
        outcome = OUTCOMES[readVarint()];
        break;
      case 0x1a:
        messageId = readText();
        break;
      case 0x22:
        reason = readText();
        break;
      case 0x32:
        traceId = readText();
        break;
      default:
        return undefined;
    }
  }
  if (at !== end || Number.isNaN(sequence) || outcome === undefined) return undefined;
  return { $typeName: "warrengate.v1.PublishResult", sequence: BigInt(sequence), outcome, messageId, reason, traceId };
}

/** Reads a number; not a number if it is longer than seven bytes. */
function readVarint(): number {
  let value = 0;
  for (let factor = 1; factor <= 0x80 ** 6; factor *= 0x80) {
    const byte = buffer[at++] ?? 0;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return value;
  }
  return NaN;
}

/** Reads a text; one that is too long ends after the result, which is refused. */
function readText(): string {
  const length = readVarint();
  const start = at;
  at += length;
  return buffer.toString("utf8", start, at);
}
