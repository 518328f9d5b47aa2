/** `/events`: pages of what happened, and subscribers that miss nothing, see nothing twice and slow nobody. */

import { assert, assertEquals } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import {
  type Answer,
  createTestDoor,
  createTestPool,
  createTestVolume,
  openTestDoor,
  type TestDoor,
  until,
} from "../support/door.ts";
import { below, fill, seeded } from "../support/history.ts";
import { type Handshake, sendHandshake, shakeHands, subscribe } from "../support/websocket.ts";
import { assertProblem, INVALID_REQUEST, type Refusal, UNAUTHORIZED } from "./problem.ts";

const TOO_MANY_SUBSCRIBERS: Refusal = {
  status: 503,
  code: "too-many-subscribers",
  headers: { "retry-after": "10" },
};

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

interface EventBody {
  readonly id: number;
  readonly type: string;
  readonly [name: string]: unknown;
}

async function readPage(query: string, from: Pick<TestDoor, "call"> = door): Promise<EventBody[]> {
  const { status, body } = await from.call("GET", `/events${query}`);
  assertEquals(status, 200, JSON.stringify(body));
  assertEquals(Object.keys(body), ["events", "after"]);
  return body.events;
}

const idsOf = (events: EventBody[]) => events.map(({ id }) => id);
const typesOf = (events: EventBody[]) => events.map(({ type }) => type);
const range = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

/** Makes a pool whose first two events are its own and its device's, and volumes with an event each. */
async function createEvents(pool: string, volumeCount: number): Promise<void> {
  await createTestPool(door, pool);
  for (let index = 1; index <= volumeCount; index++) {
    await createTestVolume(door, `${pool}-${index}`, { pool, blockCount: 8 });
  }
}

/** Adds `count` events of about `bytes` each to pool main, as if many volumes had been made. */
async function storeEvents({ system }: TestDoor, count: number, bytes: number): Promise<void> {
  await system.test.database.$client`
    with head as (update event_heads set event_id = event_id + ${count}::bigint returning pool_id, event_id)
    insert into events (pool_id, event_id, type, at, volume_id, body)
    select pool_id, event_id - ${count}::bigint + i, 'volume.created', now(), gen_random_uuid(),
      jsonb_build_object('name', repeat('x', ${bytes}::integer), 'blockCount', 1)
    from head cross join generate_series(1, ${count}::bigint) as i`;
}

// Pages

Deno.test("GET /events tells all that happened in a pool, in order, each with what it is about", async () => {
  const { poolId, deviceId } = await createTestPool(door, "told", { deviceBlocks: 80 });
  const volumeId = await createTestVolume(door, "told-v", { pool: "told", blockCount: 8 });
  await door.call("PATCH", "/volumes/told-v", { json: { blockCount: 9 } });
  await door.call("PUT", "/volumes/told-v/blocks/0", { octets: fill(1, 8, 512) });
  const { body: { id: snapshotId } } = await door.call("POST", "/snapshots", {
    json: { volumes: ["told-v"], name: "told-s" },
  });
  const limits = { ...STORAGE_LIMITS, flushBatchEntriesMax: 1, progressMs: 0 };
  const flusher = door.system.createFlusher({ limits });
  while (await flusher.sweep());
  await door.call("DELETE", "/volumes/told-v");
  const events = await readPage("?pool=told");
  for (const { at } of events) assert(Math.abs(Date.now() - Date.parse(at as string)) < 60_000);
  const told = (id: number, type: string, rest: object) => ({ id, poolId, type, ...rest });
  const progress = { sequence: 3, bytesAhead: 2048, entriesAhead: 1 };
  const last = { sequence: 3, bytesAhead: 0, entriesAhead: 0 };
  const rates = events.filter(({ type }) => type === "marker.progress").map(({ data }) =>
    data as Record<string, number>
  );
  assertEquals(
    events.map(({ at: _at, ...event }) => event),
    [
      told(1, "pool.created", { data: { name: "told" } }),
      told(2, "device.added", { deviceId, data: { name: "told-1", blockCount: 80 } }),
      told(3, "volume.created", { volumeId, data: { name: "told-v", blockCount: 8 } }),
      told(4, "volume.resized", { volumeId, data: { name: "told-v", blockCount: 9 } }),
      told(5, "marker.committed", {
        snapshotId,
        data: { name: "told-s", sequence: 3, volumeCount: 1, bytesAhead: 4096 },
      }),
      // The rate, and with it the ETA, depends on the machine.
      told(6, "marker.progress", { snapshotId, data: { ...rates[0], ...progress } }),
      told(7, "marker.progress", { snapshotId, data: { ...rates[1], ...last } }),
      told(8, "snapshot.sealed", { snapshotId, data: { sequence: 3 } }),
      told(9, "volume.deleted", { volumeId, data: { name: "told-v", blockCount: 9 } }),
    ],
  );
});

