/**
 * Consuming a queue: a callback with a concurrency limit, or an iterator. A settlement is written only to the stream
 * that delivered the message, so a late one cannot apply to another message.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Client } from "./client.js";
import { RequestTimeoutError, type WarrengateError } from "./errors.js";
import {
  type Ack, AckSchema, type Deliveries, type Delivery as WireDelivery, ExtendLeaseSchema, type ExtendLease, Messaging, type Nack, NackAction, NackSchema,
  type Settled, type StreamPositionSchema, type SubscribeRequest, SubscribeRequestSchema, type SubscribeResponse, type SubscribeResponseSchema,
} from "./generated/warrengate/v1/messaging_pb.js";
import { ReceivedMessage } from "./message.js";
import { within } from "./publisher.js";
import { asError, CLOSE_TIMEOUT_MS, Recovery, Session, type Timer } from "./stream.js";
import { inConsumerSpan } from "./tracing.js";

/** Processes a delivery. Returning acknowledges it, an error retries it later, unless it was settled explicitly. */
export type Handler = (delivery: Delivery) => unknown;

/** Where to start in a stream queue: an offset, a time, or a word. */
export type Position = number | bigint | Date | "first" | "last" | "next";

/** Options of a subscription. */
export interface MessagesOptions {
  /** The maximum number of unsettled deliveries, 1 to 10,000. Default: 256. */
  window?: number;
  /** The maximum number of unsettled body bytes, up to 256 MiB. Default: 16 MiB. */
  maxBytes?: number;
  /** The lease of a delivery, which is extended automatically, 10 s to 1 h. Default: 60 s. */
  leaseMs?: number;
  /** Leases are extended while a message is processed, up to this time after its delivery. Default: 1 h. */
  maxLeaseMs?: number;
  /** Where to start in a stream queue. Default: next. */
  position?: Position;
  /** Whether to allow no other consumer on the queue; classic queues only. */
  exclusive?: boolean;
  /** Consumers of higher priority are served first, -128 to 127. */
  priority?: number;
  /** Closes the consumer when it is aborted. */
  signal?: AbortSignal;
}

/** Options of a subscription with a handler. */
export interface ConsumeOptions extends MessagesOptions {
  /** The maximum number of concurrent handlers. Default: 1, which keeps the order. */
  concurrency?: number;
}

/** How long acknowledgements are collected before they are written. */
const GATHER_MS = 5;
const MAX_IDS = 10_000;
/** How long a stream may be silent while the gateway has no broker. */
const INTERRUPTION_MS = 300_000;

/** A message delivered to this consumer, to be settled by exactly one of the methods. */
export class Delivery {
  /** The number of the delivery on its stream. */
  readonly deliveryId: number;
  /** The message. */
  readonly message: ReceivedMessage;
  /** The exchange it was published to; empty for the default exchange. */
  readonly exchange: string;
  /** The routing key it was published with. */
  readonly routingKey: string;
  /** Whether it may have been delivered before. */
  readonly redelivered: boolean;
  /** 1 for the first attempt. */
  readonly attempt: number;
  /** Its offset in a stream queue. */
  readonly streamOffset: bigint | undefined;
  /** @internal */
  readonly receivedAt = performance.now();
  /** @internal */
  started = false;
  #settled = false;

  /** @internal */
  constructor(
    private readonly session: SubscribeSession,
    wire: WireDelivery,
  ) {
    this.deliveryId = Number(wire.deliveryId);
    this.message = new ReceivedMessage(wire.message);
    this.exchange = wire.exchange;
    this.routingKey = wire.routingKey;
    this.redelivered = wire.redelivered;
    this.attempt = wire.attempt;
    this.streamOffset = wire.streamOffset;
  }

  /** Whether it was settled by the application. */
  get settled(): boolean {
    return this.#settled;
  }

  /** Whether a settlement can still have an effect; otherwise the message is delivered again. */
  get isCurrent(): boolean {
    return this.session.holds(this);
  }

  /** Acknowledges the message. */
  ack(): void {
    this.#settle(undefined);
  }

