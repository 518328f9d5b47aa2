/**
 * The oracle: what was acknowledged, with its sequence, and what a volume holds if it is replayed.
 *
 * Each block that is ever written gets a stamp of its own, repeated through the whole block; 0 is a block of zeros. So the
 * contents of a volume are a list of stamps, a torn block is seen, and a history needs no data.
 */

import { assertEquals } from "@std/assert";

/** `blockCount` blocks with the stamps `firstStamp`, `firstStamp + 1`, … */
export function fill(firstStamp: number, blockCount: number, blockBytes: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(blockCount * blockBytes / 4);
  for (let block = 0; block < blockCount; block++) {
    words.fill(firstStamp + block, block * blockBytes / 4, (block + 1) * blockBytes / 4);
  }
  return new Uint8Array(words.buffer);
}

/** The stamps of `bytes`. @throws when a block is not of one stamp: it was torn. */
export function readStamps(bytes: Uint8Array, blockBytes: number): number[] {
  const words = new Uint32Array(bytes.slice().buffer);
  const perBlock = blockBytes / 4;
  return Array.from({ length: words.length / perBlock }, (_, block) => {
    const stamp = words[block * perBlock];
    const torn = words.subarray(block * perBlock, (block + 1) * perBlock).some((word) => word !== stamp);
    if (torn) throw new Error(`Block ${block} is torn: it starts with stamp ${stamp}`);
    return stamp;
  });
}

/** A part of an acknowledged request: blocks with rising stamps, or a trim. */
export type Part = { lba: number; blockCount: number; firstStamp: number } | { lba: number; trim: number };

export class History {
  readonly #requests: { sequence: number; parts: Part[] }[] = [];

  constructor(private readonly blockCount: number) {}

  get length(): number {
    return this.#requests.length;
  }

  add(sequence: number, parts: Part[]): void {
    this.#requests.push({ sequence, parts });
  }

  /** The stamps of the volume after all requests with a sequence below `before`. */
  replay(before = Infinity): number[] {
    const stamps = new Array(this.blockCount).fill(0);
    for (const { sequence, parts } of this.#requests.toSorted((a, b) => a.sequence - b.sequence)) {
      if (sequence >= before) break;
      for (const part of parts) apply(stamps, part);
    }
    return stamps;
  }

  /** Fails unless `bytes` are the volume after all requests with a sequence below `before`. */
  assertReplay(bytes: Uint8Array, blockBytes: number, before = Infinity): void {
    assertEquals(readStamps(bytes, blockBytes), this.replay(before));
  }
}

function apply(stamps: number[], part: Part): void {
  if ("trim" in part) stamps.fill(0, part.lba, part.lba + part.trim);
  else {for (let block = 0; block < part.blockCount; block++) {
      stamps[part.lba + block] = part.firstStamp + block;
    }}
}

/** A seeded generator of numbers in [0, 1): mulberry32. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A whole number in `[0, end)`. */
export function below(random: () => number, end: number): number {
  return Math.floor(random() * end);
}
