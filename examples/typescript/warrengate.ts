// What an application needs of Warrengate: one connection, tokens, publishing and consuming that outlive a gateway.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { context, propagation } from "@opentelemetry/api";
import { Auth } from "./generated/warrengate/v1/auth_pb.ts";
import { Messaging, NackAction, Outcome, PublicationSchema, SubscribeRequestSchema } from "./generated/warrengate/v1/messaging_pb.ts";
import type { Delivery, Publication } from "./generated/warrengate/v1/messaging_pb.ts";
import { Topology } from "./generated/warrengate/v1/topology_pb.ts";

const RETRY_AFTER = 4000; // milliseconds; the broker keeps the message meanwhile
const AGAIN = 200; // milliseconds before a stream is opened again

const gateway = {
  baseUrl: process.env.WARRENGATE_ENDPOINT!,
  nodeOptions: { ca: readFileSync(process.env.WARRENGATE_CA!) },
};
const auth = createClient(Auth, createGrpcTransport(gateway));

async function token(): Promise<string> {
  const { WARRENGATE_CLIENT_ID: clientId, WARRENGATE_CLIENT_SECRET: clientSecret } = process.env;
  return (await auth.issueToken({ clientId, clientSecret })).accessToken;
}

const authorized: Interceptor = (next) => async (request) => {
  request.header.set("authorization", `Bearer ${await token()}`);
  return next(request);
};
const transport = createGrpcTransport({ ...gateway, interceptors: [authorized] });
export const topology = createClient(Topology, transport);
const messaging = createClient(Messaging, transport);

/** To the queue of that name. The id is the caller's, so that a message sent twice can be recognised. */
export function publication(sequence: number, queue: string, body: string): Publication {
  const trace: Record<string, string> = {};
  propagation.inject(context.active(), trace); // the caller's trace goes on in whoever consumes the message
  const headers = Object.entries(trace).map(([name, value]) => [name, { kind: { case: "stringValue", value } }] as const);
  const message = {
    body: new TextEncoder().encode(body),
    messageId: randomUUID(),
    contentType: "text/plain",
    headers: Object.fromEntries(headers),
  };
  return create(PublicationSchema, { sequence: BigInt(sequence), routingKey: queue, message });
}

/** Publishes all, over as many streams as it takes, and yields each with its final outcome. */
export async function* publish(publications: Publication[]): AsyncGenerator<[Publication, Outcome]> {
  const waiting = new Map(publications.map((publication) => [publication.sequence, publication]));
  while (waiting.size > 0) {
    const frame = { case: "publications" as const, value: { publications: [...waiting.values()] } };
    try {
      for await (const { event } of messaging.publish((async function* () { yield { frame }; })())) {
        for (const { sequence, outcome } of event.case === "results" ? event.value.results : []) {
          // UNKNOWN may be stored, THROTTLED is not: both are sent again, with the same id.
          if (outcome === Outcome.UNKNOWN || outcome === Outcome.THROTTLED) continue;
          yield [waiting.get(sequence)!, outcome];
          waiting.delete(sequence);
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error;
    }
    if (waiting.size > 0) await sleep(AGAIN);
  }
}

type Frame = MessageInitShape<typeof SubscribeRequestSchema>;

/** Hands each delivery to `handle`, which returns what becomes of it (undefined: done) and whether more is wanted. */
export async function consume(queue: string, handle: (delivery: Delivery) => [NackAction | undefined, boolean]) {
  for (let more = true; more; await sleep(AGAIN)) {
    const requests = new TransformStream<Frame, Frame>(undefined, { highWaterMark: Infinity });
    const writer = requests.writable.getWriter();
    writer.write({ frame: { case: "start", value: { queue } } });
    try {
      for await (const { event } of messaging.subscribe((async function* () { yield* requests.readable; })())) {
        if (event.case === "deliveries") {
          for (const delivery of event.value.deliveries) {
            const deliveryIds = [delivery.deliveryId];
            const [action, wanted] = handle(delivery);
            const delay = action === NackAction.RETRY ? durationFromMs(RETRY_AFTER) : undefined;
            more = wanted;
            writer.write(action === undefined
              ? { frame: { case: "ack", value: { deliveryIds } } }
              : { frame: { case: "nack", value: { deliveryIds, action, delay, reason: "as the scenario says" } } });
          }
          if (!more) writer.close(); // the gateway settles, hands back the rest and ends the stream
        } else if (event.case === "authExpiring") {
          writer.write({ frame: { case: "reauthenticate", value: { accessToken: await token() } } });
          console.log("token renewed");
        } else if (event.case === "draining") {
          writer.close(); // and the next stream reaches another gateway
        }
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error;
    }
  }
}
