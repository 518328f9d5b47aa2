/** How fast a client may come, and how much of it at a time: refused before the body is read, alike on both lanes. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { HTTP_LIMITS, STORAGE_LIMITS } from "../../src/config.ts";
import { ClientLoads } from "../../src/http/client_load.ts";
import { TokenBucket } from "../../src/http/token_bucket.ts";
import { StorageError } from "../../src/errors.ts";
import { createTestDoor, createTestVolume, type TestDoor, until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { assertProblem, type Refusal } from "./problem.ts";
import { callRaw, sendRaw } from "./raw_request.ts";

const LIMITS = { ...HTTP_LIMITS, blocksBytesMax: STORAGE_LIMITS.requestBytesMax };
const OCTETS = "application/octet-stream";
/** Sent with it, a request of blocks goes the usual way. */
const DETOURS = { PUT: { "content-type": `${OCTETS};detour=1` }, GET: { accept: `${OCTETS};q=1` } } as const;
const LANES = { "the fast lane": false, "the usual way": true } as const;

const client = (clientId: string, rates = {}) => ({
  clientId,
  clientName: clientId,
  priority: 0,
  scopes: [],
  ...rates,
});

const rateLimited = (seconds: number): Refusal => ({
  status: 429,
  code: "rate-limited",
  scsi: { status: "BUSY" },
  headers: { "retry-after": String(seconds) },
});
const TOO_MANY_AT_ONCE: Refusal = {
  status: 429,
  code: "too-many-at-once",
  scsi: { status: "TASK SET FULL" },
  headers: { "retry-after": "1" },
};
const TOO_BUSY: Refusal = {
  status: 503,
  code: "too-busy",
  scsi: { status: "BUSY" },
  headers: { "retry-after": "1" },
};

// The bucket

Deno.test("TokenBucket gives what its rate gives in a second, and then what comes", () => {
  const bucket = new TokenBucket();
  for (let taken = 0; taken < 3; taken++) {
    assertEquals(bucket.waitMs(1, 3, 5_000), 0);
    bucket.take(1, 3, 5_000);
  }
  assertEquals(Math.round(bucket.waitMs(1, 3, 5_000)), 333);
  assertEquals(Math.round(bucket.waitMs(1, 3, 5_200)), 133);
  assertEquals(bucket.waitMs(1, 3, 5_334), 0);
  assertEquals([bucket.isFull(5_999), bucket.isFull(6_000)], [false, true]);
});

Deno.test("TokenBucket goes into debt, which is paid at its rate", () => {
  const bucket = new TokenBucket();
  bucket.take(4_000, 1_000, 0);
  assertEquals([bucket.waitMs(0, 1_000, 0), bucket.waitMs(0, 1_000, 2_999)], [3_000, 1]);
  assertEquals(bucket.waitMs(0, 1_000, 3_000), 0);
  // At a lower rate from now on, what is owed in time stays.
  assertEquals(bucket.waitMs(0, 1, 2_000), 1_000);
});

Deno.test("TokenBucket has a debt paid at a higher rate from the moment it is given", () => {
  const bucket = new TokenBucket();
  bucket.take(1_000_000, 1, 0);
  assertEquals(bucket.waitMs(0, 1, 0), 999_999_000);
  assertEquals([bucket.waitMs(0, 500_000, 0), bucket.waitMs(0, 500_000, 500)], [1_000, 500]);
  assertEquals(bucket.waitMs(1, 500_000, 2_000), 0);
});

// Loads

Deno.test("ClientLoads forgets who is idle, and of those who owe the one that was there first", () => {
  let nowMs = 0;
  const loads = new ClientLoads({ ...LIMITS, clientLoadsMax: 2, bytesPerSecondMax: 1_000 }, () => nowMs);
  loads.enter(client("idle")).leave();
  const owing = loads.enter(client("owing"));
  owing.charge(1_000_000);
  owing.leave();
  nowMs = 1_000;
  loads.enter(client("third")).leave();
  assertEquals(loads.figures.clients, 2);
  // Whoever owes is remembered: it was the idle one that went.
  assertThrows(() => loads.enter(client("owing")), StorageError);
  const stays = loads.enter(client("third"));
  loads.enter(client("fourth")).leave();
  assertEquals(loads.figures.clients, 2);
  loads.enter(client("owing"));
  stays.leave();
});

