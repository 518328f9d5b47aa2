/**
 * What a request to write or to read amounts to, which must be within the limits.
 */

import { StorageError } from "../errors.ts";
import { ENTRY_BYTES, type Trim, type Write } from "./append.ts";
import type { BlockRange } from "./block.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";

/** @throws {StorageError} `request-too-large`. */
export function requireSmallWrites(
  limits: StorageLimits,
  writes: (Write | Trim)[],
): { dataBytes: number; trimBlocks: number } {
  if (writes.length < 1 || writes.length > limits.requestWritesMax) {
    throw new StorageError(
      "request-too-large",
      `Cannot take ${writes.length} writes in one request: expected 1 to ${limits.requestWritesMax}`,
    );
  }
  let dataBytes = 0;
  let trimBlocks = 0;
  for (const write of writes) {
    if ("data" in write) dataBytes += write.data.length;
    else trimBlocks += write.trim;
  }
  if (trimBlocks > limits.trimBlocksMax) {
    throw new StorageError(
      "request-too-large",
      `Cannot trim ${trimBlocks} blocks in one request: expected at most ${limits.trimBlocksMax}`,
    );
  }
  requireBytes(limits, dataBytes, "write");
  return { dataBytes, trimBlocks };
}

/** @throws {StorageError} `request-too-large`. */
export function requireSmallRead(
  limits: StorageLimits,
  { blockCount }: BlockRange,
  { blockSizeBytes }: Pool,
): void {
  requireBytes(limits, blockCount * blockSizeBytes, "read");
}

/** What writes of `dataBytes` in all cost a transaction, in bytes: the weight of an append request. */
export function weighWrites(writes: (Write | Trim)[], dataBytes: number, pool: Pool): number {
  return dataBytes + countTrimEntries(writes, pool) * ENTRY_BYTES;
}

/** At most so many entries come of the trims of a request. */
function countTrimEntries(writes: (Write | Trim)[], { segmentBlocks }: Pool): number {
  return writes.reduce(
    (sum, write) => sum + ("data" in write ? 0 : Math.ceil(write.trim / segmentBlocks) + 1),
    0,
  );
}

function requireBytes({ requestBytesMax }: StorageLimits, sizeBytes: number, verb: "read" | "write"): void {
  if (sizeBytes > requestBytesMax) {
    throw new StorageError(
      "request-too-large",
      `Cannot ${verb} ${sizeBytes} bytes in one request: expected at most ${requestBytesMax}`,
    );
  }
}
