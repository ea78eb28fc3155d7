/** Publishing on a stream, with one outcome for each message. A message is in the table of entries until its outcome is known. */
import { create } from "@bufbuild/protobuf";
import type { Client } from "./client.js";
import { ClosedError, fromResult, notSent, type PublishError, unknownOutcome, type WarrengateError } from "./errors.js";
import {
  Messaging, Outcome, type Publication, PublicationSchema, PublishRequestSchema, type PublishRequest, type PublishResponse, type PublishResponseSchema,
  type PublishResult,
} from "./generated/warrengate/v1/messaging_pb.js";
import { type Message, toMessage, toWire } from "./message.js";
import { asError, CLOSE_TIMEOUT_MS, Recovery, Session, type Timer } from "./stream.js";
import { startProducer } from "./tracing.js";

/** Well below the size limit of a frame, so that only a message that is too large by itself is refused for its size. */
const FRAME_BYTES = 256 * 1024;
/** Before a message whose outcome the gateway did not learn is sent again. */
const RESEND_PAUSE_MS = 200;
/** Refusals that a later attempt, perhaps at another gateway, need not meet. */
const TRANSIENT = ["DRAINING", "BROKER_UNREACHABLE"];

/** How messages are published. */
export interface PublisherOptions {
  /** The exchange. Default: the default exchange, which routes to the queue that the routing key names. */
  exchange?: string;
  /** How many messages may be without an outcome; more wait. Default: 1,000. */
  maxInFlight?: number;
  /** How many bytes may be without an outcome. Default: 32 MiB. */
  maxInFlightBytes?: number;
  /** How many messages are sent together at most. Default: 64. */
  batchMessages?: number;
  /** How long a message may take to its outcome; until then it is sent again when that may help. Default: 60 s. */
  timeoutMs?: number;
  /** Whether throttled messages wait and are sent again. Default: true. */
  retryThrottled?: boolean;
}

/** The broker has the message. */
export interface Confirmation {
  /** The id of the message, the caller's or the one made by the publisher. */
  messageId: string;
  /** The trace in which the message is recorded; empty when its trace is not kept. */
  traceId: string;
}

/** A message that was handed over. */
export interface Sent {
  /** Resolves when the broker has confirmed the message, and rejects with a {@link PublishError} otherwise. */
  outcome: Promise<Confirmation>;
}

interface Entry {
  publication: Publication;
  size: number;
  deadline: number;
  resolve: (confirmation: Confirmation) => void;
  reject: (error: WarrengateError) => void;
  endSpan: ((error?: unknown) => void) | undefined;
  /** Whether the present stream has it. */
  written: boolean;
  /** Whether an attempt ended without an answer, so that the message may be stored. */
  lost: boolean;
  refusal: PublishError | undefined;
}

/** Publishes to one exchange; made by {@link Client.publisher}. */
export class Publisher {
  readonly exchange: string;
  readonly #maxInFlight: number;
  readonly #maxBytes: number;
  readonly #batch: number;
  readonly #timeoutMs: number;
  readonly #retryThrottled: boolean;
  /** By sequence, in the order of sending. */
  readonly #entries = new Map<number, Entry>();
  #bytes = 0;
  #sequence = 0;
  /** Sequences that the present stream has not been given yet, lowest first. */
  #unwritten: number[] = [];
  /** Whether nothing was put back since. */
  #sorted = true;
  #next = 0;
  /** Nothing is written before this moment. */
  #notBefore = 0;
  readonly #room: (() => void)[] = [];
  #idle: (() => void)[] = [];
  #session: PublishSession | undefined;
  readonly #recovery: Recovery;
  #isRunning = false;
  #running = Promise.resolve();
  #timer: Timer | undefined;
  #closed = false;
  /** Why the last stream ended. */
  #failure: WarrengateError | undefined;

  /** @internal */
  constructor(
    private readonly client: Client,
    options: PublisherOptions,
  ) {
    this.exchange = options.exchange ?? "";
    this.#maxInFlight = options.maxInFlight ?? 1000;
    this.#maxBytes = options.maxInFlightBytes ?? 32 * 1024 * 1024;
    this.#batch = options.batchMessages ?? 64;
    this.#timeoutMs = options.timeoutMs ?? 60_000;
    this.#retryThrottled = options.retryThrottled ?? true;
    this.#recovery = new Recovery(client, "publisher");
  }

  /** How many messages have no outcome yet. */
  get inFlight(): number {
    return this.#entries.size;
  }

  /**
   * Publishes a message and waits for its outcome. Resolves when the broker has confirmed the message, and rejects with an
   * `UnroutableError`, `RejectedError`, `DeniedError`, `ThrottledError`, `UnknownOutcomeError` or `NotSentError` otherwise.
   */
  async publish(message: Message | Uint8Array | string, routingKey = "", options: { allowUnroutable?: boolean } = {}): Promise<Confirmation> {
    return (await this.send(message, routingKey, options)).outcome;
  }

