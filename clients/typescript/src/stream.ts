/**
 * The common part of publish and subscribe streams: opening, token renewal, leaving a draining gateway, and what
 * follows the end.
 */
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { type Timestamp, timestampMs } from "@bufbuild/protobuf/wkt";
import { Backoff, sleep } from "./backoff.js";
import type { Client } from "./client.js";
import { UnavailableError, WarrengateError } from "./errors.js";
import type { Call, Method } from "./link.js";
import type { Token } from "./tokens.js";

/** A timer of Node.js or of a browser. */
export type Timer = ReturnType<typeof setTimeout>;

// Browsers have no `setImmediate`.
const { setImmediate: immediately } = globalThis as { setImmediate?: (work: () => void) => void };
/** Calls back after what is ready was read and written. */
export const soon = immediately ?? ((work: () => void) => setTimeout(work, 0));

/** How long a gateway may take to end a stream that was closed. */
export const CLOSE_TIMEOUT_MS = 10_000;

/**
 * One stream from its opening to its end. Reading never waits for writing, so the two directions cannot block each
 * other.
 */
export abstract class Session<I extends DescMessage, O extends DescMessage> {
  /** The current token of the stream; absent before it was opened. */
  token: Token | undefined;
  /** The channel of the stream; absent before it was opened. */
  channel: object | undefined;
  /** Whether the gateway is stopping. */
  draining = false;
  /** Whether the application closes the stream. */
  closing = false;
  #call: Call<MessageShape<I>> | undefined;
  #newToken: Token | undefined;
  #renewing = false;
  #blocked = false;
  #open = false;
  #halfClosed = false;
  #ended = false;
  #pump: Timer | undefined;
  #pumpAt = Infinity;
  #limit: Timer | undefined;
  #watch: Timer | undefined;
  #limitAt = Infinity;
  #timeUp: (() => void) | undefined;

  constructor(
    protected readonly client: Client,
    readonly source: string,
    private readonly method: Method<I, O>,
  ) {}

  /** Returns the frame to write now. */
  protected abstract nextFrame(): MessageShape<I> | undefined;
  /** Whether nothing more will be written once the stream is closing or draining. */
  protected abstract isDone(): boolean;
  /** Returns the frame that continues the stream with another token. */
  protected abstract reauthentication(accessToken: string): MessageShape<I>;
  /** Processes a frame. */
  protected abstract receive(response: MessageShape<O>): void;
  /** Whether the stream has been silent for too long; gRPC-Web has no keepalive of its own. */
  protected isSilent(): boolean {
    return false;
  }
  /** The gateway has accepted the call. */
  protected opened(): void {}
  /** Whether frames may be written before the gateway has accepted the call. */
  protected abstract readonly writesFirst: boolean;

