/** `/snapshots`: taking them in words and as commands, waiting for their seal, and reading them. */

import { isSigned } from "../../src/storage/receipt.ts";
import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { ADMIN } from "../../src/token.ts";
import {
  createTestDoor,
  createTestPool,
  createTestVolume,
  DOOR_TOKEN,
  type TestDoor,
  until,
} from "../support/door.ts";
import { digestOf, snapshotDigestOf } from "../support/contents_digest.ts";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, TESTER } from "../support/storage.ts";
import { readPages } from "./paging.ts";
import { assertProblem, INVALID_REQUEST, type Refusal, sense, VOLUME_NOT_FOUND } from "./problem.ts";

const OUTSIDE_SNAPSHOT: Refusal = { status: 422, code: "outside-snapshot", scsi: sense(0x5, 0x21, 0x00) };

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

async function put(volume: string, lba: number, firstStamp: number, blockCount = 1): Promise<void> {
  const octets = fill(firstStamp, blockCount, 512);
  const { status, body } = await door.call("PUT", `/volumes/${volume}/blocks/${lba}`, { octets });
  assertEquals(status, 200, JSON.stringify(body));
}

async function readBlocks(path: string): Promise<number[]> {
  const { status, body } = await door.call("GET", path);
  assertEquals(status, 200, JSON.stringify(body));
  return readStamps(body, 512);
}

// deno-lint-ignore no-explicit-any -- a snapshot as it was answered
async function take(json: unknown, status = 202): Promise<any> {
  const answer = await door.call("POST", "/snapshots", { json });
  assertEquals(answer.status, status, JSON.stringify(answer.body));
  return answer.body;
}

