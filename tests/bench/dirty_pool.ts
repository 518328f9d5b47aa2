/**
 * A pool inside this process, filled through {@linkcode Storage} and drained by a {@linkcode Flusher}: what is measured is
 * the domain, without HTTP and without another process.
 */

import { FIRST_POOL, STORAGE_LIMITS } from "../../src/config.ts";
import type { Database } from "../../src/database/client.ts";
import type { Actor } from "../../src/storage/actor.ts";
import { Flusher } from "../../src/storage/flusher.ts";
import { Storage } from "../../src/storage/storage.ts";
import { BLOCK_BYTES, takeBlock } from "./block_contents.ts";

const GIB = 2 ** 30;
/** The pool holds whatever a bench appends: being full is not what is measured. */
const CACHE_BYTES_MAX = 16 * GIB;
const DEVICE_BYTES = 64 * GIB;
/** Sweeps of one drain; each takes megabytes out of the queue. */
const SWEEPS_MAX = 100_000;

const BENCHER: Actor = {
  clientId: "00000000-0000-7000-8000-0000000000bb",
  clientName: "bench",
  priority: 0,
  origin: "bench",
};

/** How the blocks of one {@linkcode DirtyPool.append} travel. */
export interface AppendShape {
  /** Entries of one request: writes of one block each. */
  readonly blocksPerRequest: number;
  /** Requests that wait for their answer at the same time, so that group commit has something to gather. */
  readonly requestsInFlight: number;
}

export interface DirtyPool extends AsyncDisposable {
  createVolume(name: string, blockCount: number): Promise<void>;
  /** Writes a block to each of `lbas`, as an entry of its own; every one is committed when it answers. */
  append(volume: string, lbas: Uint32Array, shape: AppendShape): Promise<void>;
  /** Flushes until nothing is left. */
  drain(): Promise<void>;
  /** Entries that are not flushed. */
  countDirty(): Promise<number>;
}

/**
 * Makes pool `main`, as the first start does, on a database that has none. Nothing flushes it but `drain()`, unless a
 * `flusher` is asked for.
 */
export async function openDirtyPool(database: Database, options = { flusher: false }): Promise<DirtyPool> {
  const faults: unknown[] = [];
  const storage = new Storage({
    database,
    limits: STORAGE_LIMITS,
    flusher: options.flusher,
    onFault: (error) => faults.push(error),
  });
  await storage.start();
  try {
    await storage.createPool(BENCHER, { ...FIRST_POOL, cacheBytesMax: CACHE_BYTES_MAX });
    await storage.addDevice(BENCHER, { name: "main-1", sizeBytes: DEVICE_BYTES });
  } catch (error) {
    await storage.stop();
    throw error;
  }
  return {
    createVolume: async (name, blockCount) => {
      await storage.createVolume(BENCHER, { name, sizeBytes: blockCount * BLOCK_BYTES });
    },
    append: (volume, lbas, shape) => append(storage, volume, lbas, shape),
    drain: () => drain(database),
    countDirty: async () => (await storage.getPool(FIRST_POOL.name)).dirtyEntries,
    [Symbol.asyncDispose]: async () => {
      await storage.stop();
      if (faults.length > 0) throw new AggregateError(faults, "The flusher failed");
    },
  };
}

async function append(
  storage: Storage,
  volume: string,
  lbas: Uint32Array,
  { blocksPerRequest, requestsInFlight }: AppendShape,
): Promise<void> {
  let next = 0;
  const send = async () => {
    while (next < lbas.length) {
      const start = next;
      next += blocksPerRequest;
      const writes = Array.from(
        lbas.subarray(start, start + blocksPerRequest),
        (lba) => ({ lba, data: takeBlock() }),
      );
      await storage.append(BENCHER, volume, undefined, writes);
    }
  };
  await Promise.all(Array.from({ length: requestsInFlight }, send));
}

async function drain(database: Database): Promise<void> {
  const flusher = new Flusher(database, {
    limits: STORAGE_LIMITS,
    clock: () => new Date(),
    onFault: (error) => {
      throw error;
    },
  });
  for (let sweeps = 0; await flusher.sweep(); sweeps += 1) {
    if (sweeps === SWEEPS_MAX) throw new Error(`Cannot drain the pool: not empty after ${SWEEPS_MAX} sweeps`);
  }
}
