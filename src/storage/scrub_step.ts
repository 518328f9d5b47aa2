/**
 * One step of a scrub ({@linkcode Scrub}): one bounded transaction that looks at the next blocks of a device.
 *
 * - *One at a time*: the pass's row is locked for the whole step, and who finds it locked goes on elsewhere. There is no lease to
 *   outlive. Killed anywhere, a step did nothing; the next one, here or elsewhere, does the same.
 * - No other lock is taken but at the end that of events, so neither appends nor flushes wait for it.
 * - *Told truthfully* (9): what was found stands in the row, and is told, in the transaction that found it.
 *
 * The steps:
 * 1. lock the pass, or leave
 * 2. read the next blocks
 * 3. compare each with its checksum
 * 4. move on; none was left: it is done
 * 5. tell of corrupt blocks, of progress when that is due, of the end
 */

import type { Transaction } from "../database/client.ts";
import { findFault } from "./checksum.ts";
import { appendEvent, type EventType } from "./event.ts";
import type { StorageLimits } from "./limits.ts";
import { type CorruptPlace, getScrub, PLACES_MAX, type Scrub, toEndBody } from "./scrub.ts";
import { getDevice } from "./device.ts";
import { getPool, type Pool } from "./pool.ts";

/** What a step needs besides its device. */
export interface ScrubContext {
  readonly limits: Pick<StorageLimits, "scrubStepBytes" | "scrubProgressMs">;
  readonly at: Date;
}

/** A device, by its ids. */
export interface ScrubbedDevice {
  readonly poolId: string;
  readonly deviceId: string;
}

// Statements

interface Position {
  done_segment: number;
  done_block: number;
  told_at: string;
  places: number;
}

async function lockScrub(
  tx: Transaction,
  { poolId, deviceId }: ScrubbedDevice,
): Promise<Position | undefined> {
  const [row] = await tx.$client<Position[]>`
    select done_segment, done_block, told_at, jsonb_array_length(corrupt) as places from scrubs
    where pool_id = ${poolId} and device_id = ${deviceId} and status = 'running'
    for update skip locked`;
  return row;
}

interface BlockRow {
  segment_id: number;
  block_index: number;
  sequence: number;
  data: Uint8Array | null;
  checksum: Uint8Array | null;
  timeline_id: number | null;
  slot: number | null;
}

/** The blocks behind the last one, in the order of their keys, with the rows of the map that name their segments. */
async function selectBlocks(
  tx: Transaction,
  { poolId, deviceId }: ScrubbedDevice,
  { done_segment: segmentId, done_block: blockIndex }: Position,
  blocksMax: number,
): Promise<BlockRow[]> {
  return await tx.$client<BlockRow[]>`
    select k.segment_id, k.block_index, k.sequence, k.data, k.checksum, m.timeline_id, m.slot
    from (
      select segment_id, block_index, sequence, data, checksum from blocks
      where pool_id = ${poolId} and device_id = ${deviceId}
        and (segment_id, block_index) > (${segmentId}::bigint, ${blockIndex}::integer)
      order by segment_id, block_index limit ${blocksMax}
    ) k
    left join lateral (
      select timeline_id, slot from segment_map where pool_id = ${poolId} and segment_id = k.segment_id limit 1
    ) m on true
    order by k.segment_id, k.block_index`;
}

async function selectVolumes(
  tx: Transaction,
  { poolId }: ScrubbedDevice,
  timelineIds: number[],
): Promise<Map<number, string>> {
  const rows = await tx.$client<{ timeline_id: number; volume_id: string | null }[]>`
    select timeline_id, volume_id from timelines
    where pool_id = ${poolId} and timeline_id = any(${timelineIds}::bigint[])`;
  return new Map(rows.flatMap((row) => row.volume_id === null ? [] : [[row.timeline_id, row.volume_id]]));
}

async function updateScrub(
  tx: Transaction,
  { poolId, deviceId }: ScrubbedDevice,
  { segmentId, blockIndex, checked, unchecked, corrupt, places, toldAt, endedAt }: {
    segmentId: number;
    blockIndex: number;
    checked: number;
    unchecked: number;
    corrupt: number;
    places: CorruptPlace[];
    toldAt: Date | undefined;
    endedAt: Date | undefined;
  },
): Promise<void> {
  await tx.$client`
    update scrubs set done_segment = ${segmentId}, done_block = ${blockIndex},
      blocks_checked = blocks_checked + ${checked}::bigint,
      blocks_unchecked = blocks_unchecked + ${unchecked}::bigint,
      blocks_corrupt = blocks_corrupt + ${corrupt}::bigint,
      corrupt = corrupt || ${JSON.stringify(places)}::text::jsonb,
      told_at = coalesce(${toldAt?.toISOString() ?? null}::timestamptz, told_at),
      status = ${endedAt === undefined ? "running" : "done"}, ended_at = ${endedAt?.toISOString() ?? null}
    where pool_id = ${poolId} and device_id = ${deviceId}`;
}

