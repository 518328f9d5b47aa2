import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { StorageError } from "../../src/errors.ts";
import { applyLabelPatch, type Labels, parseLabelSelector, requireLabels } from "../../src/storage/label.ts";
import type { Page, PageRequest } from "../../src/storage/page.ts";
import { createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

async function take({ storage }: TestStorage, name: string, labels?: Labels): Promise<void> {
  const snapshot = { volumes: ["v"], name, untilSealed: false, ...(labels === undefined ? {} : { labels }) };
  await storage.takeSnapshot(TESTER, snapshot, AbortSignal.timeout(1e4));
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => promise, StorageError) as StorageError).code;
}

/** The names of all pages of a list. */
async function namesOf(
  list: (page: PageRequest) => Promise<Page<{ name?: string }>>,
  itemsMax: number,
): Promise<(string | undefined)[][]> {
  const pages: (string | undefined)[][] = [];
  let page: Page<{ name?: string }> = { items: [], next: "" };
  while (page.next !== undefined && pages.length < 100) {
    page = await list({ itemsMax, ...(page.next === "" ? {} : { after: page.next }) });
    pages.push(page.items.map(({ name }) => name));
  }
  return pages;
}

async function countLabels({ test }: TestStorage): Promise<number> {
  const [{ count }] = await test.database.$client`select count(*) from labels`;
  return count;
}

// Pure

Deno.test("applyLabelPatch() does what RFC 7396 has it do", () => {
  const labels = { env: "prod", team: "blue" };
  for (
    const [patch, patched] of [
      [{}, labels],
      [{ env: "test" }, { env: "test", team: "blue" }],
      [{ env: null }, { team: "blue" }],
      [{ env: null, a: "1", gone: null }, { a: "1", team: "blue" }],
      [null, {}],
      [{ ["__proto__"]: "x", constructor: "y" }, { ["__proto__"]: "x", constructor: "y", ...labels }],
    ] as const
  ) {
    assertEquals(Object.entries(applyLabelPatch(labels, patch)), Object.entries(patched));
  }
});

Deno.test("applyLabelPatch() is idempotent, and a patch with what a thing has changes nothing", () => {
  const keys = fc.constantFrom("a", "b", "c", "__proto__");
  const labels = fc.dictionary(keys, fc.string({ maxLength: 3 }));
  const patch = fc.dictionary(keys, fc.option(fc.string({ maxLength: 3 })));
  fc.assert(fc.property(labels, patch, (before, patch) => {
    const once = applyLabelPatch(before, patch);
    assertEquals(applyLabelPatch(once, patch), once);
    assertEquals(applyLabelPatch(once, once), once);
  }));
});

Deno.test("parseLabelSelector() cuts at the first equals sign", () => {
  assertEquals(parseLabelSelector("env"), { key: "env" });
  assertEquals(parseLabelSelector("env="), { key: "env", value: "" });
  assertEquals(parseLabelSelector("a/b.c_d-e=x=y"), { key: "a/b.c_d-e", value: "x=y" });
  for (const text of ["", "=", "=x", "a b=x", "ä", "k".repeat(64), "k=\0", `k=${"x".repeat(256)}`]) {
    assertEquals(
      (assertThrows(() => parseLabelSelector(text), StorageError) as StorageError).code,
      "invalid-argument",
    );
  }
});

Deno.test("requireLabels() takes what is at its bound, and refuses what is beyond", () => {
  const many = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, ""]));
  for (const labels of [{}, many(64), { ["k".repeat(63)]: "€".repeat(255) }, { a: " 'x'; --" }]) {
    requireLabels(labels, STORAGE_LIMITS);
  }
  for (
    const labels of [
      many(65),
      { "": "x" },
      { ["k".repeat(64)]: "" },
      { "a b": "" },
      { "a=b": "" },
      { ä: "" },
      { a: "x".repeat(256) },
      { a: "\0" },
      { a: "\n" },
      { a: "\u007f" },
      { a: "\u0085" },
      { a: "\ud800" },
    ]
  ) {
    assertThrows(() => requireLabels(labels as unknown as Labels, STORAGE_LIMITS), StorageError);
  }
});

// Stored

