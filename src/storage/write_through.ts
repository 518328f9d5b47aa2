/**
 * Write-through: an append without a cache. Its blocks go straight to `blocks`, with their sequences, in the transaction that
 * moves the pool's head; nothing is dirty then, and a marker behind it is sealed in its own transaction.
 *
 * What may still be in the cache, from before the mode was chosen, is older: a block never replaces a newer one, whoever comes
 * first, and readers take the highest sequence wherever it is. Neither waits for the other but at the same block. So that they
 * never wait for each other in a circle, all who write blocks do so in the order of their keys (device, segment, block), and take
 * what else they need behind: the counters of devices and of space.
 *
 * An append of very many blocks would hold up all others of its pool under the lock; the largest trims do. Such a one goes to the
 * cache like in write-back, and is flushed behind.
 */

import type { Database, Transaction } from "../database/client.ts";
import { copyRowsAfter, type CopyTarget } from "../database/copy.ts";
import type { AppendRequest } from "./append.ts";
import type { NewEntry } from "./cache.ts";
import type { Pool, PoolHead } from "./pool.ts";

/** Blocks that one append writes through: what a flush moves at once, some 200 ms of work. */
export const THROUGH_BLOCKS_MAX = 8192;

const COPIED = {
  table: "write_through",
  columns: {
    pool_id: "uuid",
    device_id: "uuid",
    segment_id: "int8",
    first_block: "int4",
    block_count: "int4",
    sequence: "int8",
    data: "bytea",
    checksums: "bytea",
  },
} as const satisfies CopyTarget;

/** Whether requests that are appended together go past the cache. */
export function isWrittenThrough({ cacheMode }: PoolHead, pool: Pool, requests: AppendRequest[]): boolean {
  return cacheMode === "write-through" &&
    requests.reduce((blocks, request) => blocks + countBlocks(request, pool), 0) <= THROUGH_BLOCKS_MAX;
}

/** Blocks that a request writes or trims at most. */
export function countBlocks({ writes, sizeBytes }: AppendRequest, { blockSizeBytes }: Pool): number {
  return writes.reduce(
    (blocks, write) => "trim" in write ? blocks + write.trim : blocks,
    sizeBytes / blockSizeBytes,
  );
}

/**
 * Writes the blocks of entries, in one message between the statement that moves the pool's head and those that map their
 * segments. `onHeld` is called when the head is moved.
 */
export async function copyThrough(
  connection: Database | Transaction,
  poolId: string,
  { before, behind }: { before: string[]; behind: string[] },
  entries: NewEntry[],
  onHeld?: () => void,
): Promise<void> {
  const rows = entries.flatMap(({ segment, ...entry }) =>
    segment === undefined ? [] : [{ ...entry, segment }]
  ).toSorted((a, b) =>
    compare(a.segment.deviceId, b.segment.deviceId) || a.segment.segmentId - b.segment.segmentId ||
    a.run.firstBlock - b.run.firstBlock || a.sequence - b.sequence
  ).map(({ sequence, run, segment, data, checksums }) => [
    poolId,
    segment.deviceId,
    segment.segmentId,
    run.firstBlock,
    run.blockCount,
    sequence,
    data ?? null,
    checksums ?? null,
  ]);
  await copyRowsAfter(connection, before, COPIED, rows, onHeld, behind);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
