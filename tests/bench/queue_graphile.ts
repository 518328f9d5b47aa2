/**
 * graphile-worker as a queue of blocks: the peer `queue-graphile`.
 *
 * Tuned as its documentation says for throughput (worker.graphile.org/docs/performance): jobs are added in bulk, pulled
 * down 500 at a time into a local queue, worked by 24 workers over 25 connections, and completed in batches. A payload is
 * JSON there, so a block travels as base64, a third longer than itself; hex would double it.
 */

import { Logger, makeWorkerUtils, run, type Runner, type WorkerUtils } from "graphile-worker";
import type { Database } from "../../src/database/client.ts";
import type { BenchDatabase } from "./bed.ts";
import { takeBlock } from "./block_contents.ts";
import { BULK, inBulks, type Queue, waitUntil } from "./queue_load.ts";

const WORKERS = 24;
const CONNECTIONS = 25;
const LOCAL_QUEUE_JOBS = 500;
const TASK = "block";
const SILENT = new Logger(() => () => {});

/** Makes its schema in an empty database and starts its workers. */
export async function openGraphileQueue({ url, database }: BenchDatabase): Promise<Queue> {
  const utils = await makeWorkerUtils({
    connectionString: url,
    maxPoolSize: BULK.requestsInFlight,
    logger: SILENT,
  });
  try {
    await utils.migrate();
    let handled = 0;
    const runner = await startRunner(url, () => handled += 1);
    return {
      choice:
        `graphile-worker: addJobs by ${BULK.entriesPerRequest}, ${WORKERS} workers, localQueue ${LOCAL_QUEUE_JOBS}`,
      append: (count) => inBulks(count, (bulk) => addJobs(utils, bulk)),
      drain: async (count) => {
        await waitUntil(() => handled >= count);
        await waitUntil(async () => await countJobs(database) === 0);
      },
      [Symbol.asyncDispose]: async () => {
        await runner.stop();
        await utils.release();
      },
    };
  } catch (error) {
    await utils.release();
    throw error;
  }
}

/** A job is deleted when its completion is committed. */
async function countJobs({ $client }: Database): Promise<number> {
  const [{ count }] = await $client<{ count: number }[]>`select count(*) from graphile_worker._private_jobs`;
  return count;
}

/** What is drained is taken out of the queue and put nowhere, which flatters the peer. */
function startRunner(connectionString: string, onBlock: () => void): Promise<Runner> {
  return run({
    preset: {
      worker: {
        connectionString,
        concurrentJobs: WORKERS,
        maxPoolSize: CONNECTIONS,
        localQueue: { size: LOCAL_QUEUE_JOBS },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger: SILENT,
      },
    },
    noHandleSignals: true,
    taskList: { [TASK]: onBlock },
  });
}

async function addJobs(utils: WorkerUtils, count: number): Promise<void> {
  await utils.addJobs(
    Array.from({ length: count }, () => ({ identifier: TASK, payload: takeBlock().toBase64() })),
  );
}
