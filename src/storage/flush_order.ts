/**
 * The order of flushing: what is ahead of the oldest marker first; among that, higher priority first; then by sequence.
 *
 * So each client's entries keep their order, and nothing that comes behind a marker can keep it waiting. In whichever order
 * entries are flushed, no reader can tell: the highest sequence of a block wins, wherever it is.
 *
 * Most pools have clients of one priority. Then what is next is a run of the queue, and this file only sees that it is
 * so, by an index in which entries of priority 0 do not stand.
 */

import type { Transaction } from "../database/client.ts";
import type { StorageLimits } from "./limits.ts";

/** Entries out of turn, to be flushed together. */
export interface PrioritizedBatch {
  readonly sequences: number[];
  readonly bytes: number;
}

// Statements

const SEQUENCE_MAX = "9223372036854775807";

/** The sequence of the oldest marker, or one above all. */
function oldestMarker({ $client }: Transaction, poolId: string) {
  return $client`coalesce((
    select sequence from cache where pool_id = ${poolId} and kind = 'marker' order by sequence limit 1
  ), ${SEQUENCE_MAX}::bigint)`;
}

/** Tells whether priorities decide what is next. */
export async function hasPriorities(tx: Transaction, poolId: string): Promise<boolean> {
  const [{ found }] = await tx.$client<[{ found: boolean }]>`
    select exists (
      select from cache where pool_id = ${poolId} and priority <> 0 and kind <> 'marker'
        and sequence < ${oldestMarker(tx, poolId)}
    ) as found`;
  return found;
}

/** The next entries ahead of the oldest marker, in order, within the bounds but at least one. */
export async function selectPrioritized(
  tx: Transaction,
  poolId: string,
  limits: Pick<StorageLimits, "flushBatchBytesMax" | "flushBatchEntriesMax" | "flushBatchBlocksMax">,
): Promise<PrioritizedBatch> {
  const { $client } = tx;
  const of = (priorities: ReturnType<typeof $client>) =>
    $client`(
      select sequence, priority, size_bytes, case when segment_id is null then 0 else block_count end as blocks
      from cache
      where pool_id = ${poolId} and ${priorities} and kind <> 'marker' and sequence < ${
      oldestMarker(tx, poolId)
    }
      order by priority desc, sequence limit ${limits.flushBatchEntriesMax}
    )`;
  const [row] = await $client<[{ sequences: number[] | null; bytes: number }]>`
    select array_agg(sequence) as sequences, coalesce(sum(size_bytes), 0)::bigint as bytes
    from (
      select sequence, size_bytes, count(*) over queue as entries, sum(size_bytes) over queue as bytes,
        sum(blocks) over queue as blocks
      from (
        select * from (
          ${of($client`priority > 0`)}
          union all
          ${of($client`priority = 0`)}
          union all
          ${of($client`priority < 0`)}
        ) ahead
        order by priority desc, sequence limit ${limits.flushBatchEntriesMax}
      ) next
      window queue as (order by priority desc, sequence rows unbounded preceding)
    ) summed
    where entries = 1 or (bytes <= ${limits.flushBatchBytesMax}::bigint and blocks <= ${limits.flushBatchBlocksMax}::bigint)`;
  return { sequences: row.sequences ?? [], bytes: row.bytes };
}

/** Up to which sequence nothing is left in the queue, when all up to `flushed` is known to be gone. */
export async function findSequenceFlushed(
  { $client }: Transaction,
  poolId: string,
  flushed: number,
): Promise<number> {
  const [row] = await $client<[{ sequence: number }]>`
    select coalesce((
      select sequence - 1 from cache where pool_id = ${poolId} and sequence > ${flushed} order by sequence limit 1
    ), h.sequence_appended) as sequence
    from pool_heads h where h.pool_id = ${poolId}`;
  return row.sequence;
}
