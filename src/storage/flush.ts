/**
 * Flush: one bounded transaction that moves entries of a pool from the cache into the block tables, and seals the
 * snapshots whose markers then have nothing ahead of them.
 *
 * Invariants kept here:
 * - *Idempotent flush* (6): whatever a step does is in one transaction. Killed between any two statements, it did
 *   nothing; run again, it does the same. A block never replaces a newer one: `blocks` keeps its sequence.
 * - One flusher a pool at a time: the pool's row in `pool_tails` is locked for the whole step, and who finds it locked
 *   goes on elsewhere. There is no lease to outlive: the lock ends with the transaction, and PostgreSQL ends a
 *   transaction that idles. The pool row is never locked, so appends never wait for a flush.
 * - *Told truthfully* (9): a snapshot is sealed, its audit record completed and its event written in the transaction
 *   that takes its marker out of the queue.
 *
 * Entries are flushed by priority and then by sequence ({@linkcode selectPrioritized}), and never past the oldest marker. So each
 * client's writes keep their order, no marker is starved, and all that was ever flushed was ahead of every marker still in
 * the queue.
 *
 * `insert … select`, then `delete`, both inside the server: the data never leaves it, and on a distributed database both
 * run whole on the pool's node (11).
 *
 * The steps:
 * 1. lock the pool's tail, or leave
 * 2. choose the batch: what follows the last flushed entry, or where priorities decide the next of the highest, up to the
 *    oldest marker and the bounds
 * 3. copy the newest version of each of its blocks into `blocks`
 * 4. delete the batch from the cache
 * 5. take out the markers that are now at the head of the queue, and seal their snapshots
 * 6. move the tail; tell how far the next pending marker is
 */

import type { Transaction } from "../database/client.ts";
import { reselectedPhases } from "../scsi/phases.ts";
import { chainCompletion } from "./audit_chain.ts";
import { CHECKSUM_BYTES } from "./checksum.ts";
import { appendEvent } from "./event.ts";
import { findSequenceFlushed, hasPriorities, selectPrioritized } from "./flush_order.ts";
import type { StorageLimits } from "./limits.ts";
import type { Pool } from "./pool.ts";
import { toProgress } from "./seal_progress.ts";

/** Where a step can be interrupted by a test: after the numbered step of that name. */
export type FlushPoint = "locked" | "chosen" | "copied" | "deleted" | "sealed" | "moved";

/** What a step needs besides its pool. */
export interface FlushContext {
  readonly limits: Pick<StorageLimits, "flushBatchBytesMax" | "flushBatchEntriesMax" | "flushBatchBlocksMax">;
  readonly at: Date;
  /** Bytes a second of late, for whoever waits for a marker; 0 when not known. */
  readonly bytesPerSecond: number;
  /** Whether a `marker.progress` event is due. */
  readonly progressDue: boolean;
  readonly onPoint?: (point: FlushPoint) => void | Promise<void>;
}

/** What a step did. */
export interface Flushed {
  /** Another flusher has the pool. */
  readonly locked: boolean;
  readonly entryCount: number;
  readonly bytes: number;
  readonly sealedCount: number;
  /** How long each snapshot that it sealed was pending. */
  readonly sealMilliseconds: readonly number[];
  readonly progressTold: boolean;
}

// Statements

interface Tail {
  sequenceFlushed: number;
  entriesFlushed: number;
  bytesFlushed: number;
}

async function lockTail(tx: Transaction, poolId: string): Promise<Tail | undefined> {
  const [row] = await tx.$client<
    { sequence_flushed: number; entries_flushed: number; bytes_flushed: number }[]
  >`
    select sequence_flushed, entries_flushed, bytes_flushed from pool_tails where pool_id = ${poolId}
    for update skip locked`;
  if (row === undefined) return undefined;
  return {
    sequenceFlushed: row.sequence_flushed,
    entriesFlushed: row.entries_flushed,
    bytesFlushed: row.bytes_flushed,
  };
}

