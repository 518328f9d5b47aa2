/**
 * `cost`: what a byte that a client writes costs in WAL, in tables and in CPU time, against the bare way of the same bytes;
 * and the memory of the server under that load.
 *
 * Measured is a server under 4 KiB PUTs, from the first request until all is flushed. The bare way is COPY into a bare table of
 * the cache's shape in the appender's batches, then one `insert … select` into one of a partition's shape: as many rows, at
 * random LBAs of as large a volume, in the same database. Each starts behind a checkpoint, so page images weigh alike. Its CPU
 * time is that of PostgreSQL and of this process while it copies. Table bytes and CPU time are told for information: the server
 * also speaks HTTP, and their limits only catch what is out of all proportion.
 */

import type { Database } from "../../src/database/client.ts";
import {
  BARE_BLOCKS,
  BARE_CACHE,
  copyBareRows,
  createBareTables,
  encodeBareRows,
  insertSelect,
} from "./bare_tables.ts";
import type { Bed, BenchDatabase, BenchServer } from "./bed.ts";
import type { Bench, OpenBench, Row, Sample } from "./bench.ts";
import { BLOCK_BYTES, drawLbas } from "./block_contents.ts";
import { describeGenerator } from "./level_load.ts";
import { findPostmaster, readCpuSeconds, readPeakMemoryBytes } from "./process_cost.ts";
import { ServerClient } from "./server_client.ts";

const CONNECTIONS = 64;
/** 4 GiB, so that few blocks are written twice: the bare way has none. */
const VOLUME_BLOCKS = 1_048_576;
/** With a warm-up of half a second, which costs as much and counts. */
const SECONDS = 2;
const SECONDS_QUICK = 0.5;
const MEBIBYTE = 2 ** 20;
const GIGABYTE = 1e9;
const RSS_MIB_MAX = 300;

const MEASURED = "4 KiB PUTs, 64 connections, then flushed";
const BARE = "bare COPY + insert … select";

const ROWS: Row[] = [
  {
    name: "cost-wal",
    measured: `${MEASURED}: WAL per user byte`,
    against: BARE,
    unit: "bytes/byte",
    goal: { atMost: 1.6 },
  },
  {
    name: "cost-table",
    measured: `${MEASURED}: tables per user byte (information)`,
    against: BARE,
    unit: "bytes/byte",
    goal: { atMost: 2 },
  },
  {
    name: "cost-cpu",
    measured: `${MEASURED}: CPU of server and PostgreSQL per user GB (information)`,
    against: BARE,
    unit: "s/GB",
    goal: { atMost: 10 },
  },
  {
    name: "cost-rss",
    measured: "the server's peak RSS meanwhile",
    against: `${RSS_MIB_MAX} MiB`,
    unit: "MiB",
    goal: { atMost: 1 },
  },
];

export const costBench: Bench = {
  name: "cost",
  rows: ROWS,
  open: (bed) =>
    Promise.resolve<OpenBench>({
      repeat: () => compare(bed),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }),
};

/** What was spent between two moments, or per user byte. */
interface Cost {
  readonly walBytes: number;
  readonly tableBytes: number;
  readonly cpuSeconds: number;
}

// Statements

/** The end of the WAL, in bytes. */
async function readWalBytes({ $client }: Database): Promise<number> {
  const [{ wal_bytes }] = await $client<{ wal_bytes: string }[]>`
    select pg_current_wal_insert_lsn() - '0/0' as wal_bytes`;
  return Number(wal_bytes);
}

/** All tables with their indexes and what stands out of line: the bare ones, or all others. */
async function readTableBytes({ $client }: Database, bare: boolean): Promise<number> {
  const [{ table_bytes }] = await $client<{ table_bytes: string }[]>`
    select coalesce(sum(pg_total_relation_size(c.oid)), 0) :: text as table_bytes from pg_class c
    where c.relnamespace = 'public' :: regnamespace and c.relkind = 'r'
      and (c.relname in (${BARE_CACHE}, ${BARE_BLOCKS})) = ${bare}`;
  return Number(table_bytes);
}

