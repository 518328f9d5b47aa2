import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

const RUNS = 25;
const BLOCKS = 12;

async function append(
  { storage }: TestStorage,
  priority: number,
  lba: number,
  stamp: number,
): Promise<number> {
  const client = { ...TESTER, clientId: `00000000-0000-7000-8000-0000000000${priority + 50}`, priority };
  const data = fill(stamp, 1, BLOCK_BYTES);
  return (await storage.append(client, "v", undefined, [{ lba, data }])).sequence;
}

/** Flushes an entry a step, and answers the sequences in the order in which they left the queue. */
async function flushOneByOne(
  test: TestStorage,
  onStep: () => Promise<void> = async () => {},
): Promise<number[]> {
  const flusher = test.createFlusher({ limits: { ...STORAGE_LIMITS, flushBatchEntriesMax: 1 } });
  const left: number[] = [];
  let before = await queued(test);
  while (before.length > 0) {
    await flusher.sweep();
    const after = await queued(test);
    left.push(...before.filter((sequence) => !after.includes(sequence)));
    before = after;
    await onStep();
  }
  return left;
}

async function queued({ storage }: TestStorage): Promise<number[]> {
  return (await storage.listCache("main", { itemsMax: 1_000 })).items.map(({ sequence }) => sequence);
}

async function stamps({ storage }: TestStorage): Promise<number[]> {
  return readStamps(await storage.readVolume("v", undefined, { lba: 0, blockCount: BLOCKS }), BLOCK_BYTES);
}

async function take({ storage }: TestStorage, name: string): Promise<number> {
  const input = { volumes: ["v"], name, untilSealed: false };
  return (await storage.takeSnapshot(TESTER, input, AbortSignal.timeout(1e4))).sequence;
}

Deno.test("a higher priority is flushed first, and each client's entries in their order", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
  for (const [index, priority] of [0, 0, 10, -5, 10, 0, -5].entries()) {
    assertEquals(await append(test, priority, index, index + 1), index + 1);
  }
  assertEquals(await flushOneByOne(test), [3, 5, 1, 2, 6, 4, 7]);
  assertEquals((await test.storage.getPool("main")).sequenceFlushed, 7);
  assertEquals((await stamps(test)).slice(0, 7), [1, 2, 3, 4, 5, 6, 7]);
});

Deno.test("what comes behind a marker keeps it waiting by no priority", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
  await append(test, -5, 0, 1);
  await append(test, 0, 1, 2);
  const marker = await take(test, "s");
  await append(test, 40, 0, 3);
  await append(test, 40, 1, 4);
  assertEquals([marker, await flushOneByOne(test)], [3, [2, 1, 3, 4, 5]]);
  const bytes = await test.storage.readSnapshot("s", undefined, undefined, { lba: 0, blockCount: 2 });
  assertEquals(readStamps(bytes, BLOCK_BYTES), [1, 2]);
});

Deno.test("of two clients that write a block, the later sequence wins, whichever is flushed first", async () => {
  await using test = await createTestStorage();
  await test.storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
  await append(test, 10, 0, 1);
  await append(test, 0, 0, 2);
  await append(test, 10, 1, 3);
  await append(test, -5, 1, 4);
  await append(test, 0, 2, 5);
  await append(test, 10, 2, 6);
  const seen = await stamps(test);
  assertEquals(seen.slice(0, 3), [2, 4, 6]);
  await flushOneByOne(test, async () => assertEquals(await stamps(test), seen));
});

Deno.test("random priorities, in steps of random size: no reader can tell, and progress comes to its end", async () => {
  const step = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({ priority: fc.integer({ min: -2, max: 2 }), lba: fc.nat(BLOCKS - 1) }),
    },
    { weight: 1, arbitrary: fc.constant("marker" as const) },
    { weight: 2, arbitrary: fc.integer({ min: 1, max: 4 }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60, size: "max" }), async (steps) => {
      await using test = await createTestStorage();
      await test.storage.createVolume(TESTER, { name: "v", blockCount: BLOCKS });
      const expected = Array(BLOCKS).fill(0);
      const frozen: { name: string; stamps: number[] }[] = [];
      const check = async () => {
        assertEquals(await stamps(test), expected);
        for (const { name, stamps } of frozen) {
          const bytes = await test.storage.readSnapshot(name, undefined, undefined, {
            lba: 0,
            blockCount: BLOCKS,
          });
          assertEquals(readStamps(bytes, BLOCK_BYTES), stamps);
        }
      };
      for (const [index, step] of steps.entries()) {
        if (step === "marker") {
          frozen.push({ name: `s${index}`, stamps: [...expected] });
          await take(test, `s${index}`);
        } else if (typeof step === "number") {
          await test.createFlusher({ limits: { ...STORAGE_LIMITS, flushBatchEntriesMax: step } }).sweep();
          await check();
        } else {
          await append(test, step.priority, step.lba, index + 1);
          expected[step.lba] = index + 1;
        }
      }
      await flushOneByOne(test);
      await check();
      const { sequenceAppended, sequenceFlushed, dirtyEntries, dirtyBytes } = await test.storage.getPool(
        "main",
      );
      assertEquals([sequenceFlushed, dirtyEntries, dirtyBytes], [sequenceAppended, 0, 0]);
      const pending = await test.storage.listSnapshots({ status: "pending" }, { itemsMax: 9 });
      assertEquals(pending.items, []);
    }),
    { numRuns: RUNS },
  );
});
