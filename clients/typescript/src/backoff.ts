/** Delays between attempts: exponential from 0.1 s to 5 s, with jitter. */
export class Backoff {
  #next = 100;

  /** Starts again with the shortest delay. */
  reset(): void {
    this.#next = 100;
  }

  /** Returns the next delay in milliseconds, at least as long as the gateway requested. */
  delay(atLeast = 0): number {
    const delay = this.#next * (0.5 + Math.random() / 2);
    this.#next = Math.min(this.#next * 2, 5000);
    return Math.max(delay, Math.min(atLeast, 60_000));
  }
}

/** Waits. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
