/**
 * A token bucket that may go into debt: it holds what a rate gives in {@linkcode BUCKET_MS}, and is filled by the rate.
 *
 * All that it has to remember is when it would be full again, be that now or in an hour; who takes more than there is puts that
 * off, and whoever comes next waits for it. The rate is the caller's, so a new one holds from the next look on: by a higher one what
 * is missing is filled the sooner. By a lower one it takes as long as it would have, for it was taken under the old rate.
 */

/** What a bucket holds: as much as its rate gives in a second. */
export const BUCKET_MS = 1_000;
/** A share of a millisecond that is rounding, and no wait. */
const ROUNDING_MS = 0.001;

export class TokenBucket {
  #fullAtMs = 0;
  /** By which it would be full then. */
  #perSecond = 0;

  /** How long until there are `tokens`; without any, until it has no debt. */
  waitMs(tokens: number, perSecond: number, nowMs: number): number {
    this.#goBy(perSecond, nowMs);
    const wait = this.#missingMs(nowMs) + toMs(tokens, perSecond) - BUCKET_MS;
    return wait > ROUNDING_MS ? wait : 0;
  }

  /** Takes tokens, be they there or not. */
  take(tokens: number, perSecond: number, nowMs: number): void {
    this.#goBy(perSecond, nowMs);
    this.#fullAtMs = Math.max(this.#fullAtMs, nowMs) + toMs(tokens, perSecond);
  }

  isFull(nowMs: number): boolean {
    return this.#missingMs(nowMs) === 0;
  }

  #goBy(perSecond: number, nowMs: number): void {
    if (perSecond === this.#perSecond) return;
    this.#fullAtMs = nowMs + this.#missingMs(nowMs) * Math.min(1, this.#perSecond / perSecond);
    this.#perSecond = perSecond;
  }

  #missingMs(nowMs: number): number {
    return Math.max(0, this.#fullAtMs - nowMs);
  }
}

function toMs(tokens: number, perSecond: number): number {
  return tokens * 1_000 / perSecond;
}
