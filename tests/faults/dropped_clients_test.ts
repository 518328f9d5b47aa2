/**
 * Clients that go away without a word: in the middle of a head, of a body, of an upload, of a handshake, of a
 * subscription; and clients that stay, and say nothing, or have closed their half.
 * Afterwards the server holds what it held before: no connection, no session, no memory, and nothing of what they began.
 */

import { assert, assertEquals } from "@std/assert";
import { Client } from "../support/client.ts";
import { createTestDatabase, type TestDatabase } from "../support/database.ts";
import { until } from "../support/door.ts";
import { readHeld } from "../support/held.ts";
import { startServerProcess, TEST_TOKEN, type TestServer } from "../support/server.ts";

const DROPS = 10_000;
/** Of these: until then its memory grows to what it works with. */
const WARM_UP_DROPS = 2_500;
const DROPS_AT_ONCE = 50;
/** Clients that stay meanwhile, and say nothing, or no more. */
const SILENT = 400;
/** What the runtime itself keeps open, more or less. */
const HANDLES_MORE_MAX = 16;
const MEMORY_MORE_BYTES_MAX = 96 * 1024 * 1024;
/** All that a server may have: shared, single, for transactions, and the one that listens. */
const SESSIONS_MAX = 6 + 4 + 6 + 1;
const BLOCK = "x".repeat(4096);

/** What is sent before the connection is dropped. */
const BEGINNINGS: readonly string[] = [
  "",
  "GET /volumes HT",
  request(
    "PUT /volumes/v/blocks/0",
    ["content-type: application/octet-stream", "content-length: 4096"],
    BLOCK.slice(1),
  ),
  request(
    "PUT /volumes/v/image",
    ["content-type: application/octet-stream", "content-length: 81920"],
    BLOCK.repeat(9),
  ),
  request(
    "PUT /volumes/v/image",
    ["content-type: application/octet-stream", "transfer-encoding: chunked"],
    `1000\r\n${BLOCK}`,
  ),
  request("POST /volumes", ["content-type: application/json", "transfer-encoding: chunked"], '8\r\n{"name":'),
  request(
    "POST /volumes/v/import",
    ["content-type: application/octet-stream", "content-length: 8192"],
    "snap",
  ),
  request("GET /volumes/v/blocks/0?count=16", []),
  request("GET /events", [
    "upgrade: websocket",
    "connection: Upgrade",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
  ]),
];

function request(line: string, headers: string[], body = ""): string {
  const lines = [`${line} HTTP/1.1`, "host: snapmark", `authorization: Bearer ${TEST_TOKEN}`, ...headers];
  return `${lines.join("\r\n")}\r\n\r\n${body}`;
}

/**
 * Sends a beginning; every second time waits for the first bytes of an answer, if there is to be one, and always for those of a
 * handshake's: the runtime never lets go of the connection of a client that has left before it is upgraded.
 */
async function drop({ url }: TestServer, index: number): Promise<void> {
  const beginning = BEGINNINGS[index % BEGINNINGS.length];
  using connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(new URL(url).port) });
  await connection.write(new TextEncoder().encode(beginning));
  const isRead = beginning.includes(" /events") || (beginning.includes("count=") && index % 2 === 0);
  if (isRead) await connection.read(new Uint8Array(64));
}

/** Connects and sends a beginning, of which every other client then says that it was all, and stays. */
async function stay({ url }: TestServer, index: number): Promise<Deno.TcpConn> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(new URL(url).port) });
  const beginning = BEGINNINGS[index % BEGINNINGS.length];
  // A handshake that is complete would take one of the places that subscribers have.
  if (!beginning.includes(" /events")) await connection.write(new TextEncoder().encode(beginning));
  if (index % 2 === 1) await connection.closeWrite();
  return connection;
}

async function dropMany(server: TestServer, count: number): Promise<void> {
  for (let index = 0; index < count; index += DROPS_AT_ONCE) {
    await Promise.all(Array.from({ length: DROPS_AT_ONCE }, (_, i) => drop(server, index + i)));
  }
}

async function countSubscribers({ url }: TestServer): Promise<number> {
  const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${TEST_TOKEN}` } });
  return Number(/^snapmark_websockets_open (\d+)$/m.exec(await response.text())?.[1]);
}

/** The sessions of the server: its database's, but for the test's own. */
async function countSessions(
  { database }: TestDatabase,
  own: number,
): Promise<{ all: number; open: number }> {
  const [row] = await database.$client<{ all: number; open: number }[]>`
    select count(*) as all, count(*) filter (where state like 'idle in transaction%') as open
    from pg_stat_activity where datname = current_database()`;
  return { all: row.all - own, open: row.open };
}

Deno.test(`${DROPS} clients that drop their connections in the middle, beside ${SILENT} that are silent or half closed, leave nothing behind`, async () => {
  await using test = await createTestDatabase();
  const own = (await countSessions(test, 0)).all;
  await using server = await startServerProcess({ DATABASE_URL: test.url });
  const client = new Client(server.url);
  await client.createVolume({ name: "v", blockCount: 64 });
  // What is made once: compiled code, sessions, tables of connections.
  await dropMany(server, WARM_UP_DROPS);
  await until(async () => await countSubscribers(server) === 0);
  const before = await readHeld(server.pid);
  const { sequenceAppended } = await client.getPool("main");

  const silent: Deno.TcpConn[] = [];
  for (let index = 0; index < SILENT; index++) silent.push(await stay(server, index));
  await dropMany(server, DROPS - WARM_UP_DROPS);
  // With all of them there, others are served.
  assertEquals((await client.getPool("main")).sequenceAppended, sequenceAppended);
  for (const connection of silent) connection.close();

  await until(async () => await countSubscribers(server) === 0);
  await until(async () => (await readHeld(server.pid)).handles <= before.handles + HANDLES_MORE_MAX);
  const after = await readHeld(server.pid);
  assert(
    after.memoryBytes <= before.memoryBytes + MEMORY_MORE_BYTES_MAX,
    `it held ${before.memoryBytes} bytes, and holds ${after.memoryBytes}`,
  );
  const sessions = await countSessions(test, own);
  assert(sessions.all <= SESSIONS_MAX, `${sessions.all} sessions`);
  assertEquals(sessions.open, 0);
  assertEquals((await client.getPool("main")).sequenceAppended, sequenceAppended);
  await until(async () => (await test.database.$client`select from stagings`).length === 0);
  assertEquals((await client.readVolume("v", 64)).some((byte) => byte !== 0), false);
  server.kill("SIGTERM");
  assertEquals((await server.ended()).code, 0);
});