Deno.test("GET /events pages by after= and maxResults, and starts at the beginning", async () => {
  await createEvents("paged", 5);
  assertEquals(idsOf(await readPage("?pool=paged")), [1, 2, 3, 4, 5, 6, 7]);
  assertEquals(idsOf(await readPage("?pool=paged&maxResults=3")), [1, 2, 3]);
  assertEquals(idsOf(await readPage("?pool=paged&maxResults=3&after=3")), [4, 5, 6]);
  assertEquals(idsOf(await readPage("?pool=paged&maxResults=3&after=6")), [7]);
  assertEquals(idsOf(await readPage("?pool=paged&after=7")), []);
  assertEquals(idsOf(await readPage("?pool=paged&after=999999999999999")), []);
  assertEquals(idsOf(await readPage("?pool=paged&type=volume.created&maxResults=2&after=3")), [4, 5]);
});

Deno.test("GET /events keeps pools apart, and takes pool main by default", async () => {
  await createEvents("apart", 1);
  assertEquals(typesOf(await readPage("?pool=apart")), ["pool.created", "device.added", "volume.created"]);
  assertEquals(typesOf(await readPage("")), ["pool.created", "device.added"]);
});

/** Two volumes and three snapshots, and the ids of the events that each filter must give. */
async function createFiltered(pool: string): Promise<[query: string, ids: number[]][]> {
  await createTestPool(door, pool);
  await createTestVolume(door, `${pool}-a`, { pool, blockCount: 8 });
  const b = await createTestVolume(door, `${pool}-b`, { pool, blockCount: 8 });
  const snapshots: [name: string, volumes: string[]][] = [["x", ["a"]], ["y", ["b"]], ["z", ["a", "b"]]];
  for (const [name, volumes] of snapshots) {
    const json = { name: `${pool}-${name}`, volumes: volumes.map((volume) => `${pool}-${volume}`) };
    assertEquals((await door.call("POST", "/snapshots", { json })).status, 202);
  }
  await door.system.drain();
  await door.call("PATCH", `/volumes/${pool}-b`, { json: { blockCount: 16 } });
  // 1 pool, 2 device, 3 a, 4 b, 5 to 7 markers x y z, 8 to 10 their seals, 11 b resized
  return [
    [`?pool=${pool}`, range(1, 11)],
    [`?volume=${pool}-a`, [3, 5, 7, 8, 10]],
    [`?volume=${b}`, [4, 6, 7, 9, 10, 11]],
    [`?snapshot=${pool}-y`, [6, 9]],
    [`?snapshot=${pool}-z&volume=${pool}-a`, [7, 10]],
    [`?snapshot=${pool}-x&volume=${pool}-b`, []],
    [`?pool=${pool}&type=marker.committed`, [5, 6, 7]],
    [`?pool=${pool}&type=device.added,%20snapshot.sealed,volume.resized`, [2, 8, 9, 10, 11]],
    [`?volume=${pool}-b&type=snapshot.sealed`, [9, 10]],
    [`?pool=${pool}&volume=${pool}-b&type=volume.created`, [4]],
    [`?pool=${pool}&type=snapshot.failed`, []],
  ];
}

Deno.test("GET /events filters by snapshot, volume, pool and type", async () => {
  for (const [query, ids] of await createFiltered("filtered")) {
    assertEquals(idsOf(await readPage(query)), ids, query);
  }
});

