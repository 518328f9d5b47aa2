/** `Idempotency-Key`: what is answered again, what is refused, and that nothing is done twice. */

import { assert, assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { KEY_LENGTH_MAX } from "../../src/http/idempotency.ts";
import {
  type Answer,
  type CallOptions,
  createTestDoor,
  createTestVolume,
  openTestDoor,
  type TestDoor,
  until,
} from "../support/door.ts";
import { fill } from "../support/history.ts";
import {
  assertNothingStored,
  assertProblem,
  INVALID_REQUEST,
  NAME_TAKEN,
  type Refusal,
  refusalsOf,
} from "./problem.ts";

const REUSED: Refusal = { status: 422, code: "idempotency-key-reused" };
const IN_PROGRESS: Refusal = {
  status: 409,
  code: "idempotency-key-in-progress",
  headers: { "retry-after": "1" },
};

let now = new Date();
const pass = (milliseconds: number) => now = new Date(now.getTime() + milliseconds);

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor({ clock: () => now });
  await createTestVolume(door, "v", { blockCount: 8 });
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 2, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  await door.system.drain();
  const hourly = { name: "hourly", volumes: ["v"], every: "PT1H" };
  assertEquals((await door.call("POST", "/schedules", { json: hourly })).status, 201);
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const withKey = (key: string, json: unknown): CallOptions => ({ json, headers: { "idempotency-key": key } });
const post = (key: string, path: string, json: unknown) => door.call("POST", path, withKey(key, json));

let keys = 0;
const newKey = () => `"key ${++keys}"`;

/** What is the same in an answer that is given again; ids of requests are not. */
const essence = ({ status, headers, body }: Answer) => ({
  status,
  type: headers.get("content-type"),
  location: headers.get("location"),
  body,
});

/** Each POST that creates: the path, and a body with a name of its own. */
const CREATIONS: [what: string, path: string, body: (name: string) => unknown][] = [
  ["a pool", "/pools", (name) => ({ name, blockSizeBytes: 512 })],
  ["a device", "/devices", (name) => ({ name, blockCount: 8 })],
  ["a volume", "/volumes", (name) => ({ name, blockCount: 8 })],
  ["a clone", "/volumes", (name) => ({ name, source: { snapshot: "s" } })],
  ["a snapshot in words", "/snapshots", (name) => ({ name, volumes: ["v"] })],
  ["a snapshot without a name", "/snapshots", () => ({ pool: "main" })],
  ["a snapshot as a command", "/snapshots", () => ({ cdb: "c00100000000", volume: "v" })],
  ["a revert", "/volumes/v/revert", (safetyName) => ({ snapshot: "s", safetyName })],
  [
    "a revert without a safety snapshot",
    "/volumes/v/revert",
    () => ({ snapshot: "s", safetySnapshot: false }),
  ],
  ["a schedule", "/schedules", (name) => ({ name, volumes: ["v"], every: "PT1H" })],
  ["a schedule's run", "/schedules/hourly/run", () => undefined],
];

for (const [what, path, toBody] of CREATIONS) {
  Deno.test(`POST of ${what} is answered again under its key, by every process, and done once`, async () => {
    const [key, body] = [newKey(), toBody(`again-${keys}`)];
    const first = await post(key, path, body);
    assert(first.status < 300, JSON.stringify(first.body));
    assertEquals(first.headers.has("idempotent-replayed"), false);
    await using another = openTestDoor(await door.system.openAnother());
    await assertNothingStored(door, async () => {
      for (const { call } of [door, another]) {
        const again = await call("POST", path, withKey(key, body));
        assertEquals(essence(again), essence(first));
        assertEquals(again.headers.get("idempotent-replayed"), "true");
      }
    });
  });

  Deno.test(`POST of ${what} is done once though its answer was never stored`, async () => {
    const [key, body] = [newKey(), toBody(`lost-${keys}`)];
    const first = await withoutStoring(() => post(key, path, body));
    assert(first.status < 300, JSON.stringify(first.body));
    await assertNothingStored(door, async () => {
      assertProblem(await post(key, path, body), IN_PROGRESS);
      pass(STORAGE_LIMITS.idempotencyLeaseMs);
      for (let time = 0; time < 2; time++) {
        const again = await post(key, path, body);
        assertEquals(essence(again), essence(first));
        assertEquals(again.headers.get("idempotent-replayed"), "true");
      }
    });
  });
}

/** As a server is that dies between the commit and the storing of the answer. */
async function withoutStoring<T>(act: () => Promise<T>): Promise<T> {
  const { $client } = door.system.test.database;
  await $client.unsafe(`
    create function skip() returns trigger language plpgsql as 'begin return null; end';
    create trigger skip before update on idempotency_keys for each row when (new.status is not null) execute function skip()`);
  try {
    return await act();
  } finally {
    await $client.unsafe("drop function skip cascade");
  }
}

Deno.test("POST under a key of something that is gone by now tells so, and does not make it again", async () => {
  const [key, body] = [newKey(), { name: "gone", blockCount: 8 }];
  await withoutStoring(() => post(key, "/volumes", body));
  assertEquals((await door.call("DELETE", "/volumes/gone")).status, 204);
  pass(STORAGE_LIMITS.idempotencyLeaseMs);
  await assertNothingStored(door, async () => {
    for (let time = 0; time < 2; time++) {
      const { status, body: problem } = await post(key, "/volumes", body);
      assertEquals([status, problem.code], [404, "volume-not-found"]);
    }
  });
});

Deno.test("POST under the key of another request is refused, be it of another body, path or query", async () => {
  const [key, body] = [newKey(), { pool: "main", description: "a" }];
  assertEquals((await post(key, "/snapshots", body)).status, 202);
  await assertNothingStored(door, async () => {
    assertProblem(await post(key, "/snapshots", { ...body, description: "b" }), REUSED);
    assertProblem(await post(key, "/snapshots?wait=sealed", body), REUSED);
    assertProblem(await post(key, "/devices", body), REUSED);
  });
});

Deno.test("POST under a key is refused while the first is in progress, and answered as it was afterwards", async () => {
  const key = newKey();
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(2, 1, 512) });
  const take = () => post(key, "/snapshots?wait=sealed", { volumes: ["v"], name: "awaited" });
  const first = take();
  await until(async () => (await door.call("GET", "/snapshots/awaited")).status === 200);
  assertProblem(await take(), IN_PROGRESS);
  await door.system.drain();
  assertEquals((await first).status, 200);
  assertEquals(essence(await take()), essence(await first));
});

