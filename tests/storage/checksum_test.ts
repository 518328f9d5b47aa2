/** Checksums of blocks: their values, and that every block has its own from the append on. */

import { assertEquals } from "@std/assert";
import { checksumBlocks, findFault } from "../../src/storage/checksum.ts";
import { assertChecked, checksumOf } from "../support/checksum.ts";
import { fill } from "../support/history.ts";
import { reclaimAll } from "../support/reclaiming.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, write } from "../support/storage.ts";

/** RFC 3720, B.4, of 32 bytes each: eight of LBA, 24 of data. */
const VECTORS: [what: string, lba: number, data: number[], checksum: string][] = [
  ["zeros", 0, Array(24).fill(0), "8a9136aa"],
  ["rising", 0x0001020304050607, Array.from({ length: 24 }, (_, index) => 8 + index), "46dd794e"],
];

for (const [what, lba, data, expected] of VECTORS) {
  Deno.test(`checksumBlocks() is CRC-32C of the LBA and the data: 32 bytes of ${what}`, () => {
    assertEquals(checksumBlocks(lba, Uint8Array.from(data), 24).toHex(), expected);
  });
}

Deno.test("checksumBlocks() gives each block its own, by its LBA, for blocks of any size", () => {
  for (const bytes of [512, 4_096, 65_536]) {
    const data = fill(0xdeadbeef, 3, bytes);
    const lba = 2 ** 36 - 3;
    const expected = [0, 1, 2].map((block) =>
      checksumOf(lba + block, data.subarray(block * bytes, (block + 1) * bytes))
    );
    assertEquals(checksumBlocks(lba, data, bytes).toHex(), expected.join(""));
  }
});

Deno.test("findFault() finds a bit that changed, a block of another LBA, a wrong checksum and a wrong length", () => {
  const block = fill(7, 1, 512);
  const checksum = checksumBlocks(5, block, 512);
  assertEquals(findFault(5, block, checksum, 512), undefined);
  const flipped = block.slice();
  flipped[511] ^= 1;
  const changed = checksumOf(5, flipped);
  assertEquals(
    findFault(5, flipped, checksum, 512),
    `its checksum is ${changed}, expected ${checksum.toHex()}`,
  );
  const moved = checksumOf(6, block);
  assertEquals(findFault(6, block, checksum, 512), `its checksum is ${moved}, expected ${checksum.toHex()}`);
  const wrong = checksum.slice();
  wrong[0] ^= 1;
  assertEquals(
    findFault(5, block, wrong, 512),
    `its checksum is ${checksum.toHex()}, expected ${wrong.toHex()}`,
  );
  const short = checksum.subarray(0, 3);
  assertEquals(
    findFault(5, block, short, 512),
    `its checksum is ${checksum.toHex()}, expected ${short.toHex()}`,
  );
  assertEquals(findFault(5, block.subarray(1), checksum, 512), "it has 511 bytes, expected 512");
  assertEquals(findFault(5, block.subarray(1), null, 512), "it has 511 bytes, expected 512");
  assertEquals(findFault(5, flipped, null, 512), undefined);
});

Deno.test("append() stores the checksums of all blocks, and a flush and a reclaim move them", async () => {
  await using test = await createTestStorage();
  const { storage, test: { database } } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 2 ** 36 });
  await storage.append(TESTER, "v", undefined, [
    write(2, 1, 9),
    { lba: 3, trim: 2 },
    write(2 ** 36 - 3, 20, 3),
  ]);
  assertEquals(await assertChecked(database), { queued: 12, flushed: 0 });
  await storage.append(TESTER, "v", undefined, [write(6, 50, 2)]);
  await test.drain();
  assertEquals(await assertChecked(database), { queued: 0, flushed: 10 });
  const taken = await storage.takeSnapshot(
    TESTER,
    { volumes: ["v"], untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  // In a slot that has others, which reclaim then moves.
  await storage.append(TESTER, "v", undefined, [write(8, 70, 1)]);
  await test.drain();
  assertEquals(await assertChecked(database), { queued: 0, flushed: 11 });
  await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, AbortSignal.timeout(1e4));
  await test.drain();
  await storage.deleteSnapshot(TESTER, taken.snapshotId);
  await reclaimAll(database);
  assertEquals(await assertChecked(database), { queued: 0, flushed: 10 });
  assertEquals((await storage.readVolume("v", undefined, { lba: 7, blockCount: 1 })).length, BLOCK_BYTES);
});

Deno.test("PostgreSQL counts the same checksums, where it can", async () => {
  await using test = await createTestStorage();
  const { storage, test: { database } } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 2 ** 36 });
  await storage.append(TESTER, "v", undefined, [write(2 ** 36 - 9, 1, 9)]);
  await test.drain();
  const [{ known }] = await database.$client`select to_regproc('crc32c') is not null as known`;
  if (!known) return;
  const rows = await database.$client`
    select substring(int8send(crc32c(int8send(m.slot * p.segment_blocks + k.block_index) || k.data)) from 5) = checksum
      as equal
    from blocks k join pools p on p.pool_id = k.pool_id
    join segment_map m on m.pool_id = k.pool_id and m.segment_id = k.segment_id`;
  assertEquals(rows.map(({ equal }) => equal), Array(9).fill(true));
});