Deno.test("POST /snapshots answers 202 at the marker's commit, with all there is to know", async () => {
  const { poolId } = await createTestPool(door, "whole");
  const volumeId = await createTestVolume(door, "whole-v", { pool: "whole" });
  await put("whole-v", 0, 1, 8);
  const answer = await door.call("POST", "/snapshots", {
    json: { volumes: ["whole-v"], name: "nightly", description: "Before the upgrade" },
  });
  assertEquals(answer.status, 202);
  const { id, auditId, createdAt, receipt, ...rest } = answer.body;
  assertMatch(auditId, /^[0-9a-f-]{36}$/);
  assertMatch(createdAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assertEquals(rest, {
    name: "nightly",
    description: "Before the upgrade",
    labels: {},
    poolId,
    status: "pending",
    sequence: 3,
    volumes: [{ volumeId, timelineId: 1, epoch: 0, ranges: [{ lba: 0, blockCount: 64 }], volumeBlocks: 64 }],
    progress: { entriesAhead: 2, bytesAhead: 4096, bytesPerSecond: 0 },
    // Two segments of four blocks; the volume reads them too.
    space: { uniqueBytes: 0, sharedBytes: 4096 },
    cdb: {
      hex: "c00500000000",
      name: "SNAPSHOT(6)",
      opcode: 0xc0,
      length: 6,
      immed: true,
      pool: false,
      list: true,
      firstLba: 0,
      blockCount: 0,
    },
  });
  assertEquals(answer.headers.get("location"), `/snapshots/${id}`);
  const byClient = [{ clientId: ADMIN.clientId, name: "admin", entriesAhead: 2, bytesAhead: 4096 }];
  const looked = { ...answer.body, progress: { ...answer.body.progress, byClient } };
  assertEquals((await door.call("GET", `/snapshots/${id}`)).body, looked);
  assertEquals((await door.call("GET", "/snapshots/nightly")).body, looked);
  const { body: { snapshots } } = await door.call("GET", "/snapshots?pool=whole");
  const { space: _, receipt: __, ...listed } = answer.body;
  assertEquals(snapshots, [listed]);
  const { body: { chainHash } } = await door.call("GET", `/audit/${auditId}`);
  const { keyId, signature, ...signed } = receipt;
  assertEquals(signed, { poolId, snapshotId: id, auditId, chainHash, sequence: 3, cdb: "c00500000000" });
  const { body: { keys } } = await door.call("GET", "/keys");
  assertEquals(keys.map((key: Record<string, string>) => Object.keys(key)), [["kty", "crv", "x", "kid"]]);
  assertEquals([keyId, await isSigned(receipt, keys), signature.length], [keys[0].kid, true, 88]);
});

Deno.test("GET /snapshots/{snapshot} names the client that asks, and no other", async () => {
  await createTestPool(door, "shared");
  await createTestVolume(door, "shared-v", { pool: "shared" });
  await put("shared-v", 0, 1);
  const other = { ...TESTER, clientId: "00000000-0000-7000-8000-0000000000bb" };
  const data = fill(1, 2, BLOCK_BYTES);
  await door.system.storage.append(other, "shared-v", undefined, [{ lba: 4, data }]);
  const { id } = await take({ volumes: ["shared-v"] });
  const { body } = await door.call("GET", `/snapshots/${id}`);
  assertEquals(body.progress.byClient, [
    { clientId: other.clientId, entriesAhead: 1, bytesAhead: 1024 },
    { clientId: ADMIN.clientId, name: "admin", entriesAhead: 1, bytesAhead: 512 },
  ]);
});

Deno.test("GET /snapshots/{snapshot} follows the marker to the seal, step by step", async () => {
  await createTestPool(door, "following");
  await createTestVolume(door, "following-v", { pool: "following" });
  for (let lba = 0; lba < 3; lba++) await put("following-v", lba, lba + 1);
  const { id } = await take({ volumes: ["following-v"] });
  await put("following-v", 0, 9);
  const flusher = door.system.createFlusher({ limits: { ...STORAGE_LIMITS, flushBatchEntriesMax: 1 } });
  const seen: unknown[] = [];
  for (let step = 0; step < 5; step++) {
    const { body } = await door.call("GET", `/snapshots/${id}`);
    seen.push([body.status, body.progress.entriesAhead, body.progress.bytesAhead, "sealedAt" in body]);
    await flusher.sweep();
  }
  assertEquals(seen, [
    ["pending", 3, 1536, false],
    ["pending", 2, 1024, false],
    ["pending", 1, 512, false],
    ["pending", 0, 0, false],
    ["sealed", 0, 0, true],
  ]);
});

Deno.test("GET /snapshots/{snapshot}/blocks/{lba} reads what was written before the marker, pending or sealed", async () => {
  await createTestPool(door, "reading");
  await createTestVolume(door, "reading-v", { pool: "reading" });
  await put("reading-v", 0, 1, 3);
  await take({ volumes: ["reading-v"], name: "first" });
  await put("reading-v", 1, 10);
  await take({ volumes: ["reading-v"], name: "second" });
  await put("reading-v", 2, 20, 2);
  const read = async () => ({
    first: await readBlocks("/snapshots/first/blocks/0?count=4"),
    second: await readBlocks("/snapshots/second/blocks/0?count=4"),
    live: await readBlocks("/volumes/reading-v/blocks/0?count=4"),
    byDefault: await readBlocks("/snapshots/second/blocks/1"),
  });
  const contents = { first: [1, 2, 3, 0], second: [1, 10, 3, 0], live: [1, 10, 20, 21], byDefault: [10] };
  assertEquals(await read(), contents);
  await door.system.createFlusher().sweep();
  assertEquals(await read(), contents);
  await door.system.drain();
  assertEquals(await read(), contents);
  const json = await door.call("GET", "/snapshots/first/blocks/2?count=2", {
    headers: { accept: "application/json" },
  });
  assertEquals(json.body, {
    lba: 2,
    blockCount: 2,
    data: new Uint8Array([...fill(3, 1, 512), ...new Uint8Array(512)]).toBase64(),
  });
});

Deno.test("POST /snapshots makes one cut of several volumes, named by id or name", async () => {
  await createTestPool(door, "cut");
  const ids = [];
  for (const name of ["cut-a", "cut-b", "cut-c"]) {
    ids.push(await createTestVolume(door, name, { pool: "cut", blockCount: 8 }));
    await put(name, 0, ids.length);
  }
  const { sequence, volumes, cdb } = await take({ volumes: [ids[2], "cut-a"], name: "cut" });
  assertEquals([sequence, cdb.hex], [4, "c00500000000"]);
  assertEquals(volumes, [
    { volumeId: ids[0], timelineId: 1, epoch: 0, ranges: [{ lba: 0, blockCount: 8 }], volumeBlocks: 8 },
    { volumeId: ids[2], timelineId: 3, epoch: 0, ranges: [{ lba: 0, blockCount: 8 }], volumeBlocks: 8 },
  ]);
  for (const name of ["cut-a", "cut-b", "cut-c"]) await put(name, 0, 9);
  assertEquals(await readBlocks("/snapshots/cut/blocks/0?volume=cut-a"), [1]);
  assertEquals(await readBlocks(`/snapshots/cut/blocks/0?volume=${ids[2]}`), [3]);
  assertProblem(await door.call("GET", "/snapshots/cut/blocks/0"), { status: 422, code: "invalid-argument" });
  assertProblem(await door.call("GET", "/snapshots/cut/blocks/0?volume=cut-b"), OUTSIDE_SNAPSHOT);
});

Deno.test("POST /snapshots covers every volume of the pool when none is named", async () => {
  await createTestPool(door, "all");
  const ids = [];
  for (const name of ["all-a", "all-b"]) ids.push(await createTestVolume(door, name, { pool: "all" }));
  await door.call("DELETE", "/volumes/all-b");
  ids[1] = await createTestVolume(door, "all-c", { pool: "all" });
  const { volumes, cdb } = await take({ pool: "all" });
  assertEquals(volumes.map(({ volumeId }: { volumeId: string }) => volumeId), ids);
  assertEquals([cdb.hex, cdb.pool, cdb.list], ["c00300000000", true, false]);
});

Deno.test("POST /snapshots takes pool main by default, and a pool without volumes", async () => {
  const { body: main } = await door.call("GET", "/pools/main");
  const { poolId, volumes, sequence, status } = await take({});
  assertEquals([poolId, volumes, sequence, status], [main.id, [], 1, "pending"]);
  await door.system.drain();
  assertEquals((await door.call("GET", "/pools/main")).body.sequenceFlushed, 1);
});

Deno.test("POST /snapshots covers selected blocks of one volume, and nothing outside of them", async () => {
  await createTestPool(door, "ranges");
  await createTestVolume(door, "ranges-v", { pool: "ranges" });
  await put("ranges-v", 0, 1, 64);
  const { volumes: [covered], cdb } = await take({
    volumes: ["ranges-v"],
    lba: 8,
    blockCount: 4,
    name: "some",
  });
  assertEquals(covered.ranges, [{ lba: 8, blockCount: 4 }]);
  assertEquals(
    [cdb.hex, cdb.name, cdb.firstLba, cdb.blockCount],
    ["c1050000000800000400", "SNAPSHOT(10)", 8, 4],
  );
  await put("ranges-v", 0, 100, 64);
  assertEquals(await readBlocks("/snapshots/some/blocks/8?count=4"), [9, 10, 11, 12]);
  assertEquals(await readBlocks("/snapshots/some/blocks/11"), [12]);
  for (const outside of ["7", "12", "7?count=2", "8?count=5", "11?count=2", "0?count=64", "1000"]) {
    assertProblem(await door.call("GET", `/snapshots/some/blocks/${outside}`), OUTSIDE_SNAPSHOT);
  }
});

Deno.test("POST /snapshots covers several ranges of several volumes as one cut, by a parameter list", async () => {
  await createTestPool(door, "several");
  const [a, b] = [
    await createTestVolume(door, "several-a", { pool: "several" }),
    await createTestVolume(door, "several-b", { pool: "several" }),
  ];
  await put("several-a", 0, 1, 64);
  await put("several-b", 0, 101, 64);
  const { volumes, cdb } = await take({
    ranges: [
      { volume: "several-a", lba: 8, blockCount: 4 },
      { volume: "several-a", lba: 60 },
      { volume: "several-b", lba: 0, blockCount: 1 },
      { volume: "several-a", lba: 12, blockCount: 1 },
    ],
    name: "several",
  });
  assertEquals(
    volumes.map(({ volumeId, ranges }: { volumeId: string; ranges: unknown }) => [volumeId, ranges]),
    [[a, [{ lba: 8, blockCount: 5 }, { lba: 60, blockCount: 4 }]], [b, [{ lba: 0, blockCount: 1 }]]],
  );
  assertEquals([cdb.hex, cdb.list], ["c00500000000", true]);
  await put("several-a", 0, 200, 64);
  const read = (blocks: string) => `/snapshots/several/blocks/${blocks}&volume=several-a`;
  assertEquals(await readBlocks(read("11?count=2")), [12, 13]);
  assertEquals(await readBlocks(read("60?count=4")), [61, 62, 63, 64]);
  for (const outside of ["7?count=1", "12?count=2", "13?count=47", "8?count=56", "59?count=2"]) {
    assertProblem(await door.call("GET", read(outside)), OUTSIDE_SNAPSHOT);
  }
  const { body } = await door.call("GET", "/snapshots/several/ranges?volume=several-a");
  assertEquals(body.ranges, [{ lba: 8, blockCount: 5 }, { lba: 60, blockCount: 4 }]);
  const later = await take({ volumes: ["several-a"], name: "several-later" });
  const changes = await door.call("GET", `/snapshots/${later.id}/changes?base=several`);
  assertEquals(changes.body.changes, [
    { lba: 8, blockCount: 5, change: "written" },
    { lba: 60, blockCount: 4, change: "written" },
  ]);
});

Deno.test("POST /snapshots covers the rest of a volume when blockCount is 0 or absent", async () => {
  await createTestPool(door, "rest");
  await createTestVolume(door, "rest-v", { pool: "rest" });
  for (const range of [{ lba: 60 }, { lba: 60, blockCount: 0 }]) {
    const { volumes: [covered], cdb } = await take({ volumes: ["rest-v"], ...range });
    assertEquals(covered.ranges, [{ lba: 60, blockCount: 4 }]);
    assertEquals([cdb.hex, cdb.blockCount], ["c1010000003c00000000", 0]);
  }
});

Deno.test("POST /snapshots chooses SNAPSHOT(12) for a range of more than 65,535 blocks", async () => {
  await createTestVolume(door, "wide", { blockCount: 100_000 });
  const { cdb } = await take({ volumes: ["wide"], lba: 1, blockCount: 65_536 });
  assertEquals([cdb.hex, cdb.name, cdb.length], ["c20100000001000100000000", "SNAPSHOT(12)", 12]);
});

Deno.test("POST /snapshots?wait=sealed answers 200 when sealed, by a CDB with IMMED clear", async () => {
  await using own = await createTestDoor({ flusher: true });
  await createTestVolume(own, "v");
  await own.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 64, 512) });
  const { status, headers, body } = await own.call("POST", "/snapshots?wait=sealed", {
    json: { volumes: ["v"] },
  });
  assertEquals([status, body.status, body.sequence], [200, "sealed", 17]);
  assertEquals([body.cdb.hex, body.cdb.immed], ["c00000000000", false]);
  assertEquals([body.progress.entriesAhead, body.progress.bytesAhead], [0, 0]);
  assertMatch(body.sealedAt, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assertEquals(headers.get("location"), `/snapshots/${body.id}`);
});

