/**
 * Bad input: a clear problem document with a stable code, nothing stored, nothing leaked, and the server goes on. What is
 * wrong with commands is in `bad_command_test.ts`.
 */

import { assert, assertEquals } from "@std/assert";
import { createTestDoor, createTestVolume, type TestDoor, until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import {
  assertNothingStored,
  assertProblem,
  INVALID_ARGUMENT,
  INVALID_REQUEST,
  LBA_OUT_OF_RANGE,
  LIST_INVALID,
  NAME_TAKEN,
  type Refusal,
  refusalsOf,
  sense,
  TOO_LARGE,
  VOLUME_NOT_FOUND,
} from "./problem.ts";
import { callRaw, sendRaw } from "./raw_request.ts";

/** Bounds small enough to exceed. */
const REQUEST_BYTES_MAX = 16_384;
const JSON_BYTES_MAX = 32_768;
const UNKNOWN_ID = "01a20573-4b9a-71ce-9029-d1d9944da612";
const NOT_WHOLE_BLOCKS: Refusal = { status: 422, code: "not-whole-blocks" };
const INCOMPLETE_BODY: Refusal = { status: 400, code: "incomplete-body" };
const NOT_FOUND: Refusal = { status: 404, code: "not-found" };

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor({
    limits: { requestBytesMax: REQUEST_BYTES_MAX, flushWaitMsMax: 1 },
    http: { jsonBytesMax: JSON_BYTES_MAX },
  });
  await createTestVolume(door, "v", { blockCount: 64 });
  await createTestVolume(door, "w", { blockCount: 64 });
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 4, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], lba: 8, blockCount: 8, name: "some" } });
  await door.call("POST", "/schedules", { json: { name: "hourly", volumes: ["v"], every: "PT1H" } });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const block = () => ({ octets: fill(9, 1, 512) });
const data = (blockCount = 1) => fill(9, blockCount, 512).toBase64();
const notFound = (code: string): Refusal => ({ status: 404, code });

// Ids

for (const reference of ["nowhere", UNKNOWN_ID, "A", "0", "x".repeat(63)]) {
  const what = `the unknown reference ${reference.slice(0, 20)}`;
  refuses(what, ["GET", `/pools/${reference}`], notFound("pool-not-found"));
  refuses(
    what,
    ["PATCH", `/pools/${reference}`, { json: { flushPolicy: { kind: "at-once" } } }],
    notFound("pool-not-found"),
  );
  refuses(what, ["GET", `/pools/${reference}/cache`], notFound("pool-not-found"));
  refuses(what, ["POST", `/pools/${reference}/flush`], notFound("pool-not-found"));
  refuses(what, ["GET", `/devices/${reference}`], notFound("device-not-found"));
  refuses(what, ["GET", `/devices/${reference}/segments`], notFound("device-not-found"));
  for (const method of ["GET", "POST", "DELETE"]) {
    refuses(what, [method, `/devices/${reference}/scrub`], notFound("device-not-found"));
  }
  refuses(what, ["GET", `/volumes/${reference}`], VOLUME_NOT_FOUND);
  refuses(what, ["PUT", `/volumes/${reference}/blocks/0`, block()], VOLUME_NOT_FOUND);
  refuses(what, ["GET", `/snapshots/${reference}`], notFound("snapshot-not-found"));
  refuses(what, ["GET", `/snapshots/${reference}/blocks/0`], notFound("snapshot-not-found"));
  refuses(what, ["GET", `/audit/${reference}`], notFound("audit-record-not-found"));
  refuses(what, ["GET", `/schedules/${reference}`], notFound("schedule-not-found"));
  refuses(what, ["DELETE", `/schedules/${reference}`], notFound("schedule-not-found"));
  refuses(what, ["POST", `/schedules/${reference}/run`], notFound("schedule-not-found"));
  refuses(what, ["POST", `/snapshots/${reference}/verify`], notFound("snapshot-not-found"));
  refuses(
    what,
    ["PATCH", `/schedules/${reference}`, { json: { paused: true } }],
    notFound("schedule-not-found"),
  );
  refuses(what, ["GET", `/clients/${reference}`], notFound("client-not-found"));
  refuses(what, ["DELETE", `/clients/${reference}`], notFound("client-not-found"));
  const change = { json: { bytesPerSecondMax: null } };
  refuses(what, ["PATCH", `/clients/${reference}`, change], notFound("client-not-found"));
  refuses(what, ["POST", `/clients/${reference}/rotate`], notFound("client-not-found"));
  const named = { name: "c", scopes: ["read"], volumes: ["v", reference] };
  refuses(what, ["POST", "/clients", { json: named }], VOLUME_NOT_FOUND);
  refuses(what, ["GET", `/copies/${reference}`], notFound("copy-not-found"));
  refuses(what, ["DELETE", `/copies/${reference}`], notFound("copy-not-found"));
  refuses(what, ["GET", `/volumes?pool=${reference}`], notFound("pool-not-found"));
  refuses(what, ["GET", `/events?volume=${reference}`], VOLUME_NOT_FOUND);
  refuses(what, ["GET", `/events?snapshot=${reference}`], notFound("snapshot-not-found"));
  const json = { name: "n", pool: reference, blockCount: 1 };
  refuses(what, ["POST", "/volumes", { json }], notFound("pool-not-found"));
  refuses(what, ["POST", "/snapshots", { json: { volumes: ["v", reference] } }], VOLUME_NOT_FOUND);
}

