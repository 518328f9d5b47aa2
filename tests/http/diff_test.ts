/** Exports and imports over HTTP: what goes out of one pool comes into another, block by block, and nothing else does. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import {
  createTestDoor,
  createTestPool,
  createTestVolume,
  DOOR_TOKEN,
  type TestDoor,
  until,
} from "../support/door.ts";
import { below, fill, seeded } from "../support/history.ts";
import { countTaken, reclaimAll } from "../support/reclaiming.ts";
import {
  INVALID_ARGUMENT,
  INVALID_REQUEST,
  NAME_TAKEN,
  type Refusal,
  refusalsOf,
  sense,
  VOLUME_NOT_FOUND,
} from "./problem.ts";
import { sendRaw } from "./raw_request.ts";

const BLOCKS = 64;

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestPool(door, "other");
  await createTestVolume(door, "v", { blockCount: BLOCKS });
  await createTestVolume(door, "w", { blockCount: 8 });
  await createTestVolume(door, "copy", { pool: "other", blockCount: 8 });
  await door.call("PUT", "/volumes/v/blocks/4", { octets: fill(1, 8, 512) });
  await take("v", "a");
  await door.call("DELETE", "/volumes/v/blocks/5");
  await door.call("PUT", "/volumes/v/blocks/40", { octets: fill(50, 2, 512) });
  await take("v", "b");
  await take("w", "w");
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], lba: 1, blockCount: 2, name: "part" } });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

async function take(volume: string, name?: string): Promise<string> {
  const { status, body } = await door.call("POST", "/snapshots", { json: { volumes: [volume], name } });
  assertEquals(status, 202);
  return body.id;
}

const exported = (snapshot: string, query = "") => door.call("GET", `/snapshots/${snapshot}/export${query}`);
const importing = (volume: string, octets: Uint8Array, query = "") =>
  ["POST", `/volumes/${volume}/import${query}`, { octets }] as [string, string, { octets: Uint8Array }];
const image = async (snapshot: string) => (await door.call("GET", `/snapshots/${snapshot}/image`)).body;

// By hand

/** Number `value` in `bytes` bytes, little-endian. */
function le(value: number, bytes: 4 | 8): number[] {
  return Array.from({ length: bytes }, (_, index) => Math.floor(value / 256 ** index) % 256);
}
const text = (value: string) => [...new TextEncoder().encode(value)];
const named = (tag: string, name: string) => [...text(tag), ...le(name.length, 4), ...text(name)];
const MAGIC = text("rbd diff v1\n");
const size = (blocks: number) => [...text("s"), ...le(blocks * 512, 8)];
const written = (lba: number, data: Uint8Array) => [
  ...text("w"),
  ...le(lba * 512, 8),
  ...le(data.length, 8),
  ...data,
];
const zeros = (lba: number, blocks: number) => [...text("z"), ...le(lba * 512, 8), ...le(blocks * 512, 8)];
const END = text("e");
const stream = (...parts: number[][]) => new Uint8Array([...MAGIC, ...parts.flat(), ...END]);

// Refusals

const refuses = refusalsOf(() => door);
const SNAPSHOT_NOT_FOUND: Refusal = { status: 404, code: "snapshot-not-found" };
const OUTSIDE_SNAPSHOT: Refusal = { status: 422, code: "outside-snapshot", scsi: sense(0x5, 0x21, 0x00) };
const UNRELATED: Refusal = { status: 422, code: "unrelated-snapshots" };
const STREAM_INVALID: Refusal = { status: 422, code: "stream-invalid" };
const NOT_WHOLE_BLOCKS: Refusal = { status: 422, code: "not-whole-blocks" };

