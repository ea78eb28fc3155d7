/**
 * Encoding and decoding of the two frames of which a publisher has many, several times as fast as the generated
 * descriptions allow. Whatever is not usual in them is left to `toBinary` and `fromBinary`.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Message } from "./generated/warrengate/v1/message_pb.js";
import {
  Outcome, type Publication, PublicationSchema, type PublishRequest, PublishRequestSchema, type PublishResponse, PublishResponseSchema, type PublishResult,
} from "./generated/warrengate/v1/messaging_pb.js";

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
  const buffer = Buffer.allocUnsafe(lengthDelimited(size));
  let at = writeTag(buffer, 0, 1, size);
  for (const part of parts) {
    at = writeTag(buffer, at, 1, part.size);
    at = part.bytes ? writeBytes(buffer, at, part.bytes) : writePublication(buffer, at, part.publication, part.messageSize);
  }
  return buffer;
}

/** Decodes a frame to the publisher, without the ids of the messages: the publisher has them. */
export function decodePublishResponse(bytes: Buffer): PublishResponse {
  input = bytes;
  position = 0;
  const results = readResults();
  if (!results) return fromBinary(PublishResponseSchema, bytes);
  return { $typeName: "warrengate.v1.PublishResponse", event: { case: "results", value: { $typeName: "warrengate.v1.PublishResults", results } } };
}

// Encoding. The functions that write return the position after what they wrote.

/** A publication with its size, and encoded if it is not usual. */
interface Part {
  publication: Publication;
  size: number;
  messageSize: number;
  bytes: Uint8Array | undefined;
}

function measure(publication: Publication): Part {
  const { exchange, routingKey, message } = publication;
  const sequence = Number(publication.sequence);
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
    numberSize(sequence) +
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

function writePublication(buffer: Buffer, start: number, publication: Publication, messageSize: number): number {
  const { sequence, exchange, routingKey, message, allowUnroutable } = publication;
  let at = writeNumber(buffer, start, 1, Number(sequence));
  at = writeText(buffer, at, 2, exchange);
  at = writeText(buffer, at, 3, routingKey);
  at = writeTag(buffer, at, 4, messageSize);
  if (message) at = writeMessage(buffer, at, message);
  return allowUnroutable ? writeNumber(buffer, at, 5, 1) : at;
}

function writeMessage(buffer: Buffer, start: number, message: Message): number {
  const { body } = message;
  let at = start;
  if (body.length > 0) at = writeBytes(buffer, writeTag(buffer, at, 1, body.length), body);
  at = writeText(buffer, at, 2, message.messageId);
  at = writeText(buffer, at, 3, message.correlationId);
  at = writeText(buffer, at, 4, message.replyTo);
  at = writeText(buffer, at, 5, message.contentType);
  at = writeText(buffer, at, 6, message.contentEncoding);
  at = writeText(buffer, at, 7, message.type);
  at = writeNumber(buffer, at, 10, message.priority);
  at = writeNumber(buffer, at, 11, message.durability);
  return writeText(buffer, at, 13, message.appId);
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

function writeVarint(buffer: Buffer, start: number, value: number): number {
  let at = start;
  let rest = value;
  while (rest >= 0x80) {
    buffer[at++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  buffer[at++] = rest;
  return at;
}

/** Writes the start of a field with a length. */
function writeTag(buffer: Buffer, at: number, field: number, length: number): number {
  buffer[at] = (field << 3) | 2;
  return writeVarint(buffer, at + 1, length);
}

function writeNumber(buffer: Buffer, at: number, field: number, value: number): number {
  if (value === 0) return at;
  buffer[at] = field << 3;
  return writeVarint(buffer, at + 1, value);
}

function writeText(buffer: Buffer, at: number, field: number, text: string): number {
  const { length } = text;
  if (length === 0) return at;
  const start = writeTag(buffer, at, field, length);
  for (let index = 0; index < length; index += 1) buffer[start + index] = text.charCodeAt(index);
  return start + length;
}

function writeBytes(buffer: Buffer, at: number, bytes: Uint8Array): number {
  buffer.set(bytes, at);
  return at + bytes.length;
}

function whole(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// Decoding.

/** The bytes that are read, and the position in them. */
let input: Buffer = Buffer.alloc(0);
let position = 0;

/** By number. */
const OUTCOMES = [
  Outcome.UNSPECIFIED, Outcome.CONFIRMED, Outcome.UNROUTABLE, Outcome.REJECTED, Outcome.DENIED, Outcome.THROTTLED, Outcome.UNKNOWN,
];

/** Reads the results of a frame that has nothing else, or returns nothing. */
function readResults(): PublishResult[] | undefined {
  if (input[position++] !== 0x0a || readVarint() !== input.length - position) return undefined;
  const results: PublishResult[] = [];
  while (position < input.length) {
    if (input[position++] !== 0x0a) return undefined;
    const result = readResult(readVarint());
    if (!result) return undefined;
    results.push(result);
  }
  return results;
}

function readResult(length: number): PublishResult | undefined {
  const end = position + length;
  // Also when the length could not be read.
  if (!(end <= input.length)) return undefined;
  let sequence = 0;
  let outcome: Outcome | undefined = Outcome.UNSPECIFIED;
  let reason = "";
  let traceId = "";
  while (position < end) {
    switch (input[position++]) {
      case 0x08:
        sequence = readVarint();
        break;
      case 0x10:
        outcome = OUTCOMES[readVarint()];
        break;
      case 0x1a:
        if (!skipAscii()) return undefined;
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
  if (position !== end || Number.isNaN(sequence) || outcome === undefined) return undefined;
  // The replacement for what is not UTF-8.
  if (reason.includes("\ufffd") || traceId.includes("\ufffd")) return undefined;
  return { $typeName: "warrengate.v1.PublishResult", sequence: BigInt(sequence), outcome, messageId: "", reason, traceId };
}

/** Reads a number; not a number if it is longer than seven bytes. */
function readVarint(): number {
  const first = input[position++] ?? 0;
  if (first < 0x80) return first;
  let value = first & 0x7f;
  for (let factor = 0x80; factor <= 0x80 ** 6; factor *= 0x80) {
    const byte = input[position++] ?? 0;
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return value;
  }
  return NaN;
}

/** Skips a text, and reports whether every character is one byte; one that is too long ends after the result. */
function skipAscii(): boolean {
  const end = readVarint() + position;
  let bits = 0;
  while (position < end && position < input.length) bits |= input[position++] ?? 0;
  position = end;
  return bits < 0x80;
}

/** Reads a text; one that is too long ends after the result, which is refused. */
function readText(): string {
  const length = readVarint();
  const start = position;
  position += length;
  return input.toString("utf8", start, position);
}
