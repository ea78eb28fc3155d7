/** The client: one gateway, one set of credentials, and everything that uses them. */
import { create, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Backoff, sleep } from "./backoff.js";
import { type ConsumeOptions, Consumer, type Delivery, type Handler, type MessagesOptions } from "./consumer.js";
import { ClosedError, ConfigurationError, RequestTimeoutError, unreachable, WarrengateError } from "./errors.js";
import type { EventKind, LifecycleEvent, Logger } from "./events.js";
import { Auth, IssueTokenRequestSchema, type WhoAmIResponse } from "./generated/warrengate/v1/auth_pb.js";
import type { Link, Method } from "./link.js";
import { type Message, type ReceivedMessage, toMessage } from "./message.js";
import { abortable, Publisher, type PublisherOptions, within } from "./publisher.js";
import { type Admin, admin, type Caller, DeadLetters, Topology } from "./services.js";
import { asError } from "./stream.js";
import { type Token, Tokens, type TokenSource } from "./tokens.js";

/** The gateway's address and the credentials. */
export interface ClientOptions {
  /** The gateway's address, such as `https://127.0.0.1:8443`. */
  endpoint: string;
  /** The client's id; with `clientSecret`. */
  clientId?: string;
  /** The client's secret. */
  clientSecret?: string;
  /** A token, or a function that fetches one when it is needed; instead of id and secret. */
  token?: string | TokenSource;
  /** The lifetime to request for tokens. Default: the gateway's limit. */
  tokenLifetimeMs?: number;
  /** How long to try to reach the gateway. Default: 10 s. */
  connectTimeoutMs?: number;
  /** The time limit of a call. Default: 30 s. */
  callTimeoutMs?: number;
  /** Called for each lifecycle event. */
  onEvent?: (event: LifecycleEvent) => void;
  /** The log of the library. Default: warnings and errors to the console. */
  logger?: Logger;
}

const QUIET: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: (message) => console.warn(`warrengate: ${message}`),
  error: (message) => console.error(`warrengate: ${message}`),
};

/** A connection to a gateway. */
export class Client implements Caller {
  /** The gateway's address. */
  readonly endpoint: string;
  /** Queues, exchanges and bindings. */
  readonly topology: Topology;
  /** Dead letters. */
  readonly deadLetters: DeadLetters;
  /** Tenants, clients and plans, for administrators. */
  readonly admin: Admin;
  /** @internal */
  readonly tokens: Tokens;
  /** @internal */
  readonly log: Logger;
  readonly #callTimeoutMs: number;
  readonly #onEvent: ((event: LifecycleEvent) => void) | undefined;
  readonly #members = new Set<Publisher | Consumer>();
  #replies: Promise<Replies> | undefined;
  #closed: Promise<void> | undefined;

  /** @internal */
  constructor(
    /** @internal */ readonly link: Link,
    options: ClientOptions,
  ) {
    const { clientId, clientSecret, token } = options;
    if (token === undefined && !(clientId && clientSecret)) {
      throw new ConfigurationError("credentials are missing: give a client id and its secret, or a token");
    }
    this.endpoint = options.endpoint;
    this.log = options.logger ?? QUIET;
    this.#callTimeoutMs = options.callTimeoutMs ?? 30_000;
    this.#onEvent = options.onEvent;
    const source = token ?? (() => this.#issue(clientId ?? "", clientSecret ?? "", options.tokenLifetimeMs));
    this.tokens = new Tokens(source, (error) => this.log.warn(`the token could not be renewed before it expires: ${String(error)}`));
    this.topology = new Topology(this);
    this.deadLetters = new DeadLetters(this);
    this.admin = admin(this);
  }

  async #issue(clientId: string, clientSecret: string, lifetimeMs: number | undefined): Promise<string> {
    const lifetime = lifetimeMs === undefined ? {} : { lifetime: durationFromMs(lifetimeMs) };
    const request = create(IssueTokenRequestSchema, { clientId, clientSecret, ...lifetime });
    return (await this.link.unary(Auth.method.issueToken, request, undefined, 20_000, false)).accessToken;
  }

