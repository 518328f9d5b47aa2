/** What a client may do: each route by its scope, and what a client that is bound to volumes gets at. */

import { assert, assertEquals } from "@std/assert";
import { HTTP_LIMITS, STORAGE_LIMITS } from "../../src/config.ts";
import { Metrics } from "../../src/http/metrics.ts";
import { createApp } from "../../src/http/app.ts";
import { ClientLoads } from "../../src/http/client_load.ts";
import { PERMISSIONS } from "../../src/http/permission.ts";
import { TimeLimits } from "../../src/http/time_limits.ts";
import { type Scope, SCOPES } from "../../src/storage/client.ts";
import {
  type CallOptions,
  createTestDoor,
  createTestPool,
  createTestVolume,
  type TestDoor,
} from "../support/door.ts";
import { fill } from "../support/history.ts";
import { subscribe } from "../support/websocket.ts";
import { assertProblem, type Refusal, sense } from "./problem.ts";

/** Routes that need no token. */
const OPEN = /^GET \/(openapi\.(json|yaml)|docs(\/.*)?|health\/\w+)$/;
const UNKNOWN_ID = "01a20573-4b9a-71ce-9029-d1d9944da612";
const FORBIDDEN: Refusal = { status: 403, code: "forbidden", scsi: sense(0x5, 0x20, 0x02) };

let door: TestDoor;
/** A token for each scope alone. */
const tokens = new Map<Scope, string>();
/** A token that is bound to volume `own`, which is in pool `p`. */
let bound: string;
let ownId: string;
let foreignId: string;
let foreignSnapshot: string;
let exported: Uint8Array;

