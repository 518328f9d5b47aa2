import { assertEquals } from "@std/assert";
import { below, fill, readStamps, seeded } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, write } from "../support/storage.ts";

Deno.test("readVolume() reads zeros where nothing was written, also in a volume larger than all devices", async () => {
  await using test = await createTestStorage({ deviceBlocks: 100 });
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 2 ** 36 });
  const bytes = await test.storage.readVolume("v", undefined, { lba: 2 ** 36 - 100, blockCount: 100 });
  assertEquals(bytes, new Uint8Array(100 * BLOCK_BYTES));
});

Deno.test("readVolume() finds each block in the newest epoch that has it, through many epochs", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  const expected = new Array(40).fill(0);
  const random = seeded(7);
  for (let epoch = 1; epoch <= 60; epoch++) {
    const lba = below(random, 36);
    await storage.append(TESTER, "v", undefined, [write(lba, epoch * 10, 4)]);
    for (let i = 0; i < 4; i++) expected[lba + i] = epoch * 10 + i;
    await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, AbortSignal.timeout(60_000));
    if (epoch % 20 === 0) await test.drain();
  }
  assertEquals(
    readStamps(await storage.readVolume("v", undefined, { lba: 0, blockCount: 40 }), BLOCK_BYTES),
    expected,
  );
});

Deno.test("readVolume() is one look: a block that is being flushed is never missed and never torn", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
  const other = await test.openAnother({ flusher: true });
  let writing = true;
  let written = 0;
  const writer = (async () => {
    // Every request stamps the whole volume, so any mixture of two requests is a torn read.
    for (let round = 1; round <= 150; round++) {
      await storage.append(TESTER, "v", undefined, [write(0, round * 100, 40)]);
      written = round;
    }
  })().finally(() => writing = false);
  let reads = 0;
  while (writing) {
    const stamps = readStamps(
      await other.readVolume("v", undefined, { lba: 0, blockCount: 40 }),
      BLOCK_BYTES,
    );
    assertEquals(stamps, Array.from({ length: 40 }, (_, i) => stamps[0] + i));
    assertEquals(stamps[0] <= (written + 1) * 100, true);
    reads += 1;
  }
  await writer;
  assertEquals(reads > 20, true);
});

Deno.test("readVolume() sees at once what was acknowledged, through another process too", async () => {
  await using test = await createTestStorage({ flusher: true });
  const other = await test.openAnother({ flusher: true });
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  for (let stamp = 1; stamp <= 100; stamp++) {
    await test.storage.append(TESTER, "v", undefined, [write(stamp % 8, stamp)]);
    const [seen] = readStamps(
      await other.readVolume("v", undefined, { lba: stamp % 8, blockCount: 1 }),
      BLOCK_BYTES,
    );
    assertEquals(seen, stamp);
  }
});

Deno.test("readVolume() serves reads that come together by one look, and each gets its own answer", async () => {
  await using test = await createTestStorage({ limits: { readGroupMax: 16, readGroupBlocksMax: 8 } });
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  await storage.createVolume(TESTER, { name: "w", blockCount: 10 });
  const { volumeId } = await storage.createVolume(TESTER, { name: "gone", blockCount: 10 });
  await storage.readVolume(volumeId, undefined, { lba: 0, blockCount: 1 });
  await storage.append(TESTER, "v", undefined, [{ lba: 0, data: fill(1, 100, BLOCK_BYTES) }]);
  await storage.append(TESTER, "w", undefined, [{ lba: 3, data: fill(500, 2, BLOCK_BYTES) }]);
  await storage.deleteVolume(TESTER, volumeId);
  const reads = Array.from({ length: 200 }, (_, index) => {
    if (index === 77) return storage.readVolume(volumeId, undefined, { lba: 0, blockCount: 1 });
    if (index === 88) return storage.readVolume("w", undefined, { lba: 9, blockCount: 2 });
    if (index === 99) return storage.readVolume("v", undefined, { lba: 0, blockCount: 100 });
    if (index % 2 === 0) return storage.readVolume("v", undefined, { lba: index / 2, blockCount: 1 });
    return storage.readVolume("w", undefined, { lba: index % 7, blockCount: 3 });
  });
  const answers = await Promise.allSettled(reads);
  const w = [0, 0, 0, 500, 501, 0, 0, 0, 0, 0];
  for (const [index, answer] of answers.entries()) {
    if (index === 77 || index === 88) {
      const code = index === 77 ? "volume-not-found" : "lba-out-of-range";
      assertEquals((answer as PromiseRejectedResult).reason.code, code);
      continue;
    }
    const stamps = readStamps((answer as PromiseFulfilledResult<Uint8Array>).value, BLOCK_BYTES);
    if (index === 99) assertEquals(stamps, Array.from({ length: 100 }, (_, lba) => lba + 1));
    else if (index % 2 === 0) assertEquals(stamps, [index / 2 + 1]);
    else assertEquals(stamps, w.slice(index % 7, index % 7 + 3));
  }
});
