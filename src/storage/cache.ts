/**
 * The cache: the durable first-in-first-out queue of a pool, a PostgreSQL table.
 *
 * Invariants:
 * - *Durable* (1): entries are committed before their request is answered, with PostgreSQL's own durability.
 * - *Room* (7): an entry names the segment and block it will be flushed to. Flushing needs nothing that is not there.
 * - *Data is data* (10): `kind` makes an entry a marker. The marker's payload is there for people who read the table; a
 *   block of the same bytes is an ordinary write.
 *
 * An entry is a write (a run of blocks inside one segment), a trim (the same without data), or a marker. A trim that
 * found nothing to trim still is an entry, without a segment, so that every request has a sequence number of its own.
 *
 * What leaves the queue leaves it in one transaction with its arrival in `blocks`, so a block is always in one of the
 * two. A marker counts as an entry of no bytes.
 */

import type { Database, Transaction } from "../database/client.ts";
import { copyRowsAfter, type CopyTarget } from "../database/copy.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import type { SegmentRef, SlotRun } from "./segment.ts";

/** What a marker carries, so that a person reading the table sees it. */
export const MARKER_PAYLOAD = new TextEncoder().encode("$$$$$SNAPSHOTMARKER****.");

/** A write or a trim on its way into the cache. */
export interface NewEntry {
  readonly sequence: number;
  readonly clientId: string;
  readonly priority: number;
  readonly volumeId: string;
  readonly run: Pick<SlotRun, "lba" | "firstBlock" | "blockCount">;
  /** Where it will be flushed to; absent for a trim that found nothing mapped. */
  readonly segment?: SegmentRef;
  /** The blocks; absent for a trim. Owned by the request until the commit. */
  readonly data?: Uint8Array;
  /** Those of the blocks, one after the other. */
  readonly checksums?: Uint8Array;
}

/** An entry as the queue is shown: everything but the data. */
export interface QueuedEntry {
  readonly sequence: number;
  readonly kind: "write" | "trim" | "marker";
  readonly clientId: string;
  readonly priority: number;
  readonly volumeId?: string;
  readonly lba?: number;
  readonly blockCount: number;
  readonly sizeBytes: number;
  readonly appendedAt: Date;
}

// Statements

const COPIED = {
  table: "cache",
  columns: {
    pool_id: "uuid",
    sequence: "int8",
    kind: "text",
    client_id: "uuid",
    priority: "int2",
    volume_id: "uuid",
    lba: "int8",
    device_id: "uuid",
    segment_id: "int8",
    first_block: "int4",
    block_count: "int8",
    size_bytes: "int4",
    appended_at: "timestamptz",
    data: "bytea",
    checksums: "bytea",
  },
} as const satisfies CopyTarget;

interface EntryRow {
  sequence: number;
  kind: QueuedEntry["kind"];
  client_id: string;
  priority: number;
  volume_id: string | null;
  lba: number | null;
  block_count: number;
  size_bytes: number;
  appended_at: string;
}

// Verbs

/**
 * Adds entries at the tail, in one message behind the `statements` that move the pool's head to make room for them. The
 * entries' sequences are the next ones of the head that those move from. `onHeld` is called when the statements are done.
 */
export async function copyEntries(
  connection: Database | Transaction,
  poolId: string,
  statements: string[],
  entries: NewEntry[],
  at: Date,
  onHeld?: () => void,
): Promise<void> {
  const rows = entries.map(({ sequence, clientId, priority, volumeId, run, segment, data, checksums }) => [
    poolId,
    sequence,
    data === undefined ? "trim" : "write",
    clientId,
    priority,
    volumeId,
    run.lba,
    segment?.deviceId ?? null,
    segment?.segmentId ?? null,
    segment === undefined ? null : run.firstBlock,
    run.blockCount,
    data?.length ?? 0,
    at,
    data ?? null,
    checksums ?? null,
  ]);
  await copyRowsAfter(connection, statements, COPIED, rows, onHeld);
}

/** Adds a marker at the tail. The pool is locked. */
export async function insertMarker(
  tx: Transaction,
  poolId: string,
  marker: { sequence: number; clientId: string; priority: number },
  at: Date,
): Promise<void> {
  await tx.$client`
    insert into cache (pool_id, sequence, kind, client_id, priority, block_count, size_bytes, appended_at, data)
    values (${poolId}, ${marker.sequence}, 'marker', ${marker.clientId}, ${marker.priority}, 0, 0,
      ${at.toISOString()}, ${MARKER_PAYLOAD})`;
}

/** The queue as it stands, oldest first; a page's key is the last entry's sequence. */
export async function listCache(
  database: Database,
  poolId: string,
  page: PageRequest,
): Promise<Page<QueuedEntry>> {
  const rows = await database.$client<EntryRow[]>`
    select sequence, kind, client_id, priority, volume_id, lba, block_count, size_bytes, appended_at
    from cache
    where pool_id = ${poolId} and sequence > ${page.after ?? 0}::bigint
    order by sequence
    limit ${page.itemsMax + 1}`;
  return toPage(rows, page, (row) => row.sequence, toEntry);
}

function toEntry(row: EntryRow): QueuedEntry {
  return {
    sequence: row.sequence,
    kind: row.kind,
    clientId: row.client_id,
    priority: row.priority,
    ...(row.volume_id === null ? {} : { volumeId: row.volume_id }),
    ...(row.lba === null ? {} : { lba: row.lba }),
    blockCount: row.block_count,
    sizeBytes: row.size_bytes,
    appendedAt: new Date(row.appended_at),
  };
}
