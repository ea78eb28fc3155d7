// The same chat rooms as `warrengate chat`; docs/guides/chat.md describes their messages.
import type { Client, Consumer, Publisher, ReceivedMessage } from "@warrengate/client/web";

const BEAT = 15_000;
const STALE = 45_000;
const DAY = 86_400_000;

export interface Screen {
  said(name: string, text: string, time: Date): void;
  here(names: string[]): void;
}

export class Chat {
  readonly #session = crypto.randomUUID();
  readonly #queue: string;
  readonly #publisher: Publisher;
  readonly #people = new Map<string, { name: string; until: number }>();

  constructor(readonly client: Client, room: string, readonly name: string, readonly screen: Screen) {
    this.#queue = `chat.${room}`;
    this.#publisher = client.publisher();
  }

  /** Stays until `signal` is aborted. */
  async stay(signal: AbortSignal) {
    const here = `${this.#queue}.here`;
    const { topology } = this.client;
    await topology.declareQueue(this.#queue, { type: "stream", maxLengthBytes: 20 << 20, streamMaxSegmentBytes: 1 << 20 });
    await topology.declareQueue(here, { type: "stream", maxLengthBytes: 2 << 20, streamMaxSegmentBytes: 1 << 20 });
    const beat = () => {
      this.#show();
      this.#send(here, "chat.here").catch(() => {});
    };
    const beating = setInterval(beat, BEAT);
    beat();
    const consumers = await Promise.all([
      this.client.consume(this.#queue, ({ message }) => this.#said(message), { position: since(DAY) }),
      this.client.consume(here, ({ message }) => this.#here(message), { position: since(STALE) }),
    ]);
    try {
      await untilAborted(consumers, signal);
    } finally {
      clearInterval(beating);
      await this.#send(here, "chat.left").catch(() => {});
    }
  }

  say(what: string) {
    return this.#send(this.#queue, "chat.message", what);
  }

  #said(message: ReceivedMessage) {
    const { name } = message.headers;
    if (message.type !== "chat.message" || typeof name !== "string") return;
    this.screen.said(name, message.text, message.publishTime ?? new Date());
  }

  #here(message: ReceivedMessage) {
    const { name, session } = message.headers;
    if (typeof name !== "string" || typeof session !== "string") return;
    const until = (message.publishTime?.getTime() ?? Date.now()) + STALE;
    if (message.type === "chat.here") this.#people.set(session, { name, until });
    if (message.type === "chat.left") this.#people.delete(session);
    this.#show();
  }

  #show() {
    for (const [session, { until }] of this.#people) if (until <= Date.now()) this.#people.delete(session);
    this.screen.here([...this.#people.values()].map(({ name }) => name).sort());
  }

  #send(queue: string, type: string, body = "") {
    return this.#publisher.publish({ body, type, headers: { name: this.name, session: this.#session } }, queue);
  }
}

/** Consumes until `signal` is aborted, or a consumer ends with an error. */
export async function untilAborted(consumers: Consumer[], signal: AbortSignal) {
  const close = () => consumers.forEach((consumer) => void consumer.close());
  if (signal.aborted) close();
  signal.addEventListener("abort", close);
  try {
    await Promise.all(consumers.map((consumer) => consumer.wait()));
  } finally {
    signal.removeEventListener("abort", close);
  }
}

function since(milliseconds: number) {
  return new Date(Math.floor((Date.now() - milliseconds) / 1000) * 1000);
}
