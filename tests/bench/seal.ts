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
  await insertSnapshots(database, volumes.oftenCut, bed.scaled(SNAPSHOTS_BEFORE, SNAPSHOTS_BEFORE_QUICK));
  return volumes;
}

/** First blocks of as many slots as have `mappedBlocks` blocks, spread over the whole volume. */
function spreadOverSlots(mappedBlocks: number, blockCount: number): Uint32Array {
  const slotCount = Math.ceil(mappedBlocks / SEGMENT_BLOCKS);
  const stride = Math.floor(blockCount / SEGMENT_BLOCKS / slotCount);
  return Uint32Array.from({ length: slotCount }, (_, index) => index * stride * SEGMENT_BLOCKS);
}

/**
 * What so many snapshots of a volume leave when they are sealed: taking them one after the other would be most of the time of this
 * bench. The cache is empty, and nobody else is at the pool.
 */
async function insertSnapshots({ database }: BenchDatabase, volumeId: string, count: number): Promise<void> {
  await database.$client.begin(async (tx) => {
    const [{ pool_id, timeline_id, block_count, open_epoch, sequence_appended, event_id }] = await tx`
      select v.pool_id, v.timeline_id, v.block_count, t.open_epoch, h.sequence_appended, e.event_id
      from volumes v join timelines t using (pool_id, timeline_id) join pool_heads h using (pool_id)
      join event_heads e using (pool_id)
      where v.volume_id = ${volumeId} for update of h`;
    await tx`
      create temporary table made on commit drop as
      select i, gen_random_uuid() as snapshot_id, gen_random_uuid() as audit_id, now() as at
      from generate_series(1, ${count}::integer) i`;
    await tx`
      insert into snapshots (pool_id, snapshot_id, status, marker_sequence, bytes_before, audit_id, created_at, sealed_at)
      select ${pool_id}, snapshot_id, 'sealed', ${sequence_appended}::bigint + i, 0, audit_id, at, at from made`;
    await tx`
      insert into snapshot_volumes (pool_id, snapshot_id, volume_id, timeline_id, epoch, volume_blocks, covered)
      select ${pool_id}, snapshot_id, ${volumeId}, ${timeline_id}, ${open_epoch}::bigint + i - 1, ${block_count}::bigint,
        int8multirange(int8range(0, ${block_count}::bigint))
      from made`;
    await tx`
      insert into audit (pool_id, audit_id, at, client_id, client_name, origin, action, target_id, cdb, scsi_status,
        phases, marker_sequence)
      select ${pool_id}, audit_id, at, audit_id, 'bench', 'bench', 'snapshot.create', snapshot_id,
        decode('c00100000000', 'hex'), 'GOOD', '[]', ${sequence_appended}::bigint + i from made`;
    await tx`
      insert into events (pool_id, event_id, type, at, snapshot_id, body)
      select ${pool_id}, ${event_id}::bigint + 2 * i - k, case k when 1 then 'marker.committed' else 'snapshot.sealed' end,
        at, snapshot_id, jsonb_build_object('sequence', ${sequence_appended}::bigint + i)
      from made cross join generate_series(0, 1) k`;
    await tx`update timelines set open_epoch = open_epoch + ${count}
      where pool_id = ${pool_id} and timeline_id = ${timeline_id}`;
    await tx`update pool_heads set sequence_appended = sequence_appended + ${count}, map_version = map_version + ${count}
      where pool_id = ${pool_id}`;
    await tx`update pool_tails set sequence_flushed = sequence_flushed + ${count},
      entries_flushed = entries_flushed + ${count} where pool_id = ${pool_id}`;
    await tx`update event_heads set event_id = event_id + 2 * ${count} where pool_id = ${pool_id}`;
  });
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