  /**
   * Hands a message over; waits only while the publisher is full. Messages that are sent one after another reach the broker in this
   * order while nothing fails.
   */
  async send(message: Message | Uint8Array | string, routingKey = "", options: { allowUnroutable?: boolean } = {}): Promise<Sent> {
    const given = toMessage(message);
    const complete = { ...given, messageId: given.messageId || crypto.randomUUID(), headers: { ...given.headers } };
    const endSpan = startProducer(this.exchange, routingKey, complete);
    const { exchange } = this;
    const allowUnroutable = options.allowUnroutable ?? false;
    const publication = create(PublicationSchema, { exchange, routingKey, allowUnroutable, message: toWire(complete) });
    // The properties of most messages are small beside these.
    const size = (publication.message?.body.length ?? 0) + exchange.length + routingKey.length + 100;
    while (!this.#closed && this.#isFull(size)) await new Promise<void>((resolve) => this.#room.push(resolve));
    if (this.#closed) throw new ClosedError("publisher");
    const outcome = new Promise<Confirmation>((resolve, reject) => {
      this.#accept({ publication, size, deadline: 0, resolve, reject, endSpan, written: false, lost: false, refusal: undefined });
    });
    // Whoever does not look at the outcome does not want to know.
    outcome.catch(() => undefined);
    return { outcome };
  }

  #isFull(size: number): boolean {
    return this.#entries.size >= this.#maxInFlight || (this.#entries.size > 0 && this.#bytes + size > this.#maxBytes);
  }

  #accept(entry: Entry): void {
    this.#sequence += 1;
    entry.publication.sequence = BigInt(this.#sequence);
    entry.deadline = performance.now() + this.#timeoutMs;
    this.#entries.set(this.#sequence, entry);
    this.#bytes += entry.size;
    this.#unwritten.push(this.#sequence);
    this.#timer ??= setTimeout(() => this.#expire(), this.#timeoutMs);
    if (!this.#isRunning) {
      this.#isRunning = true;
      this.#running = this.#run();
    }
    this.#session?.wake();
  }

  // Outcomes.

  #end(sequence: number, outcome: Confirmation | WarrengateError): void {
    const entry = this.#entries.get(sequence);
    if (!entry) return;
    this.#entries.delete(sequence);
    this.#bytes -= entry.size;
    if (outcome instanceof Error) {
      entry.endSpan?.(outcome);
      entry.reject(outcome);
    } else {
      entry.endSpan?.();
      entry.resolve(outcome);
    }
    this.#room.shift()?.();
    if (this.#entries.size === 0) {
      this.#idle.forEach((resolve) => resolve());
      this.#idle = [];
    }
  }

  /** @internal */
  takeResult(result: PublishResult): void {
    const sequence = Number(result.sequence);
    const entry = this.#entries.get(sequence);
    if (!entry) return;
    if (result.outcome === Outcome.CONFIRMED) {
      this.#end(sequence, { messageId: result.messageId, traceId: result.traceId });
      return;
    }
    const messageId = idOf(entry);
    const error = fromResult(result, messageId);
    const now = performance.now();
    let again = TRANSIENT.includes(error.reason);
    if (result.outcome === Outcome.UNKNOWN) {
      entry.lost = again = true;
      this.#notBefore = Math.max(this.#notBefore, now + RESEND_PAUSE_MS);
    } else if (result.outcome === Outcome.THROTTLED && this.#retryThrottled) {
      again = true;
      this.#notBefore = Math.max(this.#notBefore, now + (error.retryAfterMs ?? RESEND_PAUSE_MS));
    }
    if (again) {
      entry.refusal = error;
      entry.written = false;
      this.#putBack();
      this.#session?.wake(this.pauseLeft());
    } else if (entry.lost) {
      // An earlier attempt had no answer, so this refusal does not say that the message is not stored.
      this.#end(sequence, unknownOutcome(messageId, error.message, error.reason));
    } else {
      this.#end(sequence, error);
    }
  }