interface Batch {
  /** Entries before the first marker, within the bounds. */
  entry_count: number;
  bytes: number;
  /** Sequence of the last of them; null where there are none. */
  last_entry: number | null;
  /** Markers that follow them at once. */
  marker_count: number;
  /** Sequence of the last of all; null for an empty queue. */
  last: number | null;
}

/**
 * The batch: of the next entries in order those before the first marker, within the bounds but at least one; and the
 * markers that follow them at once. Chosen here, because thousands of rows would keep our process busy for milliseconds.
 */
async function selectBatch(
  tx: Transaction,
  poolId: string,
  after: number,
  limits: FlushContext["limits"],
): Promise<Batch> {
  const [row] = await tx.$client<[Batch]>`
    with head as (
      select sequence, kind = 'marker' as is_marker, size_bytes,
        count(*) filter (where kind <> 'marker') over queue as entries,
        count(*) filter (where kind = 'marker') over queue as markers,
        sum(size_bytes) over queue as bytes,
        sum(case when segment_id is null then 0 else block_count end) over queue as blocks
      from (
        select sequence, kind, size_bytes, segment_id, block_count from cache
        where pool_id = ${poolId} and sequence > ${after} order by sequence limit ${limits.flushBatchEntriesMax}
      ) next
      window queue as (order by sequence rows unbounded preceding)
    ), chosen as (
      select max(sequence) as last_entry, count(*) as entry_count, coalesce(sum(size_bytes), 0)::bigint as bytes
      from head
      where markers = 0 and (entries = 1 or
        (bytes <= ${limits.flushBatchBytesMax}::bigint and blocks <= ${limits.flushBatchBlocksMax}::bigint))
    )
    select c.entry_count, c.bytes, c.last_entry, m.marker_count, coalesce(m.last_marker, c.last_entry) as last
    from chosen c cross join lateral (
      select count(*) as marker_count, max(sequence) as last_marker from head h
      where h.is_marker and h.entries = c.entry_count and h.markers <= ${MARKERS_MAX}
    ) m`;
  return row;
}

/** Some entries of the cache: those with the sequences `(after, last]`, or with those that are listed. */
type Entries = { readonly after: number; readonly last: number } | { readonly sequences: number[] };

/** The condition that a row of the cache is one of the entries. */
function among({ $client }: Transaction, entries: Entries) {
  return "sequences" in entries
    ? $client`sequence = any(${entries.sequences}::bigint[])`
    : $client`sequence > ${entries.after} and sequence <= ${entries.last}`;
}

/**
 * Copies the newest version of each block of the entries.
 *
 * The versions are chosen by their keys alone, and their data joined to what is left: a sort that carries the data spills
 * to disk, which took 1.6 times as long.
 */
async function copyToBlocks(tx: Transaction, pool: Pool, entries: Entries): Promise<void> {
  const { poolId, blockSizeBytes } = pool;
  await tx.$client`
    insert into blocks (pool_id, device_id, segment_id, block_index, sequence, data, checksum)
    select c.pool_id, newest.device_id, newest.segment_id, newest.block_index, newest.sequence,
      substring(c.data from (newest.block_index - c.first_block) * ${blockSizeBytes}::integer + 1
        for ${blockSizeBytes}::integer),
      substring(c.checksums from (newest.block_index - c.first_block) * ${CHECKSUM_BYTES}::integer + 1
        for ${CHECKSUM_BYTES}::integer)
    from (
      select distinct on (k.device_id, k.segment_id, k.first_block + i)
        k.device_id, k.segment_id, k.first_block + i as block_index, k.sequence
      from (
        select sequence, device_id, segment_id, first_block, block_count from cache
        where pool_id = ${poolId} and ${among(tx, entries)} and segment_id is not null
      ) k cross join lateral generate_series(0, k.block_count::integer - 1) as i
      order by k.device_id, k.segment_id, k.first_block + i, k.sequence desc
    ) newest
    cross join lateral (
      select pool_id, first_block, data, checksums from cache where pool_id = ${poolId} and sequence = newest.sequence limit 1
    ) c
    on conflict (pool_id, device_id, segment_id, block_index) do update
      set sequence = excluded.sequence, data = excluded.data, checksum = excluded.checksum
      where blocks.sequence < excluded.sequence`;
}

