import { assertEquals, assertRejects } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import type { FoundRange } from "../../src/storage/ranges.ts";
import type { Page } from "../../src/storage/page.ts";
import { below, readStamps, seeded } from "../support/history.ts";
import {
  BLOCK_BYTES,
  createTestStorage,
  SEGMENT_BLOCKS,
  TESTER,
  type TestStorage,
  write,
} from "../support/storage.ts";

async function take(
  { storage }: TestStorage,
  name: string,
  range: { lba?: number; blockCount?: number } = {},
) {
  const snapshot = { volumes: ["v"], name, untilSealed: false, ...range };
  await storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(1e4));
}

/** All pages of a list, each of at most `itemsMax`. */
async function readAll(
  list: (page: { startLba: number; itemsMax: number }) => Promise<Page<FoundRange>>,
  itemsMax = 1000,
  startLba = 0,
): Promise<FoundRange[]> {
  const items: FoundRange[] = [];
  let from: string | undefined = String(startLba);
  for (let pages = 0; from !== undefined && pages < 1000; pages++) {
    const page: Page<FoundRange> = await list({ startLba: Number(from), itemsMax });
    assertEquals(page.items.length <= itemsMax, true);
    items.push(...page.items);
    from = page.next;
  }
  return items;
}

const plain = (ranges: FoundRange[]) =>
  ranges.map(({ lba, blockCount, cleared }) => [lba, blockCount, cleared ? "cleared" : "written"]);

Deno.test("ranges are the blocks that have data, of a live volume and of a snapshot, before and after the flush", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 1000 });
  await storage.append(TESTER, "v", undefined, [write(2, 1, 4), write(900, 1)]);
  await take(test, "s");
  await storage.append(TESTER, "v", undefined, [{ lba: 3, trim: 1 }, write(6, 2), write(999, 3)]);
  for (const drained of [false, true]) {
    if (drained) await test.drain();
    for (const itemsMax of [1, 2, 1000]) {
      const live = await readAll((page) => storage.listVolumeRanges("v", undefined, page), itemsMax);
      assertEquals(live.map(({ lba, blockCount }) => [lba, blockCount]), [[2, 1], [4, 3], [900, 1], [
        999,
        1,
      ]]);
      const then = await readAll(
        (page) => storage.listSnapshotRanges("s", undefined, undefined, page),
        itemsMax,
      );
      assertEquals(then.map(({ lba, blockCount }) => [lba, blockCount]), [[2, 4], [900, 1]]);
    }
    const from = await readAll((page) => storage.listVolumeRanges("v", undefined, page), 1000, 5);
    assertEquals(from.map(({ lba, blockCount }) => [lba, blockCount]), [[5, 2], [900, 1], [999, 1]]);
  }
});

Deno.test("changes are what was written or cleared since the base, also through clones", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 100 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 8)]);
  await take(test, "a");
  await storage.append(TESTER, "v", undefined, [write(1, 2), { lba: 4, trim: 2 }]);
  await take(test, "b");
  await storage.cloneVolume(TESTER, { name: "c", snapshot: "b" });
  await storage.append(TESTER, "c", undefined, [write(50, 3)]);
  await storage.append(TESTER, "v", undefined, [write(60, 3)]);
  await storage.takeSnapshot(
    TESTER,
    { volumes: ["c"], name: "c1", untilSealed: false },
    AbortSignal.timeout(1e4),
  );
  const changes = (of: string, base: string) =>
    readAll((page) => storage.listChanges(of, undefined, undefined, base, page), 2);
  for (const drained of [false, true]) {
    if (drained) await test.drain();
    assertEquals(plain(await changes("b", "a")), [[1, 1, "written"], [4, 2, "cleared"]]);
    assertEquals(plain(await changes("c1", "a")), [[1, 1, "written"], [4, 2, "cleared"], [50, 1, "written"]]);
    assertEquals(plain(await changes("c1", "b")), [[50, 1, "written"]]);
    assertEquals(await changes("b", "b"), []);
  }
  await take(test, "d");
  for (const [of, base] of [["a", "b"], ["c1", "d"], ["d", "c1"]]) {
    const error = await assertRejects(() => changes(of, base), StorageError);
    assertEquals((error as StorageError).code, "unrelated-snapshots");
  }
});

Deno.test("ranges and changes of a snapshot of selected blocks stay inside of them", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await storage.append(TESTER, "v", undefined, [write(0, 1, 40)]);
  await take(test, "base", { lba: 3, blockCount: 10 });
  await storage.append(TESTER, "v", undefined, [write(0, 2, 40)]);
  await take(test, "later", { lba: 6, blockCount: 30 });
  await take(test, "elsewhere", { lba: 20, blockCount: 3 });
  const ranges = await readAll((page) => storage.listSnapshotRanges("base", undefined, undefined, page));
  assertEquals(plain(ranges), [[3, 10, "written"]]);
  const changes = await readAll((page) => storage.listChanges("later", undefined, undefined, "base", page));
  assertEquals(plain(changes), [[6, 7, "written"]]);
  const error = await assertRejects(
    () => storage.listChanges("elsewhere", undefined, undefined, "base", { startLba: 0, itemsMax: 1 }),
    StorageError,
  );
  assertEquals((error as StorageError).code, "outside-snapshot");
});

