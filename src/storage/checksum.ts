/**
 * Checksums of blocks: CRC-32C of where a block is in its volume and of its data, taken where the data enter the process, and
 * compared where they leave the database. Between the two they are only ever moved along with the data.
 *
 *     checksum = CRC-32C(LBA as u64 big-endian, the block's bytes), as u32 big-endian
 *
 * The LBA is in it because right data in the wrong place have a right checksum of their own. It is what stays of a block's address
 * wherever the block goes: reclaim moves it to another segment, a clone reads it as another volume's, a copy has it in another
 * pool, and its LBA is the same. So it says nothing of two volumes, or two moments, of the same LBA: what keeps those apart is
 * the map.
 *
 * Source: RFC 3720, 12.1 and appendix B.4 (iSCSI's CRC32C, of Castagnoli's polynomial 11EDC6F41h).
 */

// @ts-types="crc-32/types/index.d.ts"
import castagnoli from "crc-32/crc32c.js";

/** Of one block. */
export const CHECKSUM_BYTES = 4;

const LBA_BYTES = new Uint8Array(8);
const LBA_VIEW = new DataView(LBA_BYTES.buffer);

/** The checksums of whole blocks from `lba` on, one after the other. */
export function checksumBlocks(
  lba: number,
  data: Uint8Array,
  blockSizeBytes: number,
): Uint8Array<ArrayBuffer> {
  const blockCount = Math.floor(data.length / blockSizeBytes);
  const checksums = new Uint8Array(blockCount * CHECKSUM_BYTES);
  const view = new DataView(checksums.buffer);
  for (let index = 0; index < blockCount; index++) {
    const block = data.subarray(index * blockSizeBytes, (index + 1) * blockSizeBytes);
    view.setInt32(index * CHECKSUM_BYTES, checksumBlock(lba + index, block));
  }
  return checksums;
}

/**
 * What is wrong with a block as it was stored; nothing, when it is as it was written. One with data and without a checksum was
 * written before there were any: only its length can be wrong. A trim has neither.
 */
export function findFault(
  lba: number,
  data: Uint8Array | null,
  checksum: Uint8Array | null,
  blockSizeBytes: number,
): string | undefined {
  if (data === null) return checksum === null ? undefined : "it has a checksum and no data";
  if (data.length !== blockSizeBytes) return `it has ${data.length} bytes, expected ${blockSizeBytes}`;
  if (checksum === null) return undefined;
  const found = checksumBlock(lba, data);
  if (checksum.length === CHECKSUM_BYTES && found === readChecksum(checksum)) return undefined;
  return `its checksum is ${checksumBlocks(lba, data, blockSizeBytes).toHex()}, expected ${checksum.toHex()}`;
}

function readChecksum(checksum: Uint8Array): number {
  return (checksum[0] << 24) | (checksum[1] << 16) | (checksum[2] << 8) | checksum[3];
}

/** As a signed number. */
function checksumBlock(lba: number, block: Uint8Array): number {
  LBA_VIEW.setUint32(0, Math.floor(lba / 2 ** 32));
  LBA_VIEW.setUint32(4, lba % 2 ** 32);
  return castagnoli.buf(block, castagnoli.buf(LBA_BYTES));
}
