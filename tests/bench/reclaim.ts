/**
 * `reclaim`: what reclaiming 1,000 snapshots does to the latency of writes to the same volume and to another one of the pool.
 *
 * The writes come at a quarter of the rate that could be taken, are due at a fixed schedule, and their latency counts from then. The
 * snapshots are gone at once when they begin, by one transaction in the database: a thousand DELETEs are a thousand commits
 * under the pool's lock, which is another question. Their segments come back while the writes go on; what is left of them when
 * the writes are over is waited for. All slots are mapped in the open epoch, in both loads.
 */

import type { Bed, BenchDatabase, BenchServer, OpenLoadResult, OpenLoadRun } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { insertSnapshots } from "./insert_snapshots.ts";
import { runLevelLoad } from "./level_load.ts";
import { ServerClient } from "./server_client.ts";
import { timeSeconds } from "./stopwatch.ts";

const CUT = "cut";
const OTHER = "other";
/** 256 MiB in 4,096 segments. */
const VOLUME_BLOCKS = 65_536;
const VOLUME_BLOCKS_QUICK = 4_096;
const SNAPSHOTS = 1_000;
const SNAPSHOTS_QUICK = 20;
/** Behind each snapshot. */
const WRITES = 24;
const RATE_SHARE = 0.25;
const CONNECTIONS_MAX = 64;
/** Of the closed load that tells the rate. */
const PUT_SECONDS = 1;
const PUT_SECONDS_QUICK = 0.5;
/** Long enough for a good part of the reclaim. */
const WINDOW_SECONDS = 20;
const WINDOW_SECONDS_QUICK = 3;
const WARMUP_SECONDS = 1;
const WARMUP_SECONDS_QUICK = 0.2;
/** Longest wait for the rest of a reclaim. */
const REST_MS_MAX = 120_000;
const POLL_MS = 50;

export const reclaimBench: Bench = {
  name: "reclaim",
  rows: [{
    name: "reclaim",
    measured: "p99 of write latency, 1,000 snapshots being reclaimed",
    against: "the same load, none reclaimed",
    unit: "ms",
    goal: { atMost: 1.2, aim: 1 },
  }],
  open,
};

interface Stage {
  readonly bed: Bed;
  readonly database: BenchDatabase;
  readonly server: BenchServer;
  readonly client: ServerClient;
  /** The volume that is snapshotted, by id. */
  readonly cut: string;
  readonly blockCount: number;
  readonly ratePerSecond: number;
}

