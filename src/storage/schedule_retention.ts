/**
 * What a schedule's rules no longer keep goes, as if somebody had deleted it: by the same way, told by the same events.
 *
 * Only snapshots that this schedule has made, and of those never one that is held, pending, the newest, on its way into another
 * pool, or that a clone or a reverted volume starts from. Such a one counts for the rules like any other, and goes by a later run once nothing holds it.
 *
 * What was decided is judged again under the locks by which a snapshot is deleted: rules that changed meanwhile, or a clone that
 * was made, keep it. So a step may end anywhere, and any number of processes may take steps.
 */

import type { Client, Connection, Database, Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { StorageLimits } from "./limits.ts";
import { createJudge } from "./retention.ts";
import { findSchedule, type Schedule, type ScheduleKey } from "./schedule.ts";
import { toRunner } from "./schedule_run.ts";
import { deleteSnapshot } from "./snapshot_delete.ts";

/** Snapshots that one statement looks at. */
const LOOKED_AT_MAX = 512;

// Statements

interface Row {
  snapshot_id: string;
  marker_sequence: number;
  created_at: string;
  removable: boolean;
}

/** The snapshots of a schedule that were taken before a marker, newest first. */
async function selectTaken(
  { $client }: Connection,
  { pool: { poolId }, scheduleId }: Schedule,
  before: number,
  at: Date,
): Promise<Row[]> {
  return await $client<Row[]>`
    select snapshot_id, marker_sequence, created_at, ${isRemovable($client, at)} as removable
    from snapshots s
    where pool_id = ${poolId} and schedule_id = ${scheduleId} and marker_sequence < ${before}
      and status in ('pending', 'sealed')
    order by marker_sequence desc limit ${LOOKED_AT_MAX}`;
}

function isRemovable(client: Client, at: Date) {
  return client`(
    s.status = 'sealed' and coalesce(s.held_until <= ${at.toISOString()}, true) and not exists (
      select from snapshot_volumes v join timelines t
        on t.pool_id = v.pool_id and t.parent_timeline_id = v.timeline_id and t.parent_epoch = v.epoch
      where v.pool_id = s.pool_id and v.snapshot_id = s.snapshot_id
    ) and not exists (
      select from copies c
      where c.pool_id = s.pool_id and c.status = 'running' and s.snapshot_id in (c.snapshot_id, c.base_id)
    )
  )`;
}

/** Whether the schedule still is as it was when it was decided, and the snapshot removable and not the newest. */
async function mayGo(
  { $client }: Transaction,
  { pool: { poolId }, scheduleId, revision }: Schedule,
  snapshotId: string,
  at: Date,
): Promise<boolean> {
  const [schedule] = await $client`
    select from schedules
    where pool_id = ${poolId} and schedule_id = ${scheduleId} and revision = ${revision} for share`;
  if (schedule === undefined) return false;
  const [snapshot] = await $client`
    select from snapshots s
    where pool_id = ${poolId} and snapshot_id = ${snapshotId} and ${isRemovable($client, at)} and exists (
      select from snapshots newer
      where newer.pool_id = ${poolId} and newer.schedule_id = ${scheduleId}
        and newer.marker_sequence > s.marker_sequence and newer.status in ('pending', 'sealed')
    )`;
  return snapshot !== undefined;
}

async function updateDone(
  { $client }: Database,
  { pool: { poolId }, scheduleId, retentionsAsked }: Schedule,
): Promise<void> {
  await $client`
    update schedules set retentions_done = greatest(retentions_done, ${retentionsAsked}::bigint)
    where pool_id = ${poolId} and schedule_id = ${scheduleId}`;
}

// Verbs

/** One step of what a schedule's rules ask for. Answers how many snapshots went. */
export async function retainStep(
  database: Database,
  key: ScheduleKey,
  { retentionStepMax }: StorageLimits,
  at: Date,
): Promise<number> {
  const schedule = await findSchedule(database, key);
  if (schedule === undefined) return 0;
  const unkept = await findUnkept(database, schedule, retentionStepMax, at);
  let removed = 0;
  for (const snapshotId of unkept) {
    if (await remove(database, schedule, snapshotId, at)) removed += 1;
  }
  if (unkept.length < retentionStepMax) await updateDone(database, schedule);
  return removed;
}

/** Up to so many snapshots that no rule keeps and nothing holds, newest first. */
async function findUnkept(
  database: Database,
  schedule: Schedule,
  itemsMax: number,
  at: Date,
): Promise<string[]> {
  if (schedule.keep === undefined) return [];
  const isKept = createJudge(schedule.keep, schedule.timeZone);
  const unkept: string[] = [];
  let before = Number.MAX_SAFE_INTEGER;
  while (unkept.length < itemsMax) {
    const rows = await selectTaken(database, schedule, before, at);
    const unkeptHere = rows.filter((row) => !isKept(new Date(row.created_at)) && row.removable);
    unkept.push(...unkeptHere.map((row) => row.snapshot_id));
    if (rows.length < LOOKED_AT_MAX) break;
    before = rows[rows.length - 1].marker_sequence;
  }
  return unkept.slice(0, itemsMax);
}

/** Answers false where something keeps the snapshot after all, or somebody else has deleted it. */
async function remove(
  database: Database,
  schedule: Schedule,
  snapshotId: string,
  at: Date,
): Promise<boolean> {
  const { pool } = schedule;
  try {
    return await deleteSnapshot(
      database,
      toRunner(schedule),
      { pool, snapshotId },
      at,
      (tx) => mayGo(tx, schedule, snapshotId, at),
    );
  } catch (error) {
    if (error instanceof StorageError && ["held", "in-use", "snapshot-not-found"].includes(error.code)) {
      return false;
    }
    throw error;
  }
}