Deno.test("ClientLoads counts what is held, gives it back once, and not beyond its bounds", () => {
  const loads = new ClientLoads({ ...LIMITS, clientHeldBytesMax: 10, heldBytesMax: 15 }, () => 0);
  const [first, second] = [loads.enter(client("a")), loads.enter(client("b"))];
  first.hold(6);
  first.hold(4);
  assertThrows(() => first.hold(1), StorageError, "at most 10 bytes of bodies of a client");
  assertThrows(() => second.hold(6), StorageError, "at most 15");
  second.hold(5);
  first.release();
  second.hold(5);
  first.leave();
  first.leave();
  second.leave();
  assertEquals(loads.figures.heldBytes, 0);
});

// The door

/** Waits until so many requests have their place, and so many bytes are held, beside the look at it itself. */
async function untilUnderWay(door: TestDoor, requests: number, heldBytes: number): Promise<void> {
  const figures = [`_requests_under_way ${requests + 1}\n`, `_held_bytes ${heldBytes}\n`];
  await until(async () => {
    const { body } = await door.call("GET", "/metrics");
    return figures.every((figure) => body.includes(figure));
  });
}

interface LimitedDoor {
  readonly door: TestDoor;
  readonly clock: { nowMs: number };
  readonly token: string;
  /** Writes or reads blocks as that client. */
  blocks(method: "PUT" | "GET", isDetour: boolean, blockCount?: number): ReturnType<TestDoor["call"]>;
}

async function openLimited(
  resources: AsyncDisposableStack,
  rates: Record<string, number>,
  options: Parameters<typeof createTestDoor>[0] = {},
): Promise<LimitedDoor> {
  const clock = { nowMs: 0 };
  const door = resources.use(await createTestDoor({ now: () => clock.nowMs, ...options }));
  await createTestVolume(door, "v", { blockCount: 256 });
  const json = { name: "c", scopes: ["read", "write"], ...rates };
  const { token } = (await door.call("POST", "/clients", { json })).body;
  return {
    door,
    clock,
    token,
    blocks: (method, isDetour, blockCount = 1) => {
      const path = `/volumes/v/blocks/0${method === "GET" ? `?count=${blockCount}` : ""}`;
      const headers = isDetour ? DETOURS[method] : {};
      return method === "GET"
        ? door.call(method, path, { token, headers })
        : door.call(method, path, { token, headers, octets: fill(1, blockCount, 512) });
    },
  };
}

for (const [lane, isDetour] of Object.entries(LANES)) {
  for (const method of ["PUT", "GET"] as const) {
    Deno.test(`${method} by ${lane} is 429 above the client's requests a second, until there are some again`, async () => {
      await using resources = new AsyncDisposableStack();
      const { door, clock, blocks, token } = await openLimited(resources, { requestsPerSecondMax: 2 });
      const statuses = async () => [
        (await blocks(method, isDetour)).status,
        (await blocks(method, isDetour)).status,
      ];
      // The client is known from here on, so that the lane takes it.
      assertEquals((await door.call("GET", "/volumes", { token })).status, 200);
      clock.nowMs = 1_000;
      assertEquals(await statuses(), [200, 200]);
      assertProblem(await blocks(method, isDetour), rateLimited(1));
      // Others come as before.
      assertEquals((await door.call("GET", "/volumes/v/blocks/0")).status, 200);
      clock.nowMs = 1_500;
      assertEquals(await statuses(), [200, 429]);
      // What was refused was not counted.
      clock.nowMs = 2_500;
      assertEquals(await statuses(), [200, 200]);
    });

    Deno.test(`${method} by ${lane} may bring the client's bytes a second into debt, and the next one waits`, async () => {
      await using resources = new AsyncDisposableStack();
      const { door, clock, blocks, token } = await openLimited(resources, { bytesPerSecondMax: 4_096 });
      assertEquals((await door.call("GET", "/volumes", { token })).status, 200);
      clock.nowMs = 1_000;
      // 24 KiB, six seconds' worth, of which one is there.
      assertEquals((await blocks(method, isDetour, 48)).status, 200);
      assertProblem(await blocks(method, isDetour), rateLimited(method === "PUT" ? 6 : 5));
      clock.nowMs = 5_999;
      assertProblem(await blocks(method, isDetour), rateLimited(1));
      clock.nowMs = 6_100;
      assertEquals((await blocks(method, isDetour)).status, 200);
    });
  }
}

