/**
 * Append: a batch of requests is put at the tail of the queue by one transaction.
 *
 * Invariants kept here:
 * - *Atomic* (4): a request's entries are consecutive and committed together, so a marker is before or behind them all.
 * - *Room* (7): the destination is fixed here. For each slot touched, the segment mapped for (timeline, slot, open
 *   epoch) is found, or one is taken from the free list and mapped in the same transaction. So an acknowledged write
 *   always has its room, and a pool out of segments refuses requests instead of stopping its queue.
 * - One request's fault (a volume just deleted, a range past its end, no room) fails that request alone.
 *
 * A batch is planned from where the pool's head stands, and then committed by one message that moves the head on from
 * there: the lock, the map's new rows, the entries and the commit. What the plan stands on (which volumes there are, what
 * their slots are mapped to, which segments are free) changes only together with the head's sequence or map version.
 * So a plan made without the lock is as good as one made under it, or else its message fails as a whole.
 *
 * The steps:
 * 1. forget the map if the head's version is a new one
 * 2. read the volumes that are not remembered
 * 3. judge each request: volume, ranges, the cache's bound; find what a trim has to cover
 * 4. look up the slots that are not remembered
 * 5. choose free segments for those that are not mapped, in the order of the requests
 * 6. in one message: move the head, take the segments, map them, copy the entries; or write their blocks through, and then
 *    take and map the segments
 */