async function deleteEntries(tx: Transaction, poolId: string, entries: Entries): Promise<void> {
  await tx.$client`delete from cache where pool_id = ${poolId} and ${among(tx, entries)}`;
}

interface SealedRow {
  snapshot_id: string;
  audit_id: string;
  scsi_status: string | null;
  created_at: string;
}

async function sealSnapshots(
  tx: Transaction,
  poolId: string,
  markers: { after: number; last: number },
  at: Date,
): Promise<(SealedRow & { marker_sequence: number })[]> {
  return await tx.$client<(SealedRow & { marker_sequence: number })[]>`
    update snapshots s set status = 'sealed', sealed_at = ${at.toISOString()}
    from audit a
    where s.pool_id = ${poolId} and s.marker_sequence > ${markers.after} and s.marker_sequence <= ${markers.last}
      and s.status = 'pending' and a.pool_id = s.pool_id and a.audit_id = s.audit_id
    returning s.snapshot_id, s.marker_sequence, s.audit_id, s.created_at, a.scsi_status`;
}

async function moveTail(
  tx: Transaction,
  poolId: string,
  tail: Tail,
  { at, bytesPerSecond }: FlushContext,
): Promise<void> {
  await tx.$client`
    update pool_tails set sequence_flushed = ${tail.sequenceFlushed}, entries_flushed = ${tail.entriesFlushed},
      bytes_flushed = ${tail.bytesFlushed}, bytes_per_second = ${bytesPerSecond}, flushed_at = ${at.toISOString()}
    where pool_id = ${poolId}`;
}

interface PendingRow {
  snapshot_id: string;
  marker_sequence: number;
  entries_through: number;
  bytes_before: number;
}

async function selectOldestPending(
  tx: Transaction,
  poolId: string,
  after: number,
): Promise<PendingRow | undefined> {
  const [row] = await tx.$client<PendingRow[]>`
    select snapshot_id, marker_sequence, entries_through, bytes_before from snapshots
    where pool_id = ${poolId} and marker_sequence > ${after} and status = 'pending'
    order by marker_sequence limit 1`;
  return row;
}

// Verbs

/** One step of flushing `pool`. */
export async function flushStep(tx: Transaction, pool: Pool, context: FlushContext): Promise<Flushed> {
  const { poolId } = pool;
  const reach = async (point: FlushPoint) => await context.onPoint?.(point);
  // 1.
  const tail = await lockTail(tx, poolId);
  if (tail === undefined) return { ...NOTHING_FLUSHED, locked: true };
  await reach("locked");
  // 2.
  const chosen = await chooseBatch(tx, poolId, tail, context.limits);
  if (chosen === undefined) return NOTHING_FLUSHED;
  await reach("chosen");
  const { entries, entryCount, bytes, markers, markerCount } = chosen;
  if (entryCount > 0) {
    // 3.
    await copyToBlocks(tx, pool, entries);
    await reach("copied");
  }
  // 4. The markers that follow go with the batch
  if (entryCount > 0) await deleteEntries(tx, poolId, entries);
  if (markerCount > 0) await deleteEntries(tx, poolId, markers);
  await reach("deleted");
  // 5.
  const sealMilliseconds = markerCount > 0 ? await seal(tx, poolId, markers, context.at) : [];
  await reach("sealed");
  // 6.
  const moved = {
    sequenceFlushed: await findSequenceFlushed(tx, poolId, chosen.flushed),
    entriesFlushed: tail.entriesFlushed + entryCount + markerCount,
    bytesFlushed: tail.bytesFlushed + bytes,
  };
  await moveTail(tx, poolId, moved, context);
  const progressTold = context.progressDue && await tellProgress(tx, poolId, moved, context);
  await reach("moved");
  return { locked: false, entryCount, bytes, sealedCount: markerCount, sealMilliseconds, progressTold };
}

