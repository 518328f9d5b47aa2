/**
 * What a process remembers: an appender, the cache's pressure and a reader for each pool, and volumes by the references that clients write.
 *
 * Nothing of it need be right. A remembered volume may have been deleted and a new one have its name; who uses it then finds no
 * volume, and gets the new one. The volumes are bounded in number and time; of pools there are few, and they stay.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { Appender } from "./appender.ts";
import { CachePressure } from "./cache_pressure.ts";
import type { HeadMove } from "./head_move.ts";
import type { StorageLimits } from "./limits.ts";
import type { AppendedBatch } from "./observer.ts";
import { findPoolId, type Pool } from "./pool.ts";
import { Reader } from "./reader.ts";
import { getVolume, type Volume } from "./volume.ts";

export interface ProcessMemoryOptions {
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  /** Told after each commit of an appender. */
  readonly onAppended: (batch: AppendedBatch) => void;
  /** Told after each commit of a marker, with the milliseconds since it was asked for. */
  readonly onMarker: (milliseconds: number) => void;
}

export class ProcessMemory {
  readonly #appenders = new Map<string, Appender>();
  readonly #pressures = new Map<string, CachePressure>();
  readonly #readers = new Map<string, Reader>();
  readonly #volumes = new Map<string, { volume: Volume; untilMs: number }>();

  constructor(private readonly database: Database, private readonly options: ProcessMemoryOptions) {}

  /** This process's way to the pool's ordered point. */
  appenderOf(pool: Pool): Appender {
    const known = this.#appenders.get(pool.poolId);
    if (known !== undefined) return known;
    const { limits, clock, onAppended, onMarker } = this.options;
    const appender = new Appender(this.database, pool, limits, clock, onAppended, onMarker);
    this.#appenders.set(pool.poolId, appender);
    return appender;
  }

  /** What slows writes to the pool. */
  pressureOf(pool: Pool): CachePressure {
    const known = this.#pressures.get(pool.poolId);
    if (known !== undefined) return known;
    const pressure = new CachePressure(this.database, pool, this.options.limits);
    this.#pressures.set(pool.poolId, pressure);
    return pressure;
  }

  /** Moves the pool's head beside the appends of this process: {@linkcode Appender.runAlone}. */
  runAlone<T extends HeadMove>(pool: Pool, move: () => Promise<T>): Promise<T> {
    return this.appenderOf(pool).runAlone(move);
  }

  /** Answers when all appends are that were asked for. */
  async settled(): Promise<void> {
    await Promise.all([...this.#appenders.values()].map((appender) => appender.settled()));
  }

  /** This process's way to the blocks of the pool's live volumes. */
  readerOf(pool: Pool): Reader {
    const known = this.#readers.get(pool.poolId);
    if (known !== undefined) return known;
    const reader = new Reader(this.database, pool, this.options.limits);
    this.#readers.set(pool.poolId, reader);
    return reader;
  }

  /**
   * Calls `use` with the volume of that reference, remembered or looked up; once more when `use` finds that a remembered one is
   * gone.
   *
   * @throws {StorageError} `volume-not-found`, `ambiguous-name`, `pool-not-found`; what `use` throws.
   */
  async withVolume<T>(
    reference: string,
    pool: string | undefined,
    use: (volume: Volume) => Promise<T>,
  ): Promise<T> {
    const { limits } = this.options;
    const key = `${pool ?? ""}/${reference}`;
    const now = performance.now();
    const known = this.#volumes.get(key);
    if (known !== undefined && now < known.untilMs) {
      try {
        return await use(known.volume);
      } catch (error) {
        if (!(error instanceof StorageError) || error.code !== "volume-not-found") throw error;
        this.#volumes.delete(key);
      }
    }
    const volume = await getVolume(this.database, reference, await findPoolId(this.database, pool));
    if (this.#volumes.size >= limits.rememberedVolumesMax) this.#volumes.clear();
    this.#volumes.set(key, { volume, untilMs: now + limits.rememberedVolumesMs });
    return await use(volume);
  }
}
