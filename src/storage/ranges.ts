/**
 * Ranges: which blocks a volume or a snapshot has, and which differ between two snapshots of one line of timelines.
 *
 * Both look at parts of a lineage, a part being a timeline's epochs `(after, until]`. What a snapshot has is all of its lineage;
 * what changed since a base is the part of it behind the base. So the cost of a comparison follows the change: an index finds
 * the slots that an epoch has mapped. A block counts as changed when it was written or trimmed behind the base, whatever it held.
 *
 * A page looks at slots in order: first which, then which of their blocks, without reading any data.
 */

import type { Connection } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { BlockRange } from "./block.ts";
import { newestVersion } from "./block_version.ts";
import type { Page } from "./page.ts";
import type { Pool } from "./pool.ts";
import { lineageOf, type TimelinePoint } from "./timeline.ts";

/** A timeline's epochs `(after, until]`. */
export interface LineagePart {
  readonly timelineId: number;
  readonly after: number;
  readonly until: number;
}

/** Blocks that have data, or (`cleared`) that read as zeros. */
export interface FoundRange extends BlockRange {
  readonly cleared: boolean;
}

/** What to list: those blocks of the parts, newest part first, that lie in `within`, which ascends and does not overlap. */
export interface RangeQuery {
  readonly parts: LineagePart[];
  readonly within: BlockRange[];
  readonly itemsMax: number;
  /** A page looks at no more mapped slots than these, and need not be full; by default, at several thousand. */
  readonly slotsMax?: number;
}

/** A statement's share of it: the blocks `[lba, end)`. */
interface Window {
  readonly parts: LineagePart[];
  readonly lba: number;
  readonly end: number;
}

/** Slots that one statement looks at, and statements of one page: it may have fewer items than asked for. */
const SLOTS_MAX = 256;
const STATEMENTS_MAX = 16;

// Statements

async function selectLineage(
  { $client }: Connection,
  poolId: string,
  { timelineId, epoch }: TimelinePoint,
): Promise<TimelinePoint[]> {
  const rows = await $client<{ timeline_id: number; epoch: number }[]>`
    with recursive target as (select 1 as ordinal, ${timelineId}::bigint as timeline_id, ${epoch}::bigint as epoch),
    ${lineageOf($client, poolId)}
    select l.timeline_id, l.epoch
    from line cross join unnest(line.timeline_ids, line.epochs) with ordinality as l (timeline_id, epoch, depth)
    order by l.depth`;
  return rows.map((row) => ({ timelineId: row.timeline_id, epoch: row.epoch }));
}

/** Jumps from slot to slot, however many epochs each has. */
async function selectMappedSlots(
  { $client }: Connection,
  poolId: string,
  parts: LineagePart[],
  slots: { first: number; last: number; countMax: number },
): Promise<number[]> {
  const rows = await $client<{ slot: number }[]>`
    with recursive walk (timeline_id, until, slot, taken) as (
      select p.timeline_id, p.until, s.slot, 1
      from unnest(${parts.map((part) => part.timelineId)}::bigint[], ${
    parts.map((part) => part.until)
  }::bigint[])
        as p (timeline_id, until)
      cross join lateral (
        select slot from segment_map
        where pool_id = ${poolId} and timeline_id = p.timeline_id and slot >= ${slots.first}
          and slot <= ${slots.last} and epoch <= p.until
        order by slot, epoch limit 1
      ) s
      union all
      select w.timeline_id, w.until, s.slot, w.taken + 1
      from walk w cross join lateral (
        select slot from segment_map
        where pool_id = ${poolId} and timeline_id = w.timeline_id and slot > w.slot and slot <= ${slots.last}
          and epoch <= w.until
        order by slot, epoch limit 1
      ) s
      where w.taken < ${slots.countMax}
    )
    select distinct slot from walk order by slot limit ${slots.countMax}`;
  return rows.map(({ slot }) => slot);
}

/** Reads the rows of the epochs in question, and no others. */
async function selectChangedSlots(
  { $client }: Connection,
  poolId: string,
  parts: LineagePart[],
  slots: { first: number; last: number; countMax: number },
): Promise<number[]> {
  const rows = await $client<{ slot: number }[]>`
    select distinct m.slot
    from unnest(${parts.map((part) => part.timelineId)}::bigint[], ${
    parts.map((part) => part.after)
  }::bigint[],
      ${parts.map((part) => part.until)}::bigint[]) as p (timeline_id, after, until)
    cross join lateral (
      select slot from segment_map
      where pool_id = ${poolId} and timeline_id = p.timeline_id and epoch > p.after and epoch <= p.until
        and slot >= ${slots.first} and slot <= ${slots.last}
      order by epoch
    ) m
    order by m.slot limit ${slots.countMax}`;
  return rows.map(({ slot }) => slot);
}

interface PresenceRow {
  lba: number;
  present: boolean;
}

