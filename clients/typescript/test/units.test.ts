// Tests that need no gateway: conversions, configuration and errors.
import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Backoff } from "../src/backoff.js";
import { decodePublishResponse, encodePublishRequest } from "../src/codec.js";
import { fromResult, fromStatus } from "../src/errors.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../src/generated/warrengate/client/v1/status_pb.js";
import { Outcome, PublicationSchema, PublishRequestSchema, PublishResponseSchema, PublishResultSchema } from "../src/generated/warrengate/v1/messaging_pb.js";
import { connect, ConfigurationError, ExhaustedError, fromEnv, type Message, ReceivedMessage, ThrottledError, UnroutableError } from "../src/index.js";
import { randomId } from "../src/ids.js";
import { toWire } from "../src/message.js";
import { Tokens } from "../src/tokens.js";

void test("every property and header type is converted", () => {
  const original: Required<Message> = {
    body: new Uint8Array([1, 2]), messageId: "i", correlationId: "c", replyTo: "r", contentType: "text/plain", contentEncoding: "gzip", type: "t",
    appId: "a", priority: 4, ttlMs: 1500, transient: true, publishTime: new Date("2026-01-02T03:04:05Z"),
    headers: {
      text: "x", number: -42, large: 2n ** 62n, real: 0.5, yes: true, nothing: null, raw: new Uint8Array([0, 255]), moment: new Date("2026-01-02T00:00:00Z"),
      list: [1, "two", [false]], table: { inner: { deep: 1 } }, empty: {},
    },
  };
  const received = new ReceivedMessage(toWire(original));
  assert.deepEqual(Object.fromEntries(Object.entries(received)), original);
  assert.deepEqual(new ReceivedMessage(toWire({ body: '{"a":1}' })).json(), { a: 1 });
});

void test("frames of publications are encoded like the generated code does", () => {
  const texts = ["", "orders", "x".repeat(127), "x".repeat(128), "x".repeat(16_384), "Aufträge", "注文", "🙂"];
  const lengths = [0, 1, 127, 128, 16_383, 16_384];
  const given: Message[] = [
    ...lengths.map((length) => ({ body: new Uint8Array(length).fill(255) })),
    ...texts.flatMap((text) => [
      { body: text, messageId: text },
      { body: "b", correlationId: text, replyTo: text, contentType: text, contentEncoding: text, type: text, appId: text },
    ]),
    ...[1, 127, 128, 255].map((priority) => ({ body: "b", priority, transient: true })),
    { body: "b", publishTime: new Date("2026-01-02T03:04:05Z") },
    { body: "b", ttlMs: 1500 },
    { body: "b", headers: { kind: "order", size: 3 } },
  ];
  const sequences = [0n, 1n, 127n, 128n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n + 1n, 2n ** 64n - 1n];
  const publications = [
    ...given.map((message, index) => ({ sequence: BigInt(index), routingKey: "orders", message: toWire(message) })),
    ...sequences.map((sequence) => ({ sequence, message: toWire({ body: "b" }), allowUnroutable: true })),
    ...texts.map((text) => ({ exchange: text, routingKey: text, message: toWire({ body: "b" }) })),
    { sequence: 1n },
  ];
  for (const some of [publications, [], ...publications.map((publication) => [publication])]) {
    const request = create(PublishRequestSchema, { frame: { case: "publications", value: { publications: some } } });
    assert.deepEqual(new Uint8Array(encodePublishRequest(request)), toBinary(PublishRequestSchema, request));
  }
  const renewal = create(PublishRequestSchema, { frame: { case: "reauthenticate", value: { accessToken: "t" } } });
  assert.deepEqual(new Uint8Array(encodePublishRequest(renewal)), toBinary(PublishRequestSchema, renewal));
});

void test("a publication that cannot be encoded is an error", () => {
  const request = create(PublishRequestSchema);
  const publication = create(PublicationSchema, { message: toWire({ body: "b" }) });
  request.frame = { case: "publications", value: { $typeName: "warrengate.v1.Publications", publications: [publication] } };
  for (const wrong of [{ priority: -1 }, { priority: 0.5 }, { body: 7 }, { type: 7 }]) {
    publication.message = { ...toWire({ body: "b" }), ...(wrong as object) };
    assert.throws(() => encodePublishRequest(request), JSON.stringify(wrong));
  }
});