refuses("an unknown snapshot", ["GET", "/snapshots/no/export"], SNAPSHOT_NOT_FOUND);
refuses("an unknown base", ["GET", "/snapshots/b/export?base=no"], SNAPSHOT_NOT_FOUND);
refuses("a part of a volume", ["GET", "/snapshots/part/export"], OUTSIDE_SNAPSHOT);
refuses("a base of a part", ["GET", "/snapshots/b/export?base=part"], UNRELATED);
refuses("a volume it does not cover", ["GET", "/snapshots/b/export?volume=w"], OUTSIDE_SNAPSHOT);
refuses("a later base", ["GET", "/snapshots/a/export?base=b"], UNRELATED);
refuses("another volume's base", ["GET", "/snapshots/b/export?base=w"], UNRELATED);
refuses("what it does not know", ["GET", "/snapshots/b/export?format=v2"], INVALID_REQUEST);

const whole = stream(size(8), written(0, fill(9, 1, 512)));
refuses("an unknown volume", importing("no", whole), VOLUME_NOT_FOUND);
refuses(
  "no body",
  ["POST", "/volumes/w/import", { headers: { "content-type": "application/octet-stream" } }],
  {
    status: 422,
    code: "stream-invalid",
  },
);
refuses("JSON", ["POST", "/volumes/w/import", { json: {} }], { status: 415, code: "unsupported-media-type" });
refuses("a name that is taken", importing("w", whole, "?snapshot=a"), NAME_TAKEN);
refuses(
  "a stream's name that is taken",
  importing("w", stream(named("t", "a"), size(8), zeros(0, 1))),
  NAME_TAKEN,
);
refuses(
  "a stream's name that is none here",
  importing("w", stream(named("t", "a b"), size(8))),
  INVALID_ARGUMENT,
);
refuses("a name that is none", importing("w", whole, "?snapshot=a%20b"), INVALID_ARGUMENT);
refuses("a base for all there is", importing("w", whole, "?base=w"), INVALID_REQUEST);
refuses("an unknown base", importing("w", stream(named("f", "no"), size(8))), SNAPSHOT_NOT_FOUND);
refuses(
  "a base that can have no name",
  importing("w", stream(named("f", "\0"), size(8))),
  SNAPSHOT_NOT_FOUND,
);
refuses("another volume's base", importing("w", stream(named("f", "a"), size(8))), UNRELATED);
refuses("another volume's base", importing("w", stream(named("f", "w"), size(8)), "?base=a"), UNRELATED);
refuses("a size of half blocks", importing("w", stream([...text("s"), ...le(700, 8)])), NOT_WHOLE_BLOCKS);
refuses("no size", importing("w", stream(zeros(0, 1))), STREAM_INVALID);
refuses("a size of nothing", importing("w", stream(size(0))), NOT_WHOLE_BLOCKS);
refuses(
  "a size above all bounds",
  importing("w", stream([...text("s"), ...le(2 ** 52, 8)])),
  INVALID_ARGUMENT,
);

// Round trips

Deno.test("POST …/import takes a stream written out by hand after the published format", async () => {
  await createTestVolume(door, "hand", { blockCount: 8 });
  const { status, body } = await door.call(...importing(
    "hand",
    stream(
      named("t", "by-hand"),
      size(10),
      written(1, fill(5, 2, 512)),
      zeros(3, 2),
      written(9, fill(8, 1, 512)),
    ),
  ));
  assertEquals([status, body.volume.blockCount], [200, 10]);
  const expected = new Uint8Array(5_120);
  expected.set(fill(5, 2, 512), 512);
  expected.set(fill(8, 1, 512), 9 * 512);
  assertEquals(await image("by-hand"), expected);
  const difference = stream(named("f", "by-hand"), size(10), zeros(0, 2), written(4, fill(6, 1, 512)));
  const second = await door.call(...importing("hand", difference, "?snapshot=second"));
  assertEquals(second.status, 200);
  expected.fill(0, 0, 1024);
  expected.set(fill(6, 1, 512), 4 * 512);
  assertEquals(await image(second.body.snapshotId), expected);
});

