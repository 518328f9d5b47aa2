/**
 * What one volume may hold: every write that was sent to it, with the sequence that it was answered with, so that any read of it,
 * live or by any snapshot, can be judged at any time, also after a crash.
 *
 * Each block has one writer at a time, so its writes are in their order. A write stands here before it is sent. Until it
 * is answered, or if it never is, nobody can tell whether it happened; one that was refused did not.
 */

import { readStamps } from "../support/history.ts";

export const BLOCK_BYTES = 4096;

/** A write of one block; stamp 0 is a trim. */
export interface Attempt {
  readonly stamp: number;
  /** Absent as long as nobody can tell whether it happened. */
  sequence?: number;
}

/** The time between two reverts. */
interface Era {
  /** It starts behind this sequence. */
  readonly behind: number;
  readonly base: readonly number[];
  readonly attempts: Attempt[][];
}

export class VolumeLog {
  readonly #eras: Era[] = [];

  /** Of a volume that starts with blocks of these stamps. */
  constructor(base: readonly number[]) {
    this.#begin(-1, base);
  }

  get blockCount(): number {
    return this.#eras[0].base.length;
  }

  /** Tells that blocks from `lba` on are about to get these stamps. */
  attempt(lba: number, stamps: readonly number[]): Attempts {
    const { attempts } = this.#eras[this.#eras.length - 1];
    const made = stamps.map((stamp, index) => {
      const attempt: Attempt = { stamp };
      attempts[lba + index].push(attempt);
      return attempt;
    });
    return {
      answered: (sequence) => {
        for (const attempt of made) attempt.sequence = sequence;
      },
      refused: () => {
        for (const [index, attempt] of made.entries()) {
          const ofBlock = attempts[lba + index];
          ofBlock.splice(ofBlock.indexOf(attempt), 1);
        }
      },
    };
  }

  /** Tells that the volume has these contents behind `sequence`. */
  reverted(sequence: number, base: readonly number[]): void {
    this.#begin(sequence, base);
  }

  /**
   * The stamps of `bytes`, blocks from `lba` on, as they are before `sequence`.
   *
   * @throws {Error} where a block is torn, or holds what it may not hold then.
   */
  judge(bytes: Uint8Array, { lba = 0, before = Infinity }: { lba?: number; before?: number } = {}): number[] {
    const stamps = readStamps(bytes, BLOCK_BYTES);
    for (const [index, stamp] of stamps.entries()) {
      const allowed = this.#allowed(lba + index, before);
      if (!allowed.includes(stamp)) {
        throw new Error(`Block ${lba + index} holds ${stamp}, expected ${allowed} before ${before}`);
      }
    }
    return stamps;
  }

  #begin(behind: number, base: readonly number[]): void {
    this.#eras.push({ behind, base, attempts: base.map(() => []) });
  }

  #allowed(lba: number, before: number): number[] {
    const era = this.#eras.findLast(({ behind }) => behind < before) as Era;
    let allowed = [era.base[lba]];
    for (const { stamp, sequence } of era.attempts[lba]) {
      if (sequence === undefined) allowed.push(stamp);
      else if (sequence < before) allowed = [stamp];
      else break;
    }
    return allowed;
  }
}

/** What becomes of writes that were sent as one. */
export interface Attempts {
  answered(sequence: number): void;
  /** They did not happen. */
  refused(): void;
}