for (
  const reference of [
    "%00",
    "v%00",
    "-v",
    ".",
    "%2e%2e",
    "a%20b",
    "%ff",
    "%E2%82%AC",
    "v'--",
    "v;",
    "x".repeat(64),
    "x".repeat(5_000),
  ]
) {
  // A dot is a segment that every client removes from a path.
  if (reference !== "." && reference !== "%2e%2e") {
    refuses("a malformed reference", ["GET", `/volumes/${reference}`], INVALID_REQUEST);
    refuses("a malformed reference", ["PUT", `/volumes/${reference}/blocks/0`, block()], INVALID_REQUEST);
    refuses("a malformed reference", ["GET", `/snapshots/${reference}`], INVALID_REQUEST);
    refuses("a malformed reference", ["POST", `/schedules/${reference}/run`], INVALID_REQUEST);
    refuses("a malformed reference", ["POST", `/snapshots/${reference}/verify`], INVALID_REQUEST);
  }
  refuses("a malformed reference", ["GET", `/volumes?pool=${reference}`], INVALID_REQUEST);
  refuses("a malformed reference", ["GET", `/events?snapshot=${reference}`], INVALID_REQUEST);
  const named = { json: { volumes: [decodeLossy(reference)] } };
  refuses(
    `the malformed reference ${reference.slice(0, 20)}`,
    ["POST", "/snapshots", named],
    INVALID_REQUEST,
  );
}

function decodeLossy(text: string): string {
  return text === "%ff" ? "\ud800" : decodeURIComponent(text);
}

refuses("a reference given twice", ["GET", "/volumes/v?pool=main&pool=main"], INVALID_REQUEST);

// Clients

for (
  const [what, json, refusal] of [
    ["no scopes", { name: "c" }, INVALID_REQUEST],
    ["an empty list of scopes", { name: "c", scopes: [] }, INVALID_REQUEST],
    ["an unknown scope", { name: "c", scopes: ["root"] }, INVALID_REQUEST],
    ["a token of one's own", { name: "c", scopes: ["read"], token: "t" }, INVALID_REQUEST],
    ["an empty list of volumes", { name: "c", scopes: ["read"], volumes: [] }, INVALID_REQUEST],
    ["no name", { scopes: ["read"] }, INVALID_REQUEST],
    ["an expiry that is no moment", { name: "c", scopes: ["read"], expiresAt: "soon" }, INVALID_REQUEST],
    ["a name with a blank", { name: "a b", scopes: ["read"] }, INVALID_ARGUMENT],
    ["a name that is an id", { name: UNKNOWN_ID, scopes: ["read"] }, INVALID_ARGUMENT],
    ["a priority above the bound", { name: "c", scopes: ["read"], priority: 101 }, INVALID_ARGUMENT],
    ["a priority below the bound", { name: "c", scopes: ["read"], priority: -101 }, INVALID_ARGUMENT],
    ["a fraction of a priority", { name: "c", scopes: ["read"], priority: 0.5 }, INVALID_ARGUMENT],
    [
      "an expiry in the past",
      { name: "c", scopes: ["read"], expiresAt: "2000-01-01T00:00:00Z" },
      INVALID_ARGUMENT,
    ],
    ["an administrator bound to volumes", { name: "c", scopes: ["admin"], volumes: ["v"] }, INVALID_ARGUMENT],
    ["no request", { name: "c", scopes: ["read"], requestsPerSecondMax: 0 }, INVALID_ARGUMENT],
    ["half a request", { name: "c", scopes: ["read"], requestsPerSecondMax: 1.5 }, INVALID_ARGUMENT],
    ["too many requests", { name: "c", scopes: ["read"], requestsPerSecondMax: 1_000_001 }, INVALID_ARGUMENT],
    ["less than a block", { name: "c", scopes: ["read"], bytesPerSecondMax: 4_095 }, INVALID_ARGUMENT],
    ["too many bytes", { name: "c", scopes: ["read"], bytesPerSecondMax: 2 ** 40 + 1 }, INVALID_ARGUMENT],
    ["a rate that is no number", { name: "c", scopes: ["read"], bytesPerSecondMax: "1" }, INVALID_REQUEST],
    ["no rate", { name: "c", scopes: ["read"], requestsPerSecondMax: null }, INVALID_REQUEST],
    ["the admin token's name", { name: "admin", scopes: ["read"] }, NAME_TAKEN],
    ["the system's name", { name: "system", scopes: ["read"] }, NAME_TAKEN],
  ] as const
) {
  refuses(what, ["POST", "/clients", { json }], refusal);
}