import type { Connection, Database, Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { requireInside, toBlockCount } from "./block.ts";
import { COMMIT_RELAXED } from "./cache_mode.ts";
import { copyEntries, type NewEntry } from "./cache.ts";
import { CHECKSUM_BYTES, checksumBlocks } from "./checksum.ts";
import { findFreeSegments, formatTaking, FreeChoice, type FreeSegment } from "./free_list.ts";
import type { Learnt, OpenMap, OpenSlot, OpenVolume } from "./open_map.ts";
import { formatAdvance, type Pool, type PoolHead } from "./pool.ts";
import { findMappedSlots, findSegments, formatMapping, type SlotRange } from "./segment_map.ts";
import { type SegmentRef, type SlotRun, splitIntoSlots, toSlot } from "./segment.ts";
import { formatTakenSpace } from "./space.ts";
import { copyThrough, isWrittenThrough } from "./write_through.ts";

/** Blocks to store from `lba` on. `data` is a whole number of blocks and must not change until the request is answered. */
export interface Write {
  readonly lba: number;
  readonly data: Uint8Array;
}

/** A write with the checksums of its blocks, {@linkcode checksumBlocks}: what is appended. */
export interface CheckedWrite extends Write {
  readonly checksums: Uint8Array;
}

/** Blocks that read as zeros from then on. */
export interface Trim {
  readonly lba: number;
  readonly trim: number;
}

/** Writes and trims of one volume, or of staged contents, done in order and as one: wholly before or wholly behind any marker. */
export interface AppendRequest {
  readonly volumeId: string;
  readonly clientId: string;
  readonly priority: number;
  readonly writes: (CheckedWrite | Trim)[];
  readonly sizeBytes: number;
  /** What the request costs a transaction, in bytes: its data, and each entry of a trim as much as {@linkcode ENTRY_BYTES}. */
  readonly weightBytes: number;
}

/** What an entry without data costs: its row, its share of the map, its place in memory while it is appended. */
export const ENTRY_BYTES = 512;

/** The place of a request that was appended. */
export interface Appended {
  /** Of its last entry. */
  readonly sequence: number;
  /** Where its commit was relaxed: the life of the database. If that is another at the next flush, it may be lost. */
  readonly writeVerifier?: string;
}

/** What became of a request: its place, or why it was refused. */
export type AppendOutcome = Appended | StorageError;

/** A batch that is ready to be committed. */
export interface AppendPlan {
  /** The answers, in the order of the requests; they hold once the plan is committed. */
  readonly outcomes: AppendOutcome[];
  /** What is to be remembered of the map, once the plan is to be committed. */
  readonly learnt: Learnt;
  readonly entries: NewEntry[];
  /** What makes room for the entries. */
  readonly statements: string[];
  /** Where the blocks are written through: what follows them. */
  readonly behind?: string[];
  /** Where the head stands once it is committed. */
  readonly head: PoolHead;
}

/** A connection to read by, once there is something to read. */
export type Connect = () => Promise<Connection>;

// Statements

interface OpenVolumeRow {
  volume_id: string;
  entries_of: string;
  block_count: number;
  timeline_id: number;
  open_epoch: number;
  device_id: string | null;
  is_whole: boolean;
}

/** A timeline that maps nothing at all is whole; whether an open epoch is empty would be a walk over all of its slots. */
async function selectOpenVolumes(
  { $client }: Connection,
  poolId: string,
  volumeIds: string[],
): Promise<OpenVolume[]> {
  const rows = await $client<OpenVolumeRow[]>`
    select v.volume_id, v.entries_of, v.block_count, v.timeline_id, v.device_id, t.open_epoch, not exists (
        select from segment_map m where m.pool_id = ${poolId} and m.timeline_id = v.timeline_id
      ) as is_whole
    from (
      select volume_id, volume_id as entries_of, block_count, timeline_id, null::uuid as device_id from volumes
      where pool_id = ${poolId} and volume_id = any(${volumeIds}::uuid[]) and deleted_at is null
      union all
      select staging_id, volume_id, block_count, timeline_id, device_id from stagings
      where pool_id = ${poolId} and staging_id = any(${volumeIds}::uuid[])
    ) v join timelines t on t.pool_id = ${poolId} and t.timeline_id = v.timeline_id`;
  return rows.map((row) => ({
    volumeId: row.volume_id,
    entriesOf: row.entries_of,
    blockCount: row.block_count,
    timelineId: row.timeline_id,
    epoch: row.open_epoch,
    ...(row.device_id === null ? {} : { deviceId: row.device_id }),
    segments: new Map(),
    isWhole: row.is_whole,
  }));
}

// Verbs

/** Gives writes the checksums of their blocks. */
export function checkWrites(writes: (Write | Trim)[], { blockSizeBytes }: Pool): (CheckedWrite | Trim)[] {
  return writes.map((write) =>
    "data" in write ? { ...write, checksums: checksumBlocks(write.lba, write.data, blockSizeBytes) } : write
  );
}

/**
 * Plans to append `requests` where `head` stands. Nothing is changed.
 *
 * @param connect is called only for what is not remembered, and may throw.
 */
export async function planBatch(
  connect: Connect,
  pool: Pool,
  map: OpenMap,
  head: PoolHead,
  requests: AppendRequest[],
): Promise<AppendPlan> {
  // 1.
  map.syncTo(head);
  // 2.
  const { known, learnt } = await findVolumes(connect, pool.poolId, map, requests);
  // 3.
  const through = isWrittenThrough(head, pool, requests);
  const judged = await judge(connect, pool, through ? undefined : head, known, requests);
  // 4. and 5.
  const segments = new BatchSegments();
  await segments.lookUp(connect, pool.poolId, judged);
  const { outcomes, free } = await allocate(connect, pool.poolId, map.free, segments, judged);
  // 6.
  const entries = toEntries(head, segments, requests, outcomes);
  const by = {
    sequences: entries.length,
    bytes: entries.reduce((sum, { data }) => sum + (data?.length ?? 0), 0),
    through,
  };
  const allocation = formatAllocation(pool.poolId, segments.taken);
  const relaxed = head.cacheMode === "write-back-relaxed" && !outcomes.some(isStaged);
  const told = relaxed ? { writeVerifier: head.life } : {};
  return {
    outcomes: outcomes.map((outcome) =>
      outcome instanceof StorageError ? outcome : { sequence: outcome.sequence, ...told }
    ),
    learnt: { volumes: learnt, slots: segments.found, free },
    entries,
    statements: [
      ...(relaxed ? [COMMIT_RELAXED] : []),
      formatAdvance(pool.poolId, head, by),
      ...(through ? [] : allocation),
    ],
    ...(through ? { behind: allocation } : {}),
    head: moveHead(head, by),
  };
}

function moveHead(
  head: PoolHead,
  { sequences, bytes, through }: { sequences: number; bytes: number; through: boolean },
): PoolHead {
  const sequenceAppended = head.sequenceAppended + sequences;
  if (through) return { ...head, sequenceAppended, entriesThrough: head.entriesThrough + sequences };
  return {
    ...head,
    sequenceAppended,
    bytesAppended: head.bytesAppended + bytes,
    dirtyEntries: head.dirtyEntries + sequences,
    dirtyBytes: head.dirtyBytes + bytes,
  };
}

/**
 * Commits a plan: within a transaction, or for a database in one of its own.
 *
 * @param onHeld is called when the head is moved and its lock held, before the entries are copied.
 * @throws what {@linkcode isHeadMoved} tells, when the head was not where the plan has it: nothing was changed then.
 */
export async function commitPlan(
  connection: Database | Transaction,
  { poolId }: Pool,
  { entries, statements, behind }: AppendPlan,
  at: Date,
  onHeld?: () => void,
): Promise<void> {
  if (entries.length === 0) return;
  if (behind === undefined) await copyEntries(connection, poolId, statements, entries, at, onHeld);
  else await copyThrough(connection, poolId, { before: statements, behind }, entries, onHeld);
}

/** A request that may be appended, cut at its volume's slots. */
interface Planned {
  readonly volume: OpenVolume;
  readonly runs: PlannedRun[];
  sequence: number;
}

function isStaged(plan: Planned | StorageError): boolean {
  return !(plan instanceof StorageError) && plan.volume.entriesOf !== plan.volume.volumeId;
}

interface PlannedRun extends SlotRun {
  readonly data?: Uint8Array;
  readonly checksums?: Uint8Array;
  /** Absent for a trim that finds nothing mapped. */
  readonly mapped: boolean;
}

async function findVolumes(
  connect: Connect,
  poolId: string,
  map: OpenMap,
  requests: AppendRequest[],
): Promise<{ known: Map<string, OpenVolume>; learnt: OpenVolume[] }> {
  const known = new Map<string, OpenVolume>();
  const unknown = new Set<string>();
  for (const { volumeId } of requests) {
    const volume = map.getVolume(volumeId);
    if (volume === undefined) unknown.add(volumeId);
    else known.set(volumeId, volume);
  }
  const learnt = unknown.size === 0 ? [] : await selectOpenVolumes(await connect(), poolId, [...unknown]);
  for (const volume of learnt) known.set(volume.volumeId, volume);
  return { known, learnt };
}

async function judge(
  connect: Connect,
  pool: Pool,
  /** Absent where the cache takes no part. */
  head: PoolHead | undefined,
  volumes: Map<string, OpenVolume>,
  requests: AppendRequest[],
): Promise<(Planned | StorageError)[]> {
  const judged: (Planned | StorageError)[] = [];
  const written = new WrittenSlots();
  let dirtyBytes = head?.dirtyBytes ?? 0;
  for (const request of requests) {
    try {
      const volume = requireVolume(volumes, request.volumeId);
      requireRanges(pool, volume, request);
      if (head !== undefined) requireCacheRoom(pool, dirtyBytes, request);
      dirtyBytes += request.sizeBytes;
      judged.push({ volume, runs: await planRuns(connect, pool, volume, request, written), sequence: 0 });
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      judged.push(error);
    }
  }
  return judged;
}

function requireVolume(volumes: Map<string, OpenVolume>, volumeId: string): OpenVolume {
  const volume = volumes.get(volumeId);
  if (volume === undefined) throw new StorageError("volume-not-found", `Cannot find volume ${volumeId}`);
  return volume;
}

function requireRanges(pool: Pool, volume: OpenVolume, { writes }: AppendRequest): void {
  for (const write of writes) {
    if ("data" in write) {
      const blockCount = toBlockCount(write.data.length, pool.blockSizeBytes);
      requireInside({ lba: write.lba, blockCount }, volume.blockCount, "write");
    } else {
      requireInside({ lba: write.lba, blockCount: write.trim }, volume.blockCount, "trim");
    }
  }
}

function requireCacheRoom(pool: Pool, dirtyBytes: number, { sizeBytes }: AppendRequest): void {
  if (sizeBytes > pool.cacheBytesMax) {
    throw new StorageError(
      "request-too-large",
      `Cannot write ${sizeBytes} bytes at once: the cache of pool ${pool.name} holds at most ${pool.cacheBytesMax}`,
    );
  }
  if (sizeBytes > 0 && dirtyBytes + sizeBytes > pool.cacheBytesMax) {
    throw new StorageError(
      "cache-full",
      `Cannot write ${sizeBytes} bytes: the cache of pool ${pool.name} holds ${dirtyBytes} of at most ${pool.cacheBytesMax}`,
    );
  }
}

/** The slots that requests of this batch write before a trim of the same batch comes by. */
class WrittenSlots {
  readonly #slots = new Map<OpenVolume, Set<number>>();

  add(volume: OpenVolume, slot: number): void {
    const slots = this.#slots.get(volume);
    if (slots === undefined) this.#slots.set(volume, new Set([slot]));
    else slots.add(slot);
  }

  has(volume: OpenVolume, slot: number): boolean {
    return this.#slots.get(volume)?.has(slot) ?? false;
  }
}

async function planRuns(
  connect: Connect,
  pool: Pool,
  volume: OpenVolume,
  { writes }: AppendRequest,
  written: WrittenSlots,
): Promise<PlannedRun[]> {
  const runs: PlannedRun[] = [];
  const mapped = await findTrimmedSlots(connect, pool, volume, writes);
  for (const write of writes) {
    const cut = "data" in write ? cutWrite(pool, write) : cutTrim(pool, volume, write, mapped, written);
    for (const run of cut) if (run.mapped) written.add(volume, run.slot);
    runs.push(...cut);
  }
  return runs;
}

function cutWrite(
  { blockSizeBytes, segmentBlocks }: Pool,
  { lba, data, checksums }: CheckedWrite,
): PlannedRun[] {
  const range = { lba, blockCount: data.length / blockSizeBytes };
  return splitIntoSlots(range, segmentBlocks).map((run) => {
    const [first, end] = [run.lba - lba, run.lba - lba + run.blockCount];
    return {
      ...run,
      data: data.subarray(first * blockSizeBytes, end * blockSizeBytes),
      checksums: checksums.subarray(first * CHECKSUM_BYTES, end * CHECKSUM_BYTES),
      mapped: true,
    };
  });
}

/** Of the slots that a request's trims touch, those that are mapped. */
async function findTrimmedSlots(
  connect: Connect,
  { poolId, segmentBlocks }: Pool,
  volume: OpenVolume,
  writes: (Write | Trim)[],
): Promise<Set<number>> {
  const ranges = writes.flatMap((write) => "data" in write ? [] : [toSlotRange(write, segmentBlocks)]);
  if (ranges.length === 0) return new Set();
  return new Set(await findMappedSlots((await connect()).$client, poolId, volume.timelineId, ranges));
}

function toSlotRange({ lba, trim }: Trim, segmentBlocks: number): SlotRange {
  return { firstSlot: toSlot(lba, segmentBlocks), endSlot: toSlot(lba + trim - 1, segmentBlocks) + 1 };
}

/** A slot that nothing was ever written to reads as zeros already, so a trim covers only the others. */
function cutTrim(
  { segmentBlocks }: Pool,
  volume: OpenVolume,
  { lba, trim }: Trim,
  mapped: Set<number>,
  written: WrittenSlots,
): PlannedRun[] {
  const range = { lba, blockCount: trim };
  const runs = splitIntoSlots(range, segmentBlocks)
    .filter(({ slot }) => mapped.has(slot) || written.has(volume, slot))
    .map((run) => ({ ...run, mapped: true }));
  return runs.length > 0
    ? runs
    : [{ ...range, slot: toSlot(lba, segmentBlocks), firstBlock: 0, mapped: false }];
}

/** The segments of the slots that a batch touches: remembered ones, looked up ones, new ones. */
class BatchSegments {
  /** What was not remembered, to be remembered after the commit. */
  readonly found: OpenSlot[] = [];
  /** What was not mapped before. */
  readonly taken: (OpenSlot & { segment: FreeSegment })[] = [];
  readonly #found = new Map<OpenVolume, Map<number, SegmentRef>>();

  get(volume: OpenVolume, slot: number): SegmentRef | undefined {
    return volume.segments.get(slot) ?? this.#found.get(volume)?.get(slot);
  }

  /** The slots of a request that have no segment yet, each once. */
  missing({ volume, runs }: Planned): number[] {
    const slots = runs.filter(({ mapped, slot }) => mapped && this.get(volume, slot) === undefined);
    return [...new Set(slots.map(({ slot }) => slot))];
  }

  async lookUp(connect: Connect, poolId: string, judged: (Planned | StorageError)[]): Promise<void> {
    const wanted = new Map<string, { volume: OpenVolume; slot: number }>();
    for (const plan of judged) {
      if (plan instanceof StorageError) continue;
      if (plan.volume.isWhole) continue;
      for (const slot of this.missing(plan)) {
        wanted.set(`${plan.volume.volumeId} ${slot}`, { volume: plan.volume, slot });
      }
    }
    if (wanted.size === 0) return;
    const slots = [...wanted.values()];
    const keys = slots.map(({ volume: { timelineId, epoch }, slot }) => ({ timelineId, slot, epoch }));
    for (const [index, segment] of await findSegments(await connect(), poolId, keys)) {
      this.#add({ ...slots[index], segment });
    }
  }

  take(volume: OpenVolume, slot: number, segment: FreeSegment): void {
    const taken = { volume, slot, segment };
    this.taken.push(taken);
    this.#add(taken);
  }

  #add(open: OpenSlot): void {
    this.found.push(open);
    const slots = this.#found.get(open.volume);
    if (slots === undefined) this.#found.set(open.volume, new Map([[open.slot, open.segment]]));
    else slots.set(open.slot, open.segment);
  }
}