  /** Delivers the message again later: after this delay, or after the queue's back-off. */
  retry(options: { delayMs?: number; reason?: string } = {}): void {
    const delay = options.delayMs === undefined ? {} : { delay: durationFromMs(options.delayMs) };
    this.#settle({ action: NackAction.RETRY, reason: short(options.reason), ...delay });
  }

  /** Moves the message to the tenant's dead letters. */
  deadLetter(reason?: string): void {
    this.#settle({ action: NackAction.DEAD_LETTER, reason: short(reason) });
  }

  /** Discards the message. */
  drop(): void {
    this.#settle({ action: NackAction.DROP });
  }

  #settle(nack: MessageInitShape<typeof NackSchema> | undefined): void {
    if (this.#settled) return;
    this.#settled = true;
    this.session.settle(this, nack && create(NackSchema, nack));
  }
}

/** The gateway's limit is 1,024 bytes. */
function short(reason = ""): string {
  return new TextDecoder().decode(new TextEncoder().encode(reason).subarray(0, 1000));
}

/** An open subscription that survives its streams; see {@link Client.consume} and {@link Client.messages}. */
export class Consumer implements AsyncIterable<Delivery> {
  /** The queue. */
  readonly queue: string;
  readonly #concurrency: number;
  #ready: Delivery[] = [];
  #waiting: ((delivery: Delivery | undefined) => void)[] = [];
  #workers = 0;
  readonly #whenIdle: (() => void)[] = [];
  #running = 0;
  #session: SubscribeSession | undefined;
  readonly #recovery: Recovery;
  #hasStarted = false;
  readonly #started: Promise<void>;
  #onStarted: () => void = () => undefined;
  #closing = false;
  #finished = false;
  #resumeFrom: bigint | undefined;
  readonly #run: Promise<void>;
  #error: WarrengateError | undefined;
  #onClosing: () => void = () => undefined;
  readonly #closingSignal = new Promise<void>((resolve) => (this.#onClosing = resolve));

  /** @internal */
  constructor(
    private readonly client: Client,
    queue: string,
    /** @internal */ readonly options: ConsumeOptions,
    private readonly handler: Handler | undefined,
  ) {
    this.queue = queue;
    this.#concurrency = options.concurrency ?? 1;
    this.#recovery = new Recovery(client, queue);
    this.#started = new Promise((resolve) => (this.#onStarted = resolve));
    this.#run = this.#serve();
    const { signal } = options;
    if (signal) {
      const close = () => void this.close();
      signal.addEventListener("abort", close, { once: true });
      void this.#run.then(() => signal.removeEventListener("abort", close));
    }
  }

