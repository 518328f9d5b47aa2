/**
 * The size of a volume or a device, as clients give it: in bytes or in blocks.
 */

import { toBlockCount } from "./block.ts";
import type { Pool } from "./pool.ts";

/** A size in one of its two ways. */
export type Size = { readonly sizeBytes: number } | { readonly blockCount: number };

/** Tells whether a size was given. */
export function isSized(input: Partial<Size>): input is Size {
  return "sizeBytes" in input || "blockCount" in input;
}

/** A size in blocks of the pool. @throws {StorageError} `not-whole-blocks`. */
export function toBlocks(size: Size, { blockSizeBytes }: Pool): number {
  return "blockCount" in size ? size.blockCount : toBlockCount(size.sizeBytes, blockSizeBytes);
}
