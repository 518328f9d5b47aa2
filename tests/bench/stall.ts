/**
 * `stall`: what snapshots do to the latency of writes that come at half of the rate that could be taken, while a queue
 * stands.
 *
 * Requests are due at a fixed schedule and their latency counts from then (coordinated omission). The prior art does it
 * as one had to: stop the clients, drain the cache, snapshot, go on.
 */

import type { Bed, BenchDatabase, BenchServer, BenchWorker, OpenLoad, OpenLoadResult } from "./bed.ts";
import type { Bench, OpenBench, Row, Sample } from "./bench.ts";
import { BLOCK_BYTES, drawLbas } from "./block_contents.ts";
import { runLevelLoad } from "./level_load.ts";
import { ServerClient } from "./server_client.ts";

const VOLUME = "stalled";
/** 256 MiB. */
const VOLUME_BLOCKS = 65_536;
/** Blocks that stand in the queue before each load, at least. */
const DIRTY_BLOCKS = 20_000;
const DIRTY_BLOCKS_QUICK = 2_000;
/** Over all repetitions, at least. */
const SNAPSHOTS_MIN = 300;
const SNAPSHOT_PACE_MS = 35;
/** A window is longer where fewer repetitions have to make up the snapshots. */
const WINDOW_SECONDS_MIN = 3.5;
const WINDOW_SECONDS_QUICK = 0.5;
const PRIOR_ART_SECONDS = 1;
const PRIOR_ART_SECONDS_QUICK = 0.3;
/** Of the closed load that tells the rate. */
const PUT_SECONDS = 1;
const PUT_SECONDS_QUICK = 0.5;
const CONNECTIONS_MAX = 64;
const WARMUP_SECONDS = 0.5;

const row = (name: string, figure: string, goal: Row["goal"]): Row => ({
  name,
  measured: `${figure} of write latency, snapshots taken`,
  against: "the same load, none taken",
  unit: "ms",
  goal,
});

export const stallBench: Bench = {
  name: "stall",
  rows: [
    row("stall-p50", "p50", {}),
    row("stall-p99", "p99", { atMost: 1.1 }),
    row("stall-p999", "p99.9", { atMost: 1.1 }),
    row("stall-max", "maximum", { aimAtMost: 1.2 }),
    {
      name: "stall-prior-art",
      measured: "maximum of write latency, snapshots taken",
      against: "prior art: stop, drain, snapshot, go on",
      unit: "ms",
      goal: {},
    },
  ],
  open,
};