Deno.test("changes reach into what a volume grew by, if the base covers it up to its end", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
  await take(test, "whole");
  await take(test, "end", { lba: 30, blockCount: 10 });
  await take(test, "middle", { lba: 30, blockCount: 9 });
  await storage.changeVolume(TESTER, "v", undefined, { blockCount: 80 });
  await storage.append(TESTER, "v", undefined, [write(20, 1), write(38, 1, 4), write(70, 1)]);
  await take(test, "later");
  const changes = async (base: string) =>
    plain(await readAll((page) => storage.listChanges("later", undefined, undefined, base, page)));
  assertEquals(await changes("whole"), [[20, 1, "written"], [38, 4, "written"], [70, 1, "written"]]);
  assertEquals(await changes("end"), [[38, 4, "written"], [70, 1, "written"]]);
  assertEquals(await changes("middle"), [[38, 1, "written"]]);
});

Deno.test("ranges go on over more slots than one statement looks at, and end where a page has none", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const slots = 700;
  await storage.createVolume(TESTER, { name: "v", blockCount: slots * SEGMENT_BLOCKS });
  const writes = Array.from({ length: slots }, (_, slot) => write(slot * SEGMENT_BLOCKS, slot + 1));
  await storage.append(TESTER, "v", undefined, writes);
  await take(test, "s");
  await storage.append(TESTER, "v", undefined, [{ lba: 0, trim: slots * SEGMENT_BLOCKS }]);
  await take(test, "t");
  const expected = writes.map(({ lba }) => [lba, 1, "written"]);
  assertEquals(
    plain(await readAll((page) => storage.listSnapshotRanges("s", undefined, undefined, page), 300)),
    expected,
  );
  assertEquals(await readAll((page) => storage.listVolumeRanges("v", undefined, page)), []);
  const changes = await readAll((page) => storage.listChanges("t", undefined, undefined, "s", page));
  assertEquals(plain(changes), [[0, slots * SEGMENT_BLOCKS, "cleared"]]);
});

for (const seed of [1, 2, 3]) {
  Deno.test(`ranges and changes of a random history agree with what is read (seed ${seed})`, async () => {
    await using test = await createTestStorage();
    const { storage } = test;
    const random = seeded(seed);
    const blockCount = 60;
    await storage.createVolume(TESTER, { name: "v", blockCount });
    const touched: Set<number>[] = [];
    for (let snapshot = 0; snapshot < 8; snapshot++) {
      const blocks = new Set<number>();
      for (let step = 0; step < 6; step++) {
        const lba = below(random, blockCount);
        const count = 1 + below(random, Math.min(6, blockCount - lba));
        const what = random() < 0.3 ? { lba, trim: count } : write(lba, 1 + below(random, 1000), count);
        await storage.append(TESTER, "v", undefined, [what]);
        for (let block = lba; block < lba + count; block++) blocks.add(block);
      }
      touched.push(blocks);
      await take(test, `s${snapshot}`);
      if (random() < 0.3) await test.drain();
    }
    const range = { lba: 0, blockCount };
    const contents = await Promise.all(
      touched.map(async (_, i) =>
        readStamps(await storage.readSnapshot(`s${i}`, undefined, undefined, range), BLOCK_BYTES)
      ),
    );
    for (let later = 0; later < touched.length; later++) {
      const found = await readAll(
        (page) => storage.listSnapshotRanges(`s${later}`, undefined, undefined, page),
        3,
      );
      assertEquals(
        expand(found).map(([lba]) => lba),
        contents[later].flatMap((stamp, lba) => stamp > 0 ? [lba] : []),
      );
      for (let base = 0; base < later; base++) {
        const list = (page: { startLba: number; itemsMax: number }) =>
          storage.listChanges(`s${later}`, undefined, undefined, `s${base}`, page);
        const changed = new Map(expand(await readAll(list, 4)));
        const since = touched.slice(base + 1, later + 1).reduce(
          (all, blocks) => all.union(blocks),
          new Set(),
        );
        for (let lba = 0; lba < blockCount; lba++) {
          const cleared = changed.get(lba);
          if (contents[base][lba] !== contents[later][lba]) assertEquals(changed.has(lba), true);
          if (changed.has(lba)) assertEquals([since.has(lba), cleared], [true, contents[later][lba] === 0]);
        }
      }
    }
  });
}

function expand(ranges: FoundRange[]): [lba: number, cleared: boolean][] {
  return ranges.flatMap(({ lba, blockCount, cleared }) =>
    Array.from({ length: blockCount }, (_, index): [number, boolean] => [lba + index, cleared])
  );
}
