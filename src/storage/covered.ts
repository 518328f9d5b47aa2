/**
 * What a snapshot covers of a volume: ranges of its blocks, ascending, neither overlapping nor adjacent.
 *
 * PostgreSQL keeps them as a multirange, which is written `{[0,16),[32,48)}`: half-open, as our ranges are.
 */

import { StorageError } from "../errors.ts";
import type { BlockRange } from "./block.ts";

/** What a snapshot covers of a volume: `ranges` as of the end of (timeline, epoch), when the volume had `volumeBlocks`. */
export interface CoveredVolume {
  readonly volumeId: string;
  readonly timelineId: number;
  readonly epoch: number;
  readonly ranges: BlockRange[];
  readonly volumeBlocks: number;
  /** Of what is covered, once it was counted. */
  readonly digest?: Uint8Array;
  /** Why the blocks were not what the digest says, or could not be read, when they were last looked at. */
  readonly fault?: string;
}

/** A range of a named volume. `blockCount` 0 means to its end. */
export interface VolumeRange extends BlockRange {
  readonly volumeId: string;
}

/** Sorts ranges and merges those that overlap or touch. */
export function mergeRanges(ranges: readonly BlockRange[]): BlockRange[] {
  const merged: BlockRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.lba - b.lba)) {
    const last = merged.at(-1);
    if (last === undefined || endOf(last) < range.lba) merged.push(range);
    else {
      const end = Math.max(endOf(last), endOf(range));
      merged[merged.length - 1] = { lba: last.lba, blockCount: end - last.lba };
    }
  }
  return merged;
}

/** The blocks that are in both; each list is ascending and without overlap. */
export function intersectRanges(a: readonly BlockRange[], b: readonly BlockRange[]): BlockRange[] {
  const common: BlockRange[] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    const lba = Math.max(a[i].lba, b[j].lba);
    const end = Math.min(endOf(a[i]), endOf(b[j]));
    if (lba < end) common.push({ lba, blockCount: end - lba });
    if (endOf(a[i]) < endOf(b[j])) i += 1;
    else j += 1;
  }
  return common;
}

/** Whether it covers every block that the volume had. */
export function isWhole({ ranges: [first], volumeBlocks }: CoveredVolume): boolean {
  return first.lba === 0 && first.blockCount === volumeBlocks;
}

/** Only what covers a volume whole can stand for it. @throws {StorageError} `outside-snapshot`. */
export function requireWhole(covered: CoveredVolume): CoveredVolume {
  if (isWhole(covered)) return covered;
  const blocks = covered.ranges.reduce((sum, { blockCount }) => sum + blockCount, 0);
  throw new StorageError(
    "outside-snapshot",
    `Cannot take the whole volume from the snapshot: it covers ${blocks} of its ${covered.volumeBlocks} blocks`,
  );
}

/** @throws {StorageError} `outside-snapshot` for a range that is not covered from end to end. */
export function requireCovered({ ranges }: CoveredVolume, range: BlockRange): void {
  if (ranges.some((covered) => covered.lba <= range.lba && endOf(range) <= endOf(covered))) return;
  throw new StorageError(
    "outside-snapshot",
    `Cannot read ${range.blockCount} blocks at LBA ${range.lba}: the snapshot does not cover them all`,
  );
}

/** As PostgreSQL reads a multirange. */
export function formatMultirange(ranges: readonly BlockRange[]): string {
  return `{${ranges.map((range) => `[${range.lba},${endOf(range)})`).join(",")}}`;
}

/** As PostgreSQL writes a multirange. */
export function parseMultirange(text: string): BlockRange[] {
  return [...text.matchAll(/\[(\d+),(\d+)\)/g)].map(([, lba, end]) => ({
    lba: Number(lba),
    blockCount: Number(end) - Number(lba),
  }));
}

function endOf({ lba, blockCount }: BlockRange): number {
  return lba + blockCount;
}
