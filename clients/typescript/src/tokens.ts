/**
 * The token of a client: fetched once for all users, renewed ahead of its end. At most one request for a token is under way at a
 * time, and everybody who needs one waits for it.
 */
import { AuthenticationError, UnavailableError, WarrengateError } from "./errors.js";

/** Gives a token (a JWT without "Bearer"); called again when the last one is near its end. */
export type TokenSource = () => Promise<string> | string;

/** A token and its life by the local clock. */
export interface Token {
  /** The token itself. */
  readonly text: string;
  readonly renewAt: number;
  readonly endsAt: number;
}

/** Gives the present token, or fetches one. */
export class Tokens {
  readonly #fetch: TokenSource | undefined;
  #token: Token | undefined;
  #fetching: Promise<Token> | undefined;

  /** From a source, or one token that cannot be renewed. */
  constructor(
    from: TokenSource | string,
    private readonly onFailure: (error: unknown) => void,
  ) {
    if (typeof from === "string") this.#token = { text: from, renewAt: Infinity, endsAt: Infinity };
    else this.#fetch = from;
  }

  /** Whether another token can be had. */
  get isRenewable(): boolean {
    return this.#fetch !== undefined;
  }

  /** Gives a token that has not ended, and begins to renew one that is near its end. */
  async get(): Promise<Token> {
    const token = this.#token;
    const now = performance.now();
    if (!token || now >= token.endsAt) return this.#request();
    if (now >= token.renewAt && !this.#fetching) this.#request().catch(this.onFailure);
    return token;
  }

  /** Gives another token than this one: the present one when it was replaced since, else a new one. */
  async newerThan(old: Token): Promise<Token> {
    if (this.#token && this.#token !== old) return this.#token;
    return this.#request();
  }

  #request(): Promise<Token> {
    const fetch = this.#fetch;
    if (!fetch) {
      const text = "the token has ended and cannot be renewed: connect with a client id and its secret";
      return Promise.reject(new AuthenticationError(text, { reason: "TOKEN_EXPIRED", code: "UNAUTHENTICATED" }));
    }
    this.#fetching ??= (async () => {
      try {
        const began = performance.now();
        const text = await fetchFrom(fetch);
        const life = lifeOf(text);
        // Clients that started together do not renew together.
        const renewAt = began + life * (0.6 + Math.random() * 0.15);
        this.#token = { text, renewAt, endsAt: began + life * 0.98 };
        return this.#token;
      } finally {
        this.#fetching = undefined;
      }
    })();
    return this.#fetching;
  }
}

async function fetchFrom(source: TokenSource): Promise<string> {
  try {
    return await source();
  } catch (cause) {
    if (cause instanceof WarrengateError) throw cause;
    const text = `the token source failed: ${cause instanceof Error ? cause.message : String(cause)}`;
    throw new UnavailableError(text, { reason: "TOKEN_SOURCE_FAILED", code: "UNAVAILABLE", retryable: true, cause });
  }
}

/** Reads `exp - iat` of a JWT, in milliseconds; nothing is verified, the gateway does that. The clocks need not agree. */
function lifeOf(token: string): number {
  try {
    const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const { exp, iat } = JSON.parse(atob(payload)) as { exp: number; iat: number };
    return Number.isFinite(exp - iat) ? (exp - iat) * 1000 : Infinity;
  } catch {
    return Infinity;
  }
}
