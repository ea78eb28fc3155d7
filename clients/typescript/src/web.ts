/**
 * The client for browsers, over gRPC-Web. The same client as in Node.js: a consumer's stream is `Receive`, its frames
 * are calls of `Settle`; a publisher's frames are calls of `PublishBatch`.
 */
import { create, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { ConnectError, type Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { Client, type ClientOptions, opened } from "./client.js";
import { ClosedError, fromStatus, UnavailableError, WarrengateError } from "./errors.js";
import {
  CloseReceiveSchema, Messaging, PublishBatchRequestSchema, type PublishRequest, PublishResponseSchema, ReceiveRequestSchema, SettleRequestSchema, type SettleRequest,
  type SubscribeRequest,
} from "./generated/warrengate/v1/messaging_pb.js";
import type { Call, Link, Listener, Method } from "./link.js";
import { asError } from "./stream.js";
import type { Tokens } from "./tokens.js";

export { Client } from "./client.js";
export { type ConsumeOptions, Consumer, type Delivery, type Handler, type MessagesOptions, type Position } from "./consumer.js";
export * from "./errors.js";
export type { EventKind, LifecycleEvent, Logger } from "./events.js";
export { type HeaderValue, type Message, ReceivedMessage } from "./message.js";
export { type Confirmation, Publisher, type PublisherOptions, type PublishOptions, type Sent } from "./publisher.js";

/**
 * The gateway's address and the credentials. A page should use a short-lived token of a client with few grants, issued
 * by its own server (`token` is a function that requests it), and never a client's secret.
 */
export type WebOptions = Omit<ClientOptions, "clientId" | "clientSecret" | "tokenLifetimeMs"> & Required<Pick<ClientOptions, "token">> & {
  /** Instead of the browser's `fetch`. */
  fetch?: typeof globalThis.fetch;
};

/**
 * Connects to a gateway that allows the page's origin; rejects when it cannot be reached in time or refuses the token.
 */
export function connect(options: WebOptions): Promise<Client> {
  const fetch = options.fetch ? { fetch: options.fetch } : {};
  const transport = createGrpcWebTransport({ baseUrl: options.endpoint, useBinaryFormat: true, ...fetch });
  const link = new WebLink(options.endpoint, transport);
  const client = new Client(link, options);
  link.tokens = client.tokens;
  return opened(client, options.connectTimeoutMs);
}

/** Longer than the gateway takes to give every message an outcome. It also detects a silent connection. */
const ANSWER_MS = 40_000;

class WebLink implements Link {
  // The browser chooses the connection of a call.
  readonly channel = {};
  readonly #closed = new AbortController();
  /** The client's token; calls that are part of a stream use the current one. */
  tokens: Tokens | undefined;

  constructor(
    readonly endpoint: string,
    private readonly transport: Transport,
  ) {}

  replace(): void {
    return undefined;
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    token: string | undefined,
    timeoutMs: number,
  ): Promise<MessageShape<O>> {
    if (this.#closed.signal.aborted) throw new ClosedError();
    try {
      const description = { ...method, methodKind: "unary" as const };
      const response = await this.transport.unary(description, this.#closed.signal, timeoutMs, authorization(token), request);
      return response.message;
    } catch (error) {
      throw this.error(error);
    }
  }

  async *serverStream<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    token: string,
    signal: AbortSignal = this.#closed.signal,
  ): AsyncGenerator<MessageShape<O>> {
    if (this.#closed.signal.aborted) throw new ClosedError();
    try {
      const description = { ...method, methodKind: "server_streaming" as const };
      const response = await this.transport.stream(description, signal, undefined, authorization(token), single(request));
      yield* response.message;
    } catch (error) {
      throw this.error(error);
    }
  }

  stream<I extends DescMessage, O extends DescMessage>(
    _channel: object,
    method: Method<I, O>,
    token: string,
    listener: Listener<MessageShape<O>>,
  ): Call<MessageShape<I>> {
    const call = method.name === "Subscribe" ? new ReceiveCall(this, token, listener as never) : new BatchCall(this, listener as never);
    return call as unknown as Call<MessageShape<I>>;
  }

  /** Makes a call that is part of a stream. */
  async part<I extends DescMessage, O extends DescMessage>(method: Method<I, O>, request: MessageShape<I>, timeoutMs: number): Promise<MessageShape<O>> {
    return this.unary(method, request, (await this.tokens?.get())?.text, timeoutMs);
  }

  error(error: unknown): WarrengateError {
    return fromConnectError(error, this.endpoint);
  }

  close(): void {
    this.#closed.abort();
  }
}

/** Decodes an error of Connect, for pages that also make their own calls. */
export function fromConnectError(error: unknown, endpoint: string): WarrengateError {
  if (error instanceof WarrengateError) return error;
  const { code, rawMessage, details } = ConnectError.from(error);
  const decoded = details.flatMap((detail) => ("type" in detail && detail.value instanceof Uint8Array ? [{ typeUrl: detail.type, value: detail.value }] : []));
  return fromStatus(code, rawMessage, decoded, endpoint);
}

function authorization(token: string | undefined): Headers {
  return new Headers(token === undefined ? {} : { authorization: `Bearer ${token}` });
}

// eslint-disable-next-line @typescript-eslint/require-await
async function* single<T>(request: T): AsyncGenerator<T> {
  yield request;
}

/** A publish stream, each frame of which is a call of `PublishBatch`; one after another, so that the order is kept. */
class BatchCall implements Call<PublishRequest> {
  #ended = false;

  constructor(
    private readonly link: WebLink,
    private readonly listener: Listener<MessageShape<typeof PublishResponseSchema>>,
  ) {
    queueMicrotask(() => listener.opened());
  }

  write({ frame }: PublishRequest): boolean {
    if (frame.case === "publications") void this.#publish(frame.value.publications);
    return false;
  }

  async #publish(publications: MessageShape<typeof PublishBatchRequestSchema>["publications"]): Promise<void> {
    try {
      const request = create(PublishBatchRequestSchema, { publications });
      const { results } = await this.link.part(Messaging.method.publishBatch, request, ANSWER_MS);
      if (this.#ended) return;
      this.listener.data(create(PublishResponseSchema, { event: { case: "results", value: { results } } }));
      this.listener.drained();
    } catch (error) {
      this.listener.ended(asError(error));
    }
  }

  end(): void {
    this.listener.ended();
  }

  cancel(): void {
    this.#ended = true;
  }
}

/** A subscribe stream whose request frames are calls of `Settle`. */
class ReceiveCall implements Call<SubscribeRequest> {
  readonly #abort = new AbortController();
  #receiveId = "";

  constructor(
    private readonly link: WebLink,
    private readonly token: string,
    private readonly listener: Listener<MessageShape<typeof Messaging.method.subscribe.output>>,
  ) {}

  write({ frame }: SubscribeRequest): boolean {
    if (frame.case === "start") {
      void this.#receive(create(ReceiveRequestSchema, { start: frame.value }));
      return false;
    }
    // The names of the frames are the same in both requests.
    if (frame.case) void this.#settle({ case: frame.case, value: frame.value } as SettleRequest["frame"]);
    // Calls made at the same time have no order.
    return false;
  }

  async #receive(request: MessageShape<typeof ReceiveRequestSchema>): Promise<void> {
    try {
      for await (const { receiveId, response } of this.link.serverStream(Messaging.method.receive, request, this.token, this.#abort.signal)) {
        if (receiveId) {
          this.#receiveId = receiveId;
          this.listener.opened();
          this.listener.drained();
        }
        if (response) this.listener.data(response);
      }
      this.listener.ended();
    } catch (error) {
      this.listener.ended(asError(error));
    }
  }

  async #settle(frame: SettleRequest["frame"]): Promise<void> {
    try {
      await this.link.part(Messaging.method.settle, create(SettleRequestSchema, { receiveId: this.#receiveId, frame }), 30_000);
      this.listener.drained();
    } catch (failure) {
      const error = asError(failure);
      // Another gateway received it, or the stream has just ended: unsettled messages are delivered again.
      const text = "the stream has ended, or another gateway received its settlement";
      const details = { reason: "CONNECTION_LOST", code: "UNAVAILABLE", retryable: true };
      this.listener.ended(error.reason === "RECEIVE_NOT_FOUND" ? new UnavailableError(text, details) : error);
    }
  }

  end(): void {
    void this.#settle({ case: "close", value: create(CloseReceiveSchema) });
  }

  cancel(): void {
    this.#abort.abort();
  }
}