Deno.test("lists, refusals and requests without a body count as requests, and their answers' bodies as bytes", async () => {
  await using resources = new AsyncDisposableStack();
  const { door, clock, token } = await openLimited(resources, {
    requestsPerSecondMax: 3,
    bytesPerSecondMax: 4_096,
  });
  const get = (path: string) => door.call("GET", path, { token });
  assertEquals([(await get("/volumes/v")).status, (await get("/volumes/none")).status], [200, 404]);
  assertEquals((await get("/pools")).status, 403);
  assertProblem(await get("/volumes/v"), rateLimited(1));
  for (let index = 0; index < 20; index++) await createTestVolume(door, `v${index}`);
  clock.nowMs = 1_000;
  const { body } = await get("/volumes");
  const seconds = Math.ceil(JSON.stringify(body).length / 4_096 - 1);
  assert(seconds >= 1);
  assertProblem(await get("/volumes"), rateLimited(seconds));
});

Deno.test("PATCH /clients/{client} changes the rate of a client that is at it", async () => {
  await using resources = new AsyncDisposableStack();
  const { door, clock, token } = await openLimited(resources, { requestsPerSecondMax: 1 });
  const status = async () => (await door.call("GET", "/volumes", { token })).status;
  assertEquals([await status(), await status()], [200, 429]);
  await door.call("PATCH", "/clients/c", { json: { requestsPerSecondMax: null } });
  clock.nowMs = 1;
  assertEquals([await status(), await status(), await status()], [200, 200, 200]);
});

Deno.test("what a client without limits may send stands in the door's own", async () => {
  await using resources = new AsyncDisposableStack();
  const http = { requestsPerSecondMax: 4 };
  const { door, token } = await openLimited(resources, {}, { http });
  const status = async () => (await door.call("GET", "/volumes", { token })).status;
  assertEquals([await status(), await status(), await status(), await status()], [200, 200, 200, 200]);
  assertEquals(await status(), 429);
});

for (const [lane, isDetour] of Object.entries(LANES)) {
  Deno.test(`a request above the client's at a time is 429 by ${lane}, before its body is read`, async () => {
    await using resources = new AsyncDisposableStack();
    const http = { requestsAtOnceMax: 2 };
    const { door, blocks, token } = await openLimited(resources, {}, { http });
    assertEquals((await blocks("GET", false)).status, 200);
    const type = isDetour ? DETOURS.PUT["content-type"] : OCTETS;
    const headers = [`content-type: ${type}`, "content-length: 512", `authorization: Bearer ${token}`];
    const waiting = [];
    for (let index = 0; index < 2; index++) {
      waiting.push(resources.use(await sendRaw(door, "PUT /volumes/v/blocks/0", headers, "", null)));
    }
    const answered = () => callRaw(door, "PUT /volumes/v/blocks/0", headers, "", { token: null });
    await untilUnderWay(door, 2, 1_024);
    assertProblem(await answered(), TOO_MANY_AT_ONCE);
    assertProblem(await blocks("GET", isDetour), TOO_MANY_AT_ONCE);
    assertEquals((await door.call("GET", "/volumes/v/blocks/0")).status, 200);
    for (const connection of waiting) connection.close();
    await untilUnderWay(door, 0, 0);
    assertEquals((await blocks("GET", isDetour)).status, 200);
  });
}

Deno.test("bodies above the client's bytes at a time are 429, and above all clients' 503, until there is room", async () => {
  await using resources = new AsyncDisposableStack();
  const http = { clientHeldBytesMax: 200_000, heldBytesMax: 250_000 };
  const { door, blocks, token } = await openLimited(resources, {}, { http });
  const headers = [
    `content-type: ${OCTETS}`,
    "content-length: 102400",
    `authorization: Bearer ${token}`,
  ];
  const waiting = resources.use(await sendRaw(door, "PUT /volumes/v/blocks/0", headers, "x", null));
  await untilUnderWay(door, 1, 102_400);
  // Two of them are too much for the client; a small one beside it is not.
  assertProblem(await blocks("PUT", false, 200), TOO_MANY_AT_ONCE);
  assertProblem(await blocks("PUT", true, 200), TOO_MANY_AT_ONCE);
  assertProblem(await blocks("GET", false, 200), TOO_MANY_AT_ONCE);
  assertProblem(await blocks("GET", true, 200), TOO_MANY_AT_ONCE);
  assertEquals((await blocks("PUT", false)).status, 200);
  // Another client has as much for itself, but there is not so much for all.
  const write = (blockCount: number) =>
    door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, blockCount, 512) });
  assertEquals((await write(200)).status, 200);
  assertProblem(await write(256 + 34), TOO_BUSY);
  waiting.close();
  await untilUnderWay(door, 0, 0);
  assertEquals((await blocks("PUT", false, 200)).status, 200);
});

