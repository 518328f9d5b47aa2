/**
 * What a client knows of blocks that only it writes, one request after the other: all states that they were in, and of each how
 * far the queue was.
 *
 * A state whose request was answered has a sequence. One of which nobody can tell has bounds: what was answered before it was
 * asked for, and how far the queue was when it was seen to be there. So what a snapshot has of a lane is one state or, around
 * such a one, one of two: never half of a request, and never one that was given up.
 */

interface State {
  readonly stamps: readonly number[];
  /** The last entry's; absent where nobody can tell. */
  readonly sequence?: number;
  /** It came behind this sequence. */
  readonly after: number;
  /** It came at this sequence or before. */
  until: number;
  /** Whether it is known to have happened. */
  happened: boolean;
}

export class Lane {
  #states: State[];

  /** @param lba the first block of the lane in its volume; `stamps` what it holds. */
  constructor(readonly lba: number, stamps: readonly number[]) {
    this.#states = [{ stamps, sequence: -1, after: -1, until: -1, happened: true }];
  }

  get blockCount(): number {
    return this.stamps.length;
  }

  /** What it holds, or will hold if its last request happened. */
  get stamps(): readonly number[] {
    return this.#last.stamps;
  }

  get #last(): State {
    return this.#states[this.#states.length - 1];
  }

  /** A request was answered. A revert is behind its sequence: it says so by half a step. */
  answered(stamps: readonly number[], sequence: number, after: number): void {
    if (sequence <= after) throw new Error(`Sequence ${sequence} was given behind ${after}`);
    this.#states.push({ stamps, sequence, after, until: sequence, happened: true });
  }

  /** Nobody can tell whether a request happened. */
  unanswered(stamps: readonly number[], after: number): void {
    this.#states.push({ stamps, after, until: Infinity, happened: false });
  }

  /** Finds out what happened from what the lane holds, when the queue ends at `sequenceAppended`. */
  see(found: readonly number[], sequenceAppended: number): void {
    const last = this.#last;
    if (isSame(found, last.stamps)) {
      if (!last.happened) last.until = sequenceAppended;
      last.happened = true;
      return;
    }
    if (!last.happened) {
      this.#states.pop();
      if (isSame(found, this.stamps)) return;
    }
    throw new Error(
      `The blocks from ${this.lba} on hold ${found}, expected ${this.stamps}${
        last.happened ? "" : ` or ${last.stamps}`
      }`,
    );
  }

  /** All that a snapshot can have of it whose marker has that sequence. */
  before(marker: number): (readonly number[])[] {
    const first = this.#states.findLastIndex(({ until }) => until < marker);
    const behind = this.#states.findIndex(({ sequence, after }, index) =>
      index > first && ((sequence ?? -1) > marker || after >= marker)
    );
    return this.#states.slice(first, behind < 0 ? undefined : behind).map(({ stamps }) => stamps);
  }

  /** Forgets all states but the last: nobody will ask for another one. */
  forget(): void {
    this.#states = this.#states.slice(-1);
  }
}

/** Whether two lists of stamps are the same. */
export function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((stamp, index) => stamp === b[index]);
}
