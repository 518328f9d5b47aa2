/**
 * Clients that are slow on purpose: bodies that never come to their end, subscribers and downloads that are never read. What the
 * server takes for them stays under a bound, all others are served meanwhile, and afterwards nothing of it is left.
 *
 * The bound: a client holds 64 MiB of bodies, and a body is there twice for a moment; a subscriber's backlog is 1 MiB, and the page
 * that it is sent as much; the rest is what the runtime has not collected yet. Unbounded, 200 bodies alone would be 800 MiB.
 */

import { assert, assertEquals } from "@std/assert";
import { HTTP_LIMITS } from "../../src/config.ts";
import { Client } from "../support/client.ts";
import { createTestDatabase, type TestDatabase } from "../support/database.ts";
import { until } from "../support/door.ts";
import { type Held, readHeld } from "../support/held.ts";
import { startServerProcess, TEST_TOKEN, type TestServer } from "../support/server.ts";

const MIB = 1024 * 1024;
const MEMORY_MORE_BYTES_MAX = 256 * MIB;
/** What the runtime itself keeps open, more or less. */
const HANDLES_MORE_MAX = 16;
const UPLOADS = 200;
const SUBSCRIBERS = 16;
const DOWNLOADS = 100;
const BODY_BYTES = 4 * MIB;
/** Far more than the buffers of a subscriber's two sockets hold. */
const EVENTS = 5_000;
const EVENT_BYTES = 5_000;
/** With the ten seconds that a subscriber may leave anything unread. */
const CUT_OFF_MS_MAX = 90_000;

async function call({ url }: TestServer, method: string, path: string, json?: unknown) {
  const response = await fetch(`${url}${path}`, {
    method,
    headers: { authorization: `Bearer ${TEST_TOKEN}`, "content-type": "application/json" },
    ...(json === undefined ? {} : { body: JSON.stringify(json) }),
  });
  return await response.text();
}

async function createToken(server: TestServer, name: string): Promise<string> {
  return JSON.parse(await call(server, "POST", "/clients", { name, scopes: ["read", "write"] })).token;
}

/** A figure of `/metrics`, but for the look itself. */
async function readFigure(server: TestServer, name: string): Promise<number> {
  const value = new RegExp(`^snapmark_${name} (\\d+)$`, "m").exec(await call(server, "GET", "/metrics"))?.[1];
  return Number(value) - (name.endsWith("under_way") ? 1 : 0);
}

