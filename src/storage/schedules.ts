/**
 * Schedules as front doors see them: takes references as clients write them, finds what they mean, and makes one call.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { readAnswer } from "./fault.ts";
import type { Page, PageRequest } from "./page.ts";
import { DEFAULT_POOL, findPoolId, getPool, type Pool } from "./pool.ts";
import {
  changeSchedule,
  createSchedule,
  deleteSchedule,
  getSchedule,
  listSchedules,
  type Schedule,
  type ScheduleChange,
  type ScheduleSettings,
} from "./schedule.ts";
import { type RunContext, runNow } from "./schedule_run.ts";
import { getSnapshot, type Snapshot } from "./snapshot.ts";
import { getVolumes } from "./volume.ts";

/** A new schedule, with references. */
export interface NewSchedule extends Omit<ScheduleSettings, "volumeIds"> {
  readonly name: string;
  readonly volumes?: string[];
  readonly pool?: string;
}

/** A change of a schedule, with references. */
export interface ScheduleChangeInput extends Omit<ScheduleChange, "volumeIds"> {
  readonly volumes?: string[];
}

export interface SchedulesOptions extends RunContext {
  /** Told that something may be due earlier than it was. */
  readonly onChanged: () => void;
  /** Told that a marker was placed. */
  readonly onPlaced: () => void;
}

export class Schedules {
  constructor(private readonly database: Database, private readonly options: SchedulesOptions) {}

  async create(actor: Actor, { volumes, pool: reference, ...input }: NewSchedule): Promise<Schedule> {
    const { limits, clock } = this.options;
    const { pool, volumeIds } = await this.#choose(volumes, reference);
    const settings = { ...input, ...(volumeIds === undefined ? {} : { volumeIds }) };
    const schedule = await createSchedule(this.database, actor, pool, settings, limits, clock());
    this.options.onChanged();
    return schedule;
  }

  async get(reference: string, pool?: string): Promise<Schedule> {
    return await getSchedule(this.database, reference, await findPoolId(this.database, pool));
  }

  async list(pool: string | undefined, page: PageRequest): Promise<Page<Schedule>> {
    return await listSchedules(this.database, await findPoolId(this.database, pool), page);
  }

  async change(
    actor: Actor,
    reference: string,
    poolReference: string | undefined,
    { volumes, ...input }: ScheduleChangeInput,
  ): Promise<Schedule> {
    const { limits, clock, onChanged } = this.options;
    const { pool: { poolId }, scheduleId } = await this.get(reference, poolReference);
    const { volumeIds } = volumes === undefined ? {} : await this.#choose(volumes, poolId);
    const change = { ...input, ...(volumeIds === undefined ? {} : { volumeIds }) };
    const changed = await changeSchedule(
      this.database,
      actor,
      { poolId, scheduleId },
      change,
      limits,
      clock(),
    );
    onChanged();
    return changed;
  }

  /** Takes a snapshot as the schedule would, now. */
  async run(actor: Actor, reference: string, pool?: string): Promise<Snapshot> {
    const schedule = await this.get(reference, pool);
    const snapshotId = await runNow(this.database, actor, this.options, schedule);
    this.options.onPlaced();
    this.options.onChanged();
    return await readAnswer(() => getSnapshot(this.database, snapshotId, schedule.pool.poolId));
  }

  async delete(actor: Actor, reference: string, pool?: string): Promise<void> {
    const { pool: { poolId }, scheduleId } = await this.get(reference, pool);
    await deleteSchedule(this.database, actor, { poolId, scheduleId }, this.options.clock());
  }

  /** The volumes, and the one pool that they are in; without volumes, the pool that is named, or the default one. */
  async #choose(
    references: string[] | undefined,
    poolReference: string | undefined,
  ): Promise<{ pool: Pool; volumeIds?: string[] }> {
    if (references === undefined) {
      return { pool: await getPool(this.database, poolReference ?? DEFAULT_POOL) };
    }
    const volumes = await getVolumes(
      this.database,
      references,
      await findPoolId(this.database, poolReference),
    );
    const pool = volumes[0]?.pool ?? await getPool(this.database, poolReference ?? DEFAULT_POOL);
    if (volumes.some((volume) => volume.pool.poolId !== pool.poolId)) {
      throw new StorageError(
        "invalid-argument",
        "Cannot make one schedule for volumes in several pools: nothing crosses pools",
      );
    }
    return { pool, volumeIds: volumes.map(({ volumeId }) => volumeId) };
  }
}