  /** Opens the stream and serves it until it ends; rejects with the reason unless it was closed in order. */
  async run(): Promise<void> {
    this.token = await this.client.tokens.get();
    const channel = (this.channel = this.client.link.channel);
    const { text } = this.token;
    try {
      await new Promise<void>((resolve, reject) => {
        this.#timeUp = resolve;
        this.#call = this.client.link.stream(channel, this.method, text, {
          opened: () => {
            this.#open = true;
            this.opened();
            this.wake();
          },
          data: (response) => this.receive(response),
          drained: () => {
            this.#blocked = false;
            this.wake();
          },
          ended: (error) => {
            if (error) reject(error);
            else if (this.closing || this.draining) resolve();
            else reject(lost("the gateway ended the stream"));
          },
        });
        if (this.writesFirst) {
          this.#open = true;
          this.wake();
        }
        this.#watch = setInterval(() => {
          if (this.isSilent()) reject(lost("the gateway has been silent"));
        }, 5_000);
      });
    } finally {
      this.#ended = true;
      clearTimeout(this.#pump);
      clearTimeout(this.#limit);
      clearInterval(this.#watch);
      this.#call?.cancel();
    }
  }

  /** There may be something to write; the delay allows more to be collected. */
  wake(afterMs = 0): void {
    // Nothing is earlier than the next turn, which has the time 0.
    if (this.#ended || this.#pumpAt === 0) return;
    const at = afterMs > 0 ? performance.now() + afterMs : 0;
    if (at >= this.#pumpAt) return;
    clearTimeout(this.#pump);
    this.#pumpAt = at;
    if (at > 0) this.#pump = setTimeout(() => this.#write(), afterMs);
    else soon(() => this.#write());
  }

  #write(): void {
    this.#pumpAt = Infinity;
    const call = this.#call;
    if (!call || !this.#open || this.#blocked || this.#ended || this.#halfClosed) return;
    for (;;) {
      let frame: MessageShape<I> | undefined;
      if (this.#newToken) {
        this.token = this.#newToken;
        this.#newToken = undefined;
        frame = this.reauthentication(this.token.text);
        this.client.emit("reauthenticated", this.source);
      } else {
        frame = this.nextFrame();
      }
      if (!frame) break;
      if (!call.write(frame)) {
        this.#blocked = true;
        return;
      }
    }
    if ((this.closing || this.draining) && this.isDone()) {
      this.#halfClosed = true;
      if (!this.draining) this.limitTo(CLOSE_TIMEOUT_MS);
      call.end();
    }
  }

  /** Ends the stream when everything is written. */
  close(): void {
    this.closing = true;
    this.wake();
  }

  /** Ends the stream after this time at the latest. */
  protected limitTo(milliseconds: number): void {
    const at = performance.now() + milliseconds;
    if (at >= this.#limitAt) return;
    this.#limitAt = at;
    clearTimeout(this.#limit);
    this.#limit = setTimeout(() => this.#timeUp?.(), milliseconds);
  }

  /** Prepares to leave the gateway. */
  protected onDraining(deadline: Timestamp | undefined): void {
    this.draining = true;
    this.client.emit("draining", this.source);
    const left = deadline ? timestampMs(deadline) - Date.now() : 0;
    // A tolerance for clock differences.
    this.limitTo(Math.min(Math.max(left, 0), 300_000) + 2_000);
    this.wake();
  }

  /** Renews the token of the stream. */
  protected onExpiring(): void {
    if (this.#renewing || !this.token || !this.client.tokens.isRenewable) return;
    this.#renewing = true;
    void this.#renew(this.token).finally(() => (this.#renewing = false));
  }

  async #renew(token: Token): Promise<void> {
    const backoff = new Backoff();
    while (!this.#ended) {
      try {
        this.#newToken = await this.client.tokens.newerThan(token);
        this.wake();
        return;
      } catch (error) {
        this.client.log.warn(`the token of the ${this.source} stream could not be renewed: ${String(error)}`);
        if (!(error instanceof WarrengateError) || !error.retryable) return;
        await sleep(backoff.delay(error.retryAfterMs));
      }
    }
  }
}

function lost(why: string): UnavailableError {
  return new UnavailableError(`the connection to the gateway was lost: ${why}`, { reason: "CONNECTION_LOST", code: "UNAVAILABLE", retryable: true });
}

/** Decides, after a stream ended, whether and when the next one is opened. */
export class Recovery {
  readonly #backoff = new Backoff();
  #triedAnotherToken = false;

  constructor(
    private readonly client: Client,
    private readonly source: string,
  ) {}

  /** Records that the current stream does useful work. */
  works(): void {
    this.#backoff.reset();
    this.#triedAnotherToken = false;
  }

  /** Waits until the next stream may be opened; rejects with the error if another stream would not help. */
  async after(session: { channel: object | undefined; token: Token | undefined }, error: WarrengateError | undefined): Promise<void> {
    if (!error || error.reason === "DRAINING") {
      if (session.channel) this.client.link.replace(session.channel);
      await sleep(this.#backoff.delay(error?.retryAfterMs));
      return;
    }
    let why = error;
    if (error.code === "UNAUTHENTICATED" && session.token && this.client.tokens.isRenewable) {
      const failure = await this.#anotherToken(session.token, error);
      if (!failure) return;
      why = failure;
    }
    if (!why.retryable) throw why;
    this.client.log.info(`the ${this.source} stream ended and is opened again: ${why.message}`);
    this.client.emit("disconnected", this.source, why.message);
    await sleep(this.#backoff.delay(why.retryAfterMs));
  }

  async #anotherToken(token: Token, error: WarrengateError): Promise<WarrengateError | undefined> {
    if (this.#triedAnotherToken) return error;
    try {
      await this.client.tokens.newerThan(token);
    } catch (failure) {
      if (!(failure instanceof WarrengateError)) throw failure;
      // A refusal is less informative than the end of the stream, unless that was caused by the old token.
      return failure.retryable || error.reason.startsWith("TOKEN_") ? failure : error;
    }
    this.#triedAnotherToken = true;
    return undefined;
  }
}

/** Converts any thrown value to an error of this library. */
export function asError(error: unknown): WarrengateError {
  if (error instanceof WarrengateError) return error;
  return new WarrengateError(error instanceof Error ? error.message : String(error), { cause: error });
}