Deno.test("POST /snapshots answers a raw CDB with IMMED clear when sealed", async () => {
  await using own = await createTestDoor({ flusher: true });
  await createTestVolume(own, "v");
  const { status, body } = await own.call("POST", "/snapshots", { json: { cdb: "c00200000000" } });
  assertEquals([status, body.status, body.cdb.immed], [200, "sealed", false]);
});

Deno.test("POST /snapshots?wait=sealed answers 202 when the seal does not come in time", async () => {
  await using own = await createTestDoor({ limits: { flushWaitMsMax: 1 } });
  await createTestVolume(own, "v");
  await own.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 1, 512) });
  const { status, body } = await own.call("POST", "/snapshots?wait=sealed", { json: { volumes: ["v"] } });
  assertEquals([status, body.status, body.cdb.immed], [202, "pending", false]);
  await own.system.drain();
  assertEquals((await own.call("GET", `/snapshots/${body.id}`)).body.status, "sealed");
});

Deno.test("POST /snapshots?wait=sealed lets go when its client leaves, and the marker stays", async () => {
  await using own = await createTestDoor({ limits: { flushWaitMsMax: 600_000 } });
  const leaving = new AbortController();
  const waiting = fetch(`${own.url}/snapshots?wait=sealed`, {
    method: "POST",
    headers: { authorization: `Bearer ${DOOR_TOKEN}`, "content-type": "application/json" },
    body: "{}",
    signal: leaving.signal,
  });
  const list = async () => (await own.call("GET", "/snapshots")).body.snapshots;
  await until(async () => (await list()).length === 1);
  leaving.abort();
  await assertRejects(() => waiting, DOMException);
  await until(() => own.requests.some(({ method }) => method === "POST"));
  await own.system.drain();
  assertEquals((await list())[0].status, "sealed");
});

