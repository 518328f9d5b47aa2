/**
 * What benches write: random bytes, which nothing can compress, and random places to write them to.
 */

/** The block size of every bench. */
export const BLOCK_BYTES = 4_096;

/** Blocks are cut from it at any byte, so that hardly two are equal, and none costs the time to draw it. */
const POOL_BYTES = 16 * 2 ** 20;
/** The most that the platform draws at once. */
const DRAW_BYTES_MAX = 65_536;

let pool: Uint8Array<ArrayBuffer> | undefined;

/** A block of random bytes, which nobody may change. */
export function takeBlock(): Uint8Array<ArrayBuffer> {
  pool ??= drawBytes(POOL_BYTES);
  const start = Math.floor(Math.random() * (POOL_BYTES - BLOCK_BYTES));
  return pool.subarray(start, start + BLOCK_BYTES);
}

function drawBytes(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let start = 0; start < length; start += DRAW_BYTES_MAX) {
    crypto.getRandomValues(bytes.subarray(start, start + DRAW_BYTES_MAX));
  }
  return bytes;
}

/** Draws `count` LBAs of `[0, blockCount)`, each at most once, in random order. */
export function drawLbas(count: number, blockCount: number): Uint32Array {
  if (count > blockCount) throw new Error(`Cannot draw ${count} LBAs: there are ${blockCount}`);
  const lbas = Uint32Array.from({ length: blockCount }, (_, lba) => lba);
  for (let index = 0; index < count; index += 1) {
    const other = index + Math.floor(Math.random() * (blockCount - index));
    [lbas[index], lbas[other]] = [lbas[other], lbas[index]];
  }
  return lbas.slice(0, count);
}
