// The library against a real gateway and broker.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect as connectHttp2, type IncomingHttpHeaders } from "node:http2";
import { after, before, test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { context, propagation, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { Messaging, PublishBatchRequestSchema } from "../src/generated/warrengate/v1/messaging_pb.js";
import { NotFoundError, PermissionDeniedError, UnroutableError } from "../src/index.js";
import { DevelopmentStack } from "../src/testing.js";

let stack: DevelopmentStack;
before(async () => {
  stack = await DevelopmentStack.start();
});
after(() => stack.stop());

void test("topology calls reach the broker", async (t) => {
  const client = await (await stack.tenant(t)).connect();
  const { topology } = client;
  await topology.declareExchange("events", "headers");
  await topology.declareExchange("more", "fanout");
  const queue = await topology.declareQueue("q", { messageTtlMs: 3_600_000, retryMinMs: 1000 });
  assert.equal(queue.messageTtl?.seconds, 3600n);
  const matching = { headers: { kind: "order", size: 3 }, matchAny: true };
  await topology.bind("events", "q", "", matching);
  await topology.bind("events", "more", "", { toExchange: true });
  await client.publisher({ exchange: "events" }).publish({ body: "x", headers: { kind: "order" } });
  assert.equal((await topology.queueStatus("q")).messagesReady, 1n);
  assert.equal(await topology.purgeQueue("q"), 1);
  await topology.unbind("events", "q", "", matching);
  await assert.rejects(client.publisher({ exchange: "events" }).publish({ body: "x", headers: { kind: "order" } }), UnroutableError);
  await topology.deleteExchange("more");
  assert.equal(await topology.deleteQueue("q", { ifEmpty: true }), 0);
  await assert.rejects(topology.queueStatus("q"), (error: NotFoundError) => error instanceof NotFoundError && error.reason === "QUEUE_NOT_FOUND");
});

// grpc-js always accepts gzip, and would spend more time on decompressing frames than on everything else.
void test("the gateway does not compress the responses of Messaging", async (t) => {
  const tenant = await stack.tenant(t);
  const client = await tenant.connect();
  await client.topology.declareQueue("q");
  const connection = connectHttp2(tenant.options.endpoint, { ca: readFileSync(String(tenant.options.ca)) });
  t.after(() => connection.destroy());
  const request = connection.request({
    ":method": "POST",
    ":path": `/${Messaging.typeName}/PublishBatch`,
    "content-type": "application/grpc",
    "grpc-accept-encoding": "identity,deflate,gzip",
    te: "trailers",
    authorization: `Bearer ${(await client.tokens.get()).text}`,
  });
  const publications = [{ routingKey: "q", message: { body: new Uint8Array(256), messageId: "1" } }];
  const message = toBinary(PublishBatchRequestSchema, create(PublishBatchRequestSchema, { publications }));
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  request.end(Buffer.concat([prefix, message]));
  const [headers] = (await once(request, "response")) as [IncomingHttpHeaders];
  const [frame] = (await once(request, "data")) as [Buffer];
  assert.deepEqual([headers[":status"], headers["grpc-encoding"], frame[0]], [200, undefined, 0]);
});

void test("a consumer reports the error that ended it", async (t) => {
  const client = await (await stack.tenant(t)).connect();
  await client.topology.declareQueue("q");
  const consumer = await client.messages("q");
  const next = consumer.next();
  await Promise.all([
    assert.rejects(next, { reason: "QUEUE_DELETED" }),
    assert.rejects(consumer.wait(), { reason: "QUEUE_DELETED" }),
    client.topology.deleteQueue("q"),
  ]);
  assert.ok(consumer.isFinished);
});

void test("dead letters are redriven and purged", async (t) => {
  const client = await (await stack.tenant(t)).connect();
  await client.topology.declareQueue("q");
  for (const body of ["a", "b"]) await client.publisher().publish(body, "q");
  const consumer = await client.messages("q");
  for (let count = 0; count < 2; count += 1) (await consumer.next())?.deadLetter("bad");
  const letters = await waitFor(async () => {
    const found = [];
    for await (const letter of client.deadLetters.list({ queue: "q", code: "rejected" })) found.push(letter);
    return found.length === 2 ? found : undefined;
  });
  await consumer.close();
  const done = await client.deadLetters.redrive({ ids: [letters[0]?.deadLetterId ?? ""] });
  assert.deepEqual([done.redriven, done.failed], [1, 0]);
  assert.equal(await client.deadLetters.purge(), 1);
  assert.equal((await client.topology.queueStatus("q")).messagesReady, 1n);
});

void test("administration is refused to a client without the grant", async (t) => {
  const client = await (await stack.tenant(t)).connect();
  await assert.rejects(client.admin.listPlans({}), PermissionDeniedError);
});

void test("messages are traced from producer to consumer", async (t) => {
  const exporter = new InMemorySpanExporter();
  trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  const client = await (await stack.tenant(t)).connect();
  await client.topology.declareQueue("q");
  const received = new Promise<string | undefined>((resolve) => {
    void client.consume("q", () => resolve(trace.getActiveSpan()?.spanContext().traceId));
  });
  await client.publisher().publish("x", "q");
  await assert.rejects(client.publisher().publish("x", "nowhere"), UnroutableError);
  const traceId = await received;
  const span = (name: string) => waitFor(() => exporter.getFinishedSpans().find((one) => one.name === name));
  const processed = await span("process q");
  assert.equal((await span("publish q")).spanContext().traceId, traceId);
  assert.equal(processed.spanContext().traceId, traceId);
  assert.equal(processed.links[0]?.context.spanId, processed.parentSpanContext?.spanId);
  assert.equal((await span("publish nowhere")).attributes["error.type"], "NO_ROUTE");
});

void test("an error of a listener does not affect the client", async (t) => {
  const logged: string[] = [];
  const log = (line: string) => void logged.push(line);
  const client = await (await stack.tenant(t)).connect({
    onEvent: () => {
      throw new Error("listener");
    },
    logger: { debug: log, info: log, warn: log, error: log },
  });
  await client.topology.declareQueue("q");
  await client.publisher().publish("x", "q");
  assert.ok(logged.some((line) => line.includes("the event listener failed")));
});

void test("a client and its parts are disposed of at the end of their block", async (t) => {
  const tenant = await stack.tenant(t);
  assert.deepEqual(Object.keys(tenant.environment).length, 4);
  const client = await tenant.connect();
  await client.topology.declareQueue("q");
  const publisher = client.publisher();
  await publisher.publish("x", "q");
  await publisher[Symbol.asyncDispose]();
  await assert.rejects(publisher.publish("x", "q"), { reason: "CLOSED" });
  const consumer = await client.messages("q");
  for await (const delivery of consumer) {
    assert.ok(delivery.isCurrent);
    delivery.ack();
    delivery.drop();
    assert.ok(delivery.settled);
    break;
  }
  await consumer[Symbol.asyncDispose]();
  assert.equal(await consumer.next(), undefined);
  await client[Symbol.asyncDispose]();
});

/** Polls until there is an answer. */
async function waitFor<T>(ask: () => T | undefined | Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    assert.ok(performance.now() < deadline, "no answer before the deadline");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

void test("an aborted signal ends waiting, and closes a consumer", async (t) => {
  const client = await (await stack.tenant(t)).connect();
  await client.topology.declareQueue("q");
  const reason = new Error("the user has left");
  const controller = new AbortController();
  const { signal } = controller;
  const consumer = await client.messages("q", { signal });
  const publisher = client.publisher({ maxInFlight: 1 });
  const first = publisher.publish("first", "q");
  const waiting = publisher.publish("aborted", "q", { signal });
  const third = publisher.publish("third", "q");
  const request = client.request("q", "a question", { timeoutMs: 60_000, signal });
  const rejected = Promise.all([waiting, request].map((promise) => assert.rejects(promise, reason)));
  controller.abort(reason);
  await rejected;
  await Promise.all([first, third]);
  await consumer.wait();
  assert.equal(await consumer.next(), undefined);
  await assert.rejects(client.messages("q", { signal }), reason);
  const bodies: string[] = [];
  for await (const delivery of await client.messages("q")) {
    delivery.ack();
    bodies.push(delivery.message.text);
    if (delivery.message.text === "third") break;
  }
  assert.deepEqual(bodies.filter((body) => body !== "a question"), ["first", "third"]);
});