for (
  const [what, json, refusal] of [
    ["of nothing", {}, INVALID_REQUEST],
    ["of the name", { name: "d" }, INVALID_REQUEST],
    ["to no request", { requestsPerSecondMax: 0 }, INVALID_ARGUMENT],
    ["to less than a block", { bytesPerSecondMax: 1 }, INVALID_ARGUMENT],
  ] as const
) {
  refuses(`a client's change ${what}`, ["PATCH", `/clients/${UNKNOWN_ID}`, { json }], refusal);
}

// Bodies of blocks

refuses("an empty body", ["PUT", "/volumes/v/blocks/0", { octets: new Uint8Array(0) }], NOT_WHOLE_BLOCKS);
for (const length of [1, 511, 513, 1000]) {
  const octets = new Uint8Array(length);
  refuses(`a body of ${length} bytes`, ["PUT", "/volumes/v/blocks/0", { octets }], NOT_WHOLE_BLOCKS);
}
for (const length of [REQUEST_BYTES_MAX + 1, REQUEST_BYTES_MAX + 512, 10 * REQUEST_BYTES_MAX]) {
  const octets = new Uint8Array(length);
  refuses(`a body of ${length} bytes`, ["PUT", "/volumes/v/blocks/0", { octets }], TOO_LARGE);
}

Deno.test("PUT /volumes/{volume}/blocks/{lba} takes a body of exactly the bound", async () => {
  const octets = fill(1, REQUEST_BYTES_MAX / 512, 512);
  assertEquals((await door.call("PUT", "/volumes/w/blocks/0", { octets })).status, 200);
});

Deno.test("PUT refuses a body in chunks as soon as it exceeds the bound, with 413", async () => {
  await assertNothingStored(door, async () => {
    const chunk = `200\r\n${"x".repeat(512)}\r\n`;
    const answer = await callRaw(door, "PUT /volumes/v/blocks/0", [
      "content-type: application/octet-stream",
      "transfer-encoding: chunked",
    ], chunk.repeat(REQUEST_BYTES_MAX / 512 + 1));
    assertProblem(answer, TOO_LARGE);
  });
});

Deno.test("PUT refuses a body of a stated length above the bound before it comes, with 413", async () => {
  await assertNothingStored(door, async () => {
    const headers = ["content-type: application/octet-stream", "content-length: 9007199254740993"];
    assertProblem(await callRaw(door, "PUT /volumes/v/blocks/0", headers, "x"), TOO_LARGE);
  });
});

for (
  const [what, request, headers, body] of [
    ["blocks", "PUT /volumes/v/blocks/0", ["content-length: 8192"], "x".repeat(100)],
    ["whole blocks", "PUT /volumes/v/blocks/0", ["content-length: 8192"], "x".repeat(512)],
    ["chunks", "PUT /volumes/v/blocks/0", ["transfer-encoding: chunked"], `200\r\n${"x".repeat(100)}`],
    [
      "whole chunks",
      "PUT /volumes/v/blocks/0",
      ["transfer-encoding: chunked"],
      `200\r\n${"x".repeat(512)}\r\n`,
    ],
    ["JSON", "POST /volumes", ["content-length: 900"], '{"name":"cut","blockCount":1}'],
    [
      "JSON in chunks",
      "POST /volumes",
      ["transfer-encoding: chunked"],
      '1d\r\n{"name":"cut","blockCount":1}\r\n',
    ],
  ] as const
) {
  const type = request.startsWith("PUT") ? "application/octet-stream" : "application/json";

  Deno.test(`${request} refuses ${what} cut off midway with 400, when the client still listens`, async () => {
    await assertNothingStored(door, async () => {
      const answer = await callRaw(door, request, [`content-type: ${type}`, ...headers], body, {
        cutOff: true,
      });
      assertProblem(answer, INCOMPLETE_BODY);
    });
  });

  Deno.test(`${request} stores nothing of ${what} cut off midway, when the client is gone`, async () => {
    await assertNothingStored(door, async () => {
      const answered = door.requests.length;
      using connection = await sendRaw(door, request, [`content-type: ${type}`, ...headers], body);
      connection.close();
      await until(() => door.requests.length > answered);
      assertEquals(door.requests[answered].status, 400);
    });
  });
}

// JSON bodies