// Subscribers

Deno.test("a subscriber gets what it missed, then what comes, by the same filters as a page", async () => {
  const filters = await createFiltered("followed");
  for (const [query, ids] of filters) {
    using subscriber = await subscribe(door, `${query}&after=0`);
    await subscriber.take(ids.length);
    assertEquals(subscriber.events, await readPage(query));
    assertEquals(idsOf(subscriber.events), ids, query);
  }
  const [[all], [onlyA]] = filters;
  using everything = await subscribe(door, `${all}&after=0`);
  using a = await subscribe(door, `${onlyA}&after=8`);
  await everything.take(11);
  await a.take(1);
  await door.call("DELETE", "/volumes/followed-b");
  await door.call("PATCH", "/volumes/followed-a", { json: { blockCount: 10 } });
  assertEquals(idsOf(await everything.take(13)), range(1, 13));
  assertEquals(idsOf(await a.take(2)), [10, 13]);
});

Deno.test("a subscriber without after= gets only what comes", async () => {
  await createEvents("coming", 2);
  using subscriber = await subscribe(door, "?pool=coming");
  await createTestVolume(door, "coming-3", { pool: "coming", blockCount: 8 });
  assertEquals(idsOf(await subscriber.take(1)), [5]);
});

Deno.test("subscribers that resume anywhere get no gap and no duplicate, while more comes from several processes", async () => {
  await using own = await createTestDoor();
  // More than one look at the table brings, before and behind each point.
  await storeEvents(own, 498, 10);
  const others = await Promise.all([own.system.openAnother(), own.system.openAnother()]);
  const doors = [own, ...others.map((storage) => openTestDoor(storage))];
  const last = 500 + 30;
  const random = seeded(20261122);
  const points = [0, 1, 99, 100, 101, 499, 500, ...Array.from({ length: 9 }, () => below(random, last))];
  const subscribers = points.map(async (after, index) => {
    const subscriber = await subscribe(doors[index % doors.length], `?after=${after}`);
    return { after, subscriber };
  });
  await Promise.all(doors.map(async ({ call }, process) => {
    for (let index = 0; index < 10; index++) {
      const json = { name: `v-${process}-${index}`, blockCount: 8 };
      assertEquals((await call("POST", "/volumes", { json })).status, 201);
    }
  }));
  const expected = await readPage("?maxResults=1000", own);
  assertEquals(idsOf(expected), range(1, last));
  for (const { after, subscriber } of await Promise.all(subscribers)) {
    await subscriber.take(last - after);
    assertEquals(subscriber.events, expected.slice(after), `after=${after}`);
    subscriber.close();
  }
  for (const other of doors.slice(1)) await other[Symbol.asyncDispose]();
});

Deno.test("a subscriber resumes at another server, started later", async () => {
  await using own = await createTestDoor();
  await createTestVolume(own, "a");
  const before = await subscribe(own, "?after=0");
  const seen = idsOf(await before.take(3));
  assertEquals(seen, [1, 2, 3]);
  await own.stop();
  await own.system.storage.createVolume(
    { clientId: crypto.randomUUID(), clientName: "other", priority: 0, origin: "test" },
    { name: "b", blockCount: 8 },
  );
  await using again = openTestDoor(await own.system.openAnother());
  using after = await subscribe(again, "?after=3");
  await createTestVolume(again, "c");
  assertEquals(idsOf(await after.take(2)), [4, 5]);
});

Deno.test("a subscriber gets the events of a storage system in another process", async () => {
  const other = await door.system.openAnother();
  await createEvents("elsewhere", 0);
  using subscriber = await subscribe(door, "?pool=elsewhere");
  await other.createVolume(
    { clientId: crypto.randomUUID(), clientName: "other", priority: 0, origin: "test" },
    { name: "from-elsewhere", pool: "elsewhere", blockCount: 8 },
  );
  const [event] = await subscriber.take(1);
  assertEquals([event.type, event.data], ["volume.created", { name: "from-elsewhere", blockCount: 8 }]);
});