/** The blocks of `slots` that any of the parts has a version of, and whether the newest one has data. */
async function selectPresence(
  { $client: client }: Connection,
  pool: Pool,
  { parts, lba, end }: Window,
  slots: number[],
): Promise<PresenceRow[]> {
  const { poolId, segmentBlocks } = pool;
  return await client<PresenceRow[]>`
    select b.lba, found.present
    from unnest(${slots}::bigint[]) as s (slot)
    cross join generate_series(
      greatest(s.slot * ${segmentBlocks}::bigint, ${lba}::bigint),
      least((s.slot + 1) * ${segmentBlocks}::bigint, ${end}::bigint) - 1
    ) as b (lba)
    cross join lateral (
      select newest.present
      from unnest(${parts.map((part) => part.timelineId)}::bigint[], ${
    parts.map((part) => part.after)
  }::bigint[],
        ${parts.map((part) => part.until)}::bigint[]) with ordinality as p (timeline_id, after, until, depth)
      cross join lateral (
        select version.data as present
        from segment_map m cross join lateral ${newestVersion(client, pool, "presence")} version
        where m.pool_id = ${poolId} and m.timeline_id = p.timeline_id and m.epoch > p.after and m.epoch <= p.until
          and m.slot = s.slot
        order by m.epoch desc limit 1
      ) newest
      order by p.depth limit 1
    ) found
    order by b.lba`;
}

// Verbs

/** Everything that a reader of `point` may see. */
export async function findLineage(
  connection: Connection,
  poolId: string,
  point: TimelinePoint,
): Promise<LineagePart[]> {
  const lineage = await selectLineage(connection, poolId, point);
  return lineage.map(({ timelineId, epoch }) => ({ timelineId, after: -1, until: epoch }));
}

/**
 * What a reader of `target` may see and a reader of a base may not. The base is the first of `bases` that the target goes back to.
 *
 * @throws {StorageError} `unrelated-snapshots` when it goes back to none.
 */
export async function findPartsSince<Base extends TimelinePoint>(
  connection: Connection,
  poolId: string,
  target: TimelinePoint,
  bases: Base[],
): Promise<{ parts: LineagePart[]; base: Base }> {
  const lineage = await selectLineage(connection, poolId, target);
  for (const base of bases) {
    const depth = lineage.findIndex(({ timelineId, epoch }) =>
      timelineId === base.timelineId && epoch >= base.epoch
    );
    if (depth < 0) continue;
    const parts = lineage.slice(0, depth + 1).map(({ timelineId, epoch }, index) => ({
      timelineId,
      after: index === depth ? base.epoch : -1,
      until: epoch,
    }));
    return { parts, base };
  }
  throw new StorageError(
    "unrelated-snapshots",
    "Cannot tell what changed since the base: it is no earlier moment of what the volume or snapshot goes back to",
  );
}

/**
 * Tells whether a volume was written or trimmed in the parts, whatever it held: whether they map anything, for a slot is mapped by
 * its first entry.
 */
export async function isWritten(
  { $client }: Connection,
  poolId: string,
  parts: LineagePart[],
): Promise<boolean> {
  const [{ written }] = await $client<[{ written: boolean }]>`
    select exists (
      select from unnest(${parts.map((part) => part.timelineId)}::bigint[], ${
    parts.map((part) => part.after)
  }::bigint[],
        ${parts.map((part) => part.until)}::bigint[]) as p (timeline_id, after, until)
      cross join lateral (
        select from segment_map
        where pool_id = ${poolId} and timeline_id = p.timeline_id and epoch > p.after and epoch <= p.until
        order by epoch limit 1
      ) m
    ) as written`;
  return written;
}

/** The blocks that have data, as ascending ranges. The page's key is the LBA to go on from. */
export async function listAllocated(
  connection: Connection,
  pool: Pool,
  query: RangeQuery,
): Promise<Page<FoundRange>> {
  const page = await listRanges(connection, pool, query, selectMappedSlots);
  return { ...page, items: page.items.filter(({ cleared }) => !cleared) };
}

/** The blocks that were written or cleared in the parts, as ascending ranges. The page's key is the LBA to go on from. */
export async function listChanged(
  connection: Connection,
  pool: Pool,
  query: RangeQuery,
): Promise<Page<FoundRange>> {
  return await listRanges(connection, pool, query, selectChangedSlots);
}

async function listRanges(
  connection: Connection,
  pool: Pool,
  { parts, within, itemsMax, slotsMax = SLOTS_MAX * STATEMENTS_MAX }: RangeQuery,
  selectSlots: typeof selectMappedSlots,
): Promise<Page<FoundRange>> {
  const { segmentBlocks, poolId } = pool;
  const items: FoundRange[] = [];
  const countMax = Math.min(slotsMax, SLOTS_MAX);
  const statementsMax = Math.ceil(slotsMax / SLOTS_MAX);
  let statements = 0;
  for (const { lba: start, blockCount } of within) {
    const end = start + blockCount;
    for (let lba = start; lba < end;) {
      if (statements === statementsMax) return { items, next: String(lba) };
      statements += 1;
      const [first, last] = [Math.floor(lba / segmentBlocks), Math.floor((end - 1) / segmentBlocks)];
      const slots = await selectSlots(connection, poolId, parts, { first, last, countMax });
      if (slots.length > 0) {
        addBlocks(items, await selectPresence(connection, pool, { parts, lba, end }, slots));
      }
      if (items.length > itemsMax) {
        return { items: items.slice(0, itemsMax), next: String(items[itemsMax].lba) };
      }
      lba = slots.length < countMax ? end : (slots[slots.length - 1] + 1) * segmentBlocks;
    }
  }
  return { items };
}

/** Adds blocks in ascending order, to the last range where they go on from it. */
function addBlocks(ranges: FoundRange[], blocks: PresenceRow[]): void {
  for (const { lba, present } of blocks) {
    const last = ranges.at(-1);
    if (last !== undefined && last.lba + last.blockCount === lba && last.cleared === !present) {
      ranges[ranges.length - 1] = { ...last, blockCount: last.blockCount + 1 };
    } else {
      ranges.push({ lba, blockCount: 1, cleared: !present });
    }
  }
}