/** A load with what was reclaimed meanwhile. */
interface BusyLoad {
  readonly result: OpenLoadResult;
  /** Segments that came back while the load went on, and a second of it. */
  readonly segmentsReturned: number;
  readonly segmentsPerSecond: number;
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(database));
  const client = new ServerClient(server);
  const blockCount = bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK);
  const cut = await client.createVolume(CUT, blockCount);
  await client.createVolume(OTHER, blockCount);
  for (const volume of [CUT, OTHER]) await client.fillVolume(volume, blockCount);
  await client.drain();
  const ratePerSecond = await measureRate(bed, server, blockCount) * RATE_SHARE;
  const stage = { bed, database, server, client, cut, blockCount, ratePerSecond };
  const resources = undo.move();
  let turn = 0;
  return {
    repeat: async () => [await compare(stage, turn++ % 2 === 0)],
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

/** What the server can take, a second. */
async function measureRate(bed: Bed, server: BenchServer, blockCount: number): Promise<number> {
  const { blocksPerSecond } = await runLevelLoad(bed, {
    server,
    connections: CONNECTIONS_MAX,
    seconds: bed.scaled(PUT_SECONDS, PUT_SECONDS_QUICK),
    method: "PUT",
    volumes: [CUT, OTHER],
    blockCount,
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "random",
  });
  return blocksPerSecond;
}

async function compare(stage: Stage, calmFirst: boolean): Promise<Sample> {
  const snapshots = await createSnapshots(stage);
  const first = calmFirst ? await runCalmLoad(stage) : undefined;
  const busy = await runBusyLoad(stage, snapshots);
  const restSeconds = await waitForReclaim(stage);
  const calm = first ?? await runCalmLoad(stage);
  const { result, segmentsReturned, segmentsPerSecond } = busy;
  return {
    row: "reclaim",
    measured: result.p99Ms,
    against: calm.p99Ms,
    note:
      `${Math.round(stage.ratePerSecond)} writes/s, p50 ${result.p50Ms.toFixed(1)} : ${
        calm.p50Ms.toFixed(1)
      } ms; ` +
      `of ${snapshots.length} snapshots ${segmentsReturned} segments back meanwhile, ` +
      `${Math.round(segmentsPerSecond)} a second, the rest ${restSeconds.toFixed(1)} s later`,
  };
}

/** Makes snapshots with scattered writes behind each, and maps all slots in the epoch that is open then. */
async function createSnapshots({ bed, database, client, cut, blockCount }: Stage): Promise<string[]> {
  await client.drain();
  const count = bed.scaled(SNAPSHOTS, SNAPSHOTS_QUICK);
  const lbas = Uint32Array.from({ length: count * WRITES }, () => Math.floor(Math.random() * blockCount));
  const snapshots = await insertSnapshots(database, cut, { count, lbas });
  await client.mapVolume(CUT, blockCount);
  await client.drain();
  return snapshots;
}

async function runCalmLoad(stage: Stage): Promise<OpenLoadResult> {
  await using run = await startLoad(stage);
  return await run.result;
}

/** @throws when nothing was reclaimed meanwhile. */
async function runBusyLoad(stage: Stage, snapshots: string[]): Promise<BusyLoad> {
  const { client } = stage;
  await using run = await startLoad(stage);
  const before = await client.readPool();
  await deleteSnapshots(stage, snapshots);
  const result = await run.result;
  const after = await client.readPool();
  const segmentsReturned = after.freeSegments - before.freeSegments;
  if (segmentsReturned <= 0) throw new Error("Cannot compare the loads: nothing was reclaimed meanwhile");
  const segmentsPerSecond = segmentsReturned / ((after.at - before.at) / 1000);
  return { result, segmentsReturned, segmentsPerSecond };
}

/** Starts the load and waits until it is warm. */
async function startLoad({ bed, database, server, blockCount, ratePerSecond }: Stage): Promise<OpenLoadRun> {
  await bed.settle(database);
  await using undo = new AsyncDisposableStack();
  const run = undo.use(bed.startOpenLoad({
    server,
    ratePerSecond,
    seconds: bed.scaled(WINDOW_SECONDS, WINDOW_SECONDS_QUICK),
    warmupSeconds: bed.scaled(WARMUP_SECONDS, WARMUP_SECONDS_QUICK),
    connectionsMax: CONNECTIONS_MAX,
    volumes: [CUT, OTHER],
    blockCount,
    blockSizeBytes: BLOCK_BYTES,
  }));
  await run.warmedUp;
  undo.move();
  return run;
}

/** As so many deletions would leave it: rows gone, and for each of what they read a task. */
async function deleteSnapshots({ database: { database } }: Stage, snapshots: string[]): Promise<void> {
  await database.$client`
    with gone as (delete from snapshots where snapshot_id = any(${snapshots}::uuid[])),
    uncounted as (delete from snapshot_space where snapshot_id = any(${snapshots}::uuid[])),
    read as (
      delete from snapshot_volumes where snapshot_id = any(${snapshots}::uuid[])
      returning pool_id, timeline_id, epoch
    )
    insert into reclaims (pool_id, reclaim_id, timeline_id, epoch, looked_at)
    select pool_id, gen_random_uuid(), timeline_id, epoch, now() from read`;
}

/** Waits until nothing is left to reclaim, and answers how long that took. @throws when it takes too long. */
function waitForReclaim({ database: { database } }: Stage): Promise<number> {
  const endAt = performance.now() + REST_MS_MAX;
  return timeSeconds(async () => {
    for (;;) {
      const [{ idle }] = await database.$client`select not exists (select from reclaims) as idle`;
      if (idle) return;
      if (performance.now() > endAt) throw new Error("Cannot wait longer for the end of the reclaim");
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  });
}
