/** Damage as a failing medium, or a hand, does it: behind the storage system's back. */

import { assertEquals } from "@std/assert";
import type { Database } from "../../src/database/client.ts";

/** The ways in which block `lba` of a volume that has one epoch, in segments of four blocks of 512 bytes, can be damaged. */
export const DAMAGES: Record<string, { queued?: string; flushed: string }> = {
  "a bit of it": {
    queued:
      "data = set_bit(data, (LBA - lba)::integer * 4096 + 77, 1 - get_bit(data, (LBA - lba)::integer * 4096 + 77))",
    flushed: "data = set_bit(data, 77, 1 - get_bit(data, 77))",
  },
  "a bit of its checksum": {
    queued:
      "checksums = set_bit(checksums, (LBA - lba)::integer * 32 + 9, 1 - get_bit(checksums, (LBA - lba)::integer * 32 + 9))",
    flushed: "checksum = set_bit(checksum, 9, 1 - get_bit(checksum, 9))",
  },
  "its data, which are taken out,": { flushed: "data = null" },
  "its length": { flushed: "data = substring(data for 511)" },
  "its length, without a checksum": { flushed: "data = data || '\\x00'::bytea, checksum = null" },
  "its place": {
    flushed: `(data, checksum) = (
      select other.data, other.checksum from blocks other
      where other.segment_id = blocks.segment_id and other.block_index = blocks.block_index + 1
    )`,
  },
};

/** Does damage to block `lba`, wherever it is: `set` is SQL that assigns. */
export async function damage(
  { $client }: Database,
  table: "cache" | "blocks",
  lba: number,
  set: string,
): Promise<void> {
  const where = table === "cache"
    ? `kind = 'write' and lba <= ${lba} and lba + block_count > ${lba}`
    : `block_index = ${lba % 4} and segment_id = (select segment_id from segment_map where slot = ${
      Math.floor(lba / 4)
    })`;
  const { count } = await $client.unsafe(
    `update ${table} set ${set.replaceAll("LBA", String(lba))} where ${where}`,
  );
  assertEquals(count, 1, "one block is damaged");
}