Deno.test("labels are given at creation, changed by patches, and gone with their thing", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const created = await storage.createVolume(TESTER, { name: "v", blockCount: 8, labels: { env: "prod" } });
  assertEquals(created.labels, { env: "prod" });
  await take(test, "s", { kept: "1", env: "test" });
  await take(test, "bare");
  assertEquals((await storage.getSnapshot("s")).labels, { env: "test", kept: "1" });
  assertEquals((await storage.getSnapshot("bare")).labels, {});
  const clone = await storage.cloneVolume(TESTER, { name: "c", snapshot: "s" });
  assertEquals(clone.labels, {});
  const named = await storage.cloneVolume(TESTER, { name: "d", snapshot: "s", labels: { a: "b" } });
  assertEquals(named.labels, { a: "b" });
  const changed = await storage.changeVolume(TESTER, "v", undefined, {
    blockCount: 16,
    labels: { env: null, team: "x" },
  });
  assertEquals([changed.labels, changed.blockCount], [{ team: "x" }, 16]);
  assertEquals((await storage.getVolume("v")).labels, { team: "x" });
  assertEquals((await storage.changeSnapshot(TESTER, "s", undefined, { labels: { env: null } })).labels, {
    kept: "1",
  });
  const revertedTo = await storage.revertVolume(TESTER, "v", undefined, "s", {});
  assertEquals(revertedTo.volume.labels, { team: "x" });
  await test.drain();
  for (const name of ["v", "c", "d"]) await storage.deleteVolume(TESTER, name);
  assertEquals(await countLabels(test), 1);
  await storage.deleteSnapshot(TESTER, "s");
  assertEquals(await countLabels(test), 0);
  // Another of the same name begins without.
  assertEquals((await storage.createVolume(TESTER, { name: "v", blockCount: 8 })).labels, {});
});

Deno.test("a change of labels is told by one event and one record, and none is told of no change", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const { volumeId } = await storage.createVolume(TESTER, { name: "v", blockCount: 8, labels: { a: "1" } });
  await take(test, "s");
  const { snapshotId, pool: { poolId } } = await storage.getSnapshot("s");
  const types = ["volume.labelled", "snapshot.labelled"] as const;
  const told = async () => {
    const events = await storage.listEvents(poolId, { types: [...types] }, 0, 100);
    const { items } = await storage.listAudit({ itemsMax: 100 });
    const records = items.filter(({ action }) => action.endsWith(".label"));
    return {
      events: events.map(({ type, volumeId, snapshotId, body }) => [type, volumeId ?? snapshotId, body]),
      records: records.map(({ action, targetId, targetName }) => [action, targetId, targetName]),
    };
  };
  await storage.changeVolume(TESTER, "v", undefined, { labels: { a: "1", b: null } });
  await storage.changeSnapshot(TESTER, "s", undefined, { labels: null });
  assertEquals(await told(), { events: [], records: [] });
  await storage.changeVolume(TESTER, "v", undefined, { labels: { b: "2" } });
  await storage.changeSnapshot(TESTER, "s", undefined, { labels: { c: "3" }, description: "why" });
  await storage.changeSnapshot(TESTER, "s", undefined, { description: null });
  assertEquals(await told(), {
    events: [
      ["volume.labelled", volumeId, { name: "v", labels: { a: "1", b: "2" } }],
      ["snapshot.labelled", snapshotId, { labels: { c: "3" }, description: "why" }],
      ["snapshot.labelled", snapshotId, { description: null }],
    ],
    records: [
      ["volume.label", volumeId, "v"],
      ["snapshot.label", snapshotId, "s"],
      ["snapshot.label", snapshotId, "s"],
    ],
  });
  assertEquals((await storage.getSnapshot("s")).description, undefined);
});

Deno.test("what is refused of a change with a size and labels leaves both as they are", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  await storage.createVolume(TESTER, { name: "v", blockCount: 8, labels: { a: "1" } });
  const change = (input: Parameters<typeof storage.changeVolume>[3]) =>
    codeOf(storage.changeVolume(TESTER, "v", undefined, input));
  assertEquals(await change({ blockCount: 16, labels: { "no key": "x" } }), "invalid-argument");
  assertEquals(await change({ blockCount: 4, labels: { b: "2" } }), "invalid-argument");
  const { blockCount, labels } = await storage.getVolume("v");
  assertEquals([blockCount, labels], [8, { a: "1" }]);
});

Deno.test("patches at the same time, by two processes, never exceed the number of labels", async () => {
  await using test = await createTestStorage({ limits: { labelsMax: 4 } });
  const { storage } = test;
  const other = await test.openAnother({ limits: { labelsMax: 4 } });
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  const outcomes = await Promise.allSettled(
    Array.from(
      { length: 8 },
      (_, i) =>
        (i % 2 === 0 ? storage : other).changeVolume(TESTER, "v", undefined, { labels: { [`k${i}`]: "" } }),
    ),
  );
  assertEquals(outcomes.filter(({ status }) => status === "fulfilled").length, 4);
  assertEquals(Object.keys((await storage.getVolume("v")).labels).length, 4);
});

