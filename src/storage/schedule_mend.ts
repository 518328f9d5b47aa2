/**
 * Schedules whose next run was put down by a clock that was ahead: each is due as it is by the clock as it stands now. Else a
 * clock that was an hour ahead for a moment would cost an hour of snapshots.
 */

import { type Database, transact } from "../database/client.ts";
import {
  findSchedule,
  lockSchedule,
  type Schedule,
  type ScheduleKey,
  toNextRun,
  updateSchedule,
} from "./schedule.ts";

// Statements

/** Schedules that ran later than it is now. */
async function selectAhead({ $client }: Database, at: Date, schedulesMax: number): Promise<ScheduleKey[]> {
  const rows = await $client<{ pool_id: string; schedule_id: string }[]>`
    select s.pool_id, s.schedule_id from pools p cross join lateral (
      select pool_id, schedule_id from schedules
      where pool_id = p.pool_id and next_run_at > ${at.toISOString()} and last_run_at > ${at.toISOString()}
      order by next_run_at limit ${schedulesMax}
    ) s`;
  return rows.map((row) => ({ poolId: row.pool_id, scheduleId: row.schedule_id }));
}

// Verbs

/** Puts the next run of every schedule where it belongs that is later than it would be by `at`. Answers how many were. */
export async function mendRuns(database: Database, at: Date, schedulesMax: number): Promise<number> {
  let mended = 0;
  for (const key of await selectAhead(database, at, schedulesMax)) {
    const found = await findSchedule(database, key);
    if (found === undefined || findEarlier(found, at) === undefined) continue;
    await transact(database, async (tx) => {
      const schedule = await lockSchedule(tx, key);
      const nextRunAt = schedule === undefined ? undefined : findEarlier(schedule, at);
      if (nextRunAt !== undefined) await updateSchedule(tx, key, { nextRunAt });
    });
    mended += 1;
  }
  return mended;
}

/** When it runs next, where that is earlier than is put down. */
function findEarlier(schedule: Schedule, at: Date): Date | undefined {
  const nextRunAt = toNextRun(schedule, schedule.createdAt, at);
  const isEarlier = nextRunAt !== null && schedule.nextRunAt !== undefined && nextRunAt < schedule.nextRunAt;
  return isEarlier ? nextRunAt : undefined;
}
