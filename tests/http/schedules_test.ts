/** Schedules over HTTP. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor } from "../support/door.ts";
import { readPages } from "./paging.ts";
import { INVALID_ARGUMENT, INVALID_REQUEST, NAME_TAKEN, refusalsOf, VOLUME_NOT_FOUND } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v");
  await createTestVolume(door, "w");
  await createTestPool(door, "p");
  await createTestVolume(door, "far", { pool: "p" });
  await door.call(...post({ name: "taken" }));
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
type Request = [string, string, { json: unknown }];
const post = (
  json: object,
): Request => ["POST", "/schedules", { json: { volumes: ["v"], every: "PT1H", ...json } }];
const patch = (json: unknown): Request => ["PATCH", "/schedules/taken", { json }];

for (
  const wrong of [
    { name: 1 },
    { name: "" },
    { volumes: [] },
    { volumes: "v" },
    { volumes: [1] },
    { volumes: ["a b"] },
    { volumes: undefined, label: 1 },
    { volumes: undefined, label: "" },
    { volumes: undefined, label: "x".repeat(513) },
    { pool: ["main"] },
    { every: 60 },
    { every: "" },
    { cron: 5 },
    { cron: "x".repeat(257) },
    { timeZone: null },
    { timeZone: "x".repeat(65) },
    { keep: 3 },
    { keep: [] },
    { keep: null },
    { keep: { last: 0 } },
    { keep: { last: "3" } },
    { keep: { last: 10_001 } },
    { keep: { daily: 1.5 } },
    { keep: { yearly: 1 } },
    { keep: { for: 60 } },
    { skipUnchanged: "yes" },
    { snapshotName: "" },
    { snapshotName: "x".repeat(129) },
    { labels: { a: 1 } },
    { labels: null },
    { paused: 1 },
    { nextRunAt: "2030-01-01T00:00:00Z" },
  ]
) {
  refuses(JSON.stringify(wrong).slice(0, 60), post({ name: "n", ...wrong }), INVALID_REQUEST);
  // A patch may remove what a new schedule may leave out.
  if ("name" in wrong || "pool" in wrong || ("keep" in wrong && wrong.keep === null)) continue;
  if ("labels" in wrong && wrong.labels === null) continue;
  refuses(JSON.stringify(wrong).slice(0, 60), patch(wrong), INVALID_REQUEST);
}
for (
  const wrong of [
    { every: "1h" },
    { every: "PT9S" },
    { every: "P1M" },
    { every: undefined, cron: "* * * *" },
    { every: undefined, cron: "0 0 31 2 *" },
    { every: "PT1H", cron: "0 0 * * *" },
    { timeZone: "Nowhere/At all" },
    { timeZone: "\u0000" },
    { volumes: ["v", "v"] },
    { volumes: ["v"], label: "a" },
    { volumes: undefined, label: "a b" },
    { volumes: undefined, label: "=" },
    { keep: {} },
    { keep: { for: "P1Y" } },
    { snapshotName: "same" },
    { snapshotName: "\ud800{time}" },
    { snapshotName: "{time}/x" },
    { labels: { "": "x" } },
  ]
) {
  refuses(JSON.stringify(wrong).slice(0, 60), post({ name: "n", ...wrong }), INVALID_ARGUMENT);
  // An empty patch of rules leaves what there is: no rule.
  refuses(JSON.stringify(wrong).slice(0, 60), patch(wrong), INVALID_ARGUMENT);
}
refuses("no time", post({ name: "n", every: undefined }), INVALID_ARGUMENT);
refuses("a taken name", post({ name: "taken" }), NAME_TAKEN);
refuses("a name that is none", post({ name: "a b" }), INVALID_ARGUMENT);
refuses("an unknown volume", post({ name: "n", volumes: ["no"] }), VOLUME_NOT_FOUND);
refuses("a volume of another pool", post({ name: "n", volumes: ["v", "far"] }), INVALID_ARGUMENT);
refuses("a volume of another pool", post({ name: "n", volumes: ["far"], pool: "main" }), VOLUME_NOT_FOUND);
refuses("a volume of another pool", patch({ volumes: ["far"] }), VOLUME_NOT_FOUND);
refuses("a query that it does not know", ["POST", "/schedules/taken/run?wait=sealed"], INVALID_REQUEST);

Deno.test("POST /schedules answers the schedule, whole, and GET the same", async () => {
  const { body: { id: v } } = await door.call("GET", "/volumes/v");
  const json = {
    name: "nightly",
    volumes: ["v"],
    cron: "30 2 * * *",
    timeZone: "Europe/Berlin",
    keep: { daily: 7 },
  };
  const { status, headers, body } = await door.call("POST", "/schedules", { json });
  assertEquals(status, 201);
  const { id, poolId: _poolId, createdAt, nextRunAt, ...rest } = body;
  assertEquals(headers.get("location"), `/schedules/${id}`);
  assertMatch(nextRunAt, /^\d{4}-\d\d-\d\dT0[01]:30:00\.000Z$/);
  assert(nextRunAt > createdAt);
  assertEquals(rest, {
    ...json,
    volumes: [v],
    skipUnchanged: false,
    snapshotName: "{schedule}-{time}",
    labels: {},
    paused: false,
  });
  assertEquals((await door.call("GET", `/schedules/${id}`)).body, body);
  assertEquals((await door.call("GET", "/schedules/nightly?pool=main")).body, body);
});

Deno.test("POST …/run answers the snapshot, which tells its schedule; PATCH pauses, DELETE leaves the snapshot", async () => {
  const label = { volumes: undefined, label: "run=now", labels: { by: "hand" } };
  await door.call(...post({ name: "by-hand", ...label }));
  const none = await door.call("POST", "/schedules/by-hand/run");
  assertEquals([none.status, none.body.code], [422, "invalid-argument"]);
  await door.call("PATCH", "/volumes/w", { json: { labels: { run: "now" } } });
  const paused = await door.call("PATCH", "/schedules/by-hand", { json: { paused: true } });
  assertEquals([paused.status, paused.body.paused, paused.body.nextRunAt], [200, true, undefined]);
  const ran = await door.call("POST", "/schedules/by-hand/run");
  assertEquals([ran.status, ran.headers.get("location")], [202, `/snapshots/${ran.body.id}`]);
  assertMatch(ran.body.name, /^by-hand-\d{8}T\d{6}Z$/);
  assertEquals([ran.body.scheduleId, ran.body.labels, ran.body.volumes.length], [paused.body.id, {
    by: "hand",
  }, 1]);
  const again = await door.call("POST", "/schedules/by-hand/run");
  assertEquals(again.status, 202);
  assert(again.body.name !== ran.body.name);
  const { body } = await door.call("GET", "/schedules/by-hand");
  assertEquals([body.lastSnapshotId, body.lastError], [again.body.id, undefined]);
  const { body: record } = await door.call("GET", `/audit/${ran.body.auditId}`);
  assertEquals([record.origin, record.action], ["http POST /schedules/by-hand/run", "snapshot.create"]);
  assertEquals((await door.call("DELETE", "/schedules/by-hand")).status, 204);
  assertEquals((await door.call("GET", "/schedules/by-hand")).status, 404);
  assertEquals((await door.call("GET", `/snapshots/${ran.body.id}`)).body.scheduleId, paused.body.id);
});

Deno.test("GET /schedules lists those of one pool or of all by pages, in order of creation", async () => {
  for (const name of ["p-1", "p-2", "p-3"]) await door.call(...post({ name, volumes: ["far"] }));
  const list = (query: string, most: number) =>
    readPages(door, `/schedules${query}`, "schedules", most, ({ name }) => name);
  assertEquals(await list("?pool=p", 2), [["p-1", "p-2"], ["p-3"]]);
  assertEquals((await list("", 100)).flat().slice(-3), ["p-1", "p-2", "p-3"]);
});
