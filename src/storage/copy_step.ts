/**
 * One step of a copy ({@linkcode Copy}): a bounded piece of the phase that it is in, ended by an update of its row.
 *
 * What a step reads is bounded by `copyStepBytes`: as many slots of the source as have that, or as many pieces of a digest.
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Appender } from "./appender.ts";
import { finishDigest } from "./contents_digest.ts";
import {
  type Copy,
  type CopyMove,
  type CopyPhase,
  failCopy,
  findLastCopy,
  finishCopy,
  lockReadableSnapshot,
  moveCopy,
  moveCopyWithin,
} from "./copy.ts";
import { type CoveredVolume, requireWhole } from "./covered.ts";
import { toCopyName } from "./derived_name.ts";
import { type Difference, openDifference } from "./difference.ts";
import { type DigestedContents, extendDigest } from "./digested_contents.ts";
import { finishImportWithin } from "./import.ts";
import type { StorageLimits } from "./limits.ts";
import { getPool, lockPool, type Pool, type PoolHead } from "./pool.ts";
import { findLineage, findPartsSince, type FoundRange, listAllocated } from "./ranges.ts";
import { readTargets, requireIntact } from "./read.ts";
import { getCovered, getSnapshot, type Snapshot } from "./snapshot.ts";
import { chooseSnapshotName } from "./snapshot_name.ts";
import { isPassing, StagedWriter } from "./staged_writer.ts";
import { beginStagingWithin, getStaging, type Staging } from "./staging.ts";
import { EPOCH_LIVE } from "./timeline.ts";

/** What a worker works with. */
export interface CopyContext {
  readonly database: Database;
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  readonly workerId: string;
  readonly appenderOf: (pool: Pool) => Appender;
}

/** Ranges of one page; with fewer slots than that a page ends before. */
const RANGES_MAX = 10_000;

const STEPS: Readonly<Record<CopyPhase, (context: CopyContext, copy: Copy) => Promise<boolean>>> = {
  beginning: begin,
  counting: count,
  copying: write,
  digesting: digestSource,
  verifying: digestTarget,
  switching: switchMirror,
  telling: tell,
};

/**
 * Does one step of a copy that the worker has. Answers whether it went on, or else waits for the flusher of the other pool.
 *
 * @throws {CopyLostError} when the worker has it no longer; {@linkcode StorageError} when it cannot go on.
 */
export async function stepCopy(context: CopyContext, copy: Copy): Promise<boolean> {
  return await STEPS[copy.phase](context, copy);
}

// Beginning

/** What a copy can be refused for as a difference; it is then one of everything. */
const FULL_INSTEAD = ["volume-changed", "snapshot-not-found", "unrelated-snapshots", "outside-snapshot"];

async function begin({ database, workerId }: CopyContext, copy: Copy): Promise<boolean> {
  await transact(database, async (tx) => {
    const head = await lockPool(tx, copy.targetPoolId);
    const covered = requireWhole(await getCovered(tx, copy.poolId, copy.snapshotId, copy.volumeId));
    const { staging, baseId } = await stageDifference(tx, head, copy, covered) ??
      { staging: await stage(tx, head, copy, covered), baseId: null };
    await moveCopyWithin(tx, copy, workerId, { phase: "counting", stagingId: staging.stagingId, baseId });
  });
  return true;
}

/** Nothing when it has to be a copy of everything. Whatever refuses it has changed nothing. */
async function stageDifference(
  tx: Transaction,
  head: PoolHead,
  copy: Copy,
  covered: CoveredVolume,
): Promise<{ staging: Staging; baseId: string } | undefined> {
  const last = await findLastCopy(tx, copy);
  if (last?.targetSnapshotId === undefined) return undefined;
  try {
    await requireBase(tx, copy, covered, last.snapshotId);
    return {
      staging: await stage(tx, head, copy, covered, last.targetSnapshotId),
      baseId: last.snapshotId,
    };
  } catch (error) {
    if (error instanceof StorageError && FULL_INSTEAD.includes(error.code)) return undefined;
    throw error;
  }
}

/** The base stays from now on, for it is locked until the row names it. */
async function requireBase(
  tx: Transaction,
  { poolId, volumeId }: Copy,
  covered: CoveredVolume,
  baseId: string,
): Promise<void> {
  if (!await lockReadableSnapshot(tx, poolId, baseId)) {
    throw new StorageError("snapshot-not-found", `Cannot find snapshot ${baseId}`);
  }
  const base = await getCovered(tx, poolId, baseId, volumeId);
  await findPartsSince(tx, poolId, covered, [requireWhole(base)]);
}

