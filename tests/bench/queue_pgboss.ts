/**
 * pg-boss as a queue of blocks: the peer `queue-pgboss`.
 *
 * Tuned for throughput: jobs are inserted in bulk into a queue with a table of its own, fetched and completed in bulk, by
 * several loops at the same time, without the pauses of its polling workers; maintenance, schedules and telemetry are
 * off. Completed jobs stay in its table, which flatters it. A payload is a JSON object there, so a block travels as
 * base64.
 */

import { PgBoss } from "pg-boss";
import type { BenchDatabase } from "./bed.ts";
import { takeBlock } from "./block_contents.ts";
import { BULK, inBulks, pause, type Queue, waitUntil } from "./queue_load.ts";

const QUEUE = "blocks";
const FETCH_JOBS = 500;
/** Loops that fetch and complete. */
const LOOPS = 4;
const CONNECTIONS = LOOPS + BULK.requestsInFlight;

/** Makes its schema in an empty database and starts its loops. */
export async function openPgBossQueue({ url }: BenchDatabase): Promise<Queue> {
  const faults: unknown[] = [];
  const boss = new PgBoss({
    connectionString: url,
    max: CONNECTIONS,
    supervise: false,
    schedule: false,
    registerInstance: false,
    openTelemetry: { enabled: false },
  });
  boss.on("error", (error) => faults.push(error));
  await boss.start();
  await boss.createQueue(QUEUE, { partition: true });
  const loops = new FetchLoops(boss);
  return {
    choice:
      `pg-boss: insert by ${BULK.entriesPerRequest}, ${LOOPS} loops that fetch and complete by ${FETCH_JOBS}`,
    append: (count) => inBulks(count, (bulk) => insert(boss, bulk)),
    drain: async (count) => {
      await loops.untilCompleted(count);
      if (faults.length > 0) throw new AggregateError(faults);
    },
    [Symbol.asyncDispose]: async () => {
      await loops.stop();
      await boss.stop({ graceful: false });
    },
  };
}

async function insert(boss: PgBoss, count: number): Promise<void> {
  await boss.insert(
    QUEUE,
    Array.from({ length: count }, () => ({ data: { block: takeBlock().toBase64() } })),
  );
}

/** Loops that take jobs out as long as they run. */
class FetchLoops {
  #completed = 0;
  #stopped = false;
  readonly #running: Promise<unknown>;

  constructor(private readonly boss: PgBoss) {
    this.#running = Promise.all(Array.from({ length: LOOPS }, () => this.#loop()));
    this.#running.catch(() => {});
  }

  /** Waits until `count` jobs are completed since the start, or a loop fails. */
  async untilCompleted(count: number): Promise<void> {
    await Promise.race([this.#running, waitUntil(() => this.#stopped || this.#completed >= count)]);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #loop(): Promise<void> {
    while (!this.#stopped) {
      const jobs = await this.boss.fetch(QUEUE, { batchSize: FETCH_JOBS });
      if (jobs.length === 0) {
        await pause();
        continue;
      }
      await this.boss.complete(QUEUE, jobs.map(({ id }) => id));
      this.#completed += jobs.length;
    }
  }
}
