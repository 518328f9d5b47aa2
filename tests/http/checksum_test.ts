/** Checksums through the door: whichever way blocks come in, each is stored with its own. */

import { assertEquals } from "@std/assert";
import { assertChecked } from "../support/checksum.ts";
import {
  createTestDoor,
  createTestPool,
  createTestVolume,
  DOOR_TOKEN,
  type TestDoor,
  until,
} from "../support/door.ts";
import { fill } from "../support/history.ts";

async function take({ call }: TestDoor, name: string): Promise<void> {
  const { status } = await call("POST", "/snapshots", { json: { volumes: ["v"], name } });
  assertEquals(status, 202);
}

/** Each way in, and how many blocks with data there are then: those of volume `v` are twelve before. */
const WAYS: Record<string, { write: (door: TestDoor) => Promise<unknown>; blocks: number }> = {
  "a PUT by the fast lane": {
    write: async ({ call }) => await call("PUT", "/volumes/v/blocks/20", { octets: fill(50, 5, 512) }),
    blocks: 17,
  },
  "a PUT with a query": {
    write: async ({ call }) =>
      await call("PUT", "/volumes/v/blocks/20?pool=main", { octets: fill(50, 5, 512) }),
    blocks: 17,
  },
  "several writes": {
    write: async ({ call }) => {
      const data = (stamp: number, count: number) => fill(stamp, count, 512).toBase64();
      const writes = [{ lba: 30, data: data(60, 6) }, { lba: 1, trim: 2 }, { lba: 40, data: data(70, 1) }];
      return await call("POST", "/volumes/v/writes", { json: { writes } });
    },
    blocks: 19,
  },
  "an image": {
    write: async ({ call }) => {
      const octets = new Uint8Array(24 * 512);
      octets.set(fill(80, 3, 512), 17 * 512);
      return await call("PUT", "/volumes/v/image", { octets });
    },
    blocks: 15,
  },
  "an import": {
    write: async ({ call }) => {
      await createTestVolume({ call }, "w", { blockCount: 1 });
      const { body } = await call("GET", "/snapshots/s/export");
      return await call("POST", "/volumes/w/import?snapshot=in", { octets: body });
    },
    blocks: 24,
  },
  "a copy in another pool": {
    write: async ({ call }) => {
      await createTestPool({ call }, "vault");
      const copy = await call("POST", "/snapshots/s/copies?pool=main", { json: { pool: "vault" } });
      await until(async () => (await call("GET", `/copies/${copy.body.id}`)).body.status === "done");
      return copy;
    },
    blocks: 24,
  },
};

for (const [way, { write, blocks }] of Object.entries(WAYS)) {
  Deno.test(`${way} stores the checksum of each block, and it stays through the flush`, async () => {
    const isCopied = way.startsWith("a copy");
    await using door = await createTestDoor({ flusher: isCopied });
    const { system } = door;
    await createTestVolume(door, "v");
    await door.call("PUT", "/volumes/v/blocks/3", { octets: fill(1, 12, 512), token: DOOR_TOKEN });
    await take(door, "s");
    const answer = await write(door) as { status: number; body: unknown };
    assertEquals([200, 202].includes(answer.status), true, JSON.stringify(answer.body));
    const before = await assertChecked(system.test.database);
    assertEquals(before.queued + before.flushed, blocks);
    await system.drain();
    assertEquals((await assertChecked(system.test.database)).queued, 0);
  });
}
