/**
 * A storage system on a database of its own, without a flusher: a test drives the flusher step by step.
 */

import { STORAGE_LIMITS } from "../../src/config.ts";
import type { Actor } from "../../src/storage/actor.ts";
import type { Write } from "../../src/storage/append.ts";
import { Appender } from "../../src/storage/appender.ts";
import { Digester, type DigesterOptions } from "../../src/storage/digester.ts";
import { Flusher } from "../../src/storage/flusher.ts";
import type { FlusherOptions } from "../../src/storage/flusher.ts";
import type { StorageLimits } from "../../src/storage/limits.ts";
import type { Observer } from "../../src/storage/observer.ts";
import { Scheduler, type SchedulerOptions } from "../../src/storage/scheduler.ts";
import { Storage } from "../../src/storage/storage.ts";
import { createTestDatabase, type TestDatabase } from "./database.ts";
import { fill } from "./history.ts";

export const BLOCK_BYTES = 512;
export const SEGMENT_BLOCKS = 4;

export const TESTER: Actor = {
  clientId: "00000000-0000-7000-8000-0000000000aa",
  clientName: "tester",
  priority: 0,
  origin: "test",
};

export interface TestStorage extends AsyncDisposable {
  readonly test: TestDatabase;
  readonly storage: Storage;
  /** Another storage system on the same database, like another server process. */
  openAnother(options?: { limits?: Partial<StorageLimits>; flusher?: boolean }): Promise<Storage>;
  createFlusher(options?: Partial<FlusherOptions>): Flusher;
  /** A digester like that of another process. */
  createDigester(options?: Partial<DigesterOptions>): Digester;
  /** A scheduler like that of another process. */
  createScheduler(options?: Partial<SchedulerOptions>): Scheduler;
  /** Flushes until nothing is left. */
  drain(): Promise<void>;
}

/** A write of blocks with the stamps from `stamp` on. */
export function write(lba: number, stamp: number, blockCount = 1): Write {
  return { lba, data: fill(stamp, blockCount, BLOCK_BYTES) };
}

/** Makes pool `main` with small blocks and segments, and a device of `deviceBlocks`. */
export async function createTestStorage(
  options: {
    limits?: Partial<StorageLimits>;
    deviceBlocks?: number;
    cacheBytesMax?: number;
    flusher?: boolean;
    clock?: () => Date;
    observer?: Observer;
  } = {},
): Promise<TestStorage> {
  const resources = new AsyncDisposableStack();
  const test = resources.use(await createTestDatabase());
  const open = async (with_: { limits?: Partial<StorageLimits>; flusher?: boolean } = {}) => {
    const storage = new Storage({
      database: test.database,
      limits: { ...STORAGE_LIMITS, ...with_.limits },
      flusher: with_.flusher ?? false,
      ...(options.clock === undefined ? {} : { clock: options.clock }),
      ...(options.observer === undefined ? {} : { observer: options.observer }),
    });
    await storage.start();
    return resources.use(storage);
  };
  const createFlusher = (with_: Partial<FlusherOptions> = {}) =>
    new Flusher(test.database, {
      limits: STORAGE_LIMITS,
      clock: () => new Date(),
      onFault: (error) => {
        throw error;
      },
      ...with_,
    });
  const createDigester = (with_: Partial<DigesterOptions> = {}) =>
    new Digester(test.database, {
      limits: { ...STORAGE_LIMITS, ...options.limits },
      clock: options.clock ?? (() => new Date()),
      onFault: (error) => {
        throw error;
      },
      ...with_,
    });
  const createScheduler = (with_: Partial<SchedulerOptions> = {}) => {
    const clock = with_.clock ?? options.clock ?? (() => new Date());
    const limits = { ...STORAGE_LIMITS, ...options.limits };
    return new Scheduler(test.database, {
      limits,
      clock,
      runAlone: (pool, move) => new Appender(test.database, pool, limits, clock, () => {}).runAlone(move),
      onFault: (error) => {
        throw error;
      },
      onRemoved: () => {},
      ...with_,
    });
  };
  const storage = await open(options);
  await storage.createPool(TESTER, {
    name: "main",
    blockSizeBytes: BLOCK_BYTES,
    segmentBlocks: SEGMENT_BLOCKS,
    cacheBytesMax: options.cacheBytesMax ?? 2 ** 30,
  });
  await storage.addDevice(TESTER, { name: "main-1", blockCount: options.deviceBlocks ?? 1_000_000 });
  return {
    test,
    storage,
    openAnother: open,
    createFlusher,
    createDigester,
    createScheduler,
    drain: async () => {
      const flusher = createFlusher();
      while (await flusher.sweep());
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