Deno.test.beforeAll(async () => {
  door = await createTestDoor({ flusher: true });
  for (const scope of SCOPES) {
    tokens.set(scope, await createToken({ name: `only-${scope}`, scopes: [scope] }));
  }
  await createTestPool(door, "p");
  ownId = await createTestVolume(door, "own", { pool: "p" });
  await createTestVolume(door, "empty", { pool: "p" });
  foreignId = await createTestVolume(door, "foreign", { pool: "p" });
  await createTestVolume(door, "twin", { pool: "p" });
  await createTestVolume(door, "elsewhere");
  for (const name of ["own", "foreign"]) {
    await door.call("PUT", `/volumes/${name}/blocks/0`, { octets: fill(1, 4, 512) });
  }
  await take({ volumes: ["own"], name: "mine" });
  foreignSnapshot = await take({ volumes: ["foreign"], name: "theirs" });
  await take({ volumes: ["own", "foreign"], name: "both" });
  exported = (await door.call("GET", "/snapshots/theirs/export")).body;
  await door.call("POST", "/schedules", { json: { name: "hourly", volumes: ["own"], every: "PT1H" } });
  bound = await createToken({ name: "bound", scopes: ["read", "write", "snapshot"], volumes: ["own"] });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

async function createToken(json: Record<string, unknown>): Promise<string> {
  const { status, body } = await door.call("POST", "/clients", { json });
  assertEquals(status, 201);
  return body.token;
}

async function take(json: Record<string, unknown>): Promise<string> {
  const { status, body } = await door.call("POST", "/snapshots?wait=sealed", { json });
  assertEquals(status, 200);
  return body.id;
}

const asBound = (method: string, path: string, options: CallOptions = {}) =>
  door.call(method, path, { ...options, token: bound });

/** The routes of the app, as the router has them. */
function listRoutes(): string[] {
  const limits = { ...HTTP_LIMITS, blocksBytesMax: STORAGE_LIMITS.requestBytesMax };
  const app = createApp({
    storage: door.system.storage,
    metrics: new Metrics(),
    limits,
    loads: new ClientLoads(limits, () => 0),
    timeLimits: new TimeLimits(() => 0),
    cacheBytesMax: 0,
    authenticate: () => undefined,
    onBackground: () => {},
    onRequest: () => {},
    onFault: () => {},
    onCorrupt: () => {},
    stopping: AbortSignal.abort(),
  });
  const routes = app.routes.filter(({ method }) => method !== "ALL").map(({ method, path }) =>
    `${method} ${path}`
  );
  return [...new Set(routes)].filter((route) => !OPEN.test(route)).toSorted();
}

Deno.test("every route behind the token has a row in the table of permissions, and every row a route", () => {
  assertEquals(Object.keys(PERMISSIONS).toSorted(), listRoutes());
});

Deno.test("no client gets past the scope of a route, whatever it names; with the scope it is answered otherwise", async () => {
  let pairs = 0;
  for (const [route, { scopes }] of Object.entries(PERMISSIONS)) {
    const [method, pattern] = route.split(" ");
    const path = pattern.replace(":lba", "0").replaceAll(/:\w+/g, "nowhere");
    const body = method === "PUT" && !path.endsWith("/hold")
      ? { octets: new Uint8Array(512) }
      : /GET|DELETE/.test(method)
      ? {}
      : { json: { nothing: true } };
    for (const scope of SCOPES) {
      const answer = await door.call(method, path, { ...body, token: tokens.get(scope) as string });
      if (!scopes.includes(scope)) assertProblem(answer, FORBIDDEN);
      else if (route !== "POST /volumes") assert(answer.status !== 403, `${route} by ${scope}`);
      pairs += 1;
    }
  }
  assertEquals(pairs, Object.keys(PERMISSIONS).length * SCOPES.length);
});

Deno.test("the same on plain reads and writes of a volume that exists", async () => {
  const write = (scope: Scope) =>
    door.call("PUT", "/volumes/empty/blocks/0", {
      octets: fill(1, 1, 512),
      token: tokens.get(scope) as string,
    });
  const read = (scope: Scope) =>
    door.call("GET", "/volumes/empty/blocks/0", { token: tokens.get(scope) as string });
  for (const scope of SCOPES) {
    // Twice: at first the token is looked up, then it is remembered.
    for (let times = 0; times < 2; times++) {
      assertEquals((await write(scope)).status, scope === "write" ? 200 : 403, scope);
      assertEquals((await read(scope)).status, scope === "read" ? 200 : 403, scope);
    }
  }
});

Deno.test("GET /keys is answered to every client, whatever its scopes and volumes", async () => {
  for (const token of [...SCOPES.map((scope) => tokens.get(scope) as string), bound]) {
    const { status, body } = await door.call("GET", "/keys", { token });
    assertEquals([status, body.keys.length], [200, 1]);
  }
  assertProblem(await door.call("GET", "/keys", { token: null }), { status: 401, code: "unauthorized" });
});

Deno.test("POST /volumes needs admin for a new volume, and snapshot for a clone", async () => {
  const create = (token: string, json: Record<string, unknown>) =>
    door.call("POST", "/volumes", { json, token });
  const [admin, snapshot] = [tokens.get("admin") as string, tokens.get("snapshot") as string];
  assertProblem(await create(snapshot, { name: "n", pool: "p", blockCount: 1 }), FORBIDDEN);
  assertProblem(await create(admin, { name: "n", source: { snapshot: "mine" } }), FORBIDDEN);
  assertEquals((await create(admin, { name: "n", pool: "p", blockCount: 1 })).status, 201);
  assertEquals((await create(snapshot, { name: "c", source: { snapshot: "mine" } })).status, 201);
});

Deno.test("who lacks a scope is refused before the body is read, and an unknown path is an unknown path", async () => {
  const token = tokens.get("read") as string;
  assertProblem(await door.call("POST", "/snapshots", { text: "{", token }), FORBIDDEN);
  assertProblem(
    await door.call("PUT", "/volumes/own/image", { octets: new Uint8Array(1), token }),
    FORBIDDEN,
  );
  assertProblem(await door.call("GET", "/nothing", { token }), { status: 404, code: "not-found" });
  assertProblem(await door.call("DELETE", "/pools", { token }), { status: 405, code: "method-not-allowed" });
});

Deno.test("a bound client reads and writes its volume, by id and by name", async () => {
  for (const reference of ["own", ownId, ownId.toUpperCase(), "%6fwn"]) {
    for (let times = 0; times < 2; times++) {
      assertEquals(
        (await asBound("PUT", `/volumes/${reference}/blocks/9`, { octets: fill(3, 1, 512) })).status,
        200,
      );
      assertEquals((await asBound("GET", `/volumes/${reference}/blocks/9`)).status, 200);
    }
    for (const suffix of ["", "/ranges", "/segments", "?pool=p", "/blocks/0?count=2&pool=p"]) {
      assertEquals((await asBound("GET", `/volumes/${reference}${suffix}`)).status, 200);
    }
  }
  assertEquals((await asBound("DELETE", "/volumes/own/blocks/9")).status, 200);
  assertEquals(
    (await asBound("POST", "/volumes/own/writes", { json: { writes: [{ lba: 9, trim: 1 }] } })).status,
    200,
  );
  assertEquals((await asBound("PUT", "/volumes/own/image", { octets: fill(1, 1, 512) })).status, 200);
});

Deno.test("a bound client takes, reads and deletes snapshots of its volume", async () => {
  const taken = await asBound("POST", "/snapshots?wait=sealed", { json: { volumes: ["own"], name: "b1" } });
  assertEquals(taken.status, 200);
  const ranged = { json: { ranges: [{ volume: ownId, lba: 0, blockCount: 2 }], pool: "p" } };
  assertEquals((await asBound("POST", "/snapshots", ranged)).status, 202);
  const command = { json: { cdb: "c00100000000", volume: "own" } };
  assertEquals((await asBound("POST", "/snapshots", command)).status, 202);
  for (
    const path of ["", "/blocks/0", "/ranges", "/changes?base=mine", "/image", "/export", "/export?base=mine"]
  ) {
    const { status, body } = await asBound("GET", `/snapshots/b1${path}`);
    assertEquals(status, 200, `${path}: ${JSON.stringify(body)}`);
  }
  assertEquals((await asBound("PATCH", "/snapshots/b1", { json: { labels: { a: "b" } } })).status, 200);
  assertEquals((await asBound("POST", "/snapshots/b1/verify")).status, 202);
  const reverted = await asBound("POST", "/volumes/own/revert", { json: { snapshot: "b1" } });
  assertEquals(reverted.status, 200);
  assertEquals((await asBound("DELETE", "/snapshots/b1")).status, 204);
});

Deno.test("a bound client's lists show its own", async () => {
  const names = async (path: string, key: string) => {
    const { status, body } = await asBound("GET", path);
    assertEquals(status, 200);
    return body[key].map(({ name }: { name?: string }) => name).filter((name?: string) => name !== undefined);
  };
  for (const query of ["", "?pool=p"]) {
    assertEquals(await names(`/volumes${query}`, "volumes"), ["own"]);
    const snapshots = await names(`/snapshots${query}`, "snapshots");
    assertEquals([snapshots.includes("mine"), snapshots.includes("theirs"), snapshots.includes("both")], [
      true,
      false,
      false,
    ]);
  }
  assertEquals((await names("/snapshots?volume=own", "snapshots")).includes("both"), false);
});

Deno.test("a bound client is told events of its volume, and nothing of snapshots that cover others", async () => {
  const { status, body } = await asBound("GET", "/events?volume=own&maxResults=1000");
  assertEquals(status, 200);
  assert(body.events.some(({ type }: { type: string }) => type === "volume.created"));
  assert(body.events.some(({ data }: { data: { name?: string } }) => data.name === "mine"));
  assert(!JSON.stringify(body).includes("both"));
  using subscriber = await subscribe(door, "?snapshot=mine&after=0", bound);
  assertEquals((await subscriber.take(1))[0].type, "marker.committed");
});

/** What a bound client may not name: each with something that exists and something that does not. */
const FOREIGN: [
  method: string,
  path: (one: string) => string,
  names: "volume" | "snapshot" | "pool",
  options?: (one: string) => CallOptions,
][] = [
  ["GET", (one) => `/volumes/${one}`, "volume"],
  ["GET", (one) => `/volumes/${one}?pool=p`, "volume"],
  ["GET", (one) => `/volumes/${one}/blocks/0`, "volume"],
  ["PUT", (one) => `/volumes/${one}/blocks/0`, "volume", () => ({ octets: new Uint8Array(512) })],
  ["DELETE", (one) => `/volumes/${one}/blocks/0`, "volume"],
  ["POST", (one) => `/volumes/${one}/writes`, "volume", () => ({ json: { writes: [{ lba: 0, trim: 1 }] } })],
  ["PUT", (one) => `/volumes/${one}/image`, "volume", () => ({ octets: new Uint8Array(512) })],
  ["POST", (one) => `/volumes/${one}/import`, "volume", () => ({ octets: exported })],
  ["GET", (one) => `/volumes/${one}/ranges`, "volume"],
  ["GET", (one) => `/volumes/${one}/segments`, "volume"],
  ["POST", (one) => `/volumes/${one}/revert`, "volume", () => ({ json: { snapshot: "mine" } })],
  ["GET", (one) => `/events?volume=${one}`, "volume"],
  ["GET", (one) => `/snapshots?volume=${one}`, "volume"],
  ["GET", (one) => `/snapshots/mine/blocks/0?volume=${one}`, "volume"],
  ["POST", () => "/snapshots", "volume", (one) => ({ json: { volumes: ["own", one] } })],
  ["POST", () => "/snapshots", "volume", (one) => ({ json: { ranges: [{ volume: one, lba: 0 }] } })],
  ["POST", () => "/snapshots", "volume", (one) => ({ json: { cdb: "c00100000000", volume: one } })],
  ["GET", (one) => `/snapshots/${one}`, "snapshot"],
  ["PATCH", (one) => `/snapshots/${one}`, "snapshot", () => ({ json: { description: "x" } })],
  ["DELETE", (one) => `/snapshots/${one}`, "snapshot"],
  ["PUT", (one) => `/snapshots/${one}/hold`, "snapshot", () => ({ json: { until: "2999-01-01T00:00:00Z" } })],
  ["POST", (one) => `/snapshots/${one}/verify`, "snapshot"],
  ["GET", (one) => `/snapshots/${one}/blocks/0?volume=own`, "snapshot"],
  ["GET", (one) => `/snapshots/${one}/ranges`, "snapshot"],
  ["GET", (one) => `/snapshots/${one}/image`, "snapshot"],
  ["GET", (one) => `/snapshots/${one}/export`, "snapshot"],
  ["GET", (one) => `/snapshots/mine/export?base=${one}`, "snapshot"],
  ["GET", (one) => `/snapshots/mine/changes?base=${one}`, "snapshot"],
  ["GET", (one) => `/events?snapshot=${one}`, "snapshot"],
  ["POST", () => "/volumes/own/revert", "snapshot", (one) => ({ json: { snapshot: one } })],
  ["POST", (one) => `/volumes/own/import?base=${one}`, "snapshot", () => ({ octets: exported })],
  ["GET", (one) => `/volumes?pool=${one}`, "pool"],
  ["GET", (one) => `/snapshots?pool=${one}`, "pool"],
  ["GET", (one) => `/events?volume=own&pool=${one}`, "pool"],
  ["GET", (one) => `/pools/${one}`, "pool"],
  ["POST", () => "/snapshots", "pool", (one) => ({ json: { volumes: ["own"], pool: one } })],
  ["POST", () => "/snapshots", "pool", (one) => ({ json: { pool: one } })],
];

for (const [method, path, names, options = () => ({})] of FOREIGN) {
  Deno.test(`${method} ${path("…")} answers a bound client alike for a ${names} of others and for none`, async () => {
    const existing = {
      volume: ["foreign", foreignId, "elsewhere"],
      snapshot: ["theirs", foreignSnapshot, "both"],
      pool: ["main"],
    }[names];
    const answers = [];
    for (const one of [...existing, "nowhere", UNKNOWN_ID]) {
      const answer = await asBound(method, path(one), options(one));
      assertProblem(answer, FORBIDDEN);
      const { requestId: _, ...told } = answer.body;
      answers.push(told);
    }
    for (const answer of answers) assertEquals(answer, answers[0]);
  });
}

for (
  const [method, path, json] of [
    ["POST", "/snapshots", {}],
    ["POST", "/snapshots", { name: "all", pool: "p" }],
    ["POST", "/snapshots?volume=own", {}],
    ["POST", "/snapshots", { cdb: "c00100000000" }],
    ["POST", "/snapshots", { cdb: "c00300000000", volume: "own", dataOut: "00" }],
    ["POST", "/volumes", { name: "n", source: { snapshot: "mine" } }],
    ["GET", "/events"],
    ["GET", "/events?pool=p"],
    ["GET", "/pools"],
    ["GET", "/clients"],
    ["GET", "/audit"],
    ["GET", "/schedules"],
    ["POST", "/schedules", { name: "s", volumes: ["own"], every: "PT1H" }],
    ["POST", "/schedules/hourly/run"],
    ["DELETE", "/schedules/hourly"],
    ["POST", "/snapshots/mine/copies", { pool: "main" }],
    ["GET", "/snapshots/mine/copies"],
    ["PATCH", "/volumes/own", { labels: { a: "b" } }],
    ["DELETE", "/volumes/own"],
  ] as [string, string, unknown?][]
) {
  Deno.test(`${method} ${path} ${JSON.stringify(json ?? "")} is not for a bound client`, async () => {
    assertProblem(await asBound(method, path, json === undefined ? {} : { json }), FORBIDDEN);
  });
}

Deno.test("a stream that starts from a snapshot of others is refused to a bound client, whether there is one or not", async () => {
  const details = [];
  for (const from of ["theirs", "both", "nowhere"]) {
    const octets = startFrom(from);
    const answer = await asBound("POST", "/volumes/own/import", { octets });
    assertProblem(answer, FORBIDDEN);
    details.push(answer.body.detail);
  }
  assertEquals(new Set(details).size, 1);
});

/** A stream in the format rbd diff v1: from, to, size, end. */
function startFrom(from: string): Uint8Array {
  const text = new TextEncoder();
  const named = (tag: string, name: string) => {
    const bytes = new Uint8Array(5 + name.length);
    bytes.set(text.encode(tag));
    new DataView(bytes.buffer).setUint32(1, name.length, true);
    bytes.set(text.encode(name), 5);
    return bytes;
  };
  const size = new Uint8Array(9);
  size.set(text.encode("s"));
  new DataView(size.buffer).setBigUint64(1, 64n * 512n, true);
  const parts = [text.encode("rbd diff v1\n"), named("f", from), named("t", "to"), size, text.encode("e")];
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

Deno.test("a word that can be no reference is refused as to anybody", async () => {
  for (
    const path of ["/volumes/-v", "/snapshots/%00", "/volumes?pool=-", "/snapshots/mine/ranges?volume=a%20b"]
  ) {
    assertProblem(await asBound("GET", path), { status: 400, code: "invalid-request" });
  }
});
