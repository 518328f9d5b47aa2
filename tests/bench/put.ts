/**
 * `put`: writing over HTTP, small and large, with the flusher keeping level and without it, against the limit (COPY) and
 * against what one would write first (one INSERT per request).
 *
 * The volumes are mapped beforehand: a write's first touch of a slot is what `after` measures. Contenders without a flusher
 * get a fresh database each time, for nothing ever leaves their queue.
 */

import { createBareTables } from "./bare_tables.ts";
import type { Bed, BenchDatabase, BenchServer, ClosedLoad, ClosedLoadResult } from "./bed.ts";
import type { Bench, OpenBench, Row, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { type CopyRate, measureCopy } from "./copy_limit.ts";
import { describeGenerator, type LevelRate, runLevelLoad } from "./level_load.ts";
import { ServerClient } from "./server_client.ts";

const VOLUME = "bench";
/** 1 GiB. */
const VOLUME_BLOCKS = 262_144;
const VOLUME_BLOCKS_QUICK = 16_384;
/** Where nothing is flushed, it does not matter how far the writes are spread. */
const UNFLUSHED_VOLUME_BLOCKS = 32_768;
/** With a warm-up of half a second each, and one second more for a server that has just been started. */
const SECONDS = 1.3;
const SECONDS_QUICK = 0.5;
const FRESH_WARMUP_SECONDS = 0.5;
const FRESH_WARMUP_SECONDS_QUICK = 0.5;
/** The entries of a small and of a large write: a block, and a segment. */
const ENTRY_BYTES = { small: 4_096, large: 65_536 } as const;
/** The least that COPY is measured with. */
const COPY_BYTES_MIN = 128 * 2 ** 20;
const COPY_BYTES_MIN_QUICK = 32 * 2 ** 20;

type Size = keyof typeof ENTRY_BYTES;

const SMALL = "4 KiB PUTs, 64 connections";
const LARGE = "1 MiB PUTs, 8 connections";
const LIMIT = "COPY into a bare table";

const ROWS: Row[] = [
  {
    name: "put",
    measured: `${SMALL}, flusher level`,
    against: "one INSERT per request",
    unit: "blocks/s",
    goal: { atLeast: 2.5, aim: 5 },
  },
  {
    name: "put-limit",
    measured: `${SMALL}, flusher level`,
    against: LIMIT,
    unit: "blocks/s",
    goal: { atLeast: 0.2, aim: 0.35 },
  },
  {
    name: "stream",
    measured: `${LARGE}, flusher level`,
    against: LIMIT,
    unit: "MB/s",
    goal: { atLeast: 0.4, aim: 0.6 },
  },
  {
    name: "append-put",
    measured: `${SMALL}, no flusher`,
    against: LIMIT,
    unit: "blocks/s",
    goal: { atLeast: 0.3, aim: 0.5 },
  },
  {
    name: "append-stream",
    measured: `${LARGE}, no flusher`,
    against: LIMIT,
    unit: "MB/s",
    goal: { atLeast: 0.8, aim: 0.95 },
  },
];

export const putBench: Bench = { name: "put", rows: ROWS, open: openPut };

/** What the contenders of a repetition share. */
interface Stage {
  readonly database: BenchDatabase;
  readonly server: BenchServer;
  readonly peer: BenchServer;
}

async function openPut(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const database = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(database));
  await createMappedVolume(server, bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK));
  await new ServerClient(server).drain();
  await createBareTables(database.database);
  const peerDatabase = undo.use(await bed.createDatabase({ migrated: true }));
  const peer = undo.use(await bed.startPeer(peerDatabase, "insert"));
  const opened = undo.move();
  return {
    repeat: () => repeat(bed, { database, server, peer }),
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

async function repeat(bed: Bed, { database, server, peer }: Stage): Promise<Sample[]> {
  await bed.settle(database);
  const put = await runLevelLoad(bed, toLoad(bed, server, "small"));
  await bed.settle(database);
  const inserts = await bed.runClosedLoad(toLoad(bed, peer, "small"));
  const appendPut = await runWithoutFlusher(bed, "small");
  const copySmall = await measureLimit(bed, database, "small", put);
  await bed.settle(database);
  const stream = await runLevelLoad(bed, toLoad(bed, server, "large"));
  const appendStream = await runWithoutFlusher(bed, "large");
  const copyLarge = await measureLimit(bed, database, "large", stream);
  return [
    { row: "put", measured: put.blocksPerSecond, against: inserts.blocksPerSecond, note: put.note },
    { row: "put-limit", measured: put.blocksPerSecond, against: copySmall.blocksPerSecond, note: put.note },
    {
      row: "stream",
      measured: stream.megabytesPerSecond,
      against: copyLarge.megabytesPerSecond,
      note: stream.note,
    },
    {
      row: "append-put",
      measured: appendPut.blocksPerSecond,
      against: copySmall.blocksPerSecond,
      note: describeGenerator(appendPut),
    },
    {
      row: "append-stream",
      measured: appendStream.megabytesPerSecond,
      against: copyLarge.megabytesPerSecond,
      note: describeGenerator(appendStream),
    },
  ];
}

async function runWithoutFlusher(bed: Bed, size: Size): Promise<ClosedLoadResult> {
  await using database = await bed.createDatabase({ migrated: true });
  await using server = await bed.startServer(database, ["--no-flusher"]);
  const blockCount = bed.scaled(UNFLUSHED_VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK);
  await createMappedVolume(server, blockCount);
  await bed.settle(database);
  const warmupSeconds = bed.scaled(FRESH_WARMUP_SECONDS, FRESH_WARMUP_SECONDS_QUICK);
  return await bed.runClosedLoad({ ...toLoad(bed, server, size), blockCount, warmupSeconds });
}

/** About as many bytes as the contender had answered. */
function measureLimit(
  bed: Bed,
  database: BenchDatabase,
  size: Size,
  { bytes }: LevelRate,
): Promise<CopyRate> {
  const bytesMin = bed.scaled(COPY_BYTES_MIN, COPY_BYTES_MIN_QUICK);
  return measureCopy(database, { dataBytes: ENTRY_BYTES[size], totalBytes: Math.max(bytes, bytesMin) });
}

async function createMappedVolume(server: BenchServer, blockCount: number): Promise<void> {
  const client = new ServerClient(server);
  await client.createVolume(VOLUME, blockCount);
  await client.mapVolume(VOLUME, blockCount);
}

function toLoad(bed: Bed, server: BenchServer, size: Size): ClosedLoad {
  return {
    server,
    seconds: bed.scaled(SECONDS, SECONDS_QUICK),
    method: "PUT",
    volumes: [VOLUME],
    blockCount: bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK),
    blockSizeBytes: BLOCK_BYTES,
    ...(size === "small"
      ? { connections: 64, blocksPerRequest: 1, order: "random" }
      : { connections: 8, blocksPerRequest: 256, order: "sequential" }),
  };
}
