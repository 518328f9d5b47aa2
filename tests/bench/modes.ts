/**
 * `modes`: the cache modes against each other: what a write costs before it is answered, and how long a snapshot takes to its
 * seal when something was written just before.
 *
 * One server and one database hold a pool of each mode, with a volume whose slots are mapped. The modes take turns at being first.
 * What a snapshot finds ahead of it is flushed in write-back; written through, nothing is.
 */

import type { Bed, BenchDatabase, BenchServer } from "./bed.ts";
import type { Bench, OpenBench, Row, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { ServerClient } from "./server_client.ts";
import { median } from "./statistics.ts";
import { timeSeconds } from "./stopwatch.ts";

const MODES = ["write-back", "write-back-relaxed", "write-through"] as const;
type Mode = typeof MODES[number];

const CONNECTIONS = 64;
/** 256 MiB: few slots to map beforehand. */
const VOLUME_BLOCKS = 65_536;
const VOLUME_BLOCKS_QUICK = 16_384;
const SEGMENT_BLOCKS = 16;
const DEVICE_BYTES = 64 * 2 ** 30;
/** With a warm-up of half a second each. */
const SECONDS = 2;
const SECONDS_QUICK = 0.5;
/** Snapshots of each mode, and blocks that are written before each. */
const SNAPSHOTS = 20;
const SNAPSHOTS_QUICK = 3;
const WRITTEN_BLOCKS = 256;

const PUTS = `4 KiB PUTs, ${CONNECTIONS} connections`;
const SEAL = `request → sealed, right behind a write of ${WRITTEN_BLOCKS} scattered blocks`;

const ROWS: Row[] = [
  {
    name: "modes-put-relaxed",
    measured: `${PUTS}, relaxed`,
    against: "write-back",
    unit: "blocks/s",
    goal: {},
  },
  {
    name: "modes-put-through",
    measured: `${PUTS}, write-through`,
    against: "write-back",
    unit: "blocks/s",
    goal: {},
  },
  { name: "modes-seal-relaxed", measured: `${SEAL}, relaxed`, against: "write-back", unit: "ms", goal: {} },
  {
    name: "modes-seal-through",
    measured: `${SEAL}, write-through`,
    against: "write-back",
    unit: "ms",
    goal: {},
  },
];

export const modesBench: Bench = { name: "modes", rows: ROWS, open };

interface Stage {
  readonly database: BenchDatabase;
  readonly server: BenchServer;
  readonly volumes: Readonly<Record<Mode, string>>;
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(database));
  const client = new ServerClient(server);
  const volumes: Partial<Record<Mode, string>> = {};
  for (const cacheMode of MODES) {
    await client.createPool(cacheMode, DEVICE_BYTES, { cacheMode });
    volumes[cacheMode] = await createVolume(bed, client, cacheMode);
  }
  const stage = { database, server, volumes: volumes as Record<Mode, string> };
  const opened = undo.move();
  let repetition = 0;
  return {
    repeat: () => compare(bed, stage, repetition++),
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

/** A volume whose every slot is mapped: first touches are not what is measured. */
async function createVolume(bed: Bed, client: ServerClient, pool: string): Promise<string> {
  const blockCount = bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK);
  const volume = await client.createVolume(`bench-${pool}`, blockCount, pool);
  const slots = Uint32Array.from({ length: blockCount / SEGMENT_BLOCKS }, (_, slot) => slot * SEGMENT_BLOCKS);
  await client.scatter(volume, slots);
  return volume;
}

async function compare(bed: Bed, stage: Stage, repetition: number): Promise<Sample[]> {
  const inOrder = MODES.map((_, index) => MODES[(index + repetition) % MODES.length]);
  const rates: Partial<Record<Mode, number>> = {};
  const seals: Partial<Record<Mode, number>> = {};
  for (const mode of inOrder) rates[mode] = await measureRate(bed, stage, mode);
  for (const mode of inOrder) seals[mode] = await measureSeal(bed, stage, mode);
  const pair = (row: string, figures: Partial<Record<Mode, number>>, mode: Mode): Sample => ({
    row,
    measured: figures[mode] as number,
    against: figures["write-back"] as number,
  });
  return [
    pair("modes-put-relaxed", rates, "write-back-relaxed"),
    pair("modes-put-through", rates, "write-through"),
    pair("modes-seal-relaxed", seals, "write-back-relaxed"),
    pair("modes-seal-through", seals, "write-through"),
  ];
}

async function measureRate(bed: Bed, { database, server, volumes }: Stage, mode: Mode): Promise<number> {
  await drainAll(server);
  await bed.settle(database);
  const { blocksPerSecond } = await bed.runClosedLoad({
    server,
    connections: CONNECTIONS,
    seconds: bed.scaled(SECONDS, SECONDS_QUICK),
    method: "PUT",
    volumes: [volumes[mode]],
    blockCount: bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK),
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "random",
  });
  return blocksPerSecond;
}

/** The median, in milliseconds. */
async function measureSeal(bed: Bed, { server, volumes }: Stage, mode: Mode): Promise<number> {
  await drainAll(server);
  const client = new ServerClient(server);
  const times: number[] = [];
  const stride = bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK) / WRITTEN_BLOCKS;
  const lbas = Array.from({ length: WRITTEN_BLOCKS }, (_, index) => index * stride);
  for (let snapshot = 0; snapshot < bed.scaled(SNAPSHOTS, SNAPSHOTS_QUICK); snapshot++) {
    await client.writeBlocks(volumes[mode], lbas);
    times.push(1000 * await timeSeconds(() => client.sealSnapshot(volumes[mode])));
  }
  return median(times);
}

async function drainAll(server: BenchServer): Promise<void> {
  for (const pool of MODES) await new ServerClient(server).drain(pool);
}
