/**
 * What the actors of a soak share: the volumes and snapshots that there are, with what they may hold, and whether it goes on.
 */

import { below } from "../support/history.ts";
import { BLOCK_BYTES, VolumeLog } from "./volume_log.ts";
import type { SoakBed } from "./soak_bed.ts";

/** A volume, and whether anybody may write to it. */
export class SoakVolume {
  #writing = 0;
  #paused?: Promise<void>;
  #idle: () => void = () => {};

  constructor(readonly id: string, readonly name: string, readonly log: VolumeLog) {}

  /** Runs `write` once nobody has the volume for itself. */
  async whileOpen(write: () => Promise<void>): Promise<void> {
    while (this.#paused !== undefined) await this.#paused;
    this.#writing += 1;
    try {
      await write();
    } finally {
      this.#writing -= 1;
      if (this.#writing === 0) this.#idle();
    }
  }

  /** Runs `act` while nobody writes; one at a time. */
  async alone(act: () => Promise<void>): Promise<void> {
    const over = Promise.withResolvers<void>();
    this.#paused = over.promise;
    try {
      if (this.#writing > 0) await new Promise<void>((resolve) => this.#idle = resolve);
      await act();
    } finally {
      this.#paused = undefined;
      over.resolve();
    }
  }
}

/** A snapshot that was answered: its marker, and the volumes that it covers. */
export interface SoakSnapshot {
  readonly id: string;
  readonly sequence: number;
  readonly volumes: readonly SoakVolume[];
  /** How many read it: it is not deleted meanwhile. */
  readers: number;
}

export class SoakWorld {
  readonly volumes: SoakVolume[] = [];
  /** Those that were taken by hand, the oldest first. */
  readonly snapshots: SoakSnapshot[] = [];
  /** What was done, by the name of what it is. */
  readonly counts = new Map<string, number>();
  #stamp = 0;
  #name = 0;
  #stopped = false;
  readonly #failed = Promise.withResolvers<never>();

  constructor(readonly bed: SoakBed, readonly random: () => number) {
    this.#failed.promise.catch(() => {});
  }

  get isGoing(): boolean {
    return !this.#stopped;
  }

  /** Rejects with the first fault of an actor. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Acts again and again as long as the soak goes on; a fault ends all of it. */
  async repeat(act: () => Promise<void>): Promise<void> {
    try {
      while (this.isGoing) await act();
    } catch (error) {
      this.#failed.reject(error);
      this.stop();
    }
  }

  count(what: string, by = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + by);
  }

  /** Stamps that no block has had. */
  takeStamps(count: number): number[] {
    const first = this.#stamp + 1;
    this.#stamp += count;
    return Array.from({ length: count }, (_, index) => first + index);
  }

  takeName(what: string): string {
    return `${what}-${++this.#name}`;
  }

  one<T>(items: readonly T[]): T {
    return items[below(this.random, items.length)];
  }

  /** Reads all that a snapshot covers, and answers the stamps of each volume. @throws {Error} where it is not exact. */
  async readSnapshot({ id, sequence, volumes }: SoakSnapshot): Promise<number[][]> {
    const stamps: number[][] = [];
    for (const { id: volume, log } of volumes) {
      const bytes = await this.bed.ask(
        "GET",
        `/snapshots/${id}/blocks/0?count=${log.blockCount}&volume=${volume}`,
      );
      stamps.push(log.judge(bytes, { before: sequence }));
      this.count("snapshot blocks judged", log.blockCount);
    }
    return stamps;
  }
}

/** Blocks with these stamps. */
export function toOctets(stamps: readonly number[]): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(stamps.length * BLOCK_BYTES / 4);
  for (const [index, stamp] of stamps.entries()) {
    words.fill(stamp, index * BLOCK_BYTES / 4, (index + 1) * BLOCK_BYTES / 4);
  }
  return new Uint8Array(words.buffer);
}
