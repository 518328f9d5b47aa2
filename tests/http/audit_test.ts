/** `/audit`: who did what, when, by which command. */

import { assertEquals, assertMatch } from "@std/assert";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { readPages } from "./paging.ts";
import { assertProblem } from "./problem.ts";

const ADMIN = { clientId: "00000000-0000-7000-8000-000000000001", clientName: "admin" };
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

/** The audited command of a snapshot, without the moments of its phases, which must not run backwards. */
// deno-lint-ignore no-explicit-any -- a command as it was answered
async function getCommand(auditId: string): Promise<any> {
  const { status, body } = await door.call("GET", `/audit/${auditId}`);
  assertEquals(status, 200);
  const moments: string[] = body.command.phases.map(({ at }: { at: string }) => at);
  for (const moment of moments) assertMatch(moment, MOMENT);
  assertEquals(moments, moments.toSorted());
  const phases = body.command.phases.map(({ at: _at, ...phase }: { at: string }) => phase);
  return { ...body.command, phases };
}

const SELECTED = [
  { phase: "BUS FREE" },
  { phase: "ARBITRATION" },
  { phase: "SELECTION" },
  { phase: "COMMAND" },
];
const COMPLETED = [
  { phase: "STATUS", status: "GOOD" },
  { phase: "MESSAGE IN", message: "COMMAND COMPLETE" },
  { phase: "BUS FREE" },
];
const DISCONNECTED = [{ phase: "MESSAGE IN", message: "DISCONNECT" }, { phase: "BUS FREE" }];
const RESELECTED = [{ phase: "ARBITRATION" }, { phase: "RESELECTION" }];

Deno.test("GET /audit tells who did what to what by which route, oldest first", async () => {
  await using own = await createTestDoor();
  const { poolId, deviceId } = await createTestPool(own, "p");
  const volumeId = await createTestVolume(own, "v", { pool: "p" });
  await own.call("PATCH", "/volumes/v", { json: { blockCount: 100 } });
  await own.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 1, 512) });
  const { body: snapshot } = await own.call("POST", "/snapshots", { json: { pool: "p", name: "s" } });
  await own.call("DELETE", `/volumes/${volumeId}`);
  const { status, body } = await own.call("GET", "/audit");
  assertEquals(status, 200);
  assertEquals(Object.keys(body), ["records"]);
  // What the test storage did itself, through no door.
  assertEquals(body.records.slice(0, 2).map(({ origin }: { origin: string }) => origin), ["test", "test"]);
  const records = body.records.slice(2);
  for (const { at } of records) assertMatch(at, MOMENT);
  const shared = { poolId, ...ADMIN };
  assertEquals(
    // deno-lint-ignore no-explicit-any -- a record as it was answered
    records.map(({ id: _id, at: _at, command: _command, chainNumber: _n, chainHash: _hash, ...rest }: any) =>
      rest
    ),
    [
      { ...shared, origin: "http POST /pools", action: "pool.create", targetId: poolId, targetName: "p" },
      {
        ...shared,
        origin: "http POST /devices",
        action: "device.add",
        targetId: deviceId,
        targetName: "p-1",
      },
      {
        ...shared,
        origin: "http POST /volumes",
        action: "volume.create",
        targetId: volumeId,
        targetName: "v",
      },
      {
        ...shared,
        origin: "http PATCH /volumes/v",
        action: "volume.resize",
        targetId: volumeId,
        targetName: "v",
      },
      {
        ...shared,
        origin: "http POST /snapshots",
        action: "snapshot.create",
        targetId: snapshot.id,
        targetName: "s",
      },
      {
        ...shared,
        origin: `http DELETE /volumes/${volumeId}`,
        action: "volume.delete",
        targetId: volumeId,
        targetName: "v",
      },
    ],
  );
  assertEquals(records.map((record: object) => "command" in record), [
    false,
    false,
    false,
    false,
    true,
    false,
  ]);
  assertEquals(records[4].id, snapshot.auditId);
  assertEquals((await own.call("GET", `/audit/${snapshot.auditId}`)).body, records[4]);
});

Deno.test("GET /audit pages without gap or duplicate", async () => {
  await using own = await createTestDoor();
  for (const name of ["a", "b", "c"]) await createTestVolume(own, name);
  const read = (maxResults: number) =>
    readPages(own, "/audit", "records", maxResults, ({ targetName }) => targetName);
  assertEquals(await read(2), [["main", "main-1"], ["a", "b"], ["c"]]);
  assertEquals(await read(5), [["main", "main-1", "a", "b", "c"]]);
});

Deno.test("GET /audit/{id} shows a command with IMMED: answered at its marker's commit, phases in order", async () => {
  await createTestPool(door, "immed");
  await createTestVolume(door, "immed-v", { pool: "immed" });
  const { body: { auditId } } = await door.call("POST", "/snapshots", { json: { volumes: ["immed-v"] } });
  const command = {
    cdb: {
      hex: "c00100000000",
      name: "SNAPSHOT(6)",
      opcode: 192,
      length: 6,
      immed: true,
      pool: false,
      list: false,
      firstLba: 0,
      blockCount: 0,
    },
    scsiStatus: "GOOD",
    phases: [...SELECTED, ...COMPLETED],
    sequence: 1,
  };
  assertEquals(await getCommand(auditId), command);
  await door.system.drain();
  assertEquals(await getCommand(auditId), command);
});