  /** What is to be written again has a place before what has not been written; it is found when the next frame is made. */
  #putBack(): void {
    this.#sorted = false;
  }

  #expire(): void {
    const now = performance.now();
    this.#timer = undefined;
    for (const [sequence, entry] of this.#entries) {
      if (entry.deadline > now) {
        // All have the same timeout, so they are in the order of their deadlines.
        this.#timer = setTimeout(() => this.#expire(), entry.deadline - now + 1);
        return;
      }
      this.#end(sequence, overdue(entry, this.#failure));
    }
  }

  // The stream.

  /** Keeps a stream open while there is anything to publish; ends when the stream is refused for good, or breaks while idle. */
  async #run(): Promise<void> {
    // What arrives between the end of the loop and here starts it again.
    do await this.#serve();
    while (this.#entries.size > 0 && !this.#closed);
    this.#isRunning = false;
  }

  async #serve(): Promise<void> {
    while (this.#entries.size > 0) {
      const session = (this.#session = new PublishSession(this, this.client));
      let error: WarrengateError | undefined;
      try {
        await session.run();
      } catch (failure) {
        error = this.#failure = asError(failure);
      }
      this.#session = undefined;
      this.#rewind();
      if (this.#closed && this.#entries.size === 0) return;
      try {
        await this.#recovery.after(session, error);
      } catch (refusal) {
        this.#fail(asError(refusal));
        return;
      }
    }
  }

  /** Everything without an outcome is written again, in the order of sending. */
  #rewind(): void {
    for (const entry of this.#entries.values()) {
      if (entry.written) {
        entry.written = false;
        entry.lost = true;
      }
    }
    this.#putBack();
  }

  #fail(refusal: WarrengateError): void {
    for (const [sequence, entry] of this.#entries) {
      this.#end(sequence, entry.lost ? unknownOutcome(idOf(entry), refusal.message, refusal.reason, refusal.retryable) : refusal);
    }
  }

  /** @internal Gives the next frame of messages; what it holds counts as written. */
  nextFrame(): PublishRequest | undefined {
    if (this.pauseLeft() > 0) {
      this.#session?.wake(this.pauseLeft());
      return undefined;
    }
    if (!this.#sorted) {
      this.#unwritten = [...this.#entries].filter(([, entry]) => !entry.written).map(([sequence]) => sequence);
      this.#next = 0;
      this.#sorted = true;
    }
    const publications: Publication[] = [];
    let size = 0;
    for (; this.#next < this.#unwritten.length && publications.length < this.#batch; this.#next += 1) {
      const entry = this.#entries.get(this.#unwritten[this.#next] ?? 0);
      if (!entry || entry.written) continue;
      size += entry.size;
      if (publications.length > 0 && size > FRAME_BYTES) break;
      entry.written = true;
      publications.push(entry.publication);
    }
    if (this.#next === this.#unwritten.length) {
      this.#unwritten = [];
      this.#next = 0;
    } else if (this.#next > 4096) {
      this.#unwritten = this.#unwritten.slice(this.#next);
      this.#next = 0;
    }
    if (publications.length === 0) return undefined;
    return create(PublishRequestSchema, { frame: { case: "publications", value: { publications } } });
  }

  /** @internal How long nothing may be written. */
  pauseLeft(): number {
    return Math.max(0, this.#notBefore - performance.now());
  }

  /** @internal */
  works(): void {
    this.#recovery.works();
  }

  /** Waits until every message has its outcome. */
  flush(): Promise<void> {
    return this.#entries.size === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Takes no more messages, and waits until every message has its outcome, for this long at most. */
  async close(timeoutMs?: number): Promise<void> {
    this.#closed = true;
    this.#room.splice(0).forEach((resolve) => resolve());
    await within(this.flush(), timeoutMs);
    for (const [sequence, entry] of this.#entries) this.#end(sequence, overdue(entry, this.#failure));
    clearTimeout(this.#timer);
    this.#session?.close();
    if (this.#session) await within(this.#running, CLOSE_TIMEOUT_MS);
    this.client.forget(this);
  }

  /** As `close()`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Waits for a promise, for this long at most. */
export async function within(promise: Promise<unknown>, timeoutMs: number | undefined): Promise<boolean> {
  if (timeoutMs === undefined) {
    await promise;
    return true;
  }
  let timer: Timer | undefined;
  const timeout = new Promise<false>((resolve) => (timer = setTimeout(() => resolve(false), timeoutMs)));
  try {
    return await Promise.race([promise.then(() => true), timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function idOf(entry: Entry): string {
  return entry.publication.message?.messageId ?? "";
}

function overdue(entry: Entry, failure: WarrengateError | undefined): PublishError {
  if (entry.lost || entry.written) return unknownOutcome(idOf(entry), "no answer came in time");
  return entry.refusal ?? notSent(idOf(entry), failure?.message ?? "no gateway took it");
}

class PublishSession extends Session<typeof PublishRequestSchema, typeof PublishResponseSchema> {
  // What is written to a stream that the gateway has not accepted would have to count as perhaps stored.
  protected readonly writesFirst = false;

  constructor(
    private readonly publisher: Publisher,
    client: Client,
  ) {
    super(client, "publisher", Messaging.method.publish);
  }

  protected override opened(): void {
    this.client.emit("connected", "publisher");
  }

  protected nextFrame(): PublishRequest | undefined {
    return this.draining ? undefined : this.publisher.nextFrame();
  }

  protected isDone(): boolean {
    // Messages that wait for their time go to the next gateway.
    return this.draining || this.publisher.inFlight === 0;
  }

  protected reauthentication(accessToken: string): PublishRequest {
    return create(PublishRequestSchema, { frame: { case: "reauthenticate", value: { accessToken } } });
  }

  protected receive({ event }: PublishResponse): void {
    switch (event.case) {
      case "results":
        this.publisher.works();
        event.value.results.forEach((result) => this.publisher.takeResult(result));
        break;
      case "authExpiring":
        this.onExpiring();
        break;
      case "draining":
        this.onDraining(event.value.deadline);
        break;
      default:
    }
  }
}
