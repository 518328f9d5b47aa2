/**
 * Contents as a digest goes over them ({@linkcode extendChain}): whole pieces, ascending, and of those only what has any block with
 * data. What nothing was written to is neither read nor looked at, so an empty volume of any size is one look-up.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { BlockRange } from "./block.ts";
import { DIGEST_PIECE_BYTES, extendChain } from "./contents_digest.ts";
import { type CoveredVolume, intersectRanges } from "./covered.ts";
import type { Page } from "./page.ts";
import type { Pool } from "./pool.ts";
import { findLineage, type FoundRange, listAllocated } from "./ranges.ts";
import { readTargets, requireIntact } from "./read.ts";
import { requireReadable } from "./snapshot.ts";

/** Contents that can be listed and read, of `blockCount` blocks. */
export interface DigestedContents {
  readonly pool: Pool;
  readonly blockCount: number;
  /** A page of what has data from `lba` on, of so many slots at most; its key is where to go on. */
  readonly list: (lba: number, slotsMax: number) => Promise<Page<FoundRange>>;
  readonly read: (range: BlockRange) => Promise<Uint8Array>;
}

/** A chain as far as it has come: `next` is the block to go on from, absent at the end. */
export interface ExtendedDigest {
  readonly chain: Uint8Array;
  readonly next?: number;
  readonly bytes: number;
}

/** Ranges of one page; with fewer slots than that a page ends before. */
const RANGES_MAX = 10_000;

/** Opens what a snapshot covers of a volume; all else of it counts as zeros. */
export async function openCovered(
  database: Database,
  pool: Pool,
  snapshotId: string,
  covered: CoveredVolume,
): Promise<DigestedContents> {
  const { ranges, volumeBlocks: blockCount } = covered;
  const parts = await findLineage(database, pool.poolId, covered);
  return {
    pool,
    blockCount,
    list: async (lba, slotsMax) => {
      const within = intersectRanges(ranges, [{ lba, blockCount: blockCount - lba }]);
      const page = await listAllocated(database, pool, { parts, within, itemsMax: RANGES_MAX, slotsMax });
      await requireReadable(database, pool.poolId, snapshotId);
      return page;
    },
    read: (range) => readCovered(database, pool, snapshotId, covered, range),
  };
}

async function readCovered(
  database: Database,
  pool: Pool,
  snapshotId: string,
  { timelineId, epoch, ranges }: CoveredVolume,
  range: BlockRange,
): Promise<Uint8Array> {
  const parts = intersectRanges(ranges, [range]);
  const targets = parts.map((part) => ({ ...part, snapshotId, timelineId, epoch }));
  const bytes = new Uint8Array(range.blockCount * pool.blockSizeBytes);
  for (const [index, found] of (await readTargets(database, pool, targets)).entries()) {
    if (found === undefined) {
      throw new StorageError("snapshot-not-found", `Cannot read snapshot ${snapshotId}: it is deleted`);
    }
    if ("fault" in found) throw found.fault;
    bytes.set(requireIntact(found).bytes, (parts[index].lba - range.lba) * pool.blockSizeBytes);
  }
  return bytes;
}

/** Goes on with a chain from block `position` on, by pieces of at most `bytesMax` together, or one. */
export async function extendDigest(
  { pool: { blockSizeBytes, segmentBlocks }, blockCount, list, read }: DigestedContents,
  position: number,
  chain: Uint8Array,
  bytesMax: number,
): Promise<ExtendedDigest> {
  const pieceBlocks = DIGEST_PIECE_BYTES / blockSizeBytes;
  const piecesMax = Math.max(1, Math.floor(bytesMax / DIGEST_PIECE_BYTES));
  const page = await list(position, Math.max(1, Math.floor(bytesMax / (segmentBlocks * blockSizeBytes))));
  let extended = chain;
  let [pieces, bytes, end] = [0, 0, 0];
  for (const lba of findPieces(page.items, pieceBlocks)) {
    if (pieces === piecesMax) return { chain: extended, bytes, next: lba };
    pieces += 1;
    end = Math.min(lba + pieceBlocks, blockCount);
    const piece = await read({ lba, blockCount: end - lba });
    extended = await extendChain(extended, lba * blockSizeBytes, piece);
    bytes += piece.length;
  }
  const next = page.next === undefined ? blockCount : Math.max(Number(page.next), end);
  return { chain: extended, bytes, ...(next < blockCount ? { next } : {}) };
}

/** The first blocks of the pieces that ranges touch, each once. */
function* findPieces(ranges: FoundRange[], pieceBlocks: number): Generator<number> {
  let next = 0;
  for (const { lba, blockCount } of ranges) {
    for (next = Math.max(next, lba - lba % pieceBlocks); next < lba + blockCount; next += pieceBlocks) {
      yield next;
    }
  }
}