// Verbs

/** One step of scrubbing a device. Answers whether it went on: nothing is running, or another has it. */
export async function scrubStep(
  tx: Transaction,
  scrubbed: ScrubbedDevice,
  { limits, at }: ScrubContext,
): Promise<boolean> {
  // 1.
  const position = await lockScrub(tx, scrubbed);
  if (position === undefined) return false;
  const device = await getDevice(tx, scrubbed.deviceId, scrubbed.poolId);
  const pool = await getPool(tx, scrubbed.poolId);
  // 2.
  const blocksMax = Math.max(1, Math.floor(limits.scrubStepBytes / pool.blockSizeBytes));
  const rows = await selectBlocks(tx, scrubbed, position, blocksMax);
  // 3.
  const corrupt = rows.flatMap((row) => judge(pool, row));
  const places = await describe(tx, pool, scrubbed, corrupt.slice(0, PLACES_MAX - position.places));
  // 4.
  const last = rows.at(-1);
  const isEnd = rows.length < blocksMax;
  const isDue = at.getTime() - new Date(position.told_at).getTime() >= limits.scrubProgressMs;
  await updateScrub(tx, scrubbed, {
    segmentId: last?.segment_id ?? position.done_segment,
    blockIndex: last?.block_index ?? position.done_block,
    checked: rows.filter(({ checksum }) => checksum !== null).length,
    unchecked: rows.filter(({ data, checksum }) => data !== null && checksum === null).length,
    corrupt: corrupt.length,
    places,
    toldAt: isDue ? at : undefined,
    endedAt: isEnd ? at : undefined,
  });
  // 5.
  const scrub = await getScrub(tx, device);
  if (places.length > 0) {
    const { blocksCorrupt } = scrub;
    await tell(tx, scrub, "scrub.corrupt", at, { blocksCorrupt, corrupt: places });
  }
  if (isEnd) await tell(tx, scrub, "scrub.finished", at, toEndBody(scrub));
  else if (isDue) await tell(tx, scrub, "scrub.progress", at, toProgressBody(scrub));
  return true;
}

interface CorruptRow extends BlockRow {
  readonly fault: string;
}

function judge({ blockSizeBytes, segmentBlocks }: Pool, row: BlockRow): CorruptRow[] {
  const { slot, block_index: blockIndex, data, checksum } = row;
  const fault = slot === null
    ? "no map names its segment"
    : findFault(slot * segmentBlocks + blockIndex, data, checksum, blockSizeBytes);
  return fault === undefined ? [] : [{ ...row, fault }];
}

async function describe(
  tx: Transaction,
  { segmentBlocks }: Pool,
  scrubbed: ScrubbedDevice,
  rows: CorruptRow[],
): Promise<CorruptPlace[]> {
  if (rows.length === 0) return [];
  const timelineIds = rows.flatMap(({ timeline_id: timelineId }) => timelineId === null ? [] : [timelineId]);
  const volumes = await selectVolumes(tx, scrubbed, [...new Set(timelineIds)]);
  return rows.map(
    ({ segment_id: segmentId, block_index: block, sequence, fault, slot, timeline_id: timelineId }) => {
      const volumeId = timelineId === null ? undefined : volumes.get(timelineId);
      return {
        segmentId,
        block,
        sequence,
        fault,
        ...(slot === null ? {} : { lba: slot * segmentBlocks + block }),
        ...(volumeId === undefined ? {} : { volumeId }),
      };
    },
  );
}

function toProgressBody(
  { segmentsDone, segmentsTotal, blocksChecked, blocksUnchecked, blocksCorrupt }: Scrub,
) {
  return { segmentsDone, segmentsTotal, blocksChecked, blocksUnchecked, blocksCorrupt };
}

async function tell(
  tx: Transaction,
  { poolId, deviceId, scrubId }: Scrub,
  type: EventType,
  at: Date,
  body: Record<string, unknown>,
): Promise<void> {
  await appendEvent(tx, poolId, { type, at, deviceId, body: { scrubId, ...body } });
}
