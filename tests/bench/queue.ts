/**
 * `queue`: entries of 4 KiB appended and drained, against two queues for PostgreSQL that one would take from npm.
 *
 * All three run in this process, on fresh databases of one PostgreSQL, with its durability: an entry is acknowledged
 * when it is committed, and no table is unlogged. Entries are appended in bulks of the same size, while those before are
 * drained; the clock runs until none is left. Ours end up in the block tables; the peers' handlers do nothing.
 */

import type { Bed, BenchDatabase } from "./bed.ts";
import type { Bench, Row, Sample } from "./bench.ts";
import { openGraphileQueue } from "./queue_graphile.ts";
import { type Queue, waitUntil } from "./queue_load.ts";
import { openPgBossQueue } from "./queue_pgboss.ts";
import { openSnapmarkQueue } from "./queue_snapmark.ts";
import { timeSeconds } from "./stopwatch.ts";

const ENTRIES = 10_000;
const ENTRIES_QUICK = 1_000;
/** Not counted. */
const WARM_UP_ENTRIES = 4_000;

const ROWS = [
  { name: "queue-graphile", against: "graphile-worker (npm), the same bytes" },
  { name: "queue-pgboss", against: "pg-boss (npm), the same bytes" },
].map((row): Row => ({
  ...row,
  measured: "4 KiB entries appended and drained",
  unit: "entries/s",
  goal: { atLeast: 5, aim: 20 },
}));

export const queueBench: Bench = {
  name: "queue",
  rows: ROWS,
  open: (bed) =>
    Promise.resolve({ repeat: () => compare(bed), [Symbol.asyncDispose]: () => Promise.resolve() }),
};

interface Figure {
  readonly rate: number;
  readonly choice: string;
}

async function compare(bed: Bed): Promise<Sample[]> {
  const ours = await measure(bed, { migrated: true }, openSnapmarkQueue);
  const graphile = await measure(bed, { migrated: false }, openGraphileQueue);
  const pgBoss = await measure(bed, { migrated: false }, openPgBossQueue);
  return [toSample("queue-graphile", ours, graphile), toSample("queue-pgboss", ours, pgBoss)];
}

async function measure(
  bed: Bed,
  options: { migrated: boolean },
  open: (database: BenchDatabase) => Promise<Queue>,
): Promise<Figure> {
  await using database = await bed.createDatabase(options);
  await using _gone = { [Symbol.asyncDispose]: () => untilGone(database) };
  await using queue = await open(database);
  await queue.append(WARM_UP_ENTRIES);
  await queue.drain(WARM_UP_ENTRIES);
  await bed.settle(database);
  const entries = bed.scaled(ENTRIES, ENTRIES_QUICK);
  const seconds = await timeSeconds(async () => {
    await queue.append(entries);
    await queue.drain(WARM_UP_ENTRIES + entries);
  });
  return { rate: entries / seconds, choice: queue.choice };
}

/**
 * Waits until the peer's sessions have ended. node-postgres tells its pool closed before they have, and a session that the
 * database's end terminates then fails with nobody to hear it, which ends this process.
 */
function untilGone({ database }: BenchDatabase): Promise<void> {
  return waitUntil(async () => {
    const [{ gone }] = await database.$client<{ gone: boolean }[]>`
      select not exists (
        select from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend' and application_name <> 'snapmark'
      ) as gone`;
    return gone;
  });
}

function toSample(row: string, ours: Figure, peer: Figure): Sample {
  return { row, measured: ours.rate, against: peer.rate, note: `${ours.choice}; ${peer.choice}` };
}
