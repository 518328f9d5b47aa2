/**
 * Notices that the clock was set back: it has moved on by less than the time that has passed. What was written down for later by a clock
 * that was ahead would else be waited for.
 */

/** What clocks are corrected by all the time, and nobody has to do anything about. */
const CORRECTION_MS_MAX = 10_000;

export class ClockWatch {
  #aheadMs = Infinity;

  constructor(private readonly clock: () => Date) {}

  /** Whether it was set back since this was asked last; when it is asked first, it may have been. */
  wasSetBack(): boolean {
    const aheadMs = this.clock().getTime() - performance.now();
    const wasSetBack = this.#aheadMs - aheadMs > CORRECTION_MS_MAX;
    // A clock that is slowly corrected does not add up to one that was set back.
    this.#aheadMs = aheadMs;
    return wasSetBack;
  }
}