  // Calls.

  /** Makes a unary call with the token attached; throws errors of this library. */
  async call<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageInitShape<I>,
    timeoutMs = this.#callTimeoutMs,
  ): Promise<MessageShape<O>> {
    const deadline = performance.now() + timeoutMs;
    const message = create(method.input, request);
    for (let triedAnotherToken = false; ; triedAnotherToken = true) {
      this.#ensureOpen();
      const token: Token = await this.tokens.get();
      try {
        return await this.link.unary(method, message, token.text, deadline - performance.now(), true);
      } catch (failure) {
        const error = asError(failure);
        if (error.code !== "UNAUTHENTICATED" || triedAnotherToken || !this.tokens.isRenewable) throw error;
      }
      await this.tokens.newerThan(token);
    }
  }

  /** @internal */
  async *stream<I extends DescMessage, O extends DescMessage>(method: Method<I, O>, request: MessageShape<I>): AsyncGenerator<MessageShape<O>> {
    this.#ensureOpen();
    yield* this.link.serverStream(method, request, (await this.tokens.get()).text);
  }

  /** Returns the client's own identity and grants. */
  whoami(): Promise<WhoAmIResponse> {
    return this.call(Auth.method.whoAmI, {});
  }

  /** @internal Connects to the gateway and checks the credentials; retries until the timeout. */
  async authenticate(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    const backoff = new Backoff();
    for (;;) {
      let error: WarrengateError;
      try {
        const left = Math.max(deadline - performance.now(), 10);
        const answered = this.tokens.get().then(() => this.call(Auth.method.whoAmI, {}, left));
        if (await within(answered, left)) return;
        error = unreachable(this.endpoint, `no answer within ${timeoutMs} ms`);
      } catch (failure) {
        error = asError(failure);
      }
      const delay = backoff.delay(error.retryAfterMs);
      if (!error.retryable || performance.now() + delay >= deadline) throw error;
      await sleep(delay);
    }
  }

  // Publishing and consuming.

  /** Creates a publisher. */
  publisher(options: PublisherOptions = {}): Publisher {
    this.#ensureOpen();
    const publisher = new Publisher(this, options);
    this.#members.add(publisher);
    return publisher;
  }

  /**
   * Calls a handler for each message, up to `concurrency` at a time. Returning acknowledges the message, an error
   * retries it with the queue's back-off. Leases are extended while a handler works. Resolves when the gateway has
   * accepted the subscription.
   */
  consume(queue: string, handler: Handler, options: ConsumeOptions = {}): Promise<Consumer> {
    return this.#open(queue, options, handler);
  }

  /**
   * Opens a consumer to iterate over: `for await (const delivery of await client.messages("orders"))`. Each delivery
   * must be settled.
   */
  messages(queue: string, options: MessagesOptions = {}): Promise<Consumer> {
    return this.#open(queue, options, undefined);
  }

  async #open(queue: string, options: ConsumeOptions, handler: Handler | undefined): Promise<Consumer> {
    this.#ensureOpen();
    options.signal?.throwIfAborted();
    const consumer = new Consumer(this, queue, options, handler);
    this.#members.add(consumer);
    await consumer.start(this.#callTimeoutMs);
    return consumer;
  }

  // Request and reply.

  /**
   * Publishes a request and waits for the reply, for 10 s by default; needs the configure and subscribe grants on
   * `reply.#`. Aborting the signal stops waiting.
   */
  async request(
    routingKey: string,
    message: Message | Uint8Array | string,
    options: { exchange?: string; timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<ReceivedMessage> {
    this.#ensureOpen();
    this.#replies ??= Replies.open(this).catch((error: unknown) => {
      this.#replies = undefined;
      throw error;
    });
    const { exchange = "", timeoutMs = 10_000, signal } = options;
    return (await this.#replies).request(exchange, routingKey, message, timeoutMs, signal);
  }

  /** Replies to each request of a queue with the result of the handler. */
  respond(
    queue: string,
    handler: (delivery: Delivery) => Promise<Message | Uint8Array | string> | Message | Uint8Array | string,
    options: ConsumeOptions = {},
  ): Promise<Consumer> {
    const publisher = this.publisher();
    const answer = async (delivery: Delivery) => {
      const reply = toMessage(await handler(delivery));
      const { replyTo, correlationId, messageId } = delivery.message;
      if (replyTo) await publisher.publish({ ...reply, correlationId: correlationId || messageId }, replyTo);
    };
    return this.consume(queue, answer, { concurrency: 8, ...options });
  }

  // Lifecycle.

  /** @internal */
  emit(kind: EventKind, source: string, detail = ""): void {
    this.log.debug(`${source}: ${kind} ${detail}`);
    try {
      this.#onEvent?.({ kind, source, detail });
    } catch (error) {
      this.log.error(`the event listener failed: ${String(error)}`);
    }
  }

  /** @internal */
  forget(member: Publisher | Consumer): void {
    this.#members.delete(member);
  }

  #ensureOpen(): void {
    if (this.#closed) throw new ClosedError();
  }

  /** Stops consuming, waits for handlers and outcomes for at most this time, then closes the connection. */
  close(timeoutMs = 30_000): Promise<void> {
    this.#closed ??= (async () => {
      const deadline = performance.now() + timeoutMs;
      const members = [...this.#members];
      await Promise.all(members.filter((member) => member instanceof Consumer).map((consumer) => consumer.close(consumer.closingTimeMs > 0 ? timeoutMs : 0)));
      const left = Math.max(deadline - performance.now(), 0);
      await Promise.all(members.filter((member) => member instanceof Publisher).map((publisher) => publisher.close(left)));
      this.link.close();
      this.emit("closed", "client");
    })();
    return this.#closed;
  }

  /** Same as `close()`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The reply queue of a client, and the pending requests. */