// Verbs

async function compare(bed: Bed): Promise<Sample[]> {
  await using database = await bed.createDatabase({ migrated: true });
  const served = await measureServer(bed, database);
  await bed.settle(database);
  const bare = await measureBare(database, served.entryCount);
  const userBytes = served.entryCount * BLOCK_BYTES;
  const pair = (row: string, measured: number, against: number) => ({
    row,
    measured,
    against,
    note: served.note,
  });
  return [
    pair("cost-wal", served.cost.walBytes / userBytes, bare.walBytes / userBytes),
    pair("cost-table", served.cost.tableBytes / userBytes, bare.tableBytes / userBytes),
    pair(
      "cost-cpu",
      served.cost.cpuSeconds / userBytes * GIGABYTE,
      bare.cpuSeconds / userBytes * GIGABYTE,
    ),
    pair("cost-rss", served.peakMemoryBytes / MEBIBYTE, RSS_MIB_MAX),
  ];
}

interface ServedCost {
  readonly cost: Cost;
  readonly entryCount: number;
  readonly peakMemoryBytes: number;
  readonly note: string;
}

async function measureServer(bed: Bed, database: BenchDatabase): Promise<ServedCost> {
  await using server = await bed.startServer(database);
  const client = new ServerClient(server);
  const volume = await client.createVolume("costly", VOLUME_BLOCKS);
  await bed.settle(database);
  const before = await readCost(database, { processId: server.processId, bare: false });
  const { sequenceAppended } = await client.readPool();
  const load = await runLoad(bed, server, volume);
  await client.drain();
  const after = await readCost(database, { processId: server.processId, bare: false });
  const pool = await client.readPool();
  return {
    cost: subtract(after, before),
    entryCount: pool.sequenceAppended - sequenceAppended,
    peakMemoryBytes: await readPeakMemoryBytes(server.processId),
    note: `${pool.sequenceAppended - sequenceAppended} entries; ${describeGenerator(load)}`,
  };
}

function runLoad(bed: Bed, server: BenchServer, volume: string) {
  return bed.runClosedLoad({
    server,
    connections: CONNECTIONS,
    seconds: bed.scaled(SECONDS, SECONDS_QUICK),
    method: "PUT",
    volumes: [volume],
    blockCount: VOLUME_BLOCKS,
    blocksPerRequest: 1,
    blockSizeBytes: BLOCK_BYTES,
    order: "random",
  });
}

/** Spends what the bare way takes; making the rows up is not part of it. */
async function measureBare({ database }: BenchDatabase, entryCount: number): Promise<Cost> {
  await createBareTables(database);
  const place = { processId: Deno.pid, bare: true };
  const spent: Cost[] = [];
  const spend = async (body: () => Promise<void>) => {
    const before = await readCost({ database }, place);
    await body();
    spent.push(subtract(await readCost({ database }, place), before));
  };
  for await (const encoded of encodeBareRows(database, drawLbas(entryCount, VOLUME_BLOCKS))) {
    await spend(() => copyBareRows(database, encoded));
  }
  await spend(() => insertSelect(database));
  return spent.reduce(add);
}

/** What was spent so far by PostgreSQL and by the process `processId`. */
async function readCost(
  { database }: Pick<BenchDatabase, "database">,
  { processId, bare }: { processId: number; bare: boolean },
): Promise<Cost> {
  const postmaster = await findPostmaster(database);
  return {
    walBytes: await readWalBytes(database),
    tableBytes: await readTableBytes(database, bare),
    cpuSeconds: await readCpuSeconds(processId, postmaster),
  };
}

function subtract(after: Cost, before: Cost): Cost {
  return add(after, {
    walBytes: -before.walBytes,
    tableBytes: -before.tableBytes,
    cpuSeconds: -before.cpuSeconds,
  });
}

function add(one: Cost, other: Cost): Cost {
  return {
    walBytes: one.walBytes + other.walBytes,
    tableBytes: one.tableBytes + other.tableBytes,
    cpuSeconds: one.cpuSeconds + other.cpuSeconds,
  };
}