Deno.test("POST /snapshots?wait=sealed is answered 202 when the server stops", async () => {
  await using own = await createTestDoor({ limits: { flushWaitMsMax: 600_000 } });
  const waiting = own.call("POST", "/snapshots?wait=sealed", { json: {} });
  await until(async () => (await own.call("GET", "/snapshots")).body.snapshots.length === 1);
  await own.stop();
  const { status, body } = await waiting;
  assertEquals([status, body.status], [202, "pending"]);
});

Deno.test("POST /snapshots carries out a raw CDB of each length, in upper or lower case", async () => {
  await createTestPool(door, "raw");
  const volumeId = await createTestVolume(door, "raw-v", { pool: "raw" });
  const covered = async (json: unknown) => {
    const { volumes, cdb } = await take(json);
    return [
      cdb.hex,
      cdb.name,
      ...volumes.map((
        { ranges: [{ lba, blockCount }] }: { ranges: Record<string, number>[] },
      ) => [lba, blockCount]),
    ];
  };
  assertEquals(await covered({ cdb: "C00100000000", volume: "raw-v" }), ["c00100000000", "SNAPSHOT(6)", [
    0,
    64,
  ]]);
  assertEquals(
    await covered({ cdb: "c1010000000500000300", volume: volumeId }),
    ["c1010000000500000300", "SNAPSHOT(10)", [5, 3]],
  );
  assertEquals(
    await covered({ cdb: "c20100000005000000030000", volume: "raw-v", pool: "raw" }),
    ["c20100000005000000030000", "SNAPSHOT(12)", [5, 3]],
  );
  assertEquals(await covered({ cdb: "c00300000000", pool: "raw" }), ["c00300000000", "SNAPSHOT(6)", [0, 64]]);
});

