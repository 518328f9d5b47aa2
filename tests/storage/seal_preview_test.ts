import { assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { PREVIEW_CLIENTS_MAX } from "../../src/storage/seal_preview.ts";
import { fill } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

const clientId = (index: number) => `00000000-0000-7000-8000-${String(index).padStart(12, "0")}`;

async function write({ storage }: TestStorage, client: number, blockCount: number, volume = "v") {
  const actor = { ...TESTER, clientId: clientId(client) };
  await storage.append(actor, volume, undefined, [{ lba: 0, data: fill(1, blockCount, BLOCK_BYTES) }]);
}

async function take({ storage }: TestStorage, client: number, name: string): Promise<void> {
  const actor = { ...TESTER, clientId: clientId(client) };
  await storage.takeSnapshot(
    actor,
    { volumes: ["v"], name, untilSealed: false },
    AbortSignal.timeout(60_000),
  );
}

const share = (client: number, entriesAhead: number, blocks: number) => ({
  clientId: clientId(client),
  entriesAhead,
  bytesAhead: blocks * BLOCK_BYTES,
});

Deno.test("previewSnapshot() tells what is ahead of the marker by client, largest first, as long as it is", async () => {
  await using system = await createTestStorage();
  const { storage } = system;
  await storage.createPool(TESTER, {
    name: "other",
    blockSizeBytes: 512,
    segmentBlocks: 4,
    cacheBytesMax: 2 ** 20,
  });
  await storage.addDevice(TESTER, { name: "other-1", pool: "other", blockCount: 64 });
  await storage.createVolume(TESTER, { name: "v", blockCount: 64 });
  await storage.createVolume(TESTER, { name: "elsewhere", pool: "other", blockCount: 64 });
  await write(system, 1, 2);
  await write(system, 2, 3);
  await write(system, 1, 2);
  await take(system, 3, "earlier");
  await storage.append({ ...TESTER, clientId: clientId(2) }, "v", undefined, [{ lba: 0, trim: 4 }]);
  await take(system, 1, "s");
  await write(system, 3, 64);
  await write(system, 4, 8, "elsewhere");
  const expected = [share(1, 2, 4), share(2, 2, 3), share(3, 1, 0)];
  const { progress } = await storage.getSnapshot("s");
  assertEquals((await storage.previewSnapshot("s")).progress, { ...progress, byClient: expected });
  assertEquals([progress.entriesAhead, progress.bytesAhead], [5, 7 * BLOCK_BYTES]);
  assertEquals((await storage.previewSnapshot("earlier")).progress.byClient, [
    share(1, 2, 4),
    share(2, 1, 3),
  ]);
  assertEquals("byClient" in progress, false);

  const limits = { ...STORAGE_LIMITS, flushBatchEntriesMax: 1 };
  await system.createFlusher({ limits }).sweep();
  assertEquals((await storage.previewSnapshot("s")).progress.byClient, [
    share(2, 2, 3),
    share(1, 1, 2),
    share(3, 1, 0),
  ]);
  await system.drain();
  const sealed = await storage.previewSnapshot("s");
  assertEquals([sealed.status, "byClient" in sealed.progress], ["sealed", false]);
});

Deno.test("previewSnapshot() of a marker at the head of the queue tells of nobody", async () => {
  await using system = await createTestStorage();
  await system.storage.createVolume(TESTER, { name: "v", blockCount: 64 });
  await take(system, 1, "s");
  assertEquals((await system.storage.previewSnapshot("s")).progress.byClient, []);
});

Deno.test("previewSnapshot() tells of so many clients, and of all others as one", async () => {
  await using system = await createTestStorage();
  await system.storage.createVolume(TESTER, { name: "v", blockCount: 64 });
  for (let client = 1; client <= PREVIEW_CLIENTS_MAX; client++) await write(system, client, 4);
  await take(system, 1, "all");
  for (let client = 1; client <= 3; client++) await write(system, 100 + client, client);
  await take(system, 1, "more");
  const all = (await system.storage.previewSnapshot("all")).progress;
  assertEquals(
    all.byClient?.map((one) => one.clientId),
    [...Array(PREVIEW_CLIENTS_MAX)].map((_, i) => clientId(i + 1)),
  );
  const more = (await system.storage.previewSnapshot("more")).progress;
  assertEquals(more.byClient?.length, PREVIEW_CLIENTS_MAX + 1);
  assertEquals(more.byClient?.at(-1), { entriesAhead: 3, bytesAhead: 6 * BLOCK_BYTES });
  const { progress } = await system.storage.getSnapshot("more");
  assertEquals([more.entriesAhead, more.bytesAhead], [progress.entriesAhead, progress.bytesAhead]);
});