void test("frames of results are decoded like the generated code does, also when they are cut off or damaged", () => {
  const results = [
    { sequence: 1n, outcome: Outcome.CONFIRMED, messageId: "i", traceId: "t".repeat(32) },
    { sequence: 2n ** 49n, outcome: Outcome.CONFIRMED, messageId: "🙂" },
    { sequence: 2n ** 64n - 1n, outcome: Outcome.REJECTED, reason: `X: ${"y".repeat(200)}` },
    { sequence: 300n, outcome: Outcome.THROTTLED, retryAfter: durationFromMs(20) },
    {},
  ];
  const events = [
    ...[results, [], ...results.map((result) => [result])].map((some) => ({ case: "results" as const, value: { results: some } })),
    { case: "authExpiring" as const, value: {} },
    { case: "draining" as const, value: {} },
    { case: undefined },
  ];
  const frames = [
    ...events.map((event) => Buffer.from(toBinary(PublishResponseSchema, create(PublishResponseSchema, { event })))),
    // The unknown outcomes 99 and -1.
    Buffer.from("0a040a021063", "hex"),
    Buffer.from("0a0d0a0b10ffffffffffffffffff01", "hex"),
  ];
  for (const bytes of frames) {
    // A field that the library does not know, and a frame that has its results in two parts.
    for (const whole of [bytes, Buffer.concat([bytes, Buffer.from([0x78, 1])]), Buffer.concat([bytes, bytes])]) {
      for (let index = 0; index <= whole.length; index += 1) {
        const [cut, damaged] = [Buffer.from(whole.subarray(0, index)), Buffer.from(whole)];
        if (index < whole.length) damaged[index] = (damaged[index] ?? 0) ^ 1;
        for (const frame of [cut, damaged]) {
          assertDecodedAlike(frame);
        }
      }
    }
  }
});

/** Both decoders return the same, or refuse the frame; the ids of the messages may be left out. */
function assertDecodedAlike(frame: Buffer): void {
  const [own, generated] = [decodePublishResponse, (bytes: Buffer) => fromBinary(PublishResponseSchema, bytes)].map((decode) => {
    try {
      const response = decode(frame);
      if (response.event.case === "results") for (const result of response.event.value.results) result.messageId = "";
      return response;
    } catch {
      return "refused";
    }
  });
  assert.deepEqual(own, generated, frame.toString("hex"));
}

/** Random numbers from 0 to below `limit`, reproducible from the seed. */
function randomNumbers(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
}

type Random = ReturnType<typeof randomNumbers>;

function pick<Value>(random: Random, values: [Value, ...Value[]]): Value {
  return values[random(values.length)] ?? values[0];
}

/** Often with a length at which the size of the length changes; one in 16 has more than ASCII. */
function randomText(random: Random): string {
  if (random(3) === 0) return "";
  const part = random(16) === 0 ? pick(random, ["ü", "\x80", "注", "🙂", "\ud800"]) : pick(random, ["orders", "o", "\0", "\x7f"]);
  return part.repeat(pick(random, [1, 2, 31, 32, 127, 128, 300]));
}

function randomSequence(random: Random): bigint {
  return ((BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32))) >> BigInt(random(64));
}

function randomMessage(random: Random): Message {
  return {
    body: Uint8Array.from({ length: pick(random, [0, 1, 127, 128, 256, 16_383, 16_384]) }, () => random(256)),
    messageId: randomText(random), correlationId: randomText(random), replyTo: randomText(random), contentType: randomText(random),
    contentEncoding: randomText(random), type: randomText(random), appId: randomText(random), priority: random(2) * random(256), transient: random(2) === 0,
    ...(random(8) === 0 && { ttlMs: random(100_000) }),
    ...(random(8) === 0 && { publishTime: new Date(random(2 ** 41)) }),
    ...(random(8) === 0 && { headers: { text: randomText(random), number: random(2 ** 40), list: [null, true, 0.5] } }),
  };
}

/** Repeats a test with random frames; the failing seed is named. */
function forRandomFrames(count: number, check: (random: Random) => void): void {
  for (let seed = 0; seed < count; seed += 1) {
    try {
      check(randomNumbers(seed));
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
}

void test("random frames of publications are encoded like the generated code does", () => {
  forRandomFrames(1_000, (random) => {
    const publications = Array.from({ length: random(6) }, () => ({
      sequence: randomSequence(random), exchange: randomText(random), routingKey: randomText(random), message: toWire(randomMessage(random)),
      allowUnroutable: random(2) === 0,
    }));
    const request = create(PublishRequestSchema, { frame: { case: "publications", value: { publications } } });
    assert.deepEqual(new Uint8Array(encodePublishRequest(request)), toBinary(PublishRequestSchema, request));
  });
});

const OUTCOMES: [Outcome, ...Outcome[]] = [
  Outcome.CONFIRMED, Outcome.UNSPECIFIED, Outcome.UNROUTABLE, Outcome.REJECTED, Outcome.DENIED, Outcome.THROTTLED, Outcome.UNKNOWN,
];

void test("random frames of results are decoded like the generated code does, also when they are cut off or damaged", () => {
  forRandomFrames(2_000, (random) => {
    const results = Array.from({ length: 1 + random(6) }, () => ({
      sequence: randomSequence(random), outcome: pick(random, OUTCOMES), messageId: randomText(random), reason: randomText(random), traceId: randomText(random),
      ...(random(8) === 0 && { retryAfter: durationFromMs(random(10_000)) }),
    }));
    const frame = Buffer.from(toBinary(PublishResponseSchema, create(PublishResponseSchema, { event: { case: "results", value: { results } } })));
    const damaged = Buffer.from(frame);
    const index = random(frame.length);
    damaged[index] = (damaged[index] ?? 0) ^ (1 << random(8));
    for (const bytes of [frame, damaged, Buffer.from(frame.subarray(0, index)), Buffer.concat([damaged, frame])]) assertDecodedAlike(bytes);
  });
});

void test("ids of messages are random UUIDs", () => {
  const ids = Array.from({ length: 10_000 }, randomId);
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(new Set(ids).size, ids.length);
});

void test("an error of the gateway keeps reason, field, trace and time", () => {
  const detail = (kind: string, value: Uint8Array) => ({ typeUrl: `type.googleapis.com/google.rpc.${kind}`, value });
  const info = create(ErrorInfoSchema, { reason: "TOO_MANY_STREAMS", domain: "warrengate", metadata: { trace_id: "t" } });
  const error = fromStatus(8, "too many", [
    detail("ErrorInfo", toBinary(ErrorInfoSchema, info)),
    detail("RetryInfo", toBinary(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: durationFromMs(1500) }))),
    detail("BadRequest", toBinary(BadRequestSchema, create(BadRequestSchema, { fieldViolations: [{ field: "queue" }] }))),
  ], "https://x");
  assert.ok(error instanceof ExhaustedError);
  const { reason, code, retryable, retryAfterMs, field, traceId, message } = error;
  assert.deepEqual({ reason, code, retryable, retryAfterMs, field, traceId, message }, {
    reason: "TOO_MANY_STREAMS", code: "RESOURCE_EXHAUSTED", retryable: true, retryAfterMs: 1500, field: "queue", traceId: "t", message: "too many [TOO_MANY_STREAMS]",
  });
});