class Replies {
  readonly #waiting = new Map<string, (reply: ReceivedMessage) => void>();
  readonly #publishers = new Map<string, Publisher>();

  private constructor(
    private readonly client: Client,
    private readonly queue: string,
  ) {}

  static async open(client: Client): Promise<Replies> {
    const replies = new Replies(client, `reply.${crypto.randomUUID()}`);
    // The broker deletes it when the client disconnects.
    await client.topology.declareQueue(replies.queue, { type: "classic", expiresMs: 300_000 });
    await client.consume(replies.queue, ({ message }) => replies.#waiting.get(message.correlationId)?.(message), { concurrency: 32 });
    return replies;
  }

  async request(
    exchange: string,
    routingKey: string,
    message: Message | Uint8Array | string,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<ReceivedMessage> {
    const correlationId = crypto.randomUUID();
    let publisher = this.#publishers.get(exchange);
    if (!publisher) {
      publisher = this.client.publisher({ exchange });
      this.#publishers.set(exchange, publisher);
    }
    let reply: ReceivedMessage | undefined;
    const replied = new Promise<void>((resolve) => {
      this.#waiting.set(correlationId, (received) => {
        reply = received;
        resolve();
      });
    });
    try {
      const request = { ...toMessage(message), correlationId, replyTo: this.queue, ttlMs: timeoutMs };
      await abortable(within(Promise.all([publisher.publish(request, routingKey), replied]), timeoutMs), signal);
    } finally {
      this.#waiting.delete(correlationId);
    }
    if (reply) return reply;
    throw new RequestTimeoutError(`no reply within ${timeoutMs} ms`, { reason: "REQUEST_TIMEOUT", code: "DEADLINE_EXCEEDED", retryable: true });
  }
}

/** @internal Checks the client's credentials at the gateway, or closes the client. */
export async function opened(client: Client, connectTimeoutMs = 10_000): Promise<Client> {
  try {
    await client.authenticate(connectTimeoutMs);
    return client;
  } catch (error) {
    client.link.close();
    throw error;
  }
}