/** Free segments are found ahead, this many at least, so that most batches need not ask for theirs. */
const FREE_AHEAD = 512;

/**
 * Gives each request, in order, the segments it lacks, or refuses it whole when there are not enough. Answers also which are
 * known to be free after that.
 */
async function allocate(
  connect: Connect,
  poolId: string,
  known: FreeSegment[],
  segments: BatchSegments,
  judged: (Planned | StorageError)[],
): Promise<{ outcomes: (Planned | StorageError)[]; free: FreeSegment[] }> {
  const wanted = judged.reduce(
    (sum, plan) => sum + (plan instanceof StorageError ? 0 : segments.missing(plan).length),
    0,
  );
  if (wanted === 0) return { outcomes: judged, free: known };
  const free = await findChoice(connect, poolId, known, wanted, judged);
  const outcomes = judged.map((plan) => {
    if (plan instanceof StorageError) return plan;
    const { volume } = plan;
    const missing = segments.missing(plan);
    const count = free.count(volume.deviceId);
    if (missing.length > count) {
      return new StorageError(
        "insufficient-space",
        `Cannot write: ${missing.length} segments are needed and ${count} are free; add a device, or delete snapshots`,
      );
    }
    for (const [index, segment] of free.take(missing.length, volume.deviceId).entries()) {
      segments.take(volume, missing[index], segment);
    }
    return plan;
  });
  return { outcomes, free: free.rest };
}