Deno.test("all that a client held is given back, whatever became of its requests", async () => {
  await using resources = new AsyncDisposableStack();
  const http = { requestsAtOnceMax: 3, clientHeldBytesMax: 300_000 };
  const { door, blocks, token } = await openLimited(resources, {}, { http });
  const again = () => [blocks("PUT", false, 256), blocks("GET", true, 256), blocks("PUT", true, 3)];
  for (let times = 0; times < 10; times++) {
    await Promise.all(again());
    await door.call("PUT", "/volumes/v/blocks/9999", { token, octets: fill(1, 1, 512) });
    await door.call("POST", "/volumes/v/writes", { token, text: "{" });
    await door.call("POST", "/volumes/none/writes", { token, json: { writes: [] } });
    await door.call("PUT", "/volumes/v/image", { token, octets: fill(1, 256, 512) });
    await door.call("HEAD", "/volumes/v/blocks/0?count=256", { token });
  }
  assertEquals((await Promise.all(again())).map(({ status }) => status), [200, 200, 200]);
  await untilUnderWay(door, 0, 0);
});

// Slowness

const TOO_SLOW: Refusal = { status: 408, code: "body-too-slow" };

for (
  const [what, headers, body] of [
    ["a small body by the fast lane", [`content-type: ${OCTETS}`, "content-length: 512"], "x"],
    ["a small body", [`content-type: ${DETOURS.PUT["content-type"]}`, "content-length: 512"], "x"],
    ["a large body", [`content-type: ${OCTETS}`, "content-length: 102400"], "x".repeat(1_000)],
    ["a body of no told length", [`content-type: ${OCTETS}`, "transfer-encoding: chunked"], "1\r\nx\r\n"],
  ] as const
) {
  Deno.test(`${what} that does not come in time is 408, and what it held is given back`, async () => {
    await using resources = new AsyncDisposableStack();
    const { door } = await openLimited(resources, {}, {
      http: { receiveMs: 100 },
      now: () => performance.now(),
    });
    assertProblem(await callRaw(door, "PUT /volumes/v/blocks/0", headers, body), TOO_SLOW);
    await untilUnderWay(door, 0, 0);
    assertEquals((await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 1, 512) })).status, 200);
  });
}

for (const path of ["PUT /volumes/v/image", "POST /volumes/v/import"]) {
  Deno.test(`${path} that does not go on in time is 408, and what it held is given back`, async () => {
    await using resources = new AsyncDisposableStack();
    const clock = { nowMs: 0 };
    const { door } = await openLimited(resources, {}, { now: () => clock.nowMs });
    const headers = [`content-type: ${OCTETS}`, "content-length: 131072"];
    const answer = callRaw(door, path, headers, path.startsWith("POST") ? "rbd diff v1\n" : "x");
    await untilUnderWay(door, 1, 2 * 2 ** 20);
    clock.nowMs += HTTP_LIMITS.receiveIdleMs;
    assertProblem(await answer, TOO_SLOW);
    await untilUnderWay(door, 0, 0);
  });
}

Deno.test("PUT …/image may take longer than a body that is held whole, as long as it goes on", async () => {
  await using resources = new AsyncDisposableStack();
  const clock = { nowMs: 0 };
  const http = { receiveMs: 100, receiveIdleMs: 1_000 };
  const { door } = await openLimited(resources, {}, { http, now: () => clock.nowMs });
  const headers = [`content-type: ${OCTETS}`, "content-length: 512"];
  using connection = await sendRaw(door, "PUT /volumes/v/image", headers, "x".repeat(500));
  await untilUnderWay(door, 1, 2 * 2 ** 20);
  clock.nowMs += 900;
  await connection.write(new Uint8Array(12));
  const chunk = new Uint8Array(4_096);
  const length = await connection.read(chunk);
  assert(new TextDecoder().decode(chunk.subarray(0, length ?? 0)).startsWith("HTTP/1.1 200 "));
});
