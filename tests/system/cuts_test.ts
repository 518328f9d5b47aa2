/**
 * Sixteen writers, two hundred snapshots at random moments, three volumes, two server processes: every cut exact.
 */

import { assertEquals } from "@std/assert";
import { Client } from "../support/client.ts";
import { createTestDatabase } from "../support/database.ts";
import { below, fill, History, type Part, seeded } from "../support/history.ts";
import { startServerProcess } from "../support/server.ts";

const BLOCK_BYTES = 512;
const VOLUME_BLOCKS = 64;
const VOLUMES = ["a", "b", "c"];
const WRITERS = 16;
const SNAPSHOTS = 200;
/** A writer ends here even if the snapshots are slower. */
const REQUESTS_MAX = 1_000;
const SEED = 20261122;

interface Cut {
  readonly id: string;
  readonly sequence: number;
  readonly volumes: string[];
}

/** One request of one to three parts; every block it writes gets a stamp of its own. */
async function writeOnce(
  client: Client,
  volume: string,
  random: () => number,
  history: History,
  nextStamp: (count: number) => number,
) {
  const parts: Part[] = Array.from({ length: 1 + below(random, 3) }, () => {
    const lba = below(random, VOLUME_BLOCKS - 8);
    const count = 1 + below(random, 8);
    return random() < 0.15 ? { lba, trim: count } : { lba, blockCount: count, firstStamp: nextStamp(count) };
  });
  const writes = parts.map((part) =>
    "trim" in part ? part : { lba: part.lba, data: fill(part.firstStamp, part.blockCount, BLOCK_BYTES) }
  );
  const { sequence } = await client.writeMany(volume, writes);
  history.add(sequence, parts);
}

Deno.test(`16 writers, 200 snapshots, 3 volumes, 2 server processes: every snapshot is exact (seed ${SEED})`, async () => {
  await using resources = new AsyncDisposableStack();
  const { url } = resources.use(await createTestDatabase());
  const serve = async () => new Client(resources.use(await startServerProcess({ DATABASE_URL: url })).url);
  const clients = [await serve(), await serve()];
  const [admin] = clients;
  await admin.createPool({ name: "small", blockSizeBytes: BLOCK_BYTES, segmentBlocks: 4 });
  await admin.addDevice({ name: "small-1", pool: "small", blockCount: 10_000_000 });
  const histories = new Map(VOLUMES.map((name) => [name, new History(VOLUME_BLOCKS)]));
  for (const name of VOLUMES) await admin.createVolume({ name, pool: "small", blockCount: VOLUME_BLOCKS });

  let stamps = 1;
  const nextStamp = (count: number) => (stamps += count) - count;
  let snapshotting = true;
  const writers = Array.from({ length: WRITERS }, async (_, writer) => {
    const random = seeded(SEED + writer);
    for (let request = 0; snapshotting && request < REQUESTS_MAX; request++) {
      const volume = VOLUMES[below(random, VOLUMES.length)];
      await writeOnce(clients[writer % 2], volume, random, histories.get(volume) as History, nextStamp);
    }
  });
  const random = seeded(SEED - 1);
  const cuts: Cut[] = [];
  const takeSnapshots = async () => {
    for (let index = 0; index < SNAPSHOTS; index++) {
      const volumes = VOLUMES.filter(() => random() < 0.5);
      const chosen = volumes.length === 0 ? { pool: "small" } : { volumes };
      const { id, sequence } = await clients[index % 2].snapshot(chosen);
      cuts.push({ id, sequence, volumes: volumes.length === 0 ? VOLUMES : volumes });
    }
  };
  await takeSnapshots().finally(() => snapshotting = false);
  await Promise.all(writers);

  const verify = async () => {
    for (const [index, { id, sequence, volumes }] of cuts.entries()) {
      for (const volume of volumes) {
        const bytes = await clients[index % 2].readSnapshot(id, volume, VOLUME_BLOCKS);
        histories.get(volume)?.assertReplay(bytes, BLOCK_BYTES, sequence);
      }
    }
    for (const [volume, history] of histories) {
      history.assertReplay(await admin.readVolume(volume, VOLUME_BLOCKS), BLOCK_BYTES);
    }
  };
  await verify();
  await admin.flush("small");
  await verify();
  for (const { id } of cuts) assertEquals((await admin.getSnapshot(id)).status, "sealed");
  const written = [...histories.values()].reduce((sum, history) => sum + history.length, 0);
  // Fewer would not have met the snapshots at all.
  assertEquals([cuts.length, written > SNAPSHOTS], [SNAPSHOTS, true]);
});
