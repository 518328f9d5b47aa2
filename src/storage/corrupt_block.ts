/**
 * Blocks that are not as they were written, and how that is told: by where they lie, so that who is told can go and look.
 */

import type { Connection } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Pool } from "./pool.ts";

/** A block that is not as it was written, and where it lies. */
export interface CorruptBlock {
  /** Its index in its volume. */
  readonly lba: number;
  readonly segmentId: number;
  /** Its index in the segment. */
  readonly blockIndex: number;
  readonly sequence: number;
  /** Whether it is still in the cache. */
  readonly queued: boolean;
  /** What is wrong with it. */
  readonly fault: string;
}

// Statements

/** Devices have the segments from their first one on, up to the next device's. */
async function selectDeviceName({ $client }: Connection, poolId: string, segmentId: number): Promise<string> {
  const rows = await $client<{ name: string }[]>`
    select name from devices where pool_id = ${poolId} and first_segment_id <= ${segmentId}
    order by first_segment_id desc limit 1`;
  return rows[0]?.name ?? "unknown";
}

// Verbs

/** The error that tells of the first of corrupt blocks, at least one, and of how many there are. */
export async function describeCorrupt(
  connection: Connection,
  { poolId }: Pool,
  [first, ...others]: readonly CorruptBlock[],
): Promise<StorageError> {
  const { lba, segmentId, blockIndex, sequence, queued, fault } = first;
  const device = await selectDeviceName(connection, poolId, segmentId);
  const place = `device ${device}, segment ${segmentId}, block ${blockIndex}`;
  const more = others.length === 0 ? "" : `; so are ${others.length} more of what was asked for`;
  return new StorageError(
    "data-corrupt",
    `Cannot read LBA ${lba}: its data are not as they were written (${place}, sequence ${sequence}, ${
      queued ? "in the cache" : "flushed"
    }: ${fault})${more}`,
  );
}
