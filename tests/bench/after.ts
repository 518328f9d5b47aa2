/**
 * `after`: the rate of 4 KiB writes in the 10 s behind a snapshot of a fully mapped volume, when every write is the first one
 * to its slot in the new epoch, against the 10 s before it.
 *
 * One load goes on throughout, and the pool's own count of what was appended is read at three moments: so nothing of what the
 * snapshot does to the writers is left out, not the first moment either. The load walks over the slots, one block each,
 * and has to come to the snapshot on slots that are mapped in the open epoch: all of them at first, later those behind the
 * last snapshot. So each walk starts where the last one was when its snapshot came. The volume has more slots than a
 * walk takes behind its snapshot.
 */

import type { Bed, BenchDatabase, BenchServer, ClosedLoad } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { type PoolMoment, ServerClient } from "./server_client.ts";

const PROBED = "probed";
const VOLUME = "after";
const PROBED_SLOTS = 16_384;
/** Blocks of a slot: 64 KiB. */
const SLOT_BLOCKS = 16;
const CONNECTIONS = 64;
const PROBE_SECONDS = 1;
const PROBE_SECONDS_QUICK = 0.5;
/** Of the load, before and behind the snapshot. */
const WINDOW_SECONDS = 10;
const WINDOW_SECONDS_QUICK = 0.5;
/** Before the first window, which does not count. */
const WARMUP_SECONDS = 1;
/** How much longer the load goes on, so that the next walk's warm-up finds slots that are mapped. */
const TAIL_SECONDS = 1;
/** How many slots there are for each write that a probe lets expect. */
const ROOM = 1.25;

export const afterBench: Bench = {
  name: "after",
  rows: [{
    name: "after",
    measured: "4 KiB PUTs in the 10 s behind a snapshot, first touches",
    against: "the 10 s before it",
    unit: "blocks/s",
    goal: { atLeast: 0.9, aim: 1 },
  }],
  open,
};

interface Stage {
  readonly bench: BenchDatabase;
  readonly server: BenchServer;
  readonly client: ServerClient;
  readonly slotCount: number;
  readonly windowSeconds: number;
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const bench = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(bench));
  const client = new ServerClient(server);
  const windowSeconds = bed.scaled(WINDOW_SECONDS, WINDOW_SECONDS_QUICK);
  const slotCount = Math.ceil(await probeRate(bed, server) * (windowSeconds + TAIL_SECONDS) * ROOM);
  await client.createVolume(VOLUME, slotCount * SLOT_BLOCKS);
  await client.mapVolume(VOLUME, slotCount * SLOT_BLOCKS);
  const stage = { bench, server, client, slotCount, windowSeconds };
  const resources = undo.move();
  let firstSlot = 0;
  return {
    repeat: async () => {
      const { sample, walkedSlots } = await compare(bed, stage, firstSlot);
      firstSlot = (firstSlot + walkedSlots) % slotCount;
      return [sample];
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

/** What the server can write to slots for the first time, per second. */
async function probeRate(bed: Bed, server: BenchServer): Promise<number> {
  await new ServerClient(server).createVolume(PROBED, PROBED_SLOTS * SLOT_BLOCKS);
  const seconds = bed.scaled(PROBE_SECONDS, PROBE_SECONDS_QUICK);
  const walk = toWalk(server, { volume: PROBED, slotCount: PROBED_SLOTS, firstSlot: 0 });
  return (await bed.runClosedLoad({ ...walk, seconds })).blocksPerSecond;
}

/** Also answers how far the walk had come at the snapshot. */
async function compare(
  bed: Bed,
  { bench, server, client, slotCount, windowSeconds }: Stage,
  firstSlot: number,
): Promise<{ sample: Sample; walkedSlots: number }> {
  await client.drain();
  await bed.settle(bench);
  const start = await client.readPool();
  const walk = toWalk(server, { volume: VOLUME, slotCount, firstSlot });
  const seconds = 2 * windowSeconds + TAIL_SECONDS;
  const [{ before, cut, after }, end] = await Promise.all([
    follow(client, windowSeconds),
    bed.runClosedLoad({ ...walk, warmupSeconds: WARMUP_SECONDS, seconds }).then(() => client.readPool()),
  ]);
  const touched = end.sequenceAppended - cut.sequenceAppended;
  const behindSeconds = after.dirtyBytes / 1e6;
  return {
    sample: {
      row: "after",
      measured: toRate(cut, after),
      against: toRate(before, cut),
      note: `${touched} of ${slotCount} slots touched behind the snapshot${
        touched > slotCount ? ": ROUND" : ""
      }; ${Math.round(behindSeconds)} MB dirty at the end`,
    },
    walkedSlots: cut.sequenceAppended - start.sequenceAppended,
  };
}

/** How the pool stands a window before a snapshot, at it, and a window behind it, while the load goes on. */
async function follow(
  client: ServerClient,
  windowSeconds: number,
): Promise<{ before: PoolMoment; cut: PoolMoment; after: PoolMoment }> {
  await sleep(WARMUP_SECONDS);
  const before = await client.readPool();
  await sleep(windowSeconds);
  const cut = await client.readPool();
  await client.takeSnapshot(VOLUME);
  await sleep(windowSeconds - (performance.now() - cut.at) / 1000);
  return { before, cut, after: await client.readPool() };
}

/** Entries per second; each write is one. */
function toRate(from: PoolMoment, to: PoolMoment): number {
  return (to.sequenceAppended - from.sequenceAppended) / ((to.at - from.at) / 1000);
}

function toWalk(
  server: BenchServer,
  { volume, slotCount, firstSlot }: { volume: string; slotCount: number; firstSlot: number },
): Omit<ClosedLoad, "seconds"> {
  return {
    server,
    connections: CONNECTIONS,
    method: "PUT",
    volumes: [volume],
    blockCount: slotCount * SLOT_BLOCKS,
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "stride",
    strideBlocks: SLOT_BLOCKS,
    firstStep: firstSlot,
  };
}

function sleep(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, seconds * 1000)));
}