/** What is known to be free is enough for most batches; one with contents that are bound to a device looks anew. */
async function findChoice(
  connect: Connect,
  poolId: string,
  known: FreeSegment[],
  wanted: number,
  judged: (Planned | StorageError)[],
): Promise<FreeChoice> {
  const deviceIds = new Set<string>();
  for (const plan of judged) {
    if (!(plan instanceof StorageError) && plan.volume.deviceId !== undefined) {
      deviceIds.add(plan.volume.deviceId);
    }
  }
  if (deviceIds.size === 0 && known.length >= wanted) return new FreeChoice(known, new Map());
  const connection = await connect();
  const whole = await findFreeSegments(connection, poolId, Math.max(wanted, FREE_AHEAD));
  const ofDevice = new Map<string, FreeSegment[]>();
  for (const deviceId of deviceIds) {
    // As many more as others may take of it.
    ofDevice.set(deviceId, await findFreeSegments(connection, poolId, 2 * wanted, deviceId));
  }
  return new FreeChoice(whole, ofDevice);
}

/** Numbers the runs of the accepted requests, and tells each request its last number. */
function toEntries(
  head: PoolHead,
  segments: BatchSegments,
  requests: AppendRequest[],
  outcomes: (Planned | StorageError)[],
): NewEntry[] {
  const entries: NewEntry[] = [];
  let sequence = head.sequenceAppended;
  for (const [index, plan] of outcomes.entries()) {
    if (plan instanceof StorageError) continue;
    const { clientId, priority } = requests[index];
    const { entriesOf: volumeId } = plan.volume;
    for (const run of plan.runs) {
      sequence += 1;
      const segment = run.mapped ? segments.get(plan.volume, run.slot) : undefined;
      const { data, checksums } = run;
      entries.push({ sequence, clientId, priority, volumeId, run, segment, data, checksums });
    }
    plan.sequence = sequence;
  }
  return entries;
}

function formatAllocation(poolId: string, taken: BatchSegments["taken"]): string[] {
  if (taken.length === 0) return [];
  const mapped = taken.map(({ volume: { timelineId, epoch }, slot, segment }) => ({
    timelineId,
    slot,
    epoch,
    ...segment,
  }));
  return [
    ...formatTaking(poolId, taken.map(({ segment }) => segment)),
    formatMapping(poolId, mapped),
    ...formatTakenSpace(poolId, mapped),
  ];
}