Deno.test("GET …/export answers exactly the bytes that the published format has for it", async () => {
  const full = await exported("a");
  assertEquals(full.headers.get("content-type"), "application/octet-stream");
  assertEquals(full.headers.get("content-disposition"), 'attachment; filename="a.rbd-diff"');
  assertEquals(full.body, stream(named("t", "a"), size(BLOCKS), written(4, fill(1, 8, 512))));
  const changes = await exported("b", "?base=a");
  assertEquals(changes.headers.get("content-disposition"), 'attachment; filename="b.since.a.rbd-diff"');
  assertEquals(
    changes.body,
    stream(named("f", "a"), named("t", "b"), size(BLOCKS), zeros(5, 1), written(40, fill(50, 2, 512))),
  );
  assertEquals((await exported("b", "?base=a")).body, changes.body);
});

Deno.test("exports come into another pool: all there is, then differences on top, block by block", async () => {
  const random = seeded(11);
  await createTestPool(door, "there");
  let volume = "grows";
  let blockCount = 40;
  await createTestVolume(door, volume, { blockCount });
  await createTestVolume(door, "arrives", { pool: "there", blockCount: 1 });
  for (let round = 0; round < 12; round++) {
    const { body: source } = await door.call("GET", `/volumes/${volume}`);
    for (let writes = below(random, 6); writes > 0; writes--) {
      const lba = below(random, blockCount - 8);
      const count = 1 + below(random, 8);
      const path = `/volumes/${source.id}/blocks/${lba}`;
      if (below(random, 3) === 0) await door.call("DELETE", `${path}?count=${count}`);
      else await door.call("PUT", path, { octets: fill(100 * round + 1, count, 512) });
    }
    const [name, base] = [`r${round}`, `r${round - 1}`];
    await take(volume, name);
    const stream = await exported(name, `?pool=main${round === 0 ? "" : `&base=${base}`}`);
    const { status, body } = await door.call(...importing("arrives", stream.body));
    assertEquals([status, body.volume.blockCount], [200, blockCount]);
    assertEquals(
      (await door.call("GET", `/snapshots/${name}/image?pool=there`)).body,
      (await door.call("GET", `/snapshots/${name}/image?pool=main`)).body,
    );
    if (round % 3 === 1) await door.system.drain();
    if (round % 4 === 2) {
      blockCount += 7;
      await door.call("PATCH", `/volumes/${volume}`, { json: { blockCount } });
    }
    if (round % 5 === 4) {
      volume = `clone-${round}`;
      await door.call("POST", "/volumes", {
        json: { name: volume, source: { snapshot: name }, pool: "main" },
      });
      blockCount = (await door.call("GET", `/volumes/${volume}`)).body.blockCount;
    }
  }
});

Deno.test("GET …/export cuts long runs into records of 1 MiB, and comes back equal", async () => {
  const blocks = 5_000;
  await createTestVolume(door, "long", { blockCount: blocks + 100 });
  const octets = fill(1, blocks, 512);
  await door.call("PUT", "/volumes/long/blocks/50", { octets });
  await take("long", "long");
  const { body } = await exported("long");
  const cuts = [0, 2_048, 4_096, blocks];
  const records = cuts.slice(1).map((end, index) =>
    written(50 + cuts[index], octets.subarray(cuts[index] * 512, end * 512))
  );
  assertEquals(body.length, stream(named("t", "long"), size(blocks + 100), ...records).length);
  assertEquals(body, stream(named("t", "long"), size(blocks + 100), ...records));
  await createTestVolume(door, "long-copy", { blockCount: 1 });
  assertEquals((await door.call(...importing("long-copy", body, "?snapshot=long-copy"))).status, 200);
  assertEquals(await image("long-copy"), await image("long"));
});

Deno.test("an unnamed snapshot is named in its export by its id, and so is the snapshot of it that an import takes", async () => {
  const id = await take("v");
  const { body } = await exported(id);
  assertEquals(body.subarray(0, 53), new Uint8Array([...MAGIC, ...named("t", id)]));
  await createTestVolume(door, "unnamed", { blockCount: 1 });
  const imported = await door.call(...importing("unnamed", body));
  const taken = await door.call("GET", `/snapshots/${imported.body.snapshotId}`);
  assertEquals([imported.status, "name" in taken.body], [200, false]);
  const next = stream(named("f", id), size(BLOCKS), zeros(0, BLOCKS));
  assertEquals((await door.call(...importing("unnamed", next))).body.code, "unrelated-snapshots");
  const base = `?base=${imported.body.snapshotId}`;
  assertEquals((await door.call(...importing("unnamed", next, base))).status, 200);
});