Deno.test("a patch that waits for the deletion of its volume finds none, and leaves no label behind", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  for (let round = 0; round < 10; round++) {
    await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
    const labelled = storage.changeVolume(TESTER, "v", undefined, { labels: { a: "1" } });
    const [outcome] = await Promise.allSettled([labelled, storage.deleteVolume(TESTER, "v")]);
    if (outcome.status === "rejected") {
      assertEquals((outcome.reason as StorageError).code, "volume-not-found");
    }
    assertEquals(await countLabels(test), 0);
  }
});

// Lists

Deno.test("lists take what carries all of the labels, page by page, in one pool or in all", async () => {
  await using test = await createTestStorage();
  const { storage } = test;
  const pool = { blockSizeBytes: 512, segmentBlocks: 4, cacheBytesMax: 2 ** 20 };
  await storage.createPool(TESTER, { name: "other", ...pool });
  for (let i = 0; i < 12; i++) {
    const labels = {
      env: i % 2 === 0 ? "prod" : "test",
      ...(i % 3 === 0 ? { third: String(i) } : {}),
      ...(i === 4 ? { third: "" } : {}),
    };
    const where = i < 8 ? {} : { pool: "other" };
    await storage.createVolume(TESTER, { name: `v${i}`, blockCount: 8, labels, ...where });
  }
  await storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  for (const i of [1, 2, 3]) await take(test, `s${i}`, { env: "prod", n: String(i) });
  const volumes = (labels: string[], itemsMax = 100, pool?: string) =>
    namesOf((page) => storage.listVolumes(pool, page, labels), itemsMax);
  assertEquals((await volumes([])).flat().length, 13);
  assertEquals(await volumes(["env=prod"]), [["v0", "v2", "v4", "v6", "v8", "v10"]]);
  assertEquals(await volumes(["env=prod"], 2), [["v0", "v2"], ["v4", "v6"], ["v8", "v10"]]);
  assertEquals(await volumes(["env"], 5, "other"), [["v8", "v9", "v10", "v11"]]);
  assertEquals(await volumes(["third"], 2), [["v0", "v3"], ["v4", "v6"], ["v9"]]);
  assertEquals(await volumes(["third="]), [["v4"]]);
  assertEquals(await volumes(["third", "env=prod"], 2), [["v0", "v4"], ["v6"]]);
  assertEquals(await volumes(["third=6", "env=prod", "third"]), [["v6"]]);
  assertEquals(await volumes(["third=6", "env=test"]), [[]]);
  assertEquals(await volumes(["n"]), [[]]);
  const snapshots = (labels: string[]) =>
    namesOf((page) => storage.listSnapshots({ pool: "main", labels }, page), 2);
  assertEquals(await snapshots(["env=prod"]), [["s1", "s2"], ["s3"]]);
  assertEquals(await snapshots(["env", "n=2"]), [["s2"]]);
  await storage.deleteVolume(TESTER, "v0");
  assertEquals(await volumes(["env=prod"], 100, "main"), [["v2", "v4", "v6"]]);
  assertEquals(await codeOf(volumes(Array(17).fill("env"))), "invalid-argument");
  assertEquals(await codeOf(volumes(["no key"])), "invalid-argument");
});

Deno.test("a page of what carries labels is read from an index, whatever PostgreSQL knows of the table", async () => {
  await using test = await createTestStorage();
  const { storage, test: { database: { $client } } } = test;
  const { poolId } = await storage.getPool("main");
  await $client`
    insert into volumes
    select ${poolId}, gen_random_uuid(), 'v' || i, 8, i, now() from generate_series(1, 30000) as i`;
  await $client`insert into labels select pool_id, volume_id, 'env', 'prod', 'volume' from volumes`;
  await $client`
    insert into labels select pool_id, volume_id, 'rare', name, 'volume' from volumes where timeline_id % 10000 = 0`;
  for (const labels of [["env"], ["env=prod"], ["env=prod", "rare"], ["rare=v10000", "env"]]) {
    const startedAt = performance.now();
    const { items } = await storage.listVolumes(undefined, { itemsMax: 10 }, labels);
    assertEquals(items.length, labels.length === 1 ? 10 : labels[0] === "env=prod" ? 3 : 1);
    // By a scan for each volume it is half a minute.
    assertEquals(performance.now() - startedAt < 2_000, true);
  }
});