Deno.test("POST /snapshots carries out a raw CDB with its parameter list", async () => {
  await createTestPool(door, "listed");
  const a = await createTestVolume(door, "listed-a", { pool: "listed" });
  const b = await createTestVolume(door, "listed-b", { pool: "listed" });
  const bare = (id: string) => id.replaceAll("-", "");
  // Header: 55 bytes follow. NAME "raw-1", DESCRIPTION "ö", VOLUME twice.
  const dataOut = `00000037010000057261772d31` + `02000002c3b6` + `03000010${bare(b)}` + `03000010${bare(a)}`;
  const taken = await take({ cdb: "c00500000000", dataOut, pool: "listed" });
  assertEquals([taken.name, taken.description], ["raw-1", "ö"]);
  assertEquals(taken.volumes.map(({ volumeId }: { volumeId: string }) => volumeId), [a, b]);
  // A name alone, for the volume that the nexus addresses.
  const named = await take({
    cdb: "c00500000000",
    dataOut: "00000006010000026869",
    volume: "listed-a",
  });
  assertEquals([named.name, named.volumes.length, named.volumes[0].volumeId], ["hi", 1, a]);
});

Deno.test("GET /snapshots lists the snapshots of one pool or of all by pages, in order of creation", async () => {
  await using own = await createTestDoor();
  await createTestPool(own, "p");
  for (const name of ["e", "d", "c", "b"]) {
    await own.call("POST", "/snapshots", { json: { name, pool: name === "d" ? "main" : "p" } });
  }
  const read = (path: string, maxResults: number) =>
    readPages(own, path, "snapshots", maxResults, ({ name }) => name);
  assertEquals(await read("/snapshots", 3), [["e", "d", "c"], ["b"]]);
  assertEquals(await read("/snapshots?pool=p", 2), [["e", "c"], ["b"]]);
  assertEquals(await read("/snapshots?pool=main", 1), [["d"]]);
  const { body } = await own.call("GET", "/snapshots?pool=main");
  const { space, receipt: _, ...looked } = (await own.call("GET", "/snapshots/d")).body;
  assertEquals([looked.progress.byClient, space], [[], { uniqueBytes: 0, sharedBytes: 0 }]);
  delete looked.progress.byClient;
  assertEquals(body.snapshots, [looked]);
});

Deno.test("GET /snapshots lists those of a volume, and those of a status", async () => {
  await createTestPool(door, "listing");
  const [a] = [
    await createTestVolume(door, "listing-a", { pool: "listing" }),
    await createTestVolume(door, "listing-b", { pool: "listing" }),
  ];
  await put("listing-a", 0, 1);
  await take({ volumes: ["listing-a"], name: "l1" });
  await take({ volumes: ["listing-b"], name: "l2" });
  await take({ ranges: [{ volume: "listing-a", lba: 3 }], volumes: ["listing-b"], name: "l3" });
  const read = async (query: string) => {
    const { body } = await door.call("GET", `/snapshots?${query}`);
    return body.snapshots.map(({ name }: { name: string }) => name);
  };
  assertEquals(await read("volume=listing-a"), ["l1", "l3"]);
  assertEquals(await read(`volume=${a}&pool=listing&status=pending`), ["l1", "l3"]);
  assertEquals(await read("volume=listing-b&status=sealed"), []);
  assertEquals(await read("pool=listing&status=pending&maxResults=2"), ["l1", "l2"]);
  await door.call("DELETE", "/volumes/listing-a");
  assertEquals(await read(`volume=${a}`), ["l1", "l3"]);
  assertProblem(await door.call("GET", "/snapshots?volume=nowhere"), VOLUME_NOT_FOUND);
  assertProblem(await door.call("GET", "/snapshots?status=done"), INVALID_REQUEST);
});

