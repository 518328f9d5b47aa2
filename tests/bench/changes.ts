/**
 * `changes`: what comparing two snapshots costs, in a volume of 1 TiB with 100,000 mapped blocks against one of 1 GiB with
 * few. The same 100 blocks changed in both, so the cost should be the same: it follows the change.
 */

import type { Bed, BenchServer } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { ServerClient } from "./server_client.ts";
import { median } from "./statistics.ts";
import { timeSeconds } from "./stopwatch.ts";

const GIB_BLOCKS = 262_144;
const TIB_BLOCKS = 1_024 * GIB_BLOCKS;
const MAPPED_BLOCKS = 100_000;
const MAPPED_BLOCKS_QUICK = 2_000;
const CHANGED_BLOCKS = 100;
const PAIRS = 40;
const PAIRS_QUICK = 5;

export const changesBench: Bench = {
  name: "changes",
  rows: [{
    name: "changes",
    measured: "100 blocks that changed, of 1 TiB with 100,000 mapped blocks",
    against: "of 1 GiB with 100",
    unit: "ms",
    goal: { atMost: 3, aim: 1 },
  }],
  open,
};

/** A volume with two snapshots, and 100 blocks that changed between them. */
interface Compared {
  readonly base: string;
  readonly later: string;
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(database));
  const mapped = bed.scaled(MAPPED_BLOCKS, MAPPED_BLOCKS_QUICK);
  const large = await createCompared(server, "large", TIB_BLOCKS, mapped);
  const small = await createCompared(server, "small", GIB_BLOCKS, CHANGED_BLOCKS);
  await new ServerClient(server).drain();
  const resources = undo.move();
  return {
    repeat:
      async () => [await compare(new ServerClient(server), large, small, bed.scaled(PAIRS, PAIRS_QUICK))],
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

async function createCompared(
  server: BenchServer,
  name: string,
  blockCount: number,
  mappedBlocks: number,
): Promise<Compared> {
  const client = new ServerClient(server);
  await client.createVolume(name, blockCount);
  await client.fillVolume(name, mappedBlocks);
  const base = await client.takeSnapshot(name);
  const stride = Math.floor(blockCount / CHANGED_BLOCKS);
  await client.scatter(name, Uint32Array.from({ length: CHANGED_BLOCKS }, (_, index) => index * stride));
  return { base, later: await client.takeSnapshot(name) };
}

async function compare(
  client: ServerClient,
  large: Compared,
  small: Compared,
  pairs: number,
): Promise<Sample> {
  const measured: number[] = [];
  const against: number[] = [];
  for (let pair = -2; pair < pairs; pair++) {
    const turns = [[large, measured], [small, against]] as const;
    for (const [{ base, later }, times] of pair % 2 === 0 ? turns : turns.toReversed()) {
      const seconds = await timeSeconds(() => client.listChanges(later, base, CHANGED_BLOCKS));
      if (pair >= 0) times.push(seconds * 1000);
    }
  }
  return { row: "changes", measured: median(measured), against: median(against) };
}
