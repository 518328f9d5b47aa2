/**
 * `pools`: two pools against one, under the same total load: pools share nothing but the machine, so two must not be slower.
 *
 * One server and one database hold all of it: pool `main` with two volumes, and pools `left` and `right` with one each. The
 * load chooses between two volumes at random, so each of two pools gets half of its connections' requests. The contenders
 * take turns at being first, and the queue is empty before each.
 */

import type { Bed, BenchDatabase, BenchServer, ClosedLoadResult } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { describeGenerator } from "./level_load.ts";
import { ServerClient } from "./server_client.ts";

const CONNECTIONS = 64;
/** 256 MiB: few slots to map beforehand. */
const VOLUME_BLOCKS = 65_536;
const VOLUME_BLOCKS_QUICK = 16_384;
const SEGMENT_BLOCKS = 16;
const DEVICE_BYTES = 64 * 2 ** 30;
/** With a warm-up of half a second each. */
const SECONDS = 2;
const SECONDS_QUICK = 0.5;
const POOLS = ["main", "left", "right"];

export const poolsBench: Bench = {
  name: "pools",
  rows: [{
    name: "pools",
    measured: "4 KiB PUTs, 64 connections, over two pools",
    against: "over one pool with two volumes",
    unit: "blocks/s",
    goal: { atLeast: 1.0, aim: 1.3 },
  }],
  open,
};

/** Volumes by id. */
interface Stage {
  readonly database: BenchDatabase;
  readonly server: BenchServer;
  readonly inOnePool: readonly string[];
  readonly inTwoPools: readonly string[];
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(database));
  const client = new ServerClient(server);
  await client.createPool("left", DEVICE_BYTES);
  await client.createPool("right", DEVICE_BYTES);
  const inOnePool = [await createVolume(bed, client, "main"), await createVolume(bed, client, "main")];
  const inTwoPools = [await createVolume(bed, client, "left"), await createVolume(bed, client, "right")];
  const opened = undo.move();
  let repetition = 0;
  return {
    repeat: async () => [await compare(bed, { database, server, inOnePool, inTwoPools }, repetition++)],
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

/** A volume whose every slot is mapped: first touches are not what is measured. */
async function createVolume(bed: Bed, client: ServerClient, pool: string): Promise<string> {
  const blockCount = bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK);
  const volume = await client.createVolume(`bench-${crypto.randomUUID()}`, blockCount, pool);
  const slots = Uint32Array.from({ length: blockCount / SEGMENT_BLOCKS }, (_, slot) => slot * SEGMENT_BLOCKS);
  await client.scatter(volume, slots);
  return volume;
}

async function compare(bed: Bed, stage: Stage, repetition: number): Promise<Sample> {
  const measureOne = () => measure(bed, stage, stage.inOnePool);
  const measureTwo = () => measure(bed, stage, stage.inTwoPools);
  const twoFirst = repetition % 2 === 0 ? await measureTwo() : undefined;
  const one = await measureOne();
  const two = twoFirst ?? await measureTwo();
  return {
    row: "pools",
    measured: two.blocksPerSecond,
    against: one.blocksPerSecond,
    note: describeGenerator(two),
  };
}

async function measure(
  bed: Bed,
  { database, server }: Stage,
  volumes: readonly string[],
): Promise<ClosedLoadResult> {
  const client = new ServerClient(server);
  for (const pool of POOLS) await client.drain(pool);
  await bed.settle(database);
  return await bed.runClosedLoad({
    server,
    connections: CONNECTIONS,
    seconds: bed.scaled(SECONDS, SECONDS_QUICK),
    method: "PUT",
    volumes,
    blockCount: bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK),
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "random",
  });
}