async function stage(
  tx: Transaction,
  head: PoolHead,
  { targetPoolId, targetVolumeId, deviceId }: Copy,
  { volumeBlocks: blockCount }: CoveredVolume,
  baseId?: string,
): Promise<Staging> {
  const input = {
    blockCount,
    ...(baseId === undefined ? {} : { baseId }),
    ...(deviceId === undefined ? {} : { deviceId }),
  };
  return await beginStagingWithin(tx, head, targetPoolId, targetVolumeId, input);
}

// Counting and copying

async function count(context: CopyContext, copy: Copy): Promise<boolean> {
  const { pool, list } = await openSource(context, copy);
  const { items, next } = await list(copy.position, countSlots(context, pool));
  const blocks = items.reduce((sum, { cleared, blockCount }) => sum + (cleared ? 0 : blockCount), 0);
  const bytesTotal = copy.bytesTotal + blocks * pool.blockSizeBytes;
  await move(context, copy, { bytesTotal, ...toNext(next, { phase: "copying" }) });
  return true;
}

async function write(context: CopyContext, copy: Copy): Promise<boolean> {
  const source = await openSource(context, copy);
  const writer = await openWriter(context, copy);
  const { items, next } = await source.list(copy.position, countSlots(context, source.pool));
  const done = await writeRanges(source, writer, items);
  const bytesCopied = copy.bytesCopied + done.bytes;
  if (done.isFull) {
    if (done.end !== undefined) await move(context, copy, { bytesCopied, position: done.end });
    return done.end !== undefined;
  }
  if (next === undefined) await writer.clearBehind(source.covered.volumeBlocks);
  await move(context, copy, { bytesCopied, ...toNext(next, { phase: "digesting" }) });
  return true;
}

/** Up to where the ranges were written (`end`), how many bytes, and whether the cache was too full for more. */
async function writeRanges(
  { read, pool: { blockSizeBytes } }: Difference,
  writer: StagedWriter,
  ranges: FoundRange[],
): Promise<{ end?: number; bytes: number; isFull: boolean }> {
  let bytes = 0;
  let end: number | undefined;
  try {
    for (const range of cutRanges(ranges, writer.pieceBlocks)) {
      if (range.cleared) await writer.clear(range);
      else await copyRange(read, writer, range);
      bytes += range.cleared ? 0 : range.blockCount * blockSizeBytes;
      end = range.lba + range.blockCount;
    }
  } catch (error) {
    if (!isPassing(error)) throw error;
    return { bytes, isFull: true, ...(end === undefined ? {} : { end }) };
  }
  return { bytes, isFull: false };
}

/** The blocks go on with the checksums that they were read by. */
async function copyRange(read: Difference["read"], writer: StagedWriter, range: FoundRange): Promise<void> {
  const { bytes, checksums } = await read(range);
  await writer.write(range.lba, bytes, checksums);
}

function* cutRanges(ranges: FoundRange[], blocksMax: number): Generator<FoundRange> {
  for (const { lba, blockCount, cleared } of ranges) {
    for (let done = 0; done < blockCount; done += blocksMax) {
      yield { lba: lba + done, blockCount: Math.min(blocksMax, blockCount - done), cleared };
    }
  }
}

// Digesting and verifying

async function digestSource(context: CopyContext, copy: Copy): Promise<boolean> {
  const { limits: { copyStepBytes } } = context;
  const contents = await openWholeSource(context, copy);
  const { chain, next } = await extendDigest(contents, copy.position, copy.sourceChain, copyStepBytes);
  await move(context, copy, { sourceChain: chain, ...toNext(next, { phase: "verifying" }) });
  return true;
}

async function digestTarget(context: CopyContext, copy: Copy): Promise<boolean> {
  const { database, clock, workerId, limits: { copyStepBytes } } = context;
  const contents = await openStaged(context, copy);
  const { chain, next } = await extendDigest(contents, copy.position, copy.targetChain, copyStepBytes);
  if (next !== undefined) {
    await move(context, copy, { targetChain: chain, position: next });
    return true;
  }
  const sizeBytes = contents.blockCount * contents.pool.blockSizeBytes;
  const source = (await finishDigest(copy.sourceChain, sizeBytes)).toHex();
  const target = (await finishDigest(chain, sizeBytes)).toHex();
  if (source === target) {
    await move(context, copy, { targetChain: chain, digest: source, phase: "switching" });
  } else {
    const detail = `Cannot trust the copy: the source has the digest ${source}, the copy ${target}`;
    await failCopy(database, copy, workerId, { code: "contents-differ", detail }, clock());
  }
  return true;
}

async function openWholeSource(context: CopyContext, copy: Copy): Promise<DigestedContents> {
  const { baseId: _, ...whole } = copy;
  const source = await openSource(context, whole);
  return {
    ...source,
    blockCount: source.covered.volumeBlocks,
    read: async (range) => (await source.read(range)).bytes,
  };
}