// What goes wrong on the way

/** A volume of eight blocks, with a snapshot, and all that there is of it. */
async function createVictim(own: TestDoor): Promise<() => Promise<Uint8Array>> {
  await createTestVolume(own, "victim", { blockCount: 8 });
  await own.call("PUT", "/volumes/victim/blocks/0", { octets: fill(1, 6, 512) });
  await own.call("POST", "/snapshots", { json: { volumes: ["victim"], name: "base" } });
  return async () => (await own.call("GET", "/volumes/victim/blocks/0?count=8")).body;
}

async function assertSpace(own: TestDoor, taken: number): Promise<void> {
  await own.system.drain();
  await reclaimAll(own.system.test.database);
  assertEquals(await countTaken(own.system), taken);
  const [{ count }] = await own.system.test.database.$client`select count(*) from stagings`;
  assertEquals(count, 0);
  await assertSpaceIsSound(own.system.test.database);
}

Deno.test("POST …/import of a stream that is cut anywhere is refused, and changes nothing", async () => {
  await using own = await createTestDoor();
  const read = await createVictim(own);
  const before = await read();
  const cut = stream(
    named("f", "base"),
    named("t", "new"),
    size(9),
    zeros(0, 1),
    written(2, fill(9, 1, 512)),
  );
  for (let length = 0; length < cut.length; length++) {
    const { status, body } = await own.call(...importing("victim", cut.subarray(0, length)));
    assertEquals([length, status, body.code], [length, 422, "stream-invalid"]);
  }
  assertEquals(await read(), before);
  await assertSpace(own, 2);
  assertEquals((await own.call(...importing("victim", cut))).status, 200);
});

Deno.test("POST …/import of a stream with a wrong byte is refused and changes nothing, or is taken as what it says", async () => {
  await using own = await createTestDoor();
  const read = await createVictim(own);
  const before = await read();
  const [head, tail] = [
    [
      ...MAGIC,
      ...named("f", "base"),
      ...named("t", "new"),
      ...size(8),
      ...zeros(0, 1),
      ...written(2, fill(9, 1, 512)),
    ],
    END,
  ];
  const random = seeded(5);
  const dataStart = head.length - 512;
  let taken = 0;
  for (let tries = 0; tries < 400; tries++) {
    const bytes = new Uint8Array([...head, ...tail]);
    // What stands around the data.
    const at = below(random, dataStart + tail.length);
    bytes[at < dataStart ? at : head.length + at - dataStart] ^= 1 + below(random, 255);
    const { status, body } = await own.call(...importing("victim", bytes));
    if (status !== 200) {
      assertEquals(status === 404 || status === 422, true, `${status} ${body.code}`);
      assertEquals(await read(), before);
      continue;
    }
    taken += 1;
    const { body: got } = await own.call("GET", `/snapshots/${body.snapshotId}/export?base=base`);
    assertEquals(stripNames(got), stripNames(bytes));
    await own.call("POST", "/volumes/victim/revert", { json: { snapshot: "base", safetySnapshot: false } });
    await own.system.drain();
    await own.call("DELETE", `/snapshots/${body.snapshotId}`);
  }
  assertEquals(taken > 0 && taken < 100, true, `${taken} were taken`);
  await assertSpace(own, 2);
});

/** A stream without its names, which are of 3 to 36 bytes. */
function stripNames(stream: Uint8Array): Uint8Array {
  return stream.subarray(stream.indexOf("s".charCodeAt(0), 12 + 5 + 4 + 5));
}

