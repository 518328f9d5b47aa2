/**
 * `growth`: whether the rate lasts: the last minute of 10 million appended entries against the first one, with autovacuum as
 * shipped, on one server that flushes all the while.
 *
 * The load is cut into windows that follow each other at once. The first is behind a warm-up of some seconds; those between
 * the first and the last only count entries. A run that is not there after an hour ends with what it has, and says so.
 */

import type { Bed, BenchDatabase, BenchServer, ClosedLoadResult } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { describeGenerator } from "./level_load.ts";
import { ServerClient } from "./server_client.ts";

const CONNECTIONS = 64;
/** 1 GiB. */
const VOLUME_BLOCKS = 262_144;
const ENTRIES = 10_000_000;
const ENTRIES_QUICK = 20_000;
const WINDOW_SECONDS = 60;
const WINDOW_SECONDS_QUICK = 1;
const WARMUP_SECONDS = 5;
const WARMUP_SECONDS_QUICK = 1;
/** Between the first window and the last one. */
const BETWEEN_MS_MAX = 58 * 60_000;
const BETWEEN_MS_MAX_QUICK = 10_000;
const MEBIBYTE = 2 ** 20;

export const growthBench: Bench = {
  name: "growth",
  onlyWhenNamed: true,
  rows: [{
    name: "growth",
    measured: "4 KiB PUTs, 64 connections, the last minute of 10,000,000 entries",
    against: "the first minute",
    unit: "blocks/s",
    goal: { atLeast: 0.9 },
  }],
  open: (bed) =>
    Promise.resolve<OpenBench>({
      repeat: async () => [await compare(bed)],
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
};

// Statements

async function describeTables({ database }: BenchDatabase): Promise<string> {
  const rows = await database.$client<{ name: string; size_bytes: string }[]>`
    select name, sum(pg_total_relation_size(relation)) :: text as size_bytes
    from (values ('cache'), ('blocks')) t (name), lateral (
      select t.name :: regclass as relation union select relid from pg_partition_tree(t.name :: regclass)
    ) leaves
    group by name order by name`;
  const sizes = rows.map((row) => `${row.name} ${Math.round(Number(row.size_bytes) / MEBIBYTE)} MiB`);
  return sizes.join(", ");
}

// Verbs

async function compare(bed: Bed): Promise<Sample> {
  await using database = await bed.createDatabase({ migrated: true });
  await using server = await bed.startServer(database);
  const client = new ServerClient(server);
  const volume = await client.createVolume("grown", VOLUME_BLOCKS);
  await bed.settle(database);
  const first = await runWindow(bed, server, volume, bed.scaled(WARMUP_SECONDS, WARMUP_SECONDS_QUICK));
  const tablesFirst = await describeTables(database);
  await appendBetween(bed, server, { volume, entriesPerSecond: first.blocksPerSecond });
  const last = await runWindow(bed, server, volume, 0);
  const tablesLast = await describeTables(database);
  const { sequenceAppended, dirtyEntries } = await client.readPool();
  return {
    row: "growth",
    measured: last.blocksPerSecond,
    against: first.blocksPerSecond,
    note:
      `${sequenceAppended} entries, ${dirtyEntries} of them dirty; then ${tablesFirst}; now ${tablesLast}; ` +
      describeGenerator(last),
  };
}

/** Loads until no more is left to append than fits into one window. */
async function appendBetween(
  bed: Bed,
  server: BenchServer,
  { volume, entriesPerSecond }: { volume: string; entriesPerSecond: number },
): Promise<void> {
  const client = new ServerClient(server);
  const windowSeconds = bed.scaled(WINDOW_SECONDS, WINDOW_SECONDS_QUICK);
  const entriesBefore = bed.scaled(ENTRIES, ENTRIES_QUICK) - entriesPerSecond * windowSeconds;
  const endAt = performance.now() + bed.scaled(BETWEEN_MS_MAX, BETWEEN_MS_MAX_QUICK);
  while (performance.now() < endAt) {
    const { sequenceAppended } = await client.readPool();
    if (sequenceAppended >= entriesBefore) return;
    await runWindow(bed, server, volume, 0);
  }
}

function runWindow(
  bed: Bed,
  server: BenchServer,
  volume: string,
  warmupSeconds: number,
): Promise<ClosedLoadResult> {
  return bed.runClosedLoad({
    server,
    connections: CONNECTIONS,
    seconds: bed.scaled(WINDOW_SECONDS, WINDOW_SECONDS_QUICK),
    warmupSeconds,
    method: "PUT",
    volumes: [volume],
    blockCount: VOLUME_BLOCKS,
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "random",
  });
}
