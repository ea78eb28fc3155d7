// Warrengate for a page: publishing, and receiving that survives a restart. gRPC-Web has no client streaming, so
// `Settle` replaces the frames of `Subscribe`.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { type Message, MessageSchema } from "./generated/warrengate/v1/message_pb.ts";
import { type Delivery, Messaging, Outcome, StreamPositionSchema, SubscribeStartSchema } from "./generated/warrengate/v1/messaging_pb.ts";
import { QueueType, Topology } from "./generated/warrengate/v1/topology_pb.ts";

const REOPEN_AFTER = 500; // milliseconds before a stream is opened again

export class Gateway {
  readonly #messaging;
  readonly #topology;

  /**
   * `token` is called before every call: a page gets short-lived tokens from its own server, never a client's secret.
   */
  constructor(endpoint: string, readonly token: () => string) {
    const authorized: Interceptor = (next) => (request) => {
      request.header.set("authorization", `Bearer ${this.token()}`);
      return next(request);
    };
    const transport = createGrpcWebTransport({ baseUrl: endpoint, useBinaryFormat: true, interceptors: [authorized] });
    this.#messaging = createClient(Messaging, transport);
    this.#topology = createClient(Topology, transport);
  }

  async queue(name: string, stream?: { maxLengthBytes: bigint; streamMaxSegmentBytes: bigint }) {
    const type = stream ? QueueType.STREAM : QueueType.QUORUM;
    await this.#topology.declareQueue({ queue: { name, type, ...stream } });
  }

  /** Publishes to a queue until there is a final outcome, with one id, so that consumers recognise duplicates. */
  async publish(queue: string, body: string, more: MessageInitShape<typeof MessageSchema> = {}): Promise<Outcome> {
    const init = { contentType: "text/plain; charset=utf-8", ...more, messageId: crypto.randomUUID() };
    const message = create(MessageSchema, { ...init, body: new TextEncoder().encode(body) });
    for (;;) {
      try {
        const { results } = await this.#messaging.publishBatch({ publications: [{ routingKey: queue, message }] });
        const { outcome, reason } = results[0];
        if (outcome === Outcome.CONFIRMED) return outcome;
        if (outcome !== Outcome.UNKNOWN && outcome !== Outcome.THROTTLED) throw new Error(`${Outcome[outcome]}: ${reason}`);
      } catch (error) {
        if (!(error instanceof ConnectError) || error.code !== Code.Unavailable) throw error;
      }
      await sleep(REOPEN_AFTER);
    }
  }

  /**
   * Passes every delivery to `handle` and settles it afterwards. Ends when `signal` is aborted, or with a permanent
   * error.
   */
  async receive(what: MessageInitShape<typeof SubscribeStartSchema>, handle: (delivery: Delivery) => void, signal: AbortSignal) {
    const start = create(SubscribeStartSchema, what);
    while (!signal.aborted) {
      let receiveId = "";
      // Closing comes after the last settlement, and unsettled deliveries do not count an attempt.
      const close = () => this.#messaging.settle({ receiveId, frame: { case: "close", value: {} } }).catch(() => {});
      signal.addEventListener("abort", close);
      try {
        for await (const frame of this.#messaging.receive({ start })) {
          receiveId ||= frame.receiveId;
          const event = frame.response?.event;
          if (event?.case === "deliveries") {
            const { deliveries } = event.value;
            deliveries.forEach(handle);
            const deliveryIds = deliveries.map((delivery) => delivery.deliveryId);
            await this.#messaging.settle({ receiveId, frame: { case: "ack", value: { deliveryIds } } });
            const offset = deliveries.at(-1)?.streamOffset;
            if (offset === undefined) continue;
            start.position = create(StreamPositionSchema, { position: { case: "offset", value: offset + 1n } });
          } else if (event?.case === "authExpiring") {
            const value = { accessToken: this.token() };
            await this.#messaging.settle({ receiveId, frame: { case: "reauthenticate", value } });
          } else if (event?.case === "draining") {
            await close(); // the next stream reaches another gateway
          }
        }
      } catch (error) {
        const { code } = ConnectError.from(error);
        // The settlement reached another gateway, or the stream has ended: unsettled messages are delivered again.
        if (code !== Code.Unavailable && code !== Code.NotFound && code !== Code.Unknown) throw error;
        if (code === Code.NotFound && receiveId === "") throw error;
      } finally {
        signal.removeEventListener("abort", close);
      }
      if (!signal.aborted) await sleep(REOPEN_AFTER);
    }
  }
}

/** Where to start in a stream queue. */
export function since(milliseconds: number) {
  const second = Math.floor((Date.now() - milliseconds) / 1000) * 1000;
  return create(StreamPositionSchema, { position: { case: "timestamp", value: timestampFromMs(second) } });
}

export function text(message: Message | undefined): string {
  return new TextDecoder().decode(message?.body);
}

/** A text header. */
export function header(message: Message | undefined, name: string): string | undefined {
  const kind = message?.headers[name]?.kind;
  return kind?.case === "stringValue" ? kind.value : undefined;
}

function sleep(milliseconds: number) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
