/**
 * Time limits of whatever waits for a client, looked at together: a timer for each costs a small request a good part of what
 * all the rest of it does. So each ends up to {@linkcode LOOK_MS} late.
 */

const LOOK_MS = 100;

/** A wait that has a limit. */
export interface LimitedWait {
  readonly untilMs: number;
  readonly onLate: () => void;
}

export class TimeLimits implements Disposable {
  readonly #waits = new Set<LimitedWait>();
  #timer: ReturnType<typeof setInterval> | undefined;

  /** @param now milliseconds of a clock that nobody sets. */
  constructor(private readonly now: () => number) {}

  /** Calls `onLate` in `ms`, unless the wait has ended by then. */
  start(ms: number, onLate: () => void): LimitedWait {
    const wait = { untilMs: this.now() + ms, onLate };
    this.#waits.add(wait);
    this.#timer ??= setInterval(() => this.#look(), LOOK_MS);
    return wait;
  }

  end(wait: LimitedWait): void {
    this.#waits.delete(wait);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#waits.clear();
  }

  #look(): void {
    if (this.#waits.size === 0) return this[Symbol.dispose]();
    const nowMs = this.now();
    for (const wait of this.#waits) {
      if (wait.untilMs > nowMs) continue;
      this.#waits.delete(wait);
      wait.onLate();
    }
  }
}