interface Contender {
  readonly bench: BenchDatabase;
  readonly server: BenchServer;
  readonly client: ServerClient;
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const own = await start(bed, undo);
  const prior = await start(bed, undo);
  const worker = undo.use(await bed.startWorker(prior.bench));
  const ratePerSecond = await measureHalf(bed, prior);
  const dirtyBlocks = bed.scaled(DIRTY_BLOCKS, DIRTY_BLOCKS_QUICK);
  await own.client.scatter(VOLUME, drawLbas(dirtyBlocks, VOLUME_BLOCKS));
  const resources = undo.move();
  let turn = 0;
  return {
    repeat: async () => {
      const { calm, busy, snapshots } = await compare(bed, own, ratePerSecond, turn++ % 2 === 0);
      const priorMs = await measurePriorArt(bed, prior, worker, ratePerSecond, dirtyBlocks);
      return toSamples(calm, busy, priorMs, `${Math.round(ratePerSecond)} writes/s, ${snapshots} snapshots`);
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

/** A server without a flusher, with a volume that is mapped. */
async function start(bed: Bed, resources: AsyncDisposableStack): Promise<Contender> {
  const bench = resources.use(await bed.createDatabase({ migrated: true }));
  const server = resources.use(await bed.startServer(bench, ["--no-flusher"]));
  const client = new ServerClient(server);
  await client.createVolume(VOLUME, VOLUME_BLOCKS);
  await client.mapVolume(VOLUME, VOLUME_BLOCKS);
  return { bench, server, client };
}

/** Half of the rate of `put`: of a closed load whose flusher, here in the worker, keeps level. */
async function measureHalf(bed: Bed, { bench, server, client }: Contender): Promise<number> {
  await client.drain();
  await bed.settle(bench);
  const { blocksPerSecond } = await runLevelLoad(bed, {
    server,
    connections: CONNECTIONS_MAX,
    seconds: bed.scaled(PUT_SECONDS, PUT_SECONDS_QUICK),
    method: "PUT",
    volumes: [VOLUME],
    blockCount: VOLUME_BLOCKS,
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "random",
  });
  return blocksPerSecond / 2;
}

interface Compared {
  readonly calm: OpenLoadResult;
  readonly busy: OpenLoadResult;
  readonly snapshots: number;
}

async function compare(
  bed: Bed,
  own: Contender,
  ratePerSecond: number,
  calmFirst: boolean,
): Promise<Compared> {
  const runCalm = async () => (await runLoad(bed, own, ratePerSecond, false)).result;
  const first = calmFirst ? await runCalm() : undefined;
  const { result: busy, snapshots } = await runLoad(bed, own, ratePerSecond, true);
  return { calm: first ?? await runCalm(), busy, snapshots };
}

async function runLoad(
  bed: Bed,
  { bench, server, client }: Contender,
  ratePerSecond: number,
  snapshotting: boolean,
): Promise<{ result: OpenLoadResult; snapshots: number }> {
  await bed.settle(bench);
  await using run = bed.startOpenLoad(toLoad(bed, server, ratePerSecond, chooseSeconds(bed)));
  await run.warmedUp;
  const snapshots = snapshotting ? takeSnapshots(client, run.result) : Promise.resolve(0);
  const [result, count] = await Promise.all([run.result, snapshots]);
  return { result, snapshots: count };
}

function chooseSeconds(bed: Bed): number {
  const pacedSeconds = SNAPSHOTS_MIN / bed.repetitions * SNAPSHOT_PACE_MS / 1000;
  return bed.scaled(Math.max(WINDOW_SECONDS_MIN, Math.ceil(pacedSeconds)), WINDOW_SECONDS_QUICK);
}

function toLoad(bed: Bed, server: BenchServer, ratePerSecond: number, seconds: number): OpenLoad {
  return {
    server,
    ratePerSecond,
    seconds,
    warmupSeconds: bed.scaled(WARMUP_SECONDS, 0.2),
    connectionsMax: CONNECTIONS_MAX,
    volumes: [VOLUME],
    blockCount: VOLUME_BLOCKS,
    blockSizeBytes: BLOCK_BYTES,
  };
}

/** Takes one after the other at a steady pace until `load` is over, and answers how many. */
async function takeSnapshots(client: ServerClient, load: Promise<unknown>): Promise<number> {
  const over = new AbortController();
  void load.catch(() => {}).finally(() => over.abort());
  const startedAt = performance.now();
  let snapshots = 0;
  while (!over.signal.aborted) {
    await client.takeSnapshot(VOLUME);
    snapshots++;
    await sleep(startedAt + snapshots * SNAPSHOT_PACE_MS - performance.now());
  }
  return snapshots;
}

/** The worst latency, in ms, of a load that is stopped for one snapshot of a drained cache. */
async function measurePriorArt(
  bed: Bed,
  { bench, server, client }: Contender,
  worker: BenchWorker,
  ratePerSecond: number,
  dirtyBlocks: number,
): Promise<number> {
  await client.drain();
  worker.hold();
  try {
    await client.scatter(VOLUME, drawLbas(dirtyBlocks, VOLUME_BLOCKS));
    await bed.settle(bench);
    const seconds = bed.scaled(PRIOR_ART_SECONDS, PRIOR_ART_SECONDS_QUICK);
    await using run = bed.startOpenLoad(toLoad(bed, server, ratePerSecond, seconds));
    await run.warmedUp;
    await run.pause();
    worker.release();
    await client.drain();
    await client.takeSnapshot(VOLUME);
    await run.resume();
    return (await run.result).maxMs;
  } finally {
    worker.release();
  }
}

function toSamples(calm: OpenLoadResult, busy: OpenLoadResult, priorMs: number, note: string): Sample[] {
  return [
    { row: "stall-p50", measured: busy.p50Ms, against: calm.p50Ms, note },
    { row: "stall-p99", measured: busy.p99Ms, against: calm.p99Ms },
    { row: "stall-p999", measured: busy.p999Ms, against: calm.p999Ms },
    { row: "stall-max", measured: busy.maxMs, against: calm.maxMs },
    { row: "stall-prior-art", measured: busy.maxMs, against: priorMs },
  ];
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}
