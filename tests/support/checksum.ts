/**
 * Whether what is stored is watched over: every block's checksum, counted again by other means than the program's.
 */

import { assertEquals } from "@std/assert";
import type { Database } from "../../src/database/client.ts";

/** CRC-32C of `bytes`, bit by bit as its polynomial has it. */
export function crc32c(bytes: Uint8Array): number {
  let register = 0xffffffff;
  for (const byte of bytes) {
    register ^= byte;
    for (let bit = 0; bit < 8; bit++) register = (register >>> 1) ^ ((register & 1) * 0x82f63b78);
  }
  return (register ^ 0xffffffff) >>> 0;
}

/** The checksum of a block, in hex. */
export function checksumOf(lba: number, block: Uint8Array): string {
  const bytes = new Uint8Array(8 + block.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(lba));
  bytes.set(block, 8);
  return crc32c(bytes).toString(16).padStart(8, "0");
}

/** Asserts that every block with data has its right checksum, in the cache and flushed. Answers how many each has. */
export async function assertChecked({ $client }: Database): Promise<{ queued: number; flushed: number }> {
  const queued = await $client<
    { lba: number; bytes: number; data: Uint8Array; checksums: Uint8Array | null }[]
  >`
    select c.lba, p.block_size_bytes as bytes, c.data, c.checksums
    from cache c join pools p on p.pool_id = c.pool_id where c.kind = 'write'`;
  const flushed = await $client<{ lba: number; data: Uint8Array; checksum: Uint8Array | null }[]>`
    select m.slot * p.segment_blocks + k.block_index as lba, k.data, k.checksum
    from blocks k join pools p on p.pool_id = k.pool_id
    join segment_map m on m.pool_id = k.pool_id and m.segment_id = k.segment_id
    where k.data is not null`;
  const [{ needless }] = await $client`
    select (select count(*) from cache where kind <> 'write' and checksums is not null) +
      (select count(*) from blocks where data is null and checksum is not null) as needless`;
  assertEquals(needless, 0, "what has no data has no checksum");
  const entries = queued.map(({ lba, bytes, data, checksums }) => {
    const blocks = Array.from({ length: data.length / bytes }, (_, block) => block);
    const expected = blocks.map((block) =>
      checksumOf(lba + block, data.subarray(block * bytes, (block + 1) * bytes))
    );
    assertEquals(checksums?.toHex(), expected.join(""));
    return blocks.length;
  });
  for (const { lba, data, checksum } of flushed) assertEquals(checksum?.toHex(), checksumOf(lba, data));
  return { queued: entries.reduce((sum, count) => sum + count, 0), flushed: flushed.length };
}
