/**
 * `seal`: how long a snapshot takes from its request to its seal while the queue is empty, and that it depends neither on
 * the volume's size, nor on how much of it is mapped, nor on how many snapshots there are.
 *
 * What is timed is what an HTTP client sees of `POST /snapshots?wait=sealed`. The two of a pair are taken in turn, one by
 * one and each first as often as the other, so that whatever else happens happens to both; a figure is the median.
 *
 * A block is mapped when its slot has a segment, so 1,000,000 blocks of 4 KiB are mapped by a write to each of 62,500
 * slots. The volume with many snapshots gets 9,999 before anything is timed; its peer is a volume without any, in the
 * same pool.
 */

import type { Bed, BenchDatabase, BenchServer } from "./bed.ts";
import type { Bench, OpenBench, Row, Sample } from "./bench.ts";
import { insertSnapshots } from "./insert_snapshots.ts";
import { median } from "./statistics.ts";
import { timeSeconds } from "./stopwatch.ts";
import { ServerClient } from "./server_client.ts";

/** Blocks of 4 KiB in a GiB. */
const GIB_BLOCKS = 262_144;
const TIB_BLOCKS = 1_024 * GIB_BLOCKS;
/** Blocks of a segment in pool `main`. */
const SEGMENT_BLOCKS = 16;
const FEW_MAPPED_BLOCKS = 1_000;
const MANY_MAPPED_BLOCKS = 1_000_000;
const MANY_MAPPED_BLOCKS_QUICK = 16_000;
const SNAPSHOTS_BEFORE = 9_999;
const SNAPSHOTS_BEFORE_QUICK = 99;
/** Snapshots of each volume of a pair. */
const PAIRS = 50;
const PAIRS_QUICK = 5;
/** Not counted. */
const WARM_UP_PAIRS = 3;
/** A pair of volumes gets no more time than that, be it for fewer snapshots. */
const PAIR_MS_MAX = 6_000;
/** A median of fewer says nothing. */
const PAIRS_MIN = 5;

const ROWS = [
  {
    name: "seal-size",
    measured: "request → sealed, empty cache, 1 TiB volume",
    against: "1 GiB volume",
  },
  {
    name: "seal-mapped",
    measured: "request → sealed, empty cache, 1,000,000 mapped blocks",
    against: "1,000 mapped blocks",
  },
  {
    name: "seal-count",
    measured: "request → sealed, empty cache, from the 10,000th snapshot of a volume on",
    against: "its first ones",
  },
].map((row): Row => ({ ...row, unit: "ms", goal: { atMost: 1.2, aim: 1.0 } }));

export const sealBench: Bench = { name: "seal", rows: ROWS, open };

async function open(bed: Bed): Promise<OpenBench> {
  const resources = new AsyncDisposableStack();
  try {
    const database = resources.use(await bed.createDatabase({ migrated: true }));
    const server = resources.use(await bed.startServer(database));
    const volumes = await createVolumes(bed, database, new ServerClient(server));
    return {
      repeat: async () => {
        await bed.settle(database);
        return await compare(bed, server, volumes);
      },
      [Symbol.asyncDispose]: () => resources.disposeAsync(),
    };
  } catch (error) {
    await resources.disposeAsync();
    throw error;
  }
}

/** The volumes that last from one repetition to the next, by id. */
interface Volumes {
  readonly large: string;
  readonly small: string;
  readonly muchMapped: string;
  readonly littleMapped: string;
  readonly oftenCut: string;
}

async function createVolumes(bed: Bed, database: BenchDatabase, client: ServerClient): Promise<Volumes> {
  const create = async (name: string, blockCount: number, mappedBlocks: number) => {
    const volume = await client.createVolume(name, blockCount);
    await client.scatter(volume, spreadOverSlots(mappedBlocks, blockCount));
    return volume;
  };
  const manyMappedBlocks = bed.scaled(MANY_MAPPED_BLOCKS, MANY_MAPPED_BLOCKS_QUICK);
  const volumes = {
    large: await create("large", TIB_BLOCKS, FEW_MAPPED_BLOCKS),
    small: await create("small", GIB_BLOCKS, FEW_MAPPED_BLOCKS),
    muchMapped: await create("much-mapped", 4 * GIB_BLOCKS, manyMappedBlocks),
    littleMapped: await create("little-mapped", 4 * GIB_BLOCKS, FEW_MAPPED_BLOCKS),
    oftenCut: await create("often-cut", GIB_BLOCKS, FEW_MAPPED_BLOCKS),
  };
  await client.drain();
  const count = bed.scaled(SNAPSHOTS_BEFORE, SNAPSHOTS_BEFORE_QUICK);
  await insertSnapshots(database, volumes.oftenCut, { count });
  return volumes;
}

/** First blocks of as many slots as have `mappedBlocks` blocks, spread over the whole volume. */
function spreadOverSlots(mappedBlocks: number, blockCount: number): Uint32Array {
  const slotCount = Math.ceil(mappedBlocks / SEGMENT_BLOCKS);
  const stride = Math.floor(blockCount / SEGMENT_BLOCKS / slotCount);
  return Uint32Array.from({ length: slotCount }, (_, index) => index * stride * SEGMENT_BLOCKS);
}

async function compare(bed: Bed, server: BenchServer, volumes: Volumes): Promise<Sample[]> {
  const client = new ServerClient(server);
  const fresh = await client.createVolume(`fresh-${crypto.randomUUID()}`, GIB_BLOCKS);
  await client.scatter(fresh, spreadOverSlots(FEW_MAPPED_BLOCKS, GIB_BLOCKS));
  await client.drain();
  const pairs = bed.scaled(PAIRS, PAIRS_QUICK);
  const { large, small, muchMapped, littleMapped, oftenCut } = volumes;
  return [
    await comparePair(client, "seal-size", { measured: large, against: small }, pairs),
    await comparePair(client, "seal-mapped", { measured: muchMapped, against: littleMapped }, pairs),
    await comparePair(client, "seal-count", { measured: oftenCut, against: fresh }, pairs),
  ];
}

async function comparePair(
  client: ServerClient,
  row: string,
  volumes: { measured: string; against: string },
  pairs: number,
): Promise<Sample> {
  const measured: number[] = [];
  const against: number[] = [];
  const endAt = performance.now() + PAIR_MS_MAX;
  for (let pair = -WARM_UP_PAIRS; pair < pairs; pair += 1) {
    if (pair >= PAIRS_MIN && performance.now() > endAt) break;
    const turns = [[volumes.measured, measured], [volumes.against, against]] as const;
    for (const [volume, times] of pair % 2 === 0 ? turns : turns.toReversed()) {
      const seconds = await timeSeconds(() => client.sealSnapshot(volume));
      if (pair >= 0) times.push(seconds * 1000);
    }
  }
  return {
    row,
    measured: median(measured),
    against: median(against),
    note: `medians of ${measured.length} snapshots each`,
  };
}