Deno.test("POST …/import is refused when the volume is written meanwhile, and its space comes back", async () => {
  await using own = await createTestDoor();
  const read = await createVictim(own);
  const changed = stream(named("f", "base"), size(8), written(0, fill(9, 4, 512)));
  const second = Promise.withResolvers<void>();
  async function* body() {
    yield changed.subarray(0, 100);
    await second.promise;
    yield changed.subarray(100);
  }
  const headers = { "content-type": "application/octet-stream", authorization: `Bearer ${DOOR_TOKEN}` };
  const answer = fetch(`${own.url}/volumes/victim/import`, {
    method: "POST",
    headers,
    body: ReadableStream.from(body()),
  });
  await until(async () => {
    const [{ count }] = await own.system.test.database.$client`select count(*) from stagings`;
    return count === 1;
  });
  await own.call("PUT", "/volumes/victim/blocks/7", { octets: fill(70, 1, 512) });
  const after = await read();
  second.resolve();
  const { status, code } = await (await answer).json();
  assertEquals([status, code], [409, "volume-changed"]);
  assertEquals(await read(), after);
  await assertSpace(own, 3);
});

Deno.test("POST …/import that the client breaks off leaves nothing, and the server goes on", async () => {
  await using own = await createTestDoor();
  const read = await createVictim(own);
  const before = await read();
  const answered = own.requests.length;
  const bytes = stream(named("f", "base"), size(8), written(0, fill(9, 4, 512)));
  // All of its bytes are ASCII.
  const part = new TextDecoder().decode(bytes.subarray(0, 700));
  const headers = ["content-type: application/octet-stream", `content-length: ${bytes.length}`];
  const connection = await sendRaw(own, "POST /volumes/victim/import", headers, part);
  await until(async () => {
    const [{ count }] = await own.system.test.database.$client`select count(*) from stagings`;
    return count === 1;
  });
  connection.close();
  await until(() => own.requests.length > answered);
  assertEquals(own.requests.find(({ path }) => path.endsWith("/import"))?.status, 400);
  assertEquals(await read(), before);
  await assertSpace(own, 2);
});

for (const victim of ["b2", "a2"]) {
  Deno.test(`GET …/export breaks off when snapshot ${victim} is deleted meanwhile, without an end`, async () => {
    await using own = await createTestDoor();
    await createTestVolume(own, "big", { blockCount: 40_000 });
    const take = (name: string) => own.call("POST", "/snapshots", { json: { volumes: ["big"], name } });
    await take("a2");
    for (let lba = 0; lba < 40_000; lba += 8_000) {
      await own.call("PUT", `/volumes/big/blocks/${lba}`, { octets: fill(lba, 8_000, 512) });
    }
    await take("b2");
    await own.system.drain();
    const { storage } = own.system;
    const { pieces } = await storage.openDifference("b2", undefined, undefined, "a2");
    const rest = pieces();
    assert(!(await rest.next()).done);
    await own.call("DELETE", `/snapshots/${victim}`);
    const error = await assertRejects(() => Array.fromAsync(rest), StorageError);
    assertEquals(error.code, "snapshot-not-found");
  });
}

Deno.test("a download whose snapshot is deleted meanwhile is broken off", async () => {
  await using own = await createTestDoor();
  await createTestVolume(own, "big", { blockCount: 80_000 });
  for (let lba = 0; lba < 80_000; lba += 8_000) {
    await own.call("PUT", `/volumes/big/blocks/${lba}`, { octets: fill(lba, 8_000, 512) });
  }
  await own.call("POST", "/snapshots", { json: { volumes: ["big"], name: "big" } });
  await own.system.drain();
  const headers = { authorization: `Bearer ${DOOR_TOKEN}` };
  const response = await fetch(`${own.url}/snapshots/big/export`, { headers });
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  await reader.read();
  await own.call("DELETE", "/snapshots/big");
  await assertRejects(async () => {
    for (let done = false; !done;) ({ done } = await reader.read());
  }, TypeError);
});

Deno.test("HEAD …/export reads nothing", async () => {
  const headers = { authorization: `Bearer ${DOOR_TOKEN}` };
  const response = await fetch(`${door.url}/snapshots/b/export`, { method: "HEAD", headers });
  assertEquals([response.status, (await response.bytes()).length], [200, 0]);
});