Deno.test("POST under a key that was refused by what stands there is refused so again", async () => {
  const [key, body] = [newKey(), { name: "contended", blockCount: 8 }];
  const volume = await createTestVolume(door, "contended");
  const first = await post(key, "/volumes", body);
  assertProblem(first, NAME_TAKEN);
  await door.call("DELETE", `/volumes/${volume}`);
  assertEquals(essence(await post(key, "/volumes", body)), essence(first));
  assertEquals((await post(newKey(), "/volumes", body)).status, 201);
});

Deno.test("POST that was refused unread, or for now, leaves its key free", async () => {
  const unread = newKey();
  assertProblem(await post(unread, "/volumes", { name: "unread", blocks: 8 }), INVALID_REQUEST);
  assertEquals((await post(unread, "/volumes", { name: "unread", blockCount: 8 })).status, 201);

  const busy = newKey();
  const limits = { pendingRequestsMax: 0 };
  await using another = openTestDoor(await door.system.openAnother({ limits }));
  const request = withKey(busy, { volumes: ["v"] });
  assertEquals((await another.call("POST", "/snapshots", request)).status, 503);
  assertEquals((await door.call("POST", "/snapshots", request)).status, 202);
});

Deno.test("POST takes a key as a string, escaped or not, or bare: the same key either way", async () => {
  const body = { volumes: ["v"] };
  for (const [bare, quoted] of [["a-1", '"a-1"'], ["a/b=+:~", '"a/b=+:~"'], ["x".repeat(KEY_LENGTH_MAX)]]) {
    const first = await post(bare, "/snapshots", body);
    assertEquals(first.status, 202);
    const again = await post(quoted ?? `"${bare}"`, "/snapshots", body);
    assertEquals(again.body.id, first.body.id);
  }
  const odd = String.raw`"say \"a\\b\", twice; k=1"`;
  assertEquals((await post(odd, "/snapshots", body)).body.id, (await post(odd, "/snapshots", body)).body.id);
});

for (
  const key of [
    "",
    '""',
    '"',
    '"open',
    'a"b',
    '"a"b"',
    String.raw`"a\b"`,
    "two words",
    "a, b",
    '"a", "b"',
    '"a";p=1',
    '"\u00e4"',
    "x".repeat(KEY_LENGTH_MAX + 1),
    `"${"x".repeat(KEY_LENGTH_MAX + 1)}"`,
  ]
) {
  refuses(`the key ${key.slice(0, 20)}`, ["POST", "/volumes", withKey(key, { name: "k", blockCount: 8 })], {
    status: 400,
    code: "invalid-request",
  });
}

Deno.test("a key is nothing to writes, to octets and to what is not there", async () => {
  const key = { "idempotency-key": '"writes"' };
  const json = { writes: [{ lba: 0, trim: 1 }] };
  const sequences = [];
  for (let time = 0; time < 2; time++) {
    sequences.push((await door.call("POST", "/volumes/v/writes", { json, headers: key })).body.sequence);
    const octets = { octets: fill(1, 1, 512), headers: key };
    sequences.push((await door.call("PUT", "/volumes/v/blocks/0", octets)).body.sequence);
  }
  assertEquals(new Set(sequences).size, 4);
  await door.system.drain();
  assertEquals((await door.call("POST", "/nowhere", { json, headers: key })).status, 404);
  assertEquals((await door.call("POST", "/audit", { json, headers: key })).status, 405);
  for (const value of ["", '"writes"']) {
    const headers = { "idempotency-key": value, "content-type": "application/json" };
    assertEquals((await door.call("POST", "/pools/main/flush", { headers })).status, 200);
  }
  const [{ count }] = await door.system.test.database.$client`
    select count(*) from idempotency_keys where key = 'writes'`;
  assertEquals(count, 0);
});
