/**
 * The token of a client: fetched once for all callers, and renewed before it expires. At most one request for a token
 * is in progress at a time, and every caller that needs a token waits for it.
 */
import { AuthenticationError, UnavailableError, WarrengateError } from "./errors.js";

/** Returns a token (a JWT without "Bearer"); called again before the last one expires. */
export type TokenSource = () => Promise<string> | string;

/** A token and its lifetime by the local clock. */
export interface Token {
  /** The token itself. */
  readonly text: string;
  readonly renewAt: number;
  readonly endsAt: number;
}

/** Returns the current token, or fetches one. */
export class Tokens {
  readonly #fetch: TokenSource | undefined;
  #token: Token | undefined;
  #fetching: Promise<Token> | undefined;

  /** With a source, or with one token that cannot be renewed. */
  constructor(
    from: TokenSource | string,
    private readonly onFailure: (error: unknown) => void,
  ) {
    if (typeof from === "string") this.#token = { text: from, renewAt: Infinity, endsAt: Infinity };
    else this.#fetch = from;
  }

  /** Whether another token can be fetched. */
  get isRenewable(): boolean {
    return this.#fetch !== undefined;
  }

  /** Returns a token that has not expired, and starts to renew one that expires soon. */
  async get(): Promise<Token> {
    const token = this.#token;
    const now = performance.now();
    if (!token || now >= token.endsAt) return this.#request();
    if (now >= token.renewAt && !this.#fetching) this.#request().catch(this.onFailure);
    return token;
  }

  /** Returns a token other than this one: the current one if it was replaced, otherwise a new one. */
  async newerThan(old: Token): Promise<Token> {
    if (this.#token && this.#token !== old) return this.#token;
    return this.#request();
  }

  #request(): Promise<Token> {
    const fetch = this.#fetch;
    if (!fetch) {
      const text = "the token has expired and cannot be renewed: connect with a client id and its secret";
      return Promise.reject(new AuthenticationError(text, { reason: "TOKEN_EXPIRED", code: "UNAUTHENTICATED" }));
    }
    this.#fetching ??= (async () => {
      try {
        const began = performance.now();
        const text = await fetchFrom(fetch);
        const lifetime = lifetimeOf(text);
        // Clients that started at the same time do not renew at the same time.
        const renewAt = began + lifetime * (0.6 + Math.random() * 0.15);
        this.#token = { text, renewAt, endsAt: began + lifetime * 0.98 };
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

/**
 * Reads `exp - iat` of a JWT, in milliseconds; nothing is verified, the gateway does that. The clocks need not agree.
 */
function lifetimeOf(token: string): number {
  try {
    const payload = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const { exp, iat } = JSON.parse(atob(payload)) as { exp: number; iat: number };
    return Number.isFinite(exp - iat) ? (exp - iat) * 1000 : Infinity;
  } catch {
    return Infinity;
  }
}