void test("a connection error is distinguished from a refusal", () => {
  const cases: [number, string, string, boolean][] = [
    [14, "No connection established. Last error: connect ECONNREFUSED", "GATEWAY_UNREACHABLE", true],
    [14, "Connection dropped", "CONNECTION_LOST", true],
    [13, "RST_STREAM", "CONNECTION_LOST", true],
    [14, "self-signed certificate in certificate chain", "CERTIFICATE_NOT_TRUSTED", false],
    [4, "Deadline exceeded", "REQUEST_TIMEOUT", true],
    [12, "unknown method", "", false],
  ];
  for (const [status, message, reason, retryable] of cases) {
    const error = fromStatus(status, message, [], "https://x");
    assert.deepEqual([error.reason, error.retryable], [reason, retryable], message);
  }
});

void test("outcomes become typed errors", () => {
  const throttled = create(PublishResultSchema, { outcome: Outcome.THROTTLED, reason: "MESSAGE_RATE: too fast", retryAfter: durationFromMs(250) });
  const error = fromResult(throttled, "id");
  assert.ok(error instanceof ThrottledError);
  assert.deepEqual([error.reason, error.retryAfterMs, error.retryable, error.outcome, error.messageId], ["MESSAGE_RATE", 250, true, "THROTTLED", "id"]);
  const unroutable = fromResult(create(PublishResultSchema, { outcome: Outcome.UNROUTABLE, reason: "NO_ROUTE: none" }), "id");
  assert.ok(unroutable instanceof UnroutableError && !unroutable.retryable);
});

void test("a malformed endpoint is a configuration error", async () => {
  for (const endpoint of ["", "gateway:8443", "ftp://x:1", "https://x:port", "https://x:1/path", "http://example.org:8443"]) {
    await assert.rejects(connect({ endpoint, clientId: "a", clientSecret: "b" }), ConfigurationError, endpoint);
  }
});

void test("missing credentials and an unusable CA are configuration errors", async () => {
  await assert.rejects(connect({ endpoint: "https://localhost:1" }), /credentials are missing/);
  const path = join(mkdtempSync(join(tmpdir(), "warrengate-")), "ca.pem");
  await assert.rejects(connect({ endpoint: "https://localhost:1", ca: path, token: "t" }), /cannot be read/);
  writeFileSync(path, "no certificate");
  await assert.rejects(connect({ endpoint: "https://localhost:1", ca: path, token: "t" }), /no certificate in PEM form/);
  delete process.env["WARRENGATE_ENDPOINT"];
  await assert.rejects(fromEnv(), /WARRENGATE_ENDPOINT is not set/);
});

void test("back-off grows with jitter up to its limit and respects the gateway", () => {
  const backoff = new Backoff();
  const delays = Array.from({ length: 12 }, () => backoff.delay());
  assert.ok((delays[0] ?? 0) >= 50 && (delays[0] ?? 0) <= 100);
  assert.ok(delays.slice(-3).every((delay) => delay >= 2500 && delay <= 5000));
  backoff.reset();
  assert.equal(backoff.delay(3000), 3000);
});

void test("concurrent callers share one token, and a failing source is a retryable error", async () => {
  let asked = 0;
  const tokens = new Tokens(() => {
    asked += 1;
    return Promise.resolve("token");
  }, () => undefined);
  const given = await Promise.all(Array.from({ length: 20 }, () => tokens.get()));
  assert.deepEqual([asked, new Set(given).size], [1, 1]);
  const failing = new Tokens(() => Promise.reject(new Error("unavailable")), () => undefined);
  await assert.rejects(failing.get(), { reason: "TOKEN_SOURCE_FAILED", retryable: true });
});
