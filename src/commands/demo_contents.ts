/**
 * What the demo writes, and what it must therefore read back.
 *
 * Every write has a version of its own, and a block's bytes follow from its LBA and that version. So nothing that was
 * written is kept: replaying the log of writes in order of their sequences tells each block's version, and the version
 * its bytes. A block carries both numbers in its first words, so that a wrong one tells where it came from.
 */

const WORD_BYTES = 4;

/** An acknowledged write of blocks `[lba, lba + blockCount)`. */
export interface DemoWrite {
  readonly sequence: number;
  readonly lba: number;
  readonly blockCount: number;
  /** From 1; no two writes have the same. */
  readonly version: number;
}

/** A block that is not what the replay says. Version 0 is a block of zeros. */
export interface Difference {
  readonly lba: number;
  readonly versionExpected: number;
  readonly versionFound: number;
}

/** The bytes of `blockCount` blocks from `lba` on, as the write of that version has them. */
export function makeBlocks(
  blocks: { lba: number; blockCount: number; version: number },
  blockSizeBytes: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(blocks.blockCount * blockSizeBytes);
  const words = new Uint32Array(bytes.buffer);
  const perBlock = blockSizeBytes / WORD_BYTES;
  for (let index = 0; index < blocks.blockCount; index++) {
    fillBlock(words.subarray(index * perBlock, (index + 1) * perBlock), blocks.lba + index, blocks.version);
  }
  return bytes;
}

/** LBA, version, and then what mulberry32 (a public-domain generator of 32-bit words) makes of the two. */
function fillBlock(words: Uint32Array, lba: number, version: number): void {
  words[0] = lba;
  words[1] = version;
  let state = Math.imul(lba, 0x9e37_79b1) ^ Math.imul(version, 0x85eb_ca6b);
  for (let index = 2; index < words.length; index++) {
    state = (state + 0x6d2b_79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), 1 | state);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    words[index] = word ^ (word >>> 14);
  }
}

/** The version of each block of a volume after the writes whose sequence is below `sequenceEnd`; 0 is never written. */
export function replayWrites(
  writes: readonly DemoWrite[],
  blockCount: number,
  sequenceEnd = Infinity,
): Uint32Array {
  const versions = new Uint32Array(blockCount);
  const inside = writes.filter(({ sequence }) => sequence < sequenceEnd);
  for (const write of inside.sort((a, b) => a.sequence - b.sequence)) {
    versions.fill(write.version, write.lba, write.lba + write.blockCount);
  }
  return versions;
}

/** The blocks among `bytes`, read from `lba` on, that are not of the version that `versions` has for them. */
export function findDifferences(
  bytes: Uint8Array<ArrayBuffer>,
  lba: number,
  versions: Uint32Array,
  blockSizeBytes: number,
): Difference[] {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / WORD_BYTES);
  const perBlock = blockSizeBytes / WORD_BYTES;
  const expected = new Uint32Array(perBlock);
  const differences: Difference[] = [];
  for (let start = 0; start < words.length; start += perBlock) {
    const block = lba + start / perBlock;
    if (versions[block] === 0) expected.fill(0);
    else fillBlock(expected, block, versions[block]);
    if (expected.some((word, index) => word !== words[start + index])) {
      differences.push({ lba: block, versionExpected: versions[block], versionFound: words[start + 1] });
    }
  }
  return differences;
}
