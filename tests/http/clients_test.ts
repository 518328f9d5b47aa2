/** `/clients`: tokens, how they end, and what is told of them. */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { createTestDoor, createTestVolume, openTestDoor, type TestDoor, until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { subscribe } from "../support/websocket.ts";
import { readPages } from "./paging.ts";
import { assertProblem, NAME_TAKEN, UNAUTHORIZED } from "./problem.ts";

const CLOSE_TOKEN_ENDED = 4001;
const MINUTE_MS = 60_000;

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v");
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

async function createClient(on: Pick<TestDoor, "call">, json: Record<string, unknown>) {
  const created = await on.call("POST", "/clients", { json: { scopes: ["read"], ...json } });
  assertEquals(created.status, 201);
  return created.body as { id: string; token: string };
}

const statusOf = async (on: Pick<TestDoor, "call">, token: string) =>
  (await on.call("GET", "/volumes", { token })).status;

Deno.test("POST /clients shows the token once, and no other answer ever does", async () => {
  const { status, body, headers } = await door.call("POST", "/clients", {
    json: {
      name: "one",
      priority: -7,
      scopes: ["write", "read", "read"],
      expiresAt: "2999-01-01T01:00:00+01:00",
    },
  });
  assertEquals(status, 201);
  const { id, token, createdAt: _, ...rest } = body;
  assertMatch(token, /^sm_[0-9a-f]{32}_[A-Za-z0-9_-]{43}$/);
  assertEquals(rest, {
    name: "one",
    priority: -7,
    scopes: ["read", "write"],
    expiresAt: "2999-01-01T00:00:00.000Z",
  });
  assertEquals(headers.get("location"), `/clients/${id}`);
  const { token: __, ...shown } = body;
  for (const reference of ["one", id, id.toUpperCase()]) {
    assertEquals((await door.call("GET", `/clients/${reference}`)).body, shown);
  }
  const secret = token.slice(-43);
  for (const path of ["/clients", "/clients/one", "/audit?maxResults=1000", "/events?maxResults=1000"]) {
    assert(!JSON.stringify((await door.call("GET", path)).body).includes(secret), path);
  }
});

Deno.test("a name is a client's alone, and free again when it is revoked", async () => {
  await createClient(door, { name: "unique" });
  const again = { json: { name: "unique", scopes: ["read"] }, headers: { "idempotency-key": "again" } };
  assertProblem(await door.call("POST", "/clients", again), NAME_TAKEN);
  assertEquals((await door.call("DELETE", "/clients/unique")).status, 204);
  await createClient(door, { name: "unique" });
});

Deno.test("POST /clients takes no idempotency key: no token is stored with an answer", async () => {
  const request = { json: { name: "keyed", scopes: ["read"] }, headers: { "idempotency-key": "k" } };
  assertEquals((await door.call("POST", "/clients", request)).status, 201);
  assertProblem(await door.call("POST", "/clients", request), NAME_TAKEN);
  const [{ keys }] = await door.system.test.database
    .$client`select count(*)::int as keys from idempotency_keys`;
  assertEquals(keys, 0);
});

Deno.test("GET /clients lists them by pages", async () => {
  await using own = await createTestDoor();
  for (const name of ["c", "b", "a"]) await createClient(own, { name });
  assertEquals(await readPages(own, "/clients", "clients", 2, ({ name }) => name), [["c", "b"], ["a"]]);
});

Deno.test("POST /clients refuses more clients than there may be", async () => {
  await using own = await createTestDoor({ limits: { clientsMax: 1, clientVolumesMax: 1 } });
  await createTestVolume(own, "a");
  await createTestVolume(own, "b");
  const bound = { json: { name: "x", scopes: ["read"], volumes: ["a", "b"] } };
  assertEquals((await own.call("POST", "/clients", bound)).body.code, "invalid-argument");
  await createClient(own, { name: "x", volumes: ["a", "a"] });
  const second = { json: { name: "y", scopes: ["read"] } };
  assertEquals((await own.call("POST", "/clients", second)).body.code, "invalid-argument");
});

Deno.test("no token stands in the database, nor half of one", async () => {
  await using own = await createTestDoor();
  const { token, id } = await createClient(own, { name: "dumped" });
  const { body: { token: next } } = await own.call("POST", "/clients/dumped/rotate");
  assertEquals(await statusOf(own, next), 200);
  const { $client } = own.system.test.database;
  const tables = await $client<{ relname: string }[]>`
    select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'`;
  let dump = "";
  for (const { relname } of tables) {
    const rows = await $client.unsafe(`select t::text as line from "${relname}" t`);
    dump += rows.map(({ line }) => line).join("\n");
  }
  assert(dump.includes(id));
  for (const secret of [token, next]) {
    const bytes = new TextEncoder().encode(secret.slice(-43));
    for (const part of [secret.slice(-43), secret.slice(-20), bytes.toHex()]) assert(!dump.includes(part));
    assert(!dump.includes(Uint8Array.fromBase64(secret.slice(-43), { alphabet: "base64url" }).toHex()));
  }
});

Deno.test("nothing but the token itself lets anybody in", async () => {
  const { token } = await createClient(door, { name: "exact" });
  assertEquals(await statusOf(door, token), 200);
  const last = token.at(-5) === "A" ? "B" : "A";
  const wrong = [
    `${token}A`,
    token.slice(0, -1),
    token.slice(0, -5) + last + token.slice(-4),
    token.toUpperCase(),
    `sm_${crypto.randomUUID().replaceAll("-", "")}${token.slice(-44)}`,
    token.slice(3),
  ];
  for (const one of wrong) {
    assertProblem(await door.call("GET", "/volumes", { token: one }), UNAUTHORIZED);
  }
});

Deno.test("a rotated token is another one; the old one ends at once, on both lanes", async () => {
  const { token } = await createClient(door, { name: "rotated", scopes: ["read", "write"] });
  const write = (by: string) =>
    door.call("PUT", "/volumes/v/blocks/0", { token: by, octets: fill(1, 1, 512) });
  for (let times = 0; times < 3; times++) assertEquals((await write(token)).status, 200);
  const rotated = await door.call("POST", "/clients/rotated/rotate");
  assertEquals(rotated.status, 200);
  assertNotEquals(rotated.body.token, token);
  assertProblem(await write(token), UNAUTHORIZED);
  assertEquals((await write(rotated.body.token)).status, 200);
});

Deno.test("a revoked token ends at once here, and in another process when it has forgotten it", async () => {
  await using own = await createTestDoor();
  const other = await own.system.openAnother({ limits: { rememberedClientsMs: 200 } });
  await using elsewhere = openTestDoor(other);
  const { token, id } = await createClient(own, { name: "revoked" });
  assertEquals([await statusOf(own, token), await statusOf(elsewhere, token)], [200, 200]);
  assertEquals((await own.call("DELETE", `/clients/${id}`)).status, 204);
  assertEquals(await statusOf(own, token), 401);
  await until(async () => await statusOf(elsewhere, token) === 401);
  assertProblem(await own.call("DELETE", `/clients/${id}`), { status: 404, code: "client-not-found" });
});

Deno.test("a remembered token costs no query, and no more are remembered than may be", async () => {
  await using own = await createTestDoor({
    limits: { rememberedClientsMs: 600_000, rememberedClientsMax: 1 },
  });
  await createTestVolume(own, "v");
  const [{ token: first }, { token }] = [
    await createClient(own, { name: "first" }),
    await createClient(own, { name: "second" }),
  ];
  assertEquals([await statusOf(own, first), await statusOf(own, token)], [200, 200]);
  // Behind the server's back: what it still knows, it remembers.
  await own.system.test.database.$client`delete from clients`;
  assertEquals([await statusOf(own, token), await statusOf(own, first)], [200, 401]);
  assertEquals((await own.call("GET", "/volumes/v/blocks/0", { token })).status, 200);
});

for (
  const [how, method, path] of [["revoked", "DELETE", "/clients/w"], ["rotated", "POST", "/clients/w/rotate"]]
) {
  Deno.test(`the WebSockets of a client whose token is ${how} close, in every process, and no other's`, async () => {
    await using own = await createTestDoor();
    await using elsewhere = openTestDoor(await own.system.openAnother());
    const { token } = await createClient(own, { name: "w" });
    using admin = await subscribe(own);
    using here = await subscribe(own, "", token);
    using there = await subscribe(elsewhere, "", token);
    assertEquals((await own.call(method, path)).status, method === "DELETE" ? 204 : 200);
    const endings = await Promise.all([here.ended(), there.ended()]);
    assertEquals(endings.map(({ code }) => code), [CLOSE_TOKEN_ENDED, CLOSE_TOKEN_ENDED]);
    await createTestVolume(own, "later");
    assertEquals((await admin.take(1))[0].type, "volume.created");
    assertEquals(here.events, []);
  });
}

Deno.test("a token expires by the clock, also a remembered one", async () => {
  let now = new Date("2026-01-01T00:00:00Z");
  await using own = await createTestDoor({ clock: () => now });
  const { token } = await createClient(own, { name: "e", expiresAt: "2026-01-01T01:00:00Z" });
  now = new Date("2026-01-01T00:59:59.999Z");
  assertEquals(await statusOf(own, token), 200);
  now = new Date("2026-01-01T01:00:00Z");
  assertEquals(await statusOf(own, token), 401);
});

Deno.test("lastUsedAt is written at most once a minute, and not for a wrong token", async () => {
  let now = new Date("2026-01-01T00:00:00Z");
  await using own = await createTestDoor({ clock: () => now, limits: { rememberedClientsMs: 0 } });
  const { token } = await createClient(own, { name: "u" });
  const lastUsedAt = async () => (await own.call("GET", "/clients/u")).body.lastUsedAt;
  const wrong = token.slice(0, -5) + (token.at(-5) === "A" ? "B" : "A") + token.slice(-4);
  assertEquals(await statusOf(own, wrong), 401);
  assertEquals(await lastUsedAt(), undefined);
  const seen: string[] = [];
  for (const ms of [0, 1, MINUTE_MS - 1, MINUTE_MS, 2 * MINUTE_MS - 1]) {
    now = new Date(Date.UTC(2026, 0, 1) + ms);
    assertEquals(await statusOf(own, token), 200);
    seen.push(await lastUsedAt());
  }
  const [first, second] = ["2026-01-01T00:00:00.000Z", "2026-01-01T00:01:00.000Z"];
  assertEquals(seen, [first, first, first, second, second]);
});

Deno.test("the audit tells who made, rotated and revoked a client, and entries carry its priority", async () => {
  await using own = await createTestDoor();
  await createTestVolume(own, "v");
  const { id, token } = await createClient(own, { name: "p", priority: 42, scopes: ["write", "admin"] });
  await own.call("PUT", "/volumes/v/blocks/0", { token, octets: fill(1, 1, 512) });
  const [entry] = await own.system.test.database.$client`select client_id, priority from cache`;
  assertEquals({ ...entry }, { client_id: id, priority: 42 });
  await own.call("POST", "/clients/p/rotate");
  await own.call("DELETE", "/clients/p");
  const { body: { records } } = await own.call("GET", "/audit?maxResults=1000");
  const told = records.filter(({ targetId }: { targetId: string }) => targetId === id);
  assertEquals(
    told.map(({ id: _, at: __, chainNumber: ___, chainHash: ____, ...record }: Record<string, unknown>) =>
      record
    ),
    [
      ["client.create", "http POST /clients"],
      ["client.rotate", "http POST /clients/p/rotate"],
      ["client.revoke", "http DELETE /clients/p"],
    ].map(([action, origin]) => ({
      clientId: "00000000-0000-7000-8000-000000000001",
      clientName: "admin",
      origin,
      action,
      targetId: id,
      targetName: "p",
    })),
  );
});

Deno.test("POST /clients many at once makes no more than there may be", async () => {
  await using own = await createTestDoor({ limits: { clientsMax: 3 } });
  const answers = await Promise.all(
    Array.from(
      { length: 12 },
      (_, n) => own.call("POST", "/clients", { json: { name: `c${n}`, scopes: ["read"] } }),
    ),
  );
  assertEquals(answers.filter(({ status }) => status === 201).length, 3);
  assertEquals((await own.call("GET", "/clients")).body.clients.length, 3);
});

Deno.test("PATCH /clients/{client} changes its limits, takes them away, and is told in the audit", async () => {
  const given = { requestsPerSecondMax: 10, bytesPerSecondMax: 4_096 };
  const { id } = await createClient(door, { name: "limited", ...given });
  const shown = async () => {
    const { requestsPerSecondMax, bytesPerSecondMax } = (await door.call("GET", "/clients/limited")).body;
    return { requestsPerSecondMax, bytesPerSecondMax };
  };
  assertEquals(await shown(), given);
  const changed = await door.call("PATCH", `/clients/${id}`, { json: { requestsPerSecondMax: 20 } });
  assertEquals([changed.status, changed.body.requestsPerSecondMax, changed.body.name], [200, 20, "limited"]);
  assertEquals(await shown(), { ...given, requestsPerSecondMax: 20 });
  const none = { requestsPerSecondMax: null, bytesPerSecondMax: null };
  assertEquals((await door.call("PATCH", "/clients/limited", { json: none })).status, 200);
  assertEquals(await shown(), { requestsPerSecondMax: undefined, bytesPerSecondMax: undefined });
  const { body: { records } } = await door.call("GET", "/audit?maxResults=1000");
  const actions = records.filter(({ targetId }: { targetId: string }) => targetId === id)
    .map(({ action }: { action: string }) => action);
  assertEquals(actions, ["client.create", "client.change", "client.change"]);
});