async function openStaged(context: CopyContext, copy: Copy): Promise<DigestedContents> {
  const { database } = context;
  const pool = await getPool(database, copy.targetPoolId);
  const { covered: { volumeBlocks: blockCount } } = await openSource(context, copy);
  const { timelineId } = await getCopyStaging(database, copy);
  const point = { timelineId, epoch: EPOCH_LIVE };
  const parts = await findLineage(database, pool.poolId, point);
  return {
    pool,
    blockCount,
    list: (lba, slotsMax) => {
      const within = [{ lba, blockCount: blockCount - lba }];
      return listAllocated(database, pool, { parts, within, itemsMax: RANGES_MAX, slotsMax });
    },
    read: async (range) => {
      const [found] = await readTargets(database, pool, [{ ...range, ...point }]);
      if (found === undefined) throw new Error("The staged contents cannot be read");
      return requireIntact(found).bytes;
    },
  };
}

// Switching and telling

async function switchMirror(context: CopyContext, copy: Copy): Promise<boolean> {
  const { database, clock, workerId, appenderOf } = context;
  const pool = await getPool(database, copy.targetPoolId);
  const { snapshot, covered: { volumeBlocks: blockCount } } = await openSource(context, copy);
  const { stagingId } = await getCopyStaging(database, copy);
  await appenderOf(pool).runAlone(() =>
    transact(database, async (tx) => {
      const found = await lockPool(tx, pool.poolId);
      // Locks the job: from here on nobody cancels it.
      const mine = await moveCopyWithin(tx, copy, workerId, { phase: "telling", stagingId: null });
      const finished = {
        volumeId: mine.targetVolumeId,
        stagingId,
        blockCount,
        name: await chooseName(tx, pool, snapshot),
      };
      const imported = await finishImportWithin(tx, copy.actor, pool, found, finished, clock);
      await moveCopyWithin(tx, copy, workerId, { targetSnapshotId: imported.snapshotId });
      return imported;
    })
  );
  return true;
}

/** The source's name with its pool's behind it; none where it has none, or too many are taken. The pool is locked. */
async function chooseName(
  tx: Transaction,
  { poolId }: Pool,
  { name, pool: source }: Snapshot,
): Promise<string | undefined> {
  return name === undefined ? undefined : await chooseSnapshotName(tx, poolId, toCopyName(name, source.name));
}

async function tell({ database, clock, workerId }: CopyContext, copy: Copy): Promise<boolean> {
  await finishCopy(database, copy, workerId, clock());
  return true;
}

// What the phases share

async function openSource({ database }: CopyContext, copy: Copy): Promise<Difference> {
  const { poolId, snapshotId, volumeId, baseId } = copy;
  const snapshot = await getSnapshot(database, snapshotId, poolId);
  const covered = await getCovered(database, poolId, snapshotId, volumeId);
  const base = baseId === undefined ? undefined : await getSnapshot(database, baseId, poolId);
  // Of the base, only what it has of this volume is what was copied.
  const volumes = base?.volumes.filter((volume) => volume.volumeId === volumeId);
  return await openDifference(
    database,
    snapshot,
    covered,
    base === undefined || volumes === undefined ? undefined : { ...base, volumes },
  );
}

async function openWriter(context: CopyContext, copy: Copy): Promise<StagedWriter> {
  const { database, appenderOf } = context;
  const pool = await getPool(database, copy.targetPoolId);
  const options = { ...context, appender: appenderOf(pool), actor: copy.actor, leased: false, waitMsMax: 0 };
  return new StagedWriter(pool, await getCopyStaging(database, copy), copy.baseId !== undefined, options);
}

async function getCopyStaging(database: Database, { targetPoolId, stagingId }: Copy): Promise<Staging> {
  if (stagingId === undefined) throw new Error("A copy in this phase has staged contents");
  return await getStaging(database, targetPoolId, stagingId);
}

/** Slots that have as many bytes as a step may read. */
function countSlots(
  { limits: { copyStepBytes } }: CopyContext,
  { segmentBlocks, blockSizeBytes }: Pool,
): number {
  return Math.max(1, Math.floor(copyStepBytes / (segmentBlocks * blockSizeBytes)));
}

/** Where to go on in this phase, or the beginning of the next. */
function toNext(next: string | number | undefined, { phase }: { phase: CopyPhase }): CopyMove {
  return next === undefined ? { phase, position: 0 } : { position: Number(next) };
}

async function move(context: CopyContext, copy: Copy, change: CopyMove): Promise<void> {
  const { database, workerId, clock, limits: { progressMs } } = context;
  await moveCopy(database, copy, workerId, change, { at: clock(), progressMs });
}
