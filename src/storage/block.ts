/**
 * Blocks and ranges of blocks. Pure arithmetic.
 *
 * A range is half-open: `lba` is in it, `lba + blockCount` is not. LBAs and block counts are whole numbers below 2^53.
 */

import { StorageError } from "../errors.ts";

/** A run of blocks of a volume, half-open. */
export interface BlockRange {
  readonly lba: number;
  readonly blockCount: number;
}

export const BLOCK_SIZE_BYTES_MIN = 512;
export const BLOCK_SIZE_BYTES_MAX = 65_536;

/** Most blocks of a volume or a device, so that even the largest blocks stay countable in bytes below 2^53. */
export const BLOCK_COUNT_MAX = 2 ** 36;

/** Tells whether blocks can be `bytes` long: a power of two within the bounds. */
export function isBlockSize(bytes: number): boolean {
  return Number.isInteger(Math.log2(bytes)) && bytes >= BLOCK_SIZE_BYTES_MIN && bytes <= BLOCK_SIZE_BYTES_MAX;
}

/**
 * How many blocks `sizeBytes` of data are.
 *
 * @throws {StorageError} `not-whole-blocks` when it is no positive multiple of the block size.
 */
export function toBlockCount(sizeBytes: number, blockSizeBytes: number): number {
  const blockCount = sizeBytes / blockSizeBytes;
  if (!Number.isSafeInteger(blockCount) || blockCount < 1) {
    throw new StorageError(
      "not-whole-blocks",
      `Cannot use ${sizeBytes} bytes: expected a positive multiple of the block size, ${blockSizeBytes}`,
    );
  }
  return blockCount;
}

/** @throws {StorageError} `lba-out-of-range` unless `range` has blocks and lies inside `[0, blockCountOfVolume)`. */
export function requireInside(
  range: BlockRange,
  blockCountOfVolume: number,
  verb: "read" | "write" | "trim" | "snapshot",
): void {
  if (!isRange(range)) {
    throw new StorageError(
      "lba-out-of-range",
      `Cannot ${verb} ${range.blockCount} blocks at LBA ${range.lba}: expected whole numbers below 2^53, at least one block`,
    );
  }
  if (range.lba + range.blockCount > blockCountOfVolume) {
    throw new StorageError(
      "lba-out-of-range",
      `Cannot ${verb} ${range.blockCount} blocks at LBA ${range.lba}: the volume has ${blockCountOfVolume}`,
    );
  }
}

/** @throws {StorageError} `invalid-argument` unless a volume or a device can have so many blocks. */
export function requireBlockCount(blockCount: number): void {
  if (!Number.isSafeInteger(blockCount) || blockCount < 1 || blockCount > BLOCK_COUNT_MAX) {
    throw new StorageError(
      "invalid-argument",
      `Cannot use ${blockCount} blocks: expected 1 to ${BLOCK_COUNT_MAX}`,
    );
  }
}

function isRange({ lba, blockCount }: BlockRange): boolean {
  return Number.isSafeInteger(lba) && lba >= 0 && Number.isSafeInteger(blockCount) && blockCount >= 1;
}
