/**
 * `read-depth`: what reading a block costs in a volume with 10,000 snapshots, against the same volume with one.
 *
 * Every block was written at first, then 20 single blocks behind each snapshot, scattered. The volume with one snapshot has got the
 * same writes behind that one. So its blocks lie in one of two segments, and those of the other in one of a dozen or more,
 * which a read has to walk.
 *
 * The worst case is a block that was written at first and never again, while another one of its slot was written behind each
 * snapshot: 10,000 segments lie before it.
 */

import type { Bed, BenchDatabase, BenchServer } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { insertSnapshots } from "./insert_snapshots.ts";
import { ServerClient } from "./server_client.ts";

/** 1 GiB. */
const VOLUME_BLOCKS = 262_144;
const VOLUME_BLOCKS_QUICK = 4_096;
/** Blocks of a slot in pool `main`. */
const SLOT_BLOCKS = 16;
const SNAPSHOTS = 10_000;
const SNAPSHOTS_QUICK = 100;
const WRITES = 20;
const CONNECTIONS = 4;
const SECONDS = 3;
const SECONDS_QUICK = 0.5;

export const readDepthBench: Bench = {
  name: "read-depth",
  rows: [
    {
      name: "read-depth",
      measured: "4 KiB random GET, 1 GiB under 10,000 snapshots",
      against: "under 1 snapshot",
      unit: "ms",
      goal: { atMost: 1.5, aim: 1 },
    },
    {
      name: "read-depth-worst",
      measured: "4 KiB GET behind 10,000 segments of its slot",
      against: "behind 1",
      unit: "ms",
      goal: {},
    },
  ],
  open,
};

/** A volume as often cut as can be, and one with the same writes behind a single snapshot. */
interface Pair {
  readonly row: string;
  readonly deep: string;
  readonly shallow: string;
  /** The blocks that are read: those from 0 on. */
  readonly readBlocks: number;
}

interface Stage {
  readonly bed: Bed;
  readonly database: BenchDatabase;
  readonly server: BenchServer;
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(database));
  const stage = { bed, database, server };
  const snapshots = bed.scaled(SNAPSHOTS, SNAPSHOTS_QUICK);
  const blockCount = bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK);
  const scattered = Uint32Array.from(
    { length: snapshots * WRITES },
    () => Math.floor(Math.random() * blockCount),
  );
  const beside = Uint32Array.from({ length: snapshots }, (_, index) => 1 + index % (SLOT_BLOCKS - 1));
  const pairs = [
    await createPair(stage, "read-depth", blockCount, { snapshots, lbas: scattered, readBlocks: blockCount }),
    await createPair(stage, "read-depth-worst", SLOT_BLOCKS, { snapshots, lbas: beside, readBlocks: 1 }),
  ];
  const resources = undo.move();
  let turn = 0;
  return {
    repeat: async () => {
      const deepFirst = turn++ % 2 === 0;
      const samples: Sample[] = [];
      for (const pair of pairs) samples.push(await compare(stage, pair, deepFirst));
      return samples;
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

async function createPair(
  { database, server }: Stage,
  row: string,
  blockCount: number,
  { snapshots, lbas, readBlocks }: { snapshots: number; lbas: Uint32Array; readBlocks: number },
): Promise<Pair> {
  const client = new ServerClient(server);
  const create = async (name: string, count: number) => {
    const volume = await client.createVolume(name, blockCount);
    await client.fillVolume(volume, blockCount);
    await client.drain();
    await insertSnapshots(database, volume, { count, lbas });
    return volume;
  };
  const deep = await create(`${row}-deep`, snapshots);
  return { row, deep, shallow: await create(`${row}-shallow`, 1), readBlocks };
}

async function compare(stage: Stage, pair: Pair, deepFirst: boolean): Promise<Sample> {
  const first = deepFirst ? await measure(stage, pair, pair.deep) : undefined;
  const against = await measure(stage, pair, pair.shallow);
  const measured = first ?? await measure(stage, pair, pair.deep);
  return { row: pair.row, measured, against };
}

/** How long a read takes, in ms, with a few under way. */
async function measure(
  { bed, database, server }: Stage,
  { readBlocks }: Pair,
  volume: string,
): Promise<number> {
  await bed.settle(database);
  const { blocksPerSecond } = await bed.runClosedLoad({
    server,
    connections: CONNECTIONS,
    seconds: bed.scaled(SECONDS, SECONDS_QUICK),
    method: "GET",
    volumes: [volume],
    blockCount: readBlocks,
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "random",
  });
  return CONNECTIONS * 1000 / blocksPerSecond;
}