  /** @internal Waits until the gateway has accepted the subscription. */
  async start(timeoutMs: number): Promise<void> {
    const inTime = await within(this.#started, timeoutMs);
    if (this.#error) throw this.#error;
    this.options.signal?.throwIfAborted();
    if (inTime) return;
    await this.close(0);
    const text = `the subscription of ${this.queue} did not start in time`;
    throw new RequestTimeoutError(text, { reason: "REQUEST_TIMEOUT", code: "DEADLINE_EXCEEDED", retryable: true });
  }

  /** The number of running handlers. */
  get running(): number {
    return this.#running;
  }

  /** Whether the subscription has ended. */
  get isFinished(): boolean {
    return this.#finished;
  }

  /** The error that ended the consumer. */
  get error(): WarrengateError | undefined {
    return this.#error;
  }

  /** Waits until the consumer has ended; rejects with the error that ended it. */
  async wait(): Promise<void> {
    await this.#run;
    if (this.#error) throw this.#error;
  }

  // Deliveries.

  /** @internal */
  deliver(deliveries: Delivery[]): void {
    this.#ready.push(...deliveries);
    while (this.#ready.length > 0 && this.#waiting.length > 0) this.#waiting.shift()?.(this.#take());
    while (this.handler && this.#workers < Math.min(this.#concurrency, this.#workers + this.#ready.length)) {
      this.#workers += 1;
      void this.#work(this.handler);
    }
  }

  /** @internal Drops deliveries that were not started; they are delivered again. */
  discardReady(): void {
    this.#ready = [];
  }

  #take(): Delivery | undefined {
    const delivery = this.#ready.shift();
    if (delivery) delivery.started = true;
    return delivery;
  }

  /** Waits for the next delivery; undefined when the consumer has ended in order. */
  async next(): Promise<Delivery | undefined> {
    const ready = this.#take();
    if (ready) return ready;
    const delivery = this.#closing || this.#finished ? undefined : await new Promise<Delivery | undefined>((resolve) => this.#waiting.push(resolve));
    if (!delivery && this.#error) throw this.#error;
    return delivery;
  }

  /** Iterates over the deliveries; each must be settled. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Delivery> {
    for (let delivery = await this.next(); delivery; delivery = await this.next()) yield delivery;
  }

  /** Runs handlers one after another, until nothing is ready. */
  async #work(handler: Handler): Promise<void> {
    for (let delivery = this.#take(); delivery; delivery = this.#take()) {
      const { message, attempt } = delivery;
      const present = delivery;
      this.#running += 1;
      try {
        await inConsumerSpan(this.queue, message, attempt, async () => {
          await handler(present);
        });
        delivery.ack();
      } catch (error) {
        if (!delivery.settled) {
          this.client.log.warn(`the handler of ${this.queue} failed, the message is retried: ${String(error)}`);
          delivery.retry({ reason: String(error) });
        }
      }
      this.#running -= 1;
    }
    this.#workers -= 1;
    if (this.#workers === 0) this.#whenIdle.splice(0).forEach((resolve) => resolve());
  }

  #idle(): Promise<void> {
    return this.#workers === 0 ? Promise.resolve() : new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  // Streams.

  async #serve(): Promise<void> {
    try {
      // The constructor of the client's member must finish first.
      await Promise.resolve();
      while (!this.#closing) {
        const session = (this.#session = new SubscribeSession(this, this.client, this.#resumeFrom));
        let error: WarrengateError | undefined;
        try {
          await session.run();
        } catch (failure) {
          error = asError(failure);
        }
        this.#resumeFrom = session.resumeFrom() ?? this.#resumeFrom;
        session.void();
        if (this.#isClosing()) break;
        // A plan's limit of streams refuses the first stream. A later one may only have been opened before the gateway
        // noticed the end of its predecessor.
        if (error && !this.#hasStarted && error.code === "RESOURCE_EXHAUSTED") throw error;
        await Promise.race([this.#recovery.after(session, error), this.#closingSignal]);
      }
    } catch (refusal) {
      this.#error = asError(refusal);
      this.client.log.error(`the consumer of ${this.queue} has ended: ${this.#error.message}`);
    }
    this.#session = undefined;
    this.#finished = true;
    this.#onStarted();
    this.#waiting.splice(0).forEach((resolve) => resolve(undefined));
    this.#ready = [];
    this.client.forget(this);
  }

  #isClosing(): boolean {
    return this.#closing;
  }

  /** @internal */
  onStarted(): void {
    this.#recovery.works();
    this.client.emit("connected", this.queue);
    this.#hasStarted = true;
    this.#onStarted();
  }

  /** @internal The default time limit for closing: for handlers, but none for the iterator form. */
  get closingTimeMs(): number {
    return this.handler ? 30_000 : 0;
  }

  /**
   * Stops consuming, waits until started deliveries are settled, and ends the stream; the rest is delivered again. By
   * default handlers have 30 s; deliveries of the iterator form, which only the application can settle, are not waited
   * for.
   */
  async close(timeoutMs = this.closingTimeMs): Promise<void> {
    if (!this.#closing) {
      this.#closing = true;
      this.#onClosing();
      this.discardReady();
      this.#waiting.splice(0).forEach((resolve) => resolve(undefined));
      this.#session?.close();
    }
    if (!(await within(Promise.all([this.#run, this.#idle()]), timeoutMs))) {
      this.#session?.giveUp();
      await within(this.#run, CLOSE_TIMEOUT_MS + 1000);
    }
  }

  /** Same as `close()`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

class SubscribeSession extends Session<typeof SubscribeRequestSchema, typeof SubscribeResponseSchema> {
  protected readonly writesFirst = true;
  #start: SubscribeRequest | undefined;
  /** Deliveries that are not settled at the gateway, in the order of delivery. */
  readonly #outstanding = new Map<number, Delivery>();
  readonly #acks = new Set<number>();
  #nacks: Nack[] = [];
  #extensions: ExtendLease[] = [];
  #leaseMs: number;
  #timer: Timer | undefined;
  #lastOffset: bigint | undefined;
  #givenUp = false;
  #heartbeatMs = 0;
  #interrupted = false;
  #lastHeard = 0;

  constructor(
    private readonly consumer: Consumer,
    client: Client,
    resumeFrom: bigint | undefined,
  ) {
    super(client, consumer.queue, Messaging.method.subscribe);
    const { options } = consumer;
    this.#leaseMs = options.leaseMs ?? 60_000;
    const position = resumeFrom ?? options.position;
    const value = {
      queue: consumer.queue,
      maxOutstandingMessages: Math.max(options.window ?? 256, options.concurrency ?? 1),
      maxOutstandingBytes: BigInt(options.maxBytes ?? 16 * 1024 * 1024),
      ackDeadline: durationFromMs(this.#leaseMs),
      exclusive: options.exclusive ?? false,
      priority: options.priority ?? 0,
      ...(position === undefined ? {} : { position: { position: toPosition(position) } }),
    };
    this.#start = create(SubscribeRequestSchema, { frame: { case: "start", value } });
  }

  protected nextFrame(): SubscribeRequest | undefined {
    const start = this.#start;
    this.#start = undefined;
    if (start) return start;
    const nack = this.#nacks.shift();
    if (nack) return create(SubscribeRequestSchema, { frame: { case: "nack", value: nack } });
    if (this.#acks.size > 0) return create(SubscribeRequestSchema, { frame: { case: "ack", value: this.#nextAck() } });
    const extension = this.#extensions.shift();
    return extension && create(SubscribeRequestSchema, { frame: { case: "extendLease", value: extension } });
  }

  /** Acknowledges all deliveries before the first unsettled one by one number, or the settled ones by their ids. */
  #nextAck(): Ack {
    let through = 0;
    for (const id of this.#outstanding.keys()) {
      if (!this.#acks.delete(id)) break;
      this.#outstanding.delete(id);
      through = id;
    }
    if (through > 0) return create(AckSchema, { through: BigInt(through) });
    const ids = [...this.#acks].sort((a, b) => a - b).slice(0, MAX_IDS);
    for (const id of ids) {
      this.#acks.delete(id);
      this.#outstanding.delete(id);
    }
    return create(AckSchema, { deliveryIds: ids.map(BigInt) });
  }

  protected override isSilent(): boolean {
    // Two heartbeats are missing. The gateway sends none while its broker is unavailable.
    const longest = this.#interrupted ? INTERRUPTION_MS : 2 * this.#heartbeatMs + 2_000;
    return this.#heartbeatMs > 0 && performance.now() - this.#lastHeard > longest;
  }

  protected isDone(): boolean {
    return this.#givenUp || [...this.#outstanding.values()].every((delivery) => delivery.settled || !delivery.started);
  }

  protected reauthentication(accessToken: string): SubscribeRequest {
    return create(SubscribeRequestSchema, { frame: { case: "reauthenticate", value: { accessToken } } });
  }

  /** Stops waiting for handlers. */
  giveUp(): void {
    this.#givenUp = true;
    this.wake();
  }

  // Settlements.

  holds(delivery: Delivery): boolean {
    return this.#outstanding.get(delivery.deliveryId) === delivery;
  }

  settle(delivery: Delivery, nack: Nack | undefined): void {
    const offset = delivery.streamOffset;
    if (offset !== undefined && (this.#lastOffset === undefined || offset > this.#lastOffset)) this.#lastOffset = offset;
    if (!this.holds(delivery)) return;
    if (nack) {
      this.#outstanding.delete(delivery.deliveryId);
      nack.deliveryIds.push(BigInt(delivery.deliveryId));
      this.#nacks.push(nack);
      this.wake();
    } else {
      this.#acks.add(delivery.deliveryId);
      this.wake(this.closing || this.draining || this.#acks.size >= 64 ? 0 : GATHER_MS);
    }
  }

  /** Returns where to resume in a stream queue: at the first unsettled message. */
  resumeFrom(): bigint | undefined {
    for (const { settled, streamOffset } of this.#outstanding.values()) {
      if (!settled && streamOffset !== undefined) return streamOffset;
    }
    return this.#lastOffset === undefined ? undefined : this.#lastOffset + 1n;
  }

  /** Invalidates every id; those messages are delivered again. */
  void(): void {
    this.#outstanding.clear();
    this.#acks.clear();
    this.#nacks = [];
    this.#extensions = [];
    this.consumer.discardReady();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  // Frames from the gateway.

  protected receive({ event }: SubscribeResponse): void {
    this.#lastHeard = performance.now();
    switch (event.case) {
      case "deliveries":
        this.#take(event.value);
        break;
      case "started":
        this.#heartbeatMs = event.value.heartbeatInterval ? durationMs(event.value.heartbeatInterval) : 0;
        if (event.value.ackDeadline) this.#leaseMs = durationMs(event.value.ackDeadline);
        this.consumer.onStarted();
        break;
      case "settled":
        this.#onSettled(event.value);
        break;
      case "interrupted": {
        const resume = this.resumeFrom();
        this.#interrupted = true;
        this.void();
        this.#lastOffset = resume === undefined ? undefined : resume - 1n;
        this.client.emit("interrupted", this.source, event.value.reason);
        break;
      }
      case "resumed":
        this.#interrupted = false;
        this.client.emit("resumed", this.source);
        break;
      case "authExpiring":
        this.onExpiring();
        break;
      case "draining":
        this.consumer.discardReady();
        this.onDraining(event.value.deadline);
        break;
      default:
    }
  }

  #take({ deliveries }: Deliveries): void {
    const batch = deliveries.map((delivery) => new Delivery(this, delivery));
    for (const delivery of batch) this.#outstanding.set(delivery.deliveryId, delivery);
    this.#timer ??= setTimeout(() => this.#extend(), this.#leaseMs / 3);
    // Deliveries that are not started when the stream is about to end are delivered again.
    if (!this.closing && !this.draining) this.consumer.deliver(batch);
  }

  #onSettled(settled: Settled): void {
    for (const id of settled.expiredDeliveryIds) {
      this.#outstanding.delete(Number(id));
      this.#acks.delete(Number(id));
    }
    const count = settled.expiredDeliveryIds.length;
    if (count === 0) return;
    this.client.log.warn(`${count} leases of ${this.source} ran out; the messages are delivered again`);
    this.client.emit("lease_expired", this.source, `${count} messages`);
  }

  /** Extends every lease that would expire before the next check, unless that exceeds the maximum. */
  #extend(): void {
    this.#timer = this.#outstanding.size > 0 ? setTimeout(() => this.#extend(), this.#leaseMs / 3) : undefined;
    const now = performance.now();
    const longest = this.consumer.options.maxLeaseMs ?? 3_600_000;
    const ids = [...this.#outstanding.values()]
      .filter(({ settled, receivedAt }) => !settled && now - receivedAt > this.#leaseMs / 4 && now + this.#leaseMs <= receivedAt + longest)
      .map(({ deliveryId }) => BigInt(deliveryId));
    for (let first = 0; first < ids.length; first += MAX_IDS) {
      this.#extensions.push(create(ExtendLeaseSchema, { deliveryIds: ids.slice(first, first + MAX_IDS) }));
    }
    if (ids.length > 0) this.wake();
  }
}

function toPosition(position: Position): NonNullable<MessageInitShape<typeof StreamPositionSchema>["position"]> {
  if (position instanceof Date) return { case: "timestamp", value: timestampFromMs(Math.floor(position.getTime() / 1000) * 1000) };
  if (typeof position === "string") return { case: position, value: {} };
  return { case: "offset", value: BigInt(position) };
}
