/**
 * Segments and slots. Pure arithmetic.
 *
 * A segment is a contiguous run of `segmentBlocks` blocks on one device; a slot is the run of the same length inside
 * a volume that one segment serves. Block n of a slot goes to block n of its segment.
 */

import type { BlockRange } from "./block.ts";

/** A segment as entries and maps name it. */
export interface SegmentRef {
  readonly segmentId: number;
  readonly deviceId: string;
}

/** The part of a range that lies in one slot. */
export interface SlotRun extends BlockRange {
  readonly slot: number;
  /** Index of the run's first block within the slot, so within the segment. */
  readonly firstBlock: number;
}

/** The slot that holds block `lba`. */
export function toSlot(lba: number, segmentBlocks: number): number {
  return Math.floor(lba / segmentBlocks);
}

/** Cuts `range` at the slots' borders, ascending. */
export function splitIntoSlots(range: BlockRange, segmentBlocks: number): SlotRun[] {
  const runs: SlotRun[] = [];
  const endLba = range.lba + range.blockCount;
  for (let lba = range.lba; lba < endLba;) {
    const slot = toSlot(lba, segmentBlocks);
    const blockCount = Math.min(endLba, (slot + 1) * segmentBlocks) - lba;
    runs.push({ slot, lba, firstBlock: lba - slot * segmentBlocks, blockCount });
    lba += blockCount;
  }
  return runs;
}
