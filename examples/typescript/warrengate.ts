// Warrengate for an application: one connection, a cached token, publishing and consuming that survive a restart.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { context, propagation } from "@opentelemetry/api";
import { Auth, type IssueTokenResponse } from "./generated/warrengate/v1/auth_pb.ts";
import { Messaging, NackAction, Outcome, PublicationSchema, SubscribeRequestSchema } from "./generated/warrengate/v1/messaging_pb.ts";
import type { Delivery, Publication } from "./generated/warrengate/v1/messaging_pb.ts";
import { Topology } from "./generated/warrengate/v1/topology_pb.ts";

const RETRY_AFTER = 4000; // milliseconds; the broker keeps the message meanwhile
const AGAIN = 200; // milliseconds before a stream is opened again
const FRAME = 1000; // the maximum number of messages in a frame

const gateway = {
  baseUrl: process.env.WARRENGATE_ENDPOINT!,
  nodeOptions: { ca: readFileSync(process.env.WARRENGATE_CA!) },
  pingIntervalMs: 15_000, // keepalive
  pingTimeoutMs: 10_000,
};
const auth = createClient(Auth, createGrpcTransport(gateway));

let cached: IssueTokenResponse | undefined;

async function token(): Promise<string> {
  const { WARRENGATE_CLIENT_ID: clientId, WARRENGATE_CLIENT_SECRET: clientSecret } = process.env;
  // A stream that is told that its token expires needs a newer one, a minute ahead.
  if (!cached || timestampMs(cached.expires!) - Date.now() < 120_000) cached = await auth.issueToken({ clientId, clientSecret });
  return cached.accessToken;
}

const authorized: Interceptor = (next) => async (request) => {
  request.header.set("authorization", `Bearer ${await token()}`);
  return next(request);
};
const transport = createGrpcTransport({ ...gateway, interceptors: [authorized] });
export const topology = createClient(Topology, transport);
const messaging = createClient(Messaging, transport);

/** A message for this queue. Its id lets consumers recognise a message that was sent twice. */
export function publication(sequence: number, queue: string, body: string): Publication {
  const trace: Record<string, string> = {};
  propagation.inject(context.active(), trace); // consumers continue the current trace, if there is one
  const headers = Object.entries(trace).map(([name, value]) => [name, { kind: { case: "stringValue", value } }] as const);
  const message = {
    body: new TextEncoder().encode(body),
    messageId: randomUUID(),
    contentType: "text/plain",
    headers: Object.fromEntries(headers),
  };
  return create(PublicationSchema, { sequence: BigInt(sequence), routingKey: queue, message });
}

/** Publishes all messages in order, over as many streams as needed, and yields each with its final outcome. */
export async function* publish(publications: Publication[]): AsyncGenerator<[Publication, Outcome]> {
  const waiting = new Map(publications.map((publication) => [publication.sequence, publication]));
  for (let pause = AGAIN; waiting.size > 0; await sleep(pause)) {
    const frame = { case: "publications" as const, value: { publications: [...waiting.values()].slice(0, FRAME) } };
    try {
      for await (const { event } of messaging.publish((async function* () { yield { frame }; })())) {
        for (const { sequence, outcome, retryAfter } of event.case === "results" ? event.value.results : []) {
          pause = Math.max(AGAIN, retryAfter ? durationMs(retryAfter) : 0);
          // UNKNOWN may be stored, THROTTLED is not: both are sent again, with the same id.
          if (outcome === Outcome.UNKNOWN || outcome === Outcome.THROTTLED) continue;
          yield [waiting.get(sequence)!, outcome];
          waiting.delete(sequence);
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error;
    }
  }
}

type Frame = MessageInitShape<typeof SubscribeRequestSchema>;

/** Passes each delivery to `handle`, which returns how to reject it (undefined: acknowledge) and whether more are wanted. */
export async function consume(queue: string, handle: (delivery: Delivery) => [NackAction | undefined, boolean]) {
  for (let more = true; more; await sleep(AGAIN)) {
    const requests = new TransformStream<Frame, Frame>(undefined, { highWaterMark: Infinity });
    const writer = requests.writable.getWriter();
    const send = (frame: Frame["frame"]) => writer.write({ frame }).catch(() => {}); // fails on a stream that is over
    const finish = () => writer.close().catch(() => {});
    send({ case: "start", value: { queue } });
    try {
      for await (const { event } of messaging.subscribe((async function* () { yield* requests.readable; })())) {
        if (event.case === "deliveries") {
          let through = 0n;
          for (const delivery of event.value.deliveries) {
            const [action, wanted] = handle(delivery);
            const delay = action === NackAction.RETRY ? durationFromMs(RETRY_AFTER) : undefined;
            const deliveryIds = [(through = delivery.deliveryId)];
            more = wanted;
            if (action) send({ case: "nack", value: { deliveryIds, action, delay, reason: "as the scenario says" } });
          }
          send({ case: "ack", value: { through } }); // one for the frame; rejected deliveries are settled already
          if (!more) finish(); // the gateway settles, returns the rest and ends the stream
        } else if (event.case === "authExpiring") {
          send({ case: "reauthenticate", value: { accessToken: await token() } });
          console.log("token renewed");
        } else if (event.case === "draining") {
          finish(); // the next stream reaches another gateway
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error;
    }
  }
}
