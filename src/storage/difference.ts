/**
 * Differences: a whole volume as a snapshot has it, as what it has, or as what changed since an earlier snapshot, in ascending
 * pieces of bounded size. What follows of the same snapshots is always the same.
 *
 * It is read while it is asked for. Each page of ranges and each piece is known to be of snapshots that are still there, so who
 * gets to the end has all of it; if one of them is deleted meanwhile, it breaks off.
 */

import type { Database } from "../database/client.ts";
import type { BlockRange } from "./block.ts";
import { type CoveredVolume, requireWhole } from "./covered.ts";
import type { Page } from "./page.ts";
import type { Pool } from "./pool.ts";
import {
  findLineage,
  findPartsSince,
  type FoundRange,
  type LineagePart,
  listAllocated,
  listChanged,
} from "./ranges.ts";
import { type CheckedBlocks, readSnapshot } from "./read.ts";
import { requireReadable, type Snapshot } from "./snapshot.ts";

/** Data of one piece. */
const PIECE_BYTES = 1024 * 1024;
/** Ranges that are looked up at once. */
const RANGES_MAX = 1000;

/** Blocks with data, or (`cleared`) that read as zeros since the base. */
export type DifferencePiece = FoundRange & { readonly data?: Uint8Array<ArrayBuffer> };

/** A volume as a snapshot has it, compared with a base or with zeros. */
export interface Difference {
  readonly pool: Pool;
  readonly snapshot: Snapshot;
  readonly base?: Snapshot;
  readonly covered: CoveredVolume;
  /** All of it, in pieces. @throws {StorageError} `snapshot-not-found` when one is deleted meanwhile. */
  readonly pieces: () => AsyncGenerator<DifferencePiece>;
  /** A page of it from `lba` on, of so many slots at most, without data; its key is where to go on. */
  readonly list: (lba: number, slotsMax: number) => Promise<Page<FoundRange>>;
  /** The snapshot's blocks. */
  readonly read: (range: BlockRange) => Promise<CheckedBlocks>;
}

/**
 * Compares what `snapshot` covers of a volume with an earlier moment of what it goes back to, or with zeros.
 *
 * @throws {StorageError} `outside-snapshot` when either does not cover the volume whole; `unrelated-snapshots`;
 *   `snapshot-not-found`.
 */
export async function openDifference(
  database: Database,
  snapshot: Snapshot,
  volume: CoveredVolume,
  base?: Snapshot,
): Promise<Difference> {
  const { pool } = snapshot;
  const covered = requireWhole(volume);
  const { parts, list } = base === undefined
    ? { parts: await findLineage(database, pool.poolId, covered), list: listAllocated }
    : { parts: await findBaseParts(database, pool, covered, base), list: listChanged };
  const read = [snapshot, ...(base === undefined ? [] : [base])].map(({ snapshotId }) => snapshotId);
  const source = { database, pool, snapshotId: snapshot.snapshotId, covered, parts, list, read };
  await requireAll(source);
  return {
    pool,
    snapshot,
    ...(base === undefined ? {} : { base }),
    covered,
    pieces: () => readPieces(source),
    list: (lba, slotsMax) => listPage(source, lba, slotsMax),
    read: (range) => readSnapshot(database, pool, snapshot.snapshotId, covered, range),
  };
}

async function findBaseParts(
  database: Database,
  { poolId }: Pool,
  covered: CoveredVolume,
  { volumes }: Snapshot,
): Promise<LineagePart[]> {
  const { parts, base } = await findPartsSince(database, poolId, covered, volumes);
  requireWhole(base);
  return parts;
}

interface Source {
  readonly database: Database;
  readonly pool: Pool;
  readonly snapshotId: string;
  readonly covered: CoveredVolume;
  readonly parts: LineagePart[];
  readonly list: typeof listAllocated;
  /** The snapshots that have to be there. */
  readonly read: string[];
}

async function* readPieces(source: Source): AsyncGenerator<DifferencePiece> {
  const { database, pool, snapshotId, covered } = source;
  for await (const range of cutRanges(findRanges(source), PIECE_BYTES / pool.blockSizeBytes)) {
    if (range.cleared) yield range;
    else yield { ...range, data: (await readSnapshot(database, pool, snapshotId, covered, range)).bytes };
  }
  await requireAll(source);
}

async function* findRanges(source: Source): AsyncGenerator<FoundRange> {
  for (let lba: number | undefined = 0; lba !== undefined;) {
    const { items, next } = await listPage(source, lba);
    yield* items;
    lba = next === undefined ? undefined : Number(next);
  }
}

async function listPage(source: Source, lba: number, slotsMax?: number): Promise<Page<FoundRange>> {
  const { database, pool, covered: { volumeBlocks }, parts, list } = source;
  const page = await list(database, pool, {
    parts,
    within: [{ lba, blockCount: volumeBlocks - lba }],
    itemsMax: RANGES_MAX,
    ...(slotsMax === undefined ? {} : { slotsMax }),
  });
  await requireAll(source);
  return page;
}

async function requireAll({ database, pool, read }: Source): Promise<void> {
  for (const snapshotId of read) await requireReadable(database, pool.poolId, snapshotId);
}

/** Joins ranges that go on from each other, wherever a page had ended, and cuts those with data to at most `blocksMax`. */
async function* cutRanges(
  ranges: AsyncIterable<FoundRange>,
  blocksMax: number,
): AsyncGenerator<FoundRange> {
  let open: FoundRange | undefined;
  for await (const range of ranges) {
    if (open === undefined || open.lba + open.blockCount !== range.lba || open.cleared !== range.cleared) {
      if (open !== undefined) yield open;
      open = range;
    } else {
      open = { ...open, blockCount: open.blockCount + range.blockCount };
    }
    for (; !open.cleared && open.blockCount > blocksMax;) {
      yield { ...open, blockCount: blocksMax };
      open = { ...open, lba: open.lba + blocksMax, blockCount: open.blockCount - blocksMax };
    }
  }
  if (open !== undefined) yield open;
}