Deno.test("GET /audit/{id} shows the data-out of a command, as it came and decoded", async () => {
  await createTestPool(door, "list");
  const id = await createTestVolume(door, "list-v", { pool: "list" });
  const other = await createTestVolume(door, "list-w", { pool: "list" });
  const { body: { auditId } } = await door.call("POST", "/snapshots", {
    json: { volumes: ["list-v", "list-w"], name: "ab", description: "ö" },
  });
  const { phases, dataOut, cdb } = await getCommand(auditId);
  assertEquals(cdb.hex, "c00500000000");
  assertEquals(phases, [...SELECTED, { phase: "DATA OUT" }, ...COMPLETED]);
  assertEquals(dataOut, {
    hex: `00000034` + `010000026162` + `02000002c3b6` +
      `03000010${id.replaceAll("-", "")}` + `03000010${other.replaceAll("-", "")}`,
    name: "ab",
    description: "ö",
    volumeIds: [id, other],
    ranges: [],
  });
});

Deno.test("GET /audit/{id} shows a command without IMMED: disconnected, then reselected at the seal", async () => {
  await createTestPool(door, "waiting");
  await createTestVolume(door, "waiting-v", { pool: "waiting" });
  await door.call("PUT", "/volumes/waiting-v/blocks/0", { octets: fill(1, 1, 512) });
  const waiting = fetch(`${door.url}/snapshots`, {
    method: "POST",
    headers: { authorization: "Bearer door-token-0123456789", "content-type": "application/json" },
    body: JSON.stringify({ cdb: "c1000000000100000200", volume: "waiting-v" }),
  });
  const auditId = await findAudit("waiting");
  const { scsiStatus, phases } = await getCommand(auditId);
  assertEquals([scsiStatus, phases], [undefined, [...SELECTED, ...DISCONNECTED]]);
  await door.system.drain();
  const response = await waiting;
  assertEquals([response.status, (await response.json()).status], [200, "sealed"]);
  const sealed = await getCommand(auditId);
  assertEquals(
    [sealed.scsiStatus, sealed.phases],
    ["GOOD", [...SELECTED, ...DISCONNECTED, ...RESELECTED, ...COMPLETED]],
  );
  assertEquals(sealed.sequence, 2);
});

Deno.test("GET /audit shows nothing of what was refused", async () => {
  const ids = async () => (await door.call("GET", "/audit?maxResults=1000")).body.records.length;
  const before = await ids();
  await door.call("POST", "/snapshots", { json: { cdb: "c0f000000000" } });
  await door.call("POST", "/pools", { json: { name: "main" } });
  assertEquals(await ids(), before);
});

for (const id of ["01a20573-4b9a-71ce-9029-d1d9944da612", "main", "1"]) {
  Deno.test(`GET /audit/${id} is not found`, async () => {
    assertProblem(await door.call("GET", `/audit/${id}`), { status: 404, code: "audit-record-not-found" });
  });
}

Deno.test("GET /audit/verify checks a pool's chain by pages, and names the first row that does not fit", async () => {
  await using own = await createTestDoor();
  await createTestPool(own, "p");
  for (const name of ["a", "b", "c"]) await createTestVolume(own, name, { pool: "p" });
  const whole = await own.call("GET", "/audit/verify?pool=p");
  const { poolId, hash, ...rest } = whole.body;
  const digests = { digested: 0, pending: 0, damaged: 0 };
  assertEquals([whole.status, rest], [200, { rowCount: 5, number: 5, digests }]);
  const { body: { records } } = await own.call("GET", "/audit");
  assertEquals([poolId, hash], [records.at(-1).poolId, records.at(-1).chainHash]);
  const numbers: number[] = [];
  let path = "/audit/verify?pool=p&maxResults=2";
  for (let pageToken = ""; pageToken !== undefined;) {
    const { body } = await own.call("GET", pageToken === "" ? path : `${path}&pageToken=${pageToken}`);
    assertEquals(body.fault, undefined);
    numbers.push(body.number);
    pageToken = body.nextPageToken;
  }
  assertEquals(numbers, [2, 4, 5]);
  await own.system.test.database.$client`
    update audit set target_name = 'x' where pool_id = ${poolId} and chain_number = 4`;
  path = "/audit/verify?pool=p";
  const { body: wrong } = await own.call("GET", path);
  assertEquals([wrong.rowCount, wrong.number, wrong.nextPageToken], [3, 3, undefined]);
  assertEquals(wrong.fault, { number: 4, auditId: records.at(-2).id, reason: "changed" });
  // Of the pool that is meant when none is named.
  assertEquals((await own.call("GET", "/audit/verify")).body.rowCount, 2);
});

Deno.test("GET /audit/verify tells how the snapshots of the pool were found", async () => {
  await using own = await createTestDoor();
  await createTestVolume(own, "v");
  const digests = async () => (await own.call("GET", "/audit/verify")).body.digests;
  for (let i = 0; i < 3; i++) await own.call("POST", "/snapshots", { json: { volumes: ["v"] } });
  assertEquals(await digests(), { digested: 0, pending: 0, damaged: 0 });
  await own.system.drain();
  assertEquals(await digests(), { digested: 0, pending: 3, damaged: 0 });
  const digester = own.system.createDigester();
  await digester.sweep();
  assertEquals(await digests(), { digested: 1, pending: 2, damaged: 0 });
  await own.system.test.database.$client`update snapshots set intact = false where intact`;
  assertEquals(await digests(), { digested: 1, pending: 2, damaged: 1 });
  const ofNone = await own.call("GET", "/audit/verify?pool=00000000-0000-0000-0000-000000000000");
  assertEquals([ofNone.status, ofNone.body.digests], [200, undefined]);
});

/** The audit id of the only snapshot of a pool, once there is one. */
async function findAudit(pool: string): Promise<string> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline;) {
    const { body: { snapshots } } = await door.call("GET", `/snapshots?pool=${pool}`);
    if (snapshots.length > 0) return snapshots[0].auditId;
  }
  throw new Error(`Cannot find a snapshot of ${pool} in time`);
}
