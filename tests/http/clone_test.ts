/** Clones and reverts over HTTP. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill, readStamps } from "../support/history.ts";
import {
  INVALID_ARGUMENT,
  INVALID_REQUEST,
  LIST_INVALID,
  NAME_TAKEN,
  type Refusal,
  refusalsOf,
  sense,
  VOLUME_NOT_FOUND,
} from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v", { blockCount: 8 });
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 2, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], lba: 0, blockCount: 2, name: "part" } });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const SNAPSHOT_NOT_FOUND = { status: 404, code: "snapshot-not-found" };
const OUTSIDE_SNAPSHOT: Refusal = { status: 422, code: "outside-snapshot", scsi: sense(0x5, 0x21, 0x00) };

const clone = (body: unknown): [string, string, { json: unknown }] => ["POST", "/volumes", { json: body }];
const revert = (body: unknown, volume = "v"): [string, string, { json: unknown }] => [
  "POST",
  `/volumes/${volume}/revert`,
  { json: body },
];

refuses("an unknown snapshot", clone({ name: "c", source: { snapshot: "no" } }), SNAPSHOT_NOT_FOUND);
refuses("an unknown volume", clone({ name: "c", source: { snapshot: "s", volume: "no" } }), VOLUME_NOT_FOUND);
refuses("a part of a volume", clone({ name: "c", source: { snapshot: "part" } }), OUTSIDE_SNAPSHOT);
refuses("a taken name", clone({ name: "v", source: { snapshot: "s" } }), NAME_TAKEN);
refuses("a smaller size", clone({ name: "c", source: { snapshot: "s" }, blockCount: 7 }), INVALID_ARGUMENT);
refuses(
  "two sizes",
  clone({ name: "c", source: { snapshot: "s" }, blockCount: 9, sizeBytes: 4608 }),
  INVALID_REQUEST,
);
refuses("no snapshot", clone({ name: "c", source: {} }), INVALID_REQUEST);
refuses("an unknown field", clone({ name: "c", source: { snapshot: "s", epoch: 0 } }), INVALID_REQUEST);
refuses("an unknown snapshot", revert({ snapshot: "no" }), SNAPSHOT_NOT_FOUND);
refuses("an unknown volume", revert({ snapshot: "s" }, "no"), VOLUME_NOT_FOUND);
refuses("a part of a volume", revert({ snapshot: "part" }), OUTSIDE_SNAPSHOT);
refuses("a taken name", revert({ snapshot: "s", safetyName: "s" }), NAME_TAKEN);
refuses("a bad name", revert({ snapshot: "s", safetyName: "-" }), LIST_INVALID);
refuses(
  "a name for none",
  revert({ snapshot: "s", safetySnapshot: false, safetyName: "x" }),
  INVALID_REQUEST,
);
refuses("no snapshot", revert({}), INVALID_REQUEST);

Deno.test("POST /volumes with a source answers a clone; POST …/revert answers where in the queue it was", async () => {
  const { status, headers, body } = await door.call(...clone({ name: "c", source: { snapshot: "s" } }));
  assertEquals([status, body.name, body.blockCount], [201, "c", 8]);
  assertEquals(headers.get("location"), `/volumes/${body.id}`);
  const { body: written } = await door.call("PUT", "/volumes/c/blocks/1", { octets: fill(5, 1, 512) });
  const reverted = await door.call(...revert({ snapshot: "s", safetyName: "safe" }));
  assertEquals([reverted.status, reverted.body.volume.name], [200, "v"]);
  assertEquals(reverted.body.sequence, written.sequence + 1);
  assertEquals((await door.call("GET", "/snapshots/safe")).body.id, reverted.body.safetySnapshotId);
  const bare = await door.call(...revert({ snapshot: "safe", safetySnapshot: false }));
  assertEquals([bare.status, "safetySnapshotId" in bare.body], [200, false]);
  assertEquals(readStamps((await door.call("GET", "/volumes/c/blocks/0?count=3")).body, 512), [1, 5, 0]);
  const { body: audit } = await door.call("GET", "/audit");
  const actions = audit.records.map(({ action }: { action: string }) => action);
  assertEquals(actions.filter((action: string) => action.startsWith("volume.")), [
    "volume.create",
    "volume.clone",
    "volume.revert",
    "volume.revert",
  ]);
  const { body: events } = await door.call("GET", "/events?volume=v");
  const told = events.events.filter(({ type }: { type: string }) => type === "volume.reverted");
  assertEquals(told.map(({ data }: { data: { sequence: number } }) => data.sequence), [
    reverted.body.sequence,
    bare.body.sequence,
  ]);
});

refuses("an unknown snapshot", ["DELETE", "/snapshots/no"], SNAPSHOT_NOT_FOUND);
refuses("a query it does not know", ["DELETE", "/snapshots/s?force=1"], INVALID_REQUEST);

Deno.test("DELETE /snapshots/{snapshot} cancels what is pending, deletes what is sealed, and tells both", async () => {
  await createTestVolume(door, "d", { blockCount: 8 });
  await door.call("PUT", "/volumes/d/blocks/0", { octets: fill(1, 2, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["d"], name: "pending" } });
  const { body: { id } } = await door.call("GET", "/snapshots/pending");
  assertEquals((await door.call("DELETE", "/snapshots/pending")).status, 204);
  const { body: cancelled } = await door.call("GET", `/snapshots/${id}`);
  assertEquals([cancelled.status, cancelled.name], ["cancelled", undefined]);
  assertEquals((await door.call("GET", `/snapshots/${id}/blocks/0`)).status, 404);
  await door.call("POST", "/snapshots", { json: { volumes: ["d"], name: "pending" } });
  await door.system.drain();
  for (const reference of ["pending", id]) {
    assertEquals((await door.call("DELETE", `/snapshots/${reference}`)).status, 204);
    assertEquals((await door.call("GET", `/snapshots/${reference}`)).status, 404);
  }
  const { body: { events } } = await door.call("GET", "/events?volume=d");
  assertEquals(events.map(({ type }: { type: string }) => type), [
    "volume.created",
    "snapshot.cancelled",
    "snapshot.deleted",
    "snapshot.deleted",
  ]);
});

const hold = (body: unknown, snapshot = "s"): [string, string, { json: unknown }] => [
  "PUT",
  `/snapshots/${snapshot}/hold`,
  { json: body },
];
refuses("an unknown snapshot", hold({ until: "2999-01-01T00:00:00Z" }, "no"), SNAPSHOT_NOT_FOUND);
refuses("a moment that is over", hold({ until: "2020-01-01T00:00:00Z" }), INVALID_ARGUMENT);
refuses("no moment", hold({ reason: "why" }), INVALID_REQUEST);
refuses("another type", [
  "PUT",
  "/snapshots/s/hold",
  { text: "{}", headers: { "content-type": "text/plain" } },
], { status: 415, code: "unsupported-media-type" });
refuses("a body that is no JSON", ["PUT", "/snapshots/s/hold", { text: "{" }], INVALID_REQUEST);
refuses("a word for a moment", hold({ until: "tomorrow" }), INVALID_REQUEST);
refuses(
  "a reason that is too long",
  hold({ until: "2999-01-01T00:00:00Z", reason: "x".repeat(1001) }),
  INVALID_REQUEST,
);

Deno.test("PUT /snapshots/{snapshot}/hold answers the snapshot with its hold, and a deletion is refused", async () => {
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "kept" } });
  const held = await door.call(...hold({ until: "2999-01-01T01:00:00+01:00", reason: "law" }, "kept"));
  assertEquals([held.status, held.body.hold], [200, { until: "2999-01-01T00:00:00.000Z", reason: "law" }]);
  const refused = await door.call("DELETE", "/snapshots/kept");
  assertEquals([refused.status, refused.body.code], [409, "held"]);
});