async function open({ url }: TestServer, token: string, line: string, headers: string[] = []) {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(new URL(url).port) });
  const lines = [`${line} HTTP/1.1`, "host: snapmark", `authorization: Bearer ${token}`, ...headers];
  await connection.write(new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`));
  return connection;
}

/** Sends all of a body but its last byte, or until it is refused. Answers the connection, and whether it was refused. */
async function uploadAlmost(server: TestServer, token: string) {
  const headers = ["content-type: application/octet-stream", `content-length: ${BODY_BYTES}`];
  const connection = await open(server, token, "PUT /volumes/v/blocks/0", headers);
  let answer = "";
  const answered = connection.read(new Uint8Array(12)).then(() => answer = "refused", () => {});
  const piece = new Uint8Array(64 * 1024);
  try {
    for (let sent = 0; sent < BODY_BYTES - 1 && answer === "";) {
      sent += await connection.write(piece.subarray(0, Math.min(piece.length, BODY_BYTES - 1 - sent)));
    }
  } catch {
    // Refused, and closed by the server.
  }
  return { connection, answered, isRefused: () => answer !== "" };
}

/** Others write and read as before. */
async function assertServed(client: Client): Promise<void> {
  const data = crypto.getRandomValues(new Uint8Array(8_192));
  for (let times = 0; times < 5; times++) await client.write("w", times, data);
  assertEquals((await client.readVolume("w", 16)).subarray(4 * 4_096, 6 * 4_096), data);
}

async function assertBounded(server: TestServer, before: Held, what: string): Promise<void> {
  const { memoryBytes } = await readHeld(server.pid);
  assert(
    memoryBytes <= before.memoryBytes + MEMORY_MORE_BYTES_MAX,
    `it held ${before.memoryBytes} bytes, and with ${what} ${memoryBytes}`,
  );
}

async function untilFree(server: TestServer, before: Held): Promise<void> {
  await until(async () => await readFigure(server, "http_requests_under_way") === 0);
  assertEquals(await readFigure(server, "http_held_bytes"), 0);
  await until(async () => (await readHeld(server.pid)).handles <= before.handles + HANDLES_MORE_MAX);
}

/** Each has its buffers filled first, and then its time; so this may take longer than other conditions. */
async function untilCutOff(server: TestServer): Promise<void> {
  const deadline = performance.now() + CUT_OFF_MS_MAX;
  while (await readFigure(server, "websockets_open") > 0) {
    assert(performance.now() < deadline, "subscribers that do not read are still served");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function storeEvents({ database }: TestDatabase): Promise<void> {
  await database.$client`
    with head as (update event_heads set event_id = event_id + ${EVENTS}::bigint returning pool_id, event_id)
    insert into events (pool_id, event_id, type, at, volume_id, body)
    select pool_id, event_id - ${EVENTS}::bigint + i, 'volume.created', now(), gen_random_uuid(),
      jsonb_build_object('name', repeat('x', ${EVENT_BYTES}::integer), 'blockCount', 1)
    from head cross join generate_series(1, ${EVENTS}::bigint) as i`;
}

Deno.test("slow bodies, and downloads and WebSockets that are never read, cost no more than their bound and nobody else anything", async () => {
  await using test = await createTestDatabase();
  await using server = await startServerProcess({ DATABASE_URL: test.url });
  const client = new Client(server.url);
  for (const name of ["v", "w"]) await client.createVolume({ name, blockCount: 262_144 });
  await client.snapshot({ volumes: ["v"], name: "s" });
  await assertServed(client);
  const token = await createToken(server, "slow");
  const before = await readHeld(server.pid);

  // 1. Bodies that do not come to their end
  const uploads = await Promise.all(Array.from({ length: UPLOADS }, () => uploadAlmost(server, token)));
  const taken = HTTP_LIMITS.clientHeldBytesMax / BODY_BYTES;
  await until(() => uploads.filter(({ isRefused }) => isRefused()).length === UPLOADS - taken);
  assertEquals(await readFigure(server, "http_held_bytes"), HTTP_LIMITS.clientHeldBytesMax);
  await assertServed(client);
  await assertBounded(server, before, `${UPLOADS} slow bodies`);
  for (const { connection } of uploads) connection.close();
  await Promise.all(uploads.map(({ answered }) => answered));
  await untilFree(server, before);

  // 2. Downloads that are not read
  const downloads = await Promise.all(
    Array.from({ length: DOWNLOADS }, () => open(server, token, "GET /snapshots/s/image")),
  );
  await until(async () => await readFigure(server, "http_held_bytes") === HTTP_LIMITS.clientHeldBytesMax);
  await assertServed(client);
  await assertBounded(server, before, `${DOWNLOADS} downloads`);
  for (const connection of downloads) connection.close();
  await untilFree(server, before);

  // 3. Subscribers that do not read
  await storeEvents(test);
  const upgrade = [
    "upgrade: websocket",
    "connection: Upgrade",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
  ];
  const subscribers = await Promise.all(
    Array.from({ length: SUBSCRIBERS }, () => open(server, token, "GET /events?after=0", upgrade)),
  );
  await until(async () => await readFigure(server, "websockets_open") === SUBSCRIBERS);
  await assertServed(client);
  await assertBounded(server, before, `${SUBSCRIBERS} subscribers`);
  // Each is cut off.
  await untilCutOff(server);
  await assertBounded(server, before, `${SUBSCRIBERS} subscribers that were cut off`);
  for (const connection of subscribers) connection.close();
  await untilFree(server, before);
  await assertServed(client);
  server.kill("SIGTERM");
  assertEquals((await server.ended()).code, 0);
});
