/** Copies into other pools over HTTP. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor, until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { INVALID_ARGUMENT, INVALID_REQUEST, NAME_TAKEN, type Refusal, refusalsOf, sense } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestPool(door, "vault");
  await door.call("POST", "/pools", { json: { name: "large", blockSizeBytes: 4096 } });
  await createTestVolume(door, "v");
  await createTestVolume(door, "w");
  await createTestVolume(door, "w", { pool: "vault" });
  await door.call("PUT", "/volumes/v/blocks/4", { octets: fill(1, 8, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  await door.call("POST", "/snapshots", { json: { volumes: ["v", "w"], pool: "main", name: "both" } });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], lba: 0, blockCount: 4, name: "part" } });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const copying = (snapshot: string, json: unknown) =>
  ["POST", `/snapshots/${snapshot}/copies`, { json }] as [string, string, { json: unknown }];
const OUTSIDE_SNAPSHOT: Refusal = { status: 422, code: "outside-snapshot", scsi: sense(0x5, 0x21, 0x00) };
const SNAPSHOT_NOT_FOUND: Refusal = { status: 404, code: "snapshot-not-found" };

refuses("an unknown snapshot", copying("no", { pool: "vault" }), SNAPSHOT_NOT_FOUND);
refuses("an unknown snapshot", ["GET", "/snapshots/no/copies"], SNAPSHOT_NOT_FOUND);
refuses("an unknown pool", copying("s", { pool: "no" }), { status: 404, code: "pool-not-found" });
refuses("its own pool", copying("s", { pool: "main" }), INVALID_ARGUMENT);
refuses("a pool of other blocks", copying("s", { pool: "large" }), INVALID_ARGUMENT);
refuses("a part of a volume", copying("part", { pool: "vault" }), OUTSIDE_SNAPSHOT);
refuses("several volumes", copying("both", { pool: "vault" }), INVALID_ARGUMENT);
refuses("a volume it does not cover", copying("s", { pool: "vault", volume: "w" }), OUTSIDE_SNAPSHOT);
refuses("another volume's name", copying("s", { pool: "vault", name: "w" }), NAME_TAKEN);
refuses("a name that is none", copying("s", { pool: "vault", name: "a b" }), INVALID_ARGUMENT);
refuses("a device of no such name there", copying("s", { pool: "vault", device: "main-1" }), {
  status: 404,
  code: "device-not-found",
});
for (const json of [{}, { pool: 1 }, { pool: "vault", device: 1 }, { pool: "vault", name: "" }]) {
  refuses(JSON.stringify(json), copying("s", json), INVALID_REQUEST);
}
refuses("a foreign page token", ["GET", "/snapshots/s/copies?pageToken=eA"], INVALID_REQUEST);
refuses("a query", ["GET", "/copies/1?pool=main"], INVALID_REQUEST);

Deno.test("POST …/copies answers 202 at once; the copy is equal, and the next one the difference to it", async () => {
  await using own = await createTestDoor({ flusher: true });
  await createTestPool(own, "vault");
  await createTestVolume(own, "v");
  await own.call("PUT", "/volumes/v/blocks/4", { octets: fill(1, 8, 512) });
  await own.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  const copy = async (snapshot: string) => {
    const asked = await own.call("POST", `/snapshots/${snapshot}/copies`, { json: { pool: "vault" } });
    assertEquals([asked.status, asked.body.status], [202, "running"]);
    const location = asked.headers.get("location") as string;
    let body = asked.body;
    await until(async () => (body = (await own.call("GET", location)).body).status !== "running");
    assertEquals(
      (await own.call("GET", `/snapshots/${body.snapshotId}/image`)).body,
      (await own.call("GET", `/snapshots/${body.sourceSnapshotId}/image`)).body,
    );
    return body;
  };
  const first = await copy("s");
  assertEquals([first.status, first.incremental, first.bytesCopied, first.bytesTotal], [
    "done",
    false,
    4096,
    4096,
  ]);
  assertEquals(["phase" in first, "failure" in first, first.digest.length], [false, false, 64]);
  await own.call("DELETE", "/volumes/v/blocks/4");
  await own.call("PUT", "/volumes/v/blocks/60", { octets: fill(70, 1, 512) });
  await own.call("POST", "/snapshots", { json: { volumes: ["v"], name: "t" } });
  const second = await copy("t");
  assertEquals([second.status, second.incremental, second.bytesCopied], ["done", true, 512]);
  assertEquals([second.baseSnapshotId, second.volumeId], [first.sourceSnapshotId, first.volumeId]);
  const { body } = await own.call("GET", "/snapshots/s/copies");
  assertEquals(body.copies, [first]);
  assertEquals((await own.call("GET", "/volumes/v.main")).body.id, first.volumeId);
  assertEquals((await own.call("GET", "/snapshots/t.main")).body.id, second.snapshotId);
  const events = await own.call("GET", "/events?pool=main&type=copy.done");
  assertEquals(
    events.body.events.map(({ data }: { data: unknown }) => data),
    [first, second].map((copy) => ({
      copyId: copy.id,
      targetSnapshotId: copy.snapshotId,
      bytesCopied: copy.bytesCopied,
      digest: copy.digest,
    })),
  );
  const ended = await own.call("DELETE", `/copies/${second.id}`);
  assertEquals([ended.status, ended.body], [200, second]);
});

Deno.test("a copy that runs is listed, keeps its source from being deleted, and can be cancelled", async () => {
  const { body: { id } } = await door.call(...copying("s", { pool: "vault" }));
  const again = await door.call(...copying("s", { pool: "vault" }));
  assertEquals([again.status, again.body.code], [409, "in-use"]);
  const { body: { copies: [listed] } } = await door.call("GET", "/snapshots/s/copies");
  assertEquals([listed.id, listed.status, listed.phase, "incremental" in listed], [
    id,
    "running",
    "beginning",
    false,
  ]);
  const kept = await door.call("DELETE", "/snapshots/s");
  assertEquals([kept.status, kept.body.code], [409, "in-use"]);
  const cancelled = await door.call("DELETE", `/copies/${id}`);
  assertEquals([cancelled.status, cancelled.body.status, "phase" in cancelled.body], [
    200,
    "cancelled",
    false,
  ]);
  assertEquals((await door.call("GET", `/volumes/${cancelled.body.volumeId}`)).status, 404);
  assertEquals((await door.call("DELETE", "/snapshots/s")).status, 204);
  assertEquals((await door.call("GET", `/copies/${id}`)).body, cancelled.body);
  const { body } = await door.call("GET", "/audit?maxResults=1000");
  const actions = body.records.map(({ action }: { action: string }) => action);
  assertEquals(actions.filter((action: string) => action.startsWith("copy.")), [
    "copy.create",
    "copy.cancel",
  ]);
});

Deno.test("POST …/copies sent again under its Idempotency-Key is one copy, also where its first answer was lost", async () => {
  await using own = await createTestDoor();
  const { database } = own.system.test;
  await createTestPool(own, "vault");
  await createTestVolume(own, "v");
  await own.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  const ask = () =>
    own.call("POST", "/snapshots/s/copies", { json: { pool: "vault" }, headers: { "idempotency-key": "k" } });
  const first = await ask();
  assertEquals(first.status, 202);
  const again = await ask();
  assertEquals([again.status, again.body, again.headers.get("idempotent-replayed")], [
    202,
    first.body,
    "true",
  ]);
  await database.$client`
    update idempotency_keys set status = null, body = null, content_type = null, lease_until = created_at`;
  const remade = await ask();
  assertEquals([remade.status, remade.body, remade.headers.get("location")], [
    202,
    first.body,
    `/copies/${first.body.id}`,
  ]);
});