const WRITES = "/volumes/v/writes";
for (
  const [what, text] of [
    ["no JSON", "{"],
    ["an empty body", ""],
    ["words", "hello"],
    ["single quotes", "{'name':'n','blockCount':1}"],
    ["trailing text", '{"name":"n","blockCount":1}}'],
    ["a lone surrogate's bytes", '{"name":"\ud800","blockCount":1'],
  ] as const
) {
  refuses(what, ["POST", "/volumes", { text }], INVALID_REQUEST);
  refuses(what, ["POST", WRITES, { text }], INVALID_REQUEST);
  refuses(what, ["POST", "/snapshots", { text }], INVALID_REQUEST);
  refuses(what, ["POST", "/pools", { text }], INVALID_REQUEST);
  refuses(what, ["POST", "/snapshots/some/copies", { text }], INVALID_REQUEST);
  refuses(what, ["POST", "/devices", { text }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/pools/main", { text }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/volumes/v", { text }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/snapshots/some", { text }], INVALID_REQUEST);
  refuses(what, ["POST", "/schedules", { text }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/schedules/hourly", { text }], INVALID_REQUEST);
}

for (const json of [null, [], 1, "text", true, {}, [{}], { volume: "v" }]) {
  const what = `the body ${JSON.stringify(json)}`;
  refuses(what, ["POST", "/volumes", { json }], INVALID_REQUEST);
  refuses(what, ["POST", WRITES, { json }], INVALID_REQUEST);
  refuses(what, ["POST", "/pools", { json }], INVALID_REQUEST);
  refuses(what, ["POST", "/snapshots/some/copies", { json }], INVALID_REQUEST);
  refuses(what, ["POST", "/devices", { json }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/pools/main", { json }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/volumes/v", { json }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/snapshots/some", { json }], INVALID_REQUEST);
  refuses(what, ["POST", "/schedules", { json }], INVALID_REQUEST);
  refuses(what, ["PATCH", "/schedules/hourly", { json }], INVALID_REQUEST);
  // An empty object is a snapshot of pool main.
  if (JSON.stringify(json) !== "{}") refuses(what, ["POST", "/snapshots", { json }], INVALID_REQUEST);
}

for (
  const [path, json, problem] of [
    ["/volumes", { name: 1, blockCount: 1 }, "name"],
    ["/volumes", { name: "n", blockCount: "1" }, "blockCount"],
    ["/volumes", { name: "n", blockCount: 1.5 }, "blockCount"],
    ["/volumes", { name: "n", blockCount: 0 }, "blockCount"],
    ["/volumes", { name: "n", blockCount: -1 }, "blockCount"],
    ["/volumes", { name: "n", sizeBytes: 2 ** 53 }, "sizeBytes"],
    ["/volumes", { name: "n", sizeBytes: null }, "sizeBytes"],
    ["/volumes", { name: "", blockCount: 1 }, "name"],
    ["/volumes", { name: "n".repeat(64), blockCount: 1 }, "name"],
    ["/volumes", { name: "n", blockCount: 1, pool: "" }, "pool"],
    ["/volumes", { name: "n", blockCount: 1, pool: ["main"] }, "pool"],
    ["/volumes", { name: "n", blockCount: 1, colour: "red" }, ""],
    ["/devices", { name: "n", blockCount: true }, "blockCount"],
    ["/devices", { name: "n", blockCount: 8, path: "x" }, ""],
    ["/pools", { name: "n", blockSizeBytes: "4096" }, "blockSizeBytes"],
    ["/pools", { name: "n", blockSizeBytes: 4096.5 }, "blockSizeBytes"],
    ["/pools", { name: "n", segmentBlocks: null }, "segmentBlocks"],
    ["/pools", { name: "n", cacheBytesMax: "all" }, "cacheBytesMax"],
    ["/pools", { name: "n", size: 1 }, ""],
    ["/pools", { name: "n", cacheMode: "write-around" }, "cacheMode"],
    ["/pools", { name: "n", flushPolicy: { kind: "never" } }, "flushPolicy.kind"],
    ["/pools", { name: "n", flushPolicy: { kind: "interval" } }, "flushPolicy.intervalMs"],
    ["/pools", { name: "n", flushPolicy: { kind: "at-once", intervalMs: 1_000 } }, "flushPolicy"],
    [WRITES, { writes: [] }, "writes"],
    [WRITES, { writes: {} }, "writes"],
    [WRITES, { writes: [{ lba: "0", trim: 1 }] }, "writes.0.lba"],
    [WRITES, { writes: [{ lba: 0 }] }, "writes.0.data"],
    [WRITES, { writes: [{ lba: 0, trim: 1 }, { lba: 0, trim: "1" }] }, "writes.1.trim"],
    [WRITES, { writes: [{ lba: 0, data: data(), trim: 1 }] }, "writes.0"],
    [WRITES, { writes: [{ lba: 0, trim: 1, count: 1 }] }, "writes.0"],
    [WRITES, { writes: [{ lba: 0, data: [0, 0] }] }, "writes.0.data"],
    [WRITES, { writes: [{ lba: 0, data: "not base64!" }] }, "writes.0.data"],
    [WRITES, { writes: [{ lba: 0, trim: 1 }, { lba: 0, data: "AAA-_w==" }] }, "writes.1.data"],
    [WRITES, { writes: [{ lba: 0, data: "A" }] }, "writes.0.data"],
    [WRITES, { writes: [{ lba: 0, data: `data:;base64,${data()}` }] }, "writes.0.data"],
    ["/snapshots", { volumes: [] }, "volumes"],
    ["/snapshots", { volumes: "v" }, "volumes"],
    ["/snapshots", { volumes: [1] }, "volumes.0"],
    ["/snapshots", { volumes: ["v"], lba: -1 }, "lba"],
    ["/snapshots", { volumes: ["v"], lba: 0.5 }, "lba"],
    ["/snapshots", { volumes: ["v"], lba: 2 ** 53 }, "lba"],
    ["/snapshots", { volumes: ["v"], blockCount: -1 }, "blockCount"],
    ["/snapshots", { volumes: ["v"], blockCount: "4" }, "blockCount"],
    ["/snapshots", { name: 1 }, "name"],
    ["/snapshots", { name: "n".repeat(64) }, "name"],
    ["/snapshots", { description: "d".repeat(1025) }, "description"],
    ["/snapshots", { nmae: "typo" }, ""],
    ["/snapshots", { cdb: "c00100000000", name: "n" }, ""],
    ["/snapshots", { cdb: "c00100000000", volumes: ["v"] }, ""],
    ["/snapshots", { cdb: "c0".repeat(33) }, "cdb"],
  ] as const
) {
  Deno.test(`POST ${path} refuses ${JSON.stringify(json).slice(0, 80)} with 400, and names the part`, async () => {
    await assertNothingStored(door, async () => {
      const answer = await door.call("POST", path, { json });
      assertProblem(answer, INVALID_REQUEST);
      assertEquals(answer.body.problems.length, 1, JSON.stringify(answer.body.problems));
      assertEquals(answer.body.problems[0].path, problem);
      assert(answer.body.problems[0].message.length > 5);
    });
  });
}

refuses(
  "both sizes",
  ["POST", "/volumes", { json: { name: "n", blockCount: 1, sizeBytes: 512 } }],
  INVALID_REQUEST,
);
refuses("no size", ["POST", "/devices", { json: { name: "n" } }], INVALID_REQUEST);
refuses("JSON above its bound", ["POST", "/volumes", { text: `"${"x".repeat(JSON_BYTES_MAX)}"` }], TOO_LARGE);
refuses("writes above the data bound", ["POST", WRITES, {
  json: { writes: [{ lba: 0, data: data(20) }, { lba: 20, data: data(20) }] },
}], TOO_LARGE);
refuses("more writes than the bound", ["POST", WRITES, {
  json: { writes: Array.from({ length: 1025 }, () => ({ lba: 0, trim: 1 })) },
}], TOO_LARGE);
refuses("half a block", ["POST", WRITES, { json: { writes: [{ lba: 0, data: "AAAA" }] } }], NOT_WHOLE_BLOCKS);
refuses("no data", ["POST", WRITES, { json: { writes: [{ lba: 0, data: "" }] } }], NOT_WHOLE_BLOCKS);
refuses("half blocks", ["POST", "/volumes", { json: { name: "n", sizeBytes: 513 } }], NOT_WHOLE_BLOCKS);
refuses("half blocks", ["PATCH", "/volumes/v", { json: { sizeBytes: 99_999 } }], NOT_WHOLE_BLOCKS);

Deno.test("POST refuses a list of very many wrong items at once, and names few of them", async () => {
  await using own = await createTestDoor();
  for (
    const [path, text] of [
      ["/volumes/v/writes", `{"writes":[${"0,".repeat(2_000_000)}0]}`],
      ["/snapshots", `{"volumes":[${"0,".repeat(2_000_000)}0]}`],
      ["/snapshots", `{"volumes":[${'"x",'.repeat(1_000_000)}"x"]}`],
      ["/snapshots", `{${Array.from({ length: 200_000 }, (_, key) => `"${key}":0`).join()}}`],
      ["/volumes/v/writes", `{"writes":[${"0,".repeat(4_000)}0]}`],
      ["/pools", "[".repeat(2_000_000)],
    ]
  ) {
    const answer = await own.call("POST", path, { text });
    assertProblem(answer, INVALID_REQUEST);
    assert(JSON.stringify(answer.body).length < 10_000);
    const [record] = own.requests.slice(-1);
    assert(record.milliseconds < 5_000, `it took ${record.milliseconds} ms`);
  }
});

// Media types

for (
  const type of ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "", "json"]
) {
  const headers = { "content-type": type };
  const refusal = {
    status: 415,
    code: "unsupported-media-type",
    headers: { accept: "application/json" },
  };
  const text = '{"name":"n","blockCount":1}';
  refuses(`the media type "${type}"`, ["POST", "/volumes", { text, headers }], refusal);
  refuses(`the media type "${type}"`, ["POST", "/snapshots", { text: "{}", headers }], refusal);
  refuses(`the media type "${type}"`, ["POST", WRITES, { text: "{}", headers }], refusal);
  refuses(
    `the media type "${type}"`,
    ["PATCH", "/volumes/v", { text: '{"blockCount":99}', headers }],
    refusal,
  );
}
for (const type of ["application/json", "text/plain", ""]) {
  const request = { ...block(), headers: { "content-type": type } };
  refuses(`the media type "${type}"`, ["PUT", "/volumes/v/blocks/0", request], {
    status: 415,
    code: "unsupported-media-type",
    headers: { accept: "application/octet-stream" },
  });
}

Deno.test("POST /volumes takes a media type with parameters, in any case", async () => {
  const headers = { "content-type": "Application/JSON; charset=utf-8" };
  const { status } = await door.call("POST", "/volumes", { json: { name: "typed", blockCount: 1 }, headers });
  assertEquals(status, 201);
});

// Methods and paths

for (
  const [path, allow] of [
    ["/health/live", "GET, HEAD"],
    ["/openapi.json", "GET, HEAD"],
    ["/docs", "GET, HEAD"],
    ["/pools", "GET, HEAD, POST"],
    ["/pools/main", "GET, HEAD, PATCH"],
    ["/pools/main/cache", "GET, HEAD"],
    ["/pools/main/flush", "POST"],
    ["/devices", "GET, HEAD, POST"],
    ["/devices/main-1", "GET, HEAD"],
    ["/devices/main-1/segments", "GET, HEAD"],
    ["/devices/main-1/scrub", "DELETE, GET, HEAD, POST"],
    ["/volumes", "GET, HEAD, POST"],
    ["/volumes/v", "DELETE, GET, HEAD, PATCH"],
    ["/volumes/v/segments", "GET, HEAD"],
    ["/volumes/v/blocks/0", "DELETE, GET, HEAD, PUT"],
    ["/volumes/v/writes", "POST"],
    ["/volumes/v/import", "POST"],
    ["/snapshots", "GET, HEAD, POST"],
    ["/snapshots/some", "DELETE, GET, HEAD, PATCH"],
    ["/snapshots/some/blocks/0", "GET, HEAD"],
    ["/schedules", "GET, HEAD, POST"],
    ["/schedules/hourly", "DELETE, GET, HEAD, PATCH"],
    ["/schedules/hourly/run", "POST"],
    ["/snapshots/some/export", "GET, HEAD"],
    ["/snapshots/some/copies", "GET, HEAD, POST"],
    ["/snapshots/some/verify", "POST"],
    ["/copies/1", "DELETE, GET, HEAD"],
    ["/clients", "GET, HEAD, POST"],
    ["/clients/some", "DELETE, GET, HEAD, PATCH"],
    ["/clients/some/rotate", "POST"],
    ["/audit", "GET, HEAD"],
    ["/audit/1", "GET, HEAD"],
    ["/audit/verify", "GET, HEAD"],
    ["/keys", "GET, HEAD"],
    ["/events", "GET, HEAD"],
    ["/metrics", "GET, HEAD"],
  ]
) {
  Deno.test(`${path} refuses every other method with 405 and Allow: ${allow}`, async () => {
    await assertNothingStored(door, async () => {
      const allowed = allow.split(", ");
      for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]) {
        if (allowed.includes(method)) continue;
        for (const options of method === "GET" ? [{}] : [{}, { json: {} }, block()]) {
          assertProblem(await door.call(method, path, options), {
            status: 405,
            code: "method-not-allowed",
            headers: { allow },
          });
        }
      }
    });
  });
}

for (
  const path of [
    "/",
    "/volume",
    "/volumes/",
    "/volumes/v/blocks",
    "/volumes/v/blocks/",
    "/volumes/v/blocks/0/1",
  ]
) {
  refuses("a path that there is not", ["GET", path], NOT_FOUND);
  refuses("a path that there is not", ["POST", path, { json: {} }], NOT_FOUND);
  refuses(
    "a path that there is not",
    ["POST", path, { text: "x", headers: { "content-type": "x/y" } }],
    NOT_FOUND,
  );
}

// LBAs and counts

for (
  const lba of [
    "-1",
    "0.5",
    "-0.5",
    "64",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993",
    "9".repeat(30),
  ]
) {
  refuses(`LBA ${lba}`, ["PUT", `/volumes/v/blocks/${lba}`, block()], LBA_OUT_OF_RANGE);
  refuses(`LBA ${lba}`, ["GET", `/volumes/v/blocks/${lba}`], LBA_OUT_OF_RANGE);
  refuses(`LBA ${lba}`, ["DELETE", `/volumes/v/blocks/${lba}`], LBA_OUT_OF_RANGE);
}
for (const lba of [-1, 0.5, 64, 2 ** 53, 1e300, -(2 ** 53)]) {
  refuses(`LBA ${lba}`, ["POST", WRITES, { json: { writes: [{ lba, trim: 1 }] } }], LBA_OUT_OF_RANGE);
  refuses(`LBA ${lba}`, ["POST", WRITES, { json: { writes: [{ lba, data: data() }] } }], LBA_OUT_OF_RANGE);
}
for (
  const lba of ["abc", "0x10", "1e3", "+1", "NaN", "Infinity", "1,5", "%20", "9".repeat(31), "0%00", "٣"]
) {
  refuses(`the LBA "${lba.slice(0, 10)}"`, ["PUT", `/volumes/v/blocks/${lba}`, block()], INVALID_REQUEST);
  refuses(`the LBA "${lba.slice(0, 10)}"`, ["GET", `/volumes/v/blocks/${lba}`], INVALID_REQUEST);
  refuses(`the LBA "${lba.slice(0, 10)}"`, ["GET", `/snapshots/some/blocks/${lba}`], INVALID_REQUEST);
}
refuses("LBA 1e400", ["POST", WRITES, { text: '{"writes":[{"lba":1e400,"trim":1}]}' }], INVALID_REQUEST);
refuses(
  "a range past the end",
  ["PUT", "/volumes/v/blocks/63", { octets: fill(1, 2, 512) }],
  LBA_OUT_OF_RANGE,
);
refuses("a range past the end", ["GET", "/volumes/v/blocks/63?count=2"], LBA_OUT_OF_RANGE);
refuses("a range past the end", ["DELETE", "/volumes/v/blocks/0?count=65"], LBA_OUT_OF_RANGE);
refuses("a range past 2^53", ["DELETE", "/volumes/v/blocks/9007199254740991?count=2"], LBA_OUT_OF_RANGE);

for (const count of ["0", "-1", "0.5", "-9007199254740993"]) {
  refuses(`count ${count}`, ["GET", `/volumes/v/blocks/0?count=${count}`], LBA_OUT_OF_RANGE);
  refuses(`count ${count}`, ["DELETE", `/volumes/v/blocks/0?count=${count}`], LBA_OUT_OF_RANGE);
  refuses(`count ${count}`, ["GET", `/snapshots/some/blocks/8?count=${count}`], LBA_OUT_OF_RANGE);
}
for (const count of ["33", "9007199254740992", "9".repeat(30)]) {
  refuses(`count ${count}`, ["GET", `/volumes/v/blocks/0?count=${count}`], TOO_LARGE);
  refuses(`count ${count}`, ["GET", `/snapshots/some/blocks/8?count=${count}`], TOO_LARGE);
}
for (const count of ["65537", "9007199254740992", "9".repeat(30)]) {
  refuses(`count ${count}`, ["DELETE", `/volumes/v/blocks/0?count=${count}`], TOO_LARGE);
}
for (const count of ["abc", "", "1e3", "1&count=2"]) {
  refuses(`the count "${count}"`, ["GET", `/volumes/v/blocks/0?count=${count}`], INVALID_REQUEST);
  refuses(`the count "${count}"`, ["DELETE", `/volumes/v/blocks/0?count=${count}`], INVALID_REQUEST);
}
for (const trim of [0, -1, 0.5]) {
  refuses(`a trim of ${trim}`, ["POST", WRITES, { json: { writes: [{ lba: 0, trim }] } }], LBA_OUT_OF_RANGE);
}
refuses("a huge trim", ["POST", WRITES, { json: { writes: [{ lba: 0, trim: 2 ** 60 }] } }], TOO_LARGE);
refuses("a huge trim that another takes back", ["POST", WRITES, {
  json: { writes: [{ lba: 0, trim: 1e15 }, { lba: 0, trim: -1e15 }] },
}], LBA_OUT_OF_RANGE);

// Names and sizes

refuses(
  "the name of another volume",
  ["POST", "/volumes", { json: { name: "v", blockCount: 1 } }],
  NAME_TAKEN,
);
refuses(
  "the name of another device",
  ["POST", "/devices", { json: { name: "main-1", blockCount: 8 } }],
  NAME_TAKEN,
);
refuses("the name of another pool", ["POST", "/pools", { json: { name: "main" } }], NAME_TAKEN);
refuses("the name of another snapshot", ["POST", "/snapshots", { json: { name: "some" } }], NAME_TAKEN);
for (
  const name of ["a b", "-a", ".a", "a/b", "ä", "a\u0000", "\ud800", UNKNOWN_ID, UNKNOWN_ID.toUpperCase()]
) {
  const what = `the name ${JSON.stringify(name)}`;
  refuses(what, ["POST", "/volumes", { json: { name, blockCount: 1 } }], INVALID_ARGUMENT);
  refuses(what, ["POST", "/devices", { json: { name, blockCount: 8 } }], INVALID_ARGUMENT);
  refuses(what, ["POST", "/pools", { json: { name } }], INVALID_ARGUMENT);
  const snapshotRefusal = name.length === 36 ? INVALID_ARGUMENT : LIST_INVALID;
  refuses(what, ["POST", "/snapshots", { json: { name } }], snapshotRefusal);
}
for (const description of ["€".repeat(342), "a\u0000b", "\ud800"]) {
  refuses("a bad description", ["POST", "/snapshots", { json: { description } }], LIST_INVALID);
}
for (const blockSizeBytes of [0, -512, 1, 256, 1000, 131_072, 2 ** 40]) {
  const json = { name: "n", blockSizeBytes };
  refuses(`blocks of ${blockSizeBytes} bytes`, ["POST", "/pools", { json }], INVALID_ARGUMENT);
}
for (const segmentBlocks of [0, -1, 3, 2 ** 11, 2 ** 50]) {
  const json = { name: "n", segmentBlocks };
  refuses(`segments of ${segmentBlocks} blocks`, ["POST", "/pools", { json }], INVALID_ARGUMENT);
}
for (const cacheBytesMax of [0, -1, 4095]) {
  const json = { name: "n", cacheBytesMax };
  refuses(`a cache of ${cacheBytesMax} bytes`, ["POST", "/pools", { json }], INVALID_ARGUMENT);
}
for (
  const flushPolicy of [
    { kind: "interval", intervalMs: 0 },
    { kind: "interval", intervalMs: 2 ** 50 },
    { kind: "threshold", dirtyBytes: 0 },
    { kind: "threshold", dirtyBytes: 2 ** 50 },
    { kind: "threshold", dirtyBytes: 8_192, maxAgeMs: -1 },
  ]
) {
  const what = `the flush policy ${JSON.stringify(flushPolicy)}`;
  refuses(what, ["POST", "/pools", { json: { name: "n", flushPolicy } }], INVALID_ARGUMENT);
  refuses(what, ["PATCH", "/pools/main", { json: { flushPolicy } }], INVALID_ARGUMENT);
}
const TOO_MANY = { name: "n", blockCount: 2 ** 36 + 1 };
refuses("too many blocks", ["POST", "/volumes", { json: TOO_MANY }], INVALID_ARGUMENT);
refuses("too many blocks", ["POST", "/devices", { json: TOO_MANY }], INVALID_ARGUMENT);
refuses("too many blocks", ["PATCH", "/volumes/v", { json: { blockCount: 2 ** 50 } }], INVALID_ARGUMENT);
refuses(
  "less than a segment",
  ["POST", "/devices", { json: { name: "n", blockCount: 3 } }],
  INVALID_ARGUMENT,
);

// Pages

const encode = (text: string) =>
  new TextEncoder().encode(text).toBase64({ alphabet: "base64url", omitPadding: true });
for (const path of ["/pools", "/devices", "/volumes", "/snapshots", "/schedules", "/audit"]) {
  for (
    const token of [
      "x",
      "%00",
      "!!!!",
      encode("main"),
      encode("7"),
      encode(`${UNKNOWN_ID}' or 1=1`),
      "A".repeat(257),
      "",
    ]
  ) {
    refuses(`the page token "${token.slice(0, 12)}"`, ["GET", `${path}?pageToken=${token}`], INVALID_REQUEST);
  }
}
refuses("a pool that there is not", ["GET", "/audit/verify?pool=none"], notFound("pool-not-found"));
for (const path of ["/pools/main/cache", "/devices/main-1/segments", "/audit/verify"]) {
  for (
    const token of [encode(UNKNOWN_ID), encode("-1"), encode("1.5"), encode("1".repeat(17)), encode("0 ")]
  ) {
    refuses("a page token of another list", ["GET", `${path}?pageToken=${token}`], INVALID_REQUEST);
  }
}
for (const token of [encode(UNKNOWN_ID), encode("1"), encode("1.-1"), encode("1.1.1")]) {
  refuses("a page token of another list", ["GET", `/volumes/v/segments?pageToken=${token}`], INVALID_REQUEST);
}
for (
  const path of [
    "/pools",
    "/devices/main-1/segments",
    "/pools/main/cache",
    "/volumes/v/segments",
    "/audit",
    "/audit/verify",
    "/events",
  ]
) {
  for (const max of ["0", "-1", "1001", "1.5", "abc", "", "9999999999", "1&maxResults=2"]) {
    refuses(`maxResults ${max}`, ["GET", `${path}?maxResults=${max}`], INVALID_REQUEST);
  }
}

// Events

for (
  const type of ["", "volume", "volume.created,", "Volume.Created", "volume.created;marker.committed", "%00"]
) {
  refuses(`the event type "${type}"`, ["GET", `/events?type=${type}`], INVALID_REQUEST);
}
for (const after of ["-1", "1.5", "abc", "", "1e3", "9".repeat(16)]) {
  refuses(`events after "${after}"`, ["GET", `/events?after=${after}`], INVALID_REQUEST);
}
refuses("half a handshake", ["GET", "/events", { headers: { upgrade: "websocket" } }], INVALID_REQUEST);

Deno.test("POST /pools/{pool}/flush gives up with 504 where nobody flushes", async () => {
  await assertNothingStored(door, async () => {
    assertProblem(await door.call("POST", "/pools/main/flush"), {
      status: 504,
      code: "timed-out",
      scsi: sense(0xb, 0x2e, 0x02),
    });
  });
});

Deno.test("a query that a route does not know is refused, and nothing is stored", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v");
  const attempts: [string, string, unknown?][] = [
    ["POST", "/devices?pool=main", { name: "d", blockCount: 4_000 }],
    ["POST", "/volumes?pool=main", { name: "w", blockCount: 8 }],
    ["POST", "/snapshots?pool=main", { volumes: ["v"] }],
    ["POST", "/pools?name=p", { name: "p" }],
    ["GET", "/volumes/v/blocks/0?cnt=2"],
    ["GET", "/audit?pool=main"],
    ["GET", "/events?since=1"],
    ["GET", "/volumes?max=1"],
  ];
  const count = async () => {
    const [row] = await door.system.test.database.$client`
      select (select count(*) from audit) as audit, (select count(*) from events) as events`;
    return { ...row };
  };
  const before = await count();
  for (const [method, path, json] of attempts) {
    const { status, body } = await door.call(method, path, json === undefined ? {} : { json });
    assertEquals([path, status, body.code], [path, 400, "invalid-request"]);
  }
  assertEquals(await count(), before);
});

Deno.test("a body with a Content-Encoding is refused: its bytes would be stored as they are", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v");
  const { status, body } = await door.call("PUT", "/volumes/v/blocks/0", {
    octets: new Uint8Array(512),
    headers: { "content-encoding": "gzip" },
  });
  assertEquals([status, body.code], [415, "unsupported-media-type"]);
});