Deno.test("GET /snapshots/{snapshot} demands ?pool= for a name that two pools use", async () => {
  for (const pool of ["twin-a", "twin-b"]) {
    await createTestPool(door, pool);
    await createTestVolume(door, `${pool}-v`, { pool });
    await take({ pool, name: "twin" });
  }
  for (const path of ["/snapshots/twin", "/snapshots/twin/blocks/0", "/events?snapshot=twin"]) {
    assertProblem(await door.call("GET", path), { status: 409, code: "ambiguous-name" });
    const suffix = path.includes("?") ? "&" : "?";
    assertEquals((await door.call("GET", `${path}${suffix}pool=twin-b`)).status, 200);
  }
});

Deno.test("POST /snapshots refuses volumes of several pools in one snapshot", async () => {
  for (const pool of ["far-a", "far-b"]) {
    await createTestPool(door, pool);
    await createTestVolume(door, `${pool}-v`, { pool });
  }
  assertProblem(await door.call("POST", "/snapshots", { json: { volumes: ["far-a-v", "far-b-v"] } }), {
    status: 422,
    code: "invalid-argument",
  });
});

Deno.test("POST /snapshots/{snapshot}/verify is audited, done once under its key, and ends in what the snapshot and an event tell", async () => {
  await using own = await createTestDoor();
  const { system: { test, createDigester, drain } } = own;
  await createTestVolume(own, "v");
  await own.call("PUT", "/volumes/v/blocks/3", { octets: fill(1, 2, 512) });
  await own.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  const pending = await own.call("POST", "/snapshots/s/verify");
  assertProblem(pending, { status: 422, code: "invalid-argument" });
  await drain();
  const contents = new Uint8Array(64 * 512);
  contents.set(fill(1, 2, 512), 3 * 512);
  const get = async () => (await own.call("GET", "/snapshots/s")).body;
  await createDigester().sweep();
  const { volumes: [{ volumeId, digest, fault }], digest: whole, verification } = await get();
  assertEquals([digest, whole, fault], [
    digestOf(contents),
    snapshotDigestOf([{ volumeId, digest }]),
    undefined,
  ]);
  assertEquals([verification.running, verification.intact, verification.checkedAt], [
    false,
    true,
    verification.digestedAt,
  ]);
  await test.database
    .$client`update blocks set data = set_byte(data, 0, 9), checksum = null where block_index = 3`;
  for (let times = 0; times < 2; times++) {
    const asked = await own.call("POST", "/snapshots/s/verify", { headers: { "idempotency-key": "again" } });
    assertEquals([asked.status, asked.body.verification.running], [202, true]);
  }
  await createDigester({ onFault: () => {} }).sweep();
  const damaged = await get();
  assertEquals([damaged.digest, damaged.verification.intact], [whole, false]);
  assertMatch(damaged.volumes[0].fault, new RegExp(`expected digest ${digest}, found `));
  const { body: { events } } = await own.call("GET", "/events?type=snapshot.verified");
  assertEquals(events.map(({ data }: { data: { matches: boolean } }) => data.matches), [true, false]);
  assertEquals(events[1].data.faults, [{ volumeId, detail: damaged.volumes[0].fault }]);
  const { body: { records } } = await own.call("GET", "/audit");
  const asked = records.filter(({ action }: { action: string }) => action === "snapshot.verify");
  assertEquals(asked.map(({ targetName }: { targetName: string }) => targetName), ["s"]);
  // What was done, where its answer was lost.
  await test.database.$client`
    update idempotency_keys set status = null, body = null, content_type = null, lease_until = created_at`;
  const again = await own.call("POST", "/snapshots/s/verify", { headers: { "idempotency-key": "again" } });
  assertEquals([again.status, again.body.verification.intact], [202, false]);
});
