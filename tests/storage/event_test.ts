import { assertEquals } from "@std/assert";
import type { StorageEvent } from "../../src/storage/event.ts";
import { createTestStorage, TESTER } from "../support/storage.ts";

const signal = () => AbortSignal.timeout(60_000);

Deno.test("event ids rise without a gap in commit order: whoever looks never sees one missing", async () => {
  await using test = await createTestStorage();
  // Markers come under the pool's lock, seals under the tail's: nothing but the event's own keeps them apart.
  const other = await test.openAnother({ flusher: true });
  await test.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  let taking = true;
  const takers = Promise.all([test.storage, other].map(async (storage) => {
    for (let i = 0; i < 40; i++) {
      await storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: false }, signal());
    }
  })).finally(() => taking = false);
  let looks = 0;
  while (taking) {
    const [row] = await test.test.database.$client`select count(*), max(event_id) from events`;
    assertEquals(row.count, row.max);
    looks += 1;
  }
  await takers;
  assertEquals(looks > 10, true);
});

Deno.test("followEvents() from any position gets each later event once, from whichever process", async () => {
  await using test = await createTestStorage({ flusher: true });
  const other = await test.openAnother({ flusher: true });
  const { pool: { poolId } } = await test.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  const last = 3 + 2 * 30;
  const follow = async (storage: typeof other, after: number) => {
    const ids: number[] = [];
    const over = new AbortController();
    for await (
      const page of storage.followEvents(poolId, {}, after, AbortSignal.any([over.signal, signal()]))
    ) {
      ids.push(...page.filter(({ type }) => type !== "marker.progress").map(({ eventId }) => eventId));
      if (page.at(-1)!.eventId >= last) over.abort();
    }
    return ids;
  };
  const followers = [0, 1, 2, 3, 3, 3].map((after, i) => follow(i % 2 === 0 ? test.storage : other, after));
  for (let i = 0; i < 30; i++) {
    await (i % 2 === 0 ? test.storage : other).takeSnapshot(
      TESTER,
      { volumes: ["v"], untilSealed: true },
      signal(),
    );
  }
  const followed = await Promise.all(followers);
  const stored = await test.storage.listEvents(poolId, {}, 0, 1_000);
  const ids = stored.filter(({ type }) => type !== "marker.progress").map(({ eventId }) => eventId);
  for (const [i, after] of [0, 1, 2, 3, 3, 3].entries()) {
    assertEquals(followed[i], ids.filter((id) => id > after).slice(0, followed[i].length));
    assertEquals(followed[i].at(-1)! >= last, true);
  }
});

Deno.test("followEvents() with a filter sees only what it asked for, and misses none behind a long run of others", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const { pool: { poolId } } = await storage.createVolume(TESTER, { name: "a", blockCount: 8 });
  const b = await storage.createVolume(TESTER, { name: "b", blockCount: 8 });
  for (let i = 0; i < 250; i++) {
    await storage.takeSnapshot(TESTER, { volumes: ["a"], untilSealed: false }, signal());
  }
  const seen: StorageEvent[] = [];
  const over = new AbortController();
  const following = (async () => {
    const filter = { volumeId: b.volumeId };
    for await (
      const page of storage.followEvents(poolId, filter, 0, AbortSignal.any([over.signal, signal()]))
    ) {
      seen.push(...page);
      if (seen.length === 3) over.abort();
    }
  })();
  await storage.takeSnapshot(TESTER, { pool: "main", untilSealed: false }, signal());
  await storage.deleteVolume(TESTER, "b");
  await following;
  assertEquals(seen.map(({ type }) => type), ["volume.created", "marker.committed", "volume.deleted"]);
});