Deno.test("a subscriber may say what it likes", async () => {
  await createEvents("talking", 0);
  using subscriber = await subscribe(door, "?pool=talking");
  for (const text of ["", "{", "x".repeat(100_000)]) subscriber.send(text);
  await createTestVolume(door, "talking-1", { pool: "talking", blockCount: 8 });
  assertEquals(idsOf(await subscriber.take(1)), [3]);
});

// Handshakes

Deno.test("a handshake by subprotocol chooses snapmark.v1, and one by header none", async () => {
  await createEvents("shaken", 1);
  using browser = await subscribe(door, "?pool=shaken&after=2");
  assertEquals(browser.protocol, "snapmark.v1");
  using other = await shakeHands(door, "?pool=shaken&after=2");
  assertEquals([other.status, other.headers.get("sec-websocket-protocol")], [101, null]);
  // The answer of RFC 6455, 1.3, to its own key.
  assertEquals(other.headers.get("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  const frame = await other.read();
  assertEquals(["text" in frame && JSON.parse(frame.text)], await browser.take(1));
});

Deno.test("a handshake is refused like any request", async () => {
  const answer = async (query: string, headers?: Record<string, string>) => {
    using handshake = await shakeHands(door, query, headers);
    return { body: undefined, ...handshake };
  };
  assertProblem(await answer("", {}), UNAUTHORIZED);
  assertProblem(await answer("", { authorization: "Bearer wrong-token-0123456789" }), UNAUTHORIZED);
  assertProblem(await answer("", { "sec-websocket-protocol": "snapmark.v1" }), UNAUTHORIZED);
  assertProblem(await answer("?type=volume"), INVALID_REQUEST);
  assertProblem(await answer("?after=-1"), INVALID_REQUEST);
  assertProblem(await answer("?pool=nowhere"), { status: 404, code: "pool-not-found" });
});

// Bounds

Deno.test("a subscriber above the limit is refused with 503 until another has gone", async () => {
  await using own = await createTestDoor({ http: { subscribersMax: 2 } });
  const first = await subscribe(own);
  using _second = await subscribe(own);
  using refused = await shakeHands(own);
  assertProblem({ body: undefined, ...refused }, TOO_MANY_SUBSCRIBERS);
  // A page is no subscriber.
  assertEquals((await own.call("GET", "/events")).status, 200);
  first.close();
  await first.ended();
  await untilLetIn(own);
});

Deno.test("a WebSocket above its client's is refused with 429, and another client's is not", async () => {
  await using own = await createTestDoor({ http: { clientWebSocketsMax: 2 } });
  const { token } = (await own.call("POST", "/clients", { json: { name: "c", scopes: ["read"] } })).body;
  const first = await subscribe(own, "", token);
  using _second = await subscribe(own, "", token);
  const shake = async () => {
    using handshake = await shakeHands(own, "", { authorization: `Bearer ${token}` });
    return { body: undefined, ...handshake };
  };
  assertProblem(await shake(), {
    status: 429,
    code: "too-many-websockets",
    headers: { "retry-after": "10" },
  });
  using _other = await subscribe(own);
  assertEquals((await own.call("GET", "/events", { token })).status, 200);
  first.close();
  await first.ended();
  await until(async () => (await shake()).status === 101);
});

Deno.test("clients that leave in the middle of their handshake do not count", async () => {
  await using own = await createTestDoor({ http: { subscribersMax: 1, subscriberStalledMs: 50 } });
  for (let index = 0; index < 20; index++) (await sendHandshake(own)).close();
  await until(() => own.requests.length >= 20);
  await untilLetIn(own);
});

Deno.test("the server closes its subscribers with 1001 when it stops", async () => {
  await using own = await createTestDoor();
  const subscribers = await Promise.all([subscribe(own), subscribe(own, "?after=0")]);
  await subscribers[1].take(2);
  await own.stop();
  for (const subscriber of subscribers) assertEquals((await subscriber.ended()).code, 1001);
});

const SLOW = { subscribersMax: 1, subscriberBacklogBytesMax: 500_000, subscriberStalledMs: 100 };
/** Far more than the buffers of two sockets hold, at a thousand bytes each. */
const MANY_EVENTS = 30_000;

Deno.test("a subscriber that does not read is cut off with 4008 while writes go on, and resumes without gap", async () => {
  await using own = await createTestDoor({ http: SLOW });
  await createTestVolume(own, "v");
  await storeEvents(own, MANY_EVENTS, 1_000);
  let lastRead = 0;
  const { storage } = own.system;
  const follow = storage.followEvents.bind(storage);
  storage.followEvents = async function* (...args) {
    for await (const events of follow(...args)) {
      lastRead = events[events.length - 1].eventId;
      yield events;
    }
  };
  using silent = await subscribeSilently(own);
  await until(() => lastRead > 0);
  let cutOff = false;
  const waiting = untilLetIn(own).finally(() => cutOff = true);
  let writes = 0;
  while (!cutOff) {
    const octets = fill(1, 1, 512);
    assertEquals((await own.call("PUT", `/volumes/v/blocks/${writes % 64}`, { octets })).status, 200);
    writes += 1;
  }
  await waiting;
  assert(writes > 0);
  // It was given what the buffers hold, and no more was read for it.
  assert(lastRead < MANY_EVENTS, `events were read for it up to ${lastRead}`);

  let last = 0;
  let frame = await silent.read();
  for (; "text" in frame; frame = await silent.read()) {
    const { id } = JSON.parse(frame.text);
    assertEquals(id, last + 1);
    last = id;
  }
  assertEquals(frame, { code: 4008, reason: "too slow; resume with after=" });
  using resumed = await subscribe(own, `?after=${last}`);
  const [next] = await resumed.take(1);
  assertEquals(next.id, last + 1);
});

Deno.test("subscribers that were cut off and never leave are bounded as well", async () => {
  await using own = await createTestDoor({ http: SLOW });
  await storeEvents(own, MANY_EVENTS, 1_000);
  const first = await subscribeSilently(own);
  using _second = await subscribeSilently(own);
  const bounded = "Cannot take another subscriber: 0 are there, and 2 linger that were cut off";
  await until(async () => (await refusalOf(own))?.body.detail === bounded);
  assertProblem(await refusalOf(own) as Answer, TOO_MANY_SUBSCRIBERS);
  first[Symbol.dispose]();
  await untilLetIn(own);
});

/** Subscribes from the first event on, and reads nothing but the answer to the handshake. */
async function subscribeSilently(own: TestDoor): Promise<Handshake> {
  let handshake = await shakeHands(own, "?after=0");
  await until(async () => {
    if (handshake.status !== 101) handshake = await shakeHands(own, "?after=0");
    return handshake.status === 101;
  });
  return handshake;
}

/** The server's refusal of another subscriber; none if it takes one, which leaves at once. */
async function refusalOf(own: TestDoor): Promise<Answer | undefined> {
  using handshake = await shakeHands(own);
  return handshake.status === 101 ? undefined : { body: undefined, ...handshake };
}

async function untilLetIn(own: TestDoor): Promise<void> {
  await until(async () => await refusalOf(own) === undefined);
}

Deno.test("GET /events tells of a deleted volume by its id, and no longer by its name", async () => {
  await using door = await createTestDoor();
  const id = await createTestVolume(door, "v");
  await door.call("DELETE", "/volumes/v");
  const { status, body } = await door.call("GET", `/events?volume=${id}`);
  assertEquals(status, 200);
  assertEquals(body.events.map(({ type }: { type: string }) => type), ["volume.created", "volume.deleted"]);
  assertEquals((await door.call("GET", "/events?volume=v")).status, 404);
});

Deno.test("GET /events answers where to go on, also behind events that a filter left out", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "a");
  await createTestVolume(door, "b");
  // 1 pool.created, 2 device.added, 3 and 4 volume.created
  const first = await door.call("GET", "/events?maxResults=3");
  assertEquals([first.body.events.length, first.body.after], [3, 3]);
  const none = await door.call("GET", "/events?type=volume.deleted");
  assertEquals([none.body.events, none.body.after], [[], 4]);
  const later = await door.call("GET", "/events?after=9");
  assertEquals([later.body.events, later.body.after], [[], 9]);
});
