// The same chat rooms as `warrengate chat`; docs/guides/chat.md describes their messages.
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Gateway, header, since, text } from "./gateway.ts";

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
  readonly #people = new Map<string, { name: string; until: number }>();

  constructor(readonly gateway: Gateway, room: string, readonly name: string, readonly screen: Screen) {
    this.#queue = `chat.${room}`;
  }

  /** Stays until `signal` is aborted. */
  async stay(signal: AbortSignal) {
    const here = `${this.#queue}.here`;
    await this.gateway.queue(this.#queue, { maxLengthBytes: 20n << 20n, streamMaxSegmentBytes: 1n << 20n });
    await this.gateway.queue(here, { maxLengthBytes: 2n << 20n, streamMaxSegmentBytes: 1n << 20n });
    const beat = () => {
      this.#show();
      this.#send(here, "chat.here").catch(() => {});
    };
    const beating = setInterval(beat, BEAT);
    beat();
    try {
      await Promise.all([
        this.gateway.receive({ queue: this.#queue, position: since(DAY) }, ({ message }) => {
          const name = header(message, "name");
          if (message?.type !== "chat.message" || name === undefined) return;
          this.screen.said(name, text(message), new Date(message.publishTime ? timestampMs(message.publishTime) : Date.now()));
        }, signal),
        this.gateway.receive({ queue: here, position: since(STALE) }, ({ message }) => {
          const [name, session] = [header(message, "name"), header(message, "session")];
          if (name === undefined || session === undefined) return;
          const until = (message?.publishTime ? timestampMs(message.publishTime) : Date.now()) + STALE;
          if (message?.type === "chat.here") this.#people.set(session, { name, until });
          if (message?.type === "chat.left") this.#people.delete(session);
          this.#show();
        }, signal),
      ]);
    } finally {
      clearInterval(beating);
      await this.#send(here, "chat.left").catch(() => {});
    }
  }

  say(what: string) {
    return this.#send(this.#queue, "chat.message", what);
  }

  #show() {
    for (const [session, { until }] of this.#people) if (until <= Date.now()) this.#people.delete(session);
    this.screen.here([...this.#people.values()].map(({ name }) => name).sort());
  }

  #send(queue: string, type: string, body = "") {
    const word = (value: string) => ({ kind: { case: "stringValue", value } } as const);
    return this.gateway.publish(queue, body, { type, headers: { name: word(this.name), session: word(this.#session) } });
  }
}