/** What a step moves: entries, and the markers behind them. All up to `flushed` is gone then, and perhaps more. */
interface Chosen {
  readonly entries: Entries;
  readonly entryCount: number;
  readonly bytes: number;
  readonly markers: { readonly after: number; readonly last: number };
  readonly markerCount: number;
  readonly flushed: number;
}

/** The batch; nothing when the queue is empty. */
async function chooseBatch(
  tx: Transaction,
  poolId: string,
  { sequenceFlushed: after }: Tail,
  limits: FlushContext["limits"],
): Promise<Chosen | undefined> {
  const [batch, prioritized] = await Promise.all([
    selectBatch(tx, poolId, after, limits),
    hasPriorities(tx, poolId),
  ]);
  if (prioritized) {
    const { sequences, bytes } = await selectPrioritized(tx, poolId, limits);
    const markers = { after, last: after };
    return {
      entries: { sequences },
      entryCount: sequences.length,
      bytes,
      markers,
      markerCount: 0,
      flushed: after,
    };
  }
  const { entry_count: entryCount, marker_count: markerCount, bytes, last, last_entry: lastEntry } = batch;
  if (last === null) return undefined;
  const entries = { after, last: lastEntry ?? after };
  return { entries, entryCount, bytes, markers: { after: entries.last, last }, markerCount, flushed: last };
}

const NOTHING_FLUSHED: Flushed = {
  locked: false,
  entryCount: 0,
  bytes: 0,
  sealedCount: 0,
  sealMilliseconds: [],
  progressTold: false,
};

/** Snapshots sealed by one step: a marker that is placed meanwhile waits for their events. */
const MARKERS_MAX = 64;

/** Seals the snapshots whose markers have the sequences `(after, last]`. Answers how long each was pending. */
async function seal(
  tx: Transaction,
  poolId: string,
  markers: { after: number; last: number },
  at: Date,
): Promise<number[]> {
  const sealed = await sealSnapshots(tx, poolId, markers, at);
  const inOrder = sealed.toSorted((a, b) => a.marker_sequence - b.marker_sequence);
  // Commands that were not answered at their marker's commit are answered now. All of them before the first event: nobody waits
  // for the audit's lock while holding that of events.
  for (const row of inOrder.filter((row) => row.scsi_status === null)) {
    await chainCompletion(tx, poolId, row.audit_id, reselectedPhases(at), "GOOD");
  }
  for (const row of inOrder) {
    const { snapshot_id: snapshotId, marker_sequence: sequence } = row;
    await appendEvent(tx, poolId, { type: "snapshot.sealed", at, snapshotId, body: { sequence } });
  }
  return sealed.map((row) => Math.max(0, at.getTime() - new Date(row.created_at).getTime()));
}

async function tellProgress(
  tx: Transaction,
  poolId: string,
  tail: Tail,
  context: FlushContext,
): Promise<boolean> {
  const pending = await selectOldestPending(tx, poolId, tail.sequenceFlushed);
  if (pending === undefined) return false;
  const { snapshot_id: snapshotId, marker_sequence: sequence, bytes_before: bytesBefore } = pending;
  const { entries_through: entriesThrough } = pending;
  const progress = toProgress(
    { markerSequence: sequence, entriesThrough, bytesBefore },
    { ...tail, bytesPerSecond: context.bytesPerSecond },
  );
  await appendEvent(tx, poolId, {
    type: "marker.progress",
    at: context.at,
    snapshotId,
    body: { sequence, ...progress },
  });
  return true;
}
