/**
 * The scheduler: a worker that takes the runs that are due, and steps of what the rules of schedules no longer keep.
 *
 * It sleeps until the next run is due, and looks at least every poll, for another process may have made a schedule meanwhile. What
 * goes wrong with one schedule holds up no other.
 *
 * A clock that jumps ahead makes one run due of each schedule, as a process that slept does. When it is set back again, the
 * runs that were put off by it are due as they were.
 */

import type { Database } from "../database/client.ts";
import { BackgroundWorker } from "./background_worker.ts";
import { ClockWatch } from "./clock_watch.ts";
import type { ScheduleKey } from "./schedule.ts";
import { mendRuns } from "./schedule_mend.ts";
import { retainStep } from "./schedule_retention.ts";
import { type RunContext, runDue } from "./schedule_run.ts";
import type { Rest } from "./work_loop.ts";

export interface SchedulerOptions extends RunContext {
  /** Told of a fault; it goes on. */
  readonly onFault: (error: unknown) => void;
  /** Told that snapshots went, for what they alone read can be reclaimed. */
  readonly onRemoved: () => void;
}

// Statements

interface KeyRow {
  pool_id: string;
  schedule_id: string;
}

/** What is due, the oldest first. */
async function selectDue({ $client }: Database, at: Date, runsMax: number): Promise<ScheduleKey[]> {
  const rows = await $client<KeyRow[]>`
    select s.pool_id, s.schedule_id from pools p cross join lateral (
      select pool_id, schedule_id, next_run_at from schedules
      where pool_id = p.pool_id and next_run_at <= ${at.toISOString()}
      order by next_run_at limit ${runsMax}
    ) s
    order by s.next_run_at limit ${runsMax}`;
  return rows.map(toKey);
}

/** How long until the next run is due, in milliseconds; nothing where none will be. */
async function selectUntilDue({ $client }: Database, at: Date): Promise<number | undefined> {
  const [row] = await $client<{ next_run_at: string | null }[]>`
    select min(s.next_run_at) as next_run_at from pools p cross join lateral (
      select next_run_at from schedules where pool_id = p.pool_id and next_run_at is not null
      order by next_run_at limit 1
    ) s`;
  return row.next_run_at === null ? undefined : new Date(row.next_run_at).getTime() - at.getTime();
}

async function selectRetaining({ $client }: Database, schedulesMax: number): Promise<ScheduleKey[]> {
  const rows = await $client<KeyRow[]>`
    select s.pool_id, s.schedule_id from pools p cross join lateral (
      select pool_id, schedule_id from schedules
      where pool_id = p.pool_id and retentions_asked > retentions_done
      order by schedule_id limit ${schedulesMax}
    ) s
    limit ${schedulesMax}`;
  return rows.map(toKey);
}

function toKey(row: KeyRow): ScheduleKey {
  return { poolId: row.pool_id, scheduleId: row.schedule_id };
}

export class Scheduler extends BackgroundWorker {
  readonly #watch: ClockWatch;
  /** Whether runs may have been put off by a clock that was ahead. */
  #mendDue = false;

  constructor(private readonly database: Database, private readonly options: SchedulerOptions) {
    const { limits: { schedulePollMs: retryMs }, onFault } = options;
    super({ retryMs, onFault });
    this.#watch = new ClockWatch(options.clock);
  }

  /**
   * The runs that are due, up to a bound, and a step for each schedule whose rules are to be applied. Answers whether any did
   * something. A schedule's fault is thrown when the others have had their turn.
   */
  async sweep(): Promise<boolean> {
    const { limits, clock, onRemoved } = this.options;
    this.#mendDue = this.#watch.wasSetBack() || this.#mendDue;
    if (this.#mendDue) await mendRuns(this.database, clock(), limits.schedulesMax);
    this.#mendDue = false;
    const due = await selectDue(this.database, clock(), limits.scheduleRunsMax);
    const ran = await this.#each(
      due,
      async (key) => await runDue(this.database, this.options, key) !== "elsewhere",
    );
    const retaining = await selectRetaining(this.database, limits.scheduleRunsMax);
    const removed = await this.#each(
      retaining,
      async (key) => await retainStep(this.database, key, limits, clock()) > 0,
    );
    if (removed.progressed) onRemoved();
    const faults = [...ran.faults, ...removed.faults];
    if (faults.length > 0) throw faults.length === 1 ? faults[0] : new AggregateError(faults);
    return ran.progressed || removed.progressed;
  }

  async #each(
    keys: ScheduleKey[],
    act: (key: ScheduleKey) => Promise<boolean>,
  ): Promise<{ progressed: boolean; faults: unknown[] }> {
    let progressed = false;
    const faults: unknown[] = [];
    for (const key of keys) {
      if (this.loop.isStopping) break;
      try {
        progressed = await act(key) || progressed;
      } catch (error) {
        faults.push(error);
      }
    }
    return { progressed, faults };
  }

  protected async round(): Promise<Rest> {
    const { limits: { schedulePollMs }, clock } = this.options;
    if (await this.sweep()) return { ms: 0 };
    const untilDue = await selectUntilDue(this.database, clock()) ?? schedulePollMs;
    // What is due and yet was not done is in somebody else's hands.
    return { ms: untilDue > 0 ? Math.min(untilDue, schedulePollMs) : schedulePollMs };
  }
}
