/**
 * Runs of schedules: each takes one snapshot, with one marker and one cut, of all volumes that the schedule covers. It goes by
 * the SCSI command like every other.
 *
 *     due ──(a snapshot is taken)──────────────────► ran
 *      ├────(no volume, or none has changed)───────► skipped
 *      └────(refused: a volume is gone)────────────► failed
 *
 * Invariant: a run that is due is taken once, however many processes look, and wherever one of them ends. What becomes of it
 * and when the next one is due are written by the transaction that has the row locked; for a run that takes a snapshot that
 * is the marker's. Runs that were missed are one, for the next is due behind now and not behind the last.
 *
 * A snapshot's name goes by the second. One that is taken, as by a run now in the same second, gets a number behind.
 *
 * Whether anything has changed is looked at ahead of all locks: a write that comes meanwhile is the next run's. The steps:
 * 1. read the schedule, see whether it is due and whether anything has changed
 * 2. lock the pool, and the schedule if it still is as it was read and nobody else has it
 * 3. choose the volumes, place the marker
 * 4. write when the next run is due, the audit record and the event
 */

import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { type Actor, SYSTEM } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { appendEvent } from "./event.ts";
import { PASSING_FAULTS, toStorageError } from "./fault.ts";
import type { HeadMove } from "./head_move.ts";
import { findCarrying, parseLabelSelector } from "./label.ts";
import type { StorageLimits } from "./limits.ts";
import { type PlacedMarker, placeMarkerWithin } from "./marker.ts";
import { lockPool, type Pool, type PoolHead } from "./pool.ts";
import {
  findSchedule,
  lockSchedule,
  requireFound,
  type Schedule,
  type ScheduleKey,
  toNextRun,
  toScheduleAudit,
  toSnapshotName,
  updateSchedule,
} from "./schedule.ts";
import { encodeSnapshotCommand, toMarkerRequest } from "./snapshot_command.ts";
import { chooseSnapshotName, isNameTaken } from "./snapshot_name.ts";

/** Where a run that takes a snapshot may end, for tests. */
export type RunPoint = "locked" | "chosen" | "placed" | "told";

/** What a run is given besides the database. */
export interface RunContext {
  readonly limits: StorageLimits;
  readonly clock: () => Date;
  /** This process's way to move a pool's head. */
  readonly runAlone: <T extends HeadMove>(pool: Pool, move: () => Promise<T>) => Promise<T>;
  readonly onPoint?: (point: RunPoint) => void | Promise<void>;
}

/** What became of a run that was due; `elsewhere`: somebody else has it, or it is due no more. */
export type RunOutcome = "ran" | "skipped" | "failed" | "elsewhere";

/** Why there was nothing to take. */
export type SkipReason = "no-volume" | "unchanged";

// Statements

/**
 * Whether any of the volumes is not as the snapshot has it: another timeline or size, or a segment in a later epoch. Of a
 * snapshot that is gone, all are.
 */
async function selectChanged(
  { $client }: Connection,
  { poolId }: Pool,
  volumeIds: string[] | "all",
  snapshotId: string,
): Promise<boolean> {
  const covered = volumeIds === "all"
    ? $client`volumes v where v.pool_id = ${poolId} and v.deleted_at is null`
    : $client`unnest(${volumeIds}::uuid[]) as w (id) left join volumes v
        on v.pool_id = ${poolId} and v.volume_id = w.id and v.deleted_at is null where true`;
  const [{ changed }] = await $client<{ changed: boolean }[]>`
    select exists (
      select from ${covered} and not exists (
        select from snapshot_volumes c
        join snapshots s on s.pool_id = c.pool_id and s.snapshot_id = c.snapshot_id and s.status in ('pending', 'sealed')
        where c.pool_id = ${poolId} and c.snapshot_id = ${snapshotId} and c.volume_id = v.volume_id
          and c.timeline_id = v.timeline_id and c.volume_blocks = v.block_count
          and c.epoch >= coalesce((
            select epoch from segment_map m where m.pool_id = ${poolId} and m.timeline_id = c.timeline_id
            order by epoch desc limit 1
          ), -1)
      )
    ) as changed`;
  return changed;
}

async function hasVolumes({ $client }: Connection, { poolId }: Pool): Promise<boolean> {
  const rows = await $client`select from volumes where pool_id = ${poolId} and deleted_at is null limit 1`;
  return rows.length > 0;
}

// Verbs

/**
 * Takes a schedule's run if it is due.
 *
 * @throws {StorageError} for a fault that passes; any other is the run's, and shown by the schedule.
 */
export async function runDue(database: Database, context: RunContext, key: ScheduleKey): Promise<RunOutcome> {
  const schedule = await findSchedule(database, key);
  if (schedule === undefined || !isDue(schedule, context.clock())) return "elsewhere";
  try {
    if (await isUnchanged(database, schedule, context.limits)) {
      return await endDue(database, context, schedule, { skipped: "unchanged" });
    }
    return (await takeDue(database, context, schedule)).outcome;
  } catch (error) {
    const known = toStorageError(error);
    if (known !== undefined && goesBy(known)) throw error;
    const failed = known?.message ?? "The server failed at this run; its log has the details";
    const outcome = await endDue(database, context, schedule, { failed });
    if (known === undefined) throw error;
    return outcome;
  }
}

/** Tells whether the run stays due. */
function goesBy({ code }: StorageError): boolean {
  return code === "cache-full" || PASSING_FAULTS.has(code);
}

/**
 * Runs a schedule now, paused or not, changed or not, and answers the id of the snapshot. A run that is due is taken by it, and
 * one that is not stays where it is.
 *
 * @throws {StorageError} `schedule-not-found`, `invalid-argument` when it covers no volume; what the snapshot is refused for.
 */
export async function runNow(
  database: Database,
  actor: Actor,
  context: RunContext,
  schedule: Schedule,
): Promise<string> {
  const { pool } = schedule;
  const key = toKey(schedule);
  const { snapshotId } = await context.runAlone(
    pool,
    () =>
      transact(database, async (tx) => {
        await lockPool(tx, pool.poolId);
        const locked = requireFound(await lockSchedule(tx, key), key);
        const volumeIds = await chooseVolumes(tx, locked, context.limits);
        if (volumeIds.length > 0) return await place(tx, actor, context, locked, volumeIds);
        throw new StorageError(
          "invalid-argument",
          `Cannot run schedule ${schedule.name}: there is no volume for it to cover`,
        );
      }),
  );
  return snapshotId;
}

interface Taken extends HeadMove {
  readonly outcome: RunOutcome;
}

/** Steps 2 to 4. */
async function takeDue(database: Database, context: RunContext, schedule: Schedule): Promise<Taken> {
  const { pool } = schedule;
  const { clock, limits, onPoint } = context;
  const actor = toRunner(schedule);
  return await context.runAlone(
    pool,
    () =>
      transact(database, async (tx) => {
        const head = await lockPool(tx, pool.poolId);
        const locked = await claim(tx, schedule, clock());
        await onPoint?.("locked");
        if (locked === undefined) return stay(head, "elsewhere");
        const volumeIds = await chooseVolumes(tx, locked, limits);
        await onPoint?.("chosen");
        if (volumeIds.length === 0) {
          return stay(head, await endRun(tx, locked, { skipped: "no-volume" }, clock()));
        }
        const placed = await place(tx, actor, context, locked, volumeIds);
        return { ...placed, outcome: "ran" as const };
      }),
  );
}

function stay(head: PoolHead, outcome: RunOutcome): Taken {
  return { found: head, left: head, outcome };
}

/** The schedule, locked, if it is due and as it was read, and nobody else has it. */
async function claim(tx: Transaction, schedule: Schedule, at: Date): Promise<Schedule | undefined> {
  const locked = await lockSchedule(tx, toKey(schedule), { skipLocked: true });
  return locked !== undefined && locked.revision === schedule.revision && isDue(locked, at)
    ? locked
    : undefined;
}

/** Takes the snapshot of a schedule whose row is locked, as the pool is, and tells of the run. */
async function place(
  tx: Transaction,
  actor: Actor,
  { clock, onPoint }: RunContext,
  schedule: Schedule,
  volumeIds: string[] | "all",
): Promise<PlacedMarker> {
  const { pool, scheduleId, labels } = schedule;
  const name = await chooseName(tx, schedule, clock());
  const command = encodeSnapshotCommand({
    name,
    ...(volumeIds === "all" ? {} : { volumeIds }),
    immed: true,
  });
  const request = { ...toMarkerRequest({ ...command, labels }, clock()), scheduleId };
  const placed = await placeMarkerWithin(tx, actor, pool, request, clock);
  await onPoint?.("placed");
  const at = clock();
  const { snapshotId } = placed;
  await updateSchedule(tx, toKey(schedule), {
    ...toEnd(schedule, at),
    lastSnapshotId: snapshotId,
    lastError: null,
  });
  await appendAudit(tx, actor, toScheduleAudit(schedule, "schedule.run", at));
  await appendEvent(tx, pool.poolId, {
    type: "schedule.ran",
    at,
    snapshotId,
    body: { ...toSubject(schedule), snapshotName: name },
  });
  await onPoint?.("told");
  return placed;
}

/** @throws {StorageError} `name-taken` when too many are. The pool is locked. */
async function chooseName(
  tx: Transaction,
  { pool, snapshotName, name }: Schedule,
  at: Date,
): Promise<string> {
  const wanted = toSnapshotName(snapshotName, name, at);
  const free = await chooseSnapshotName(tx, pool.poolId, wanted);
  if (free === undefined) throw isNameTaken(wanted);
  return free;
}

/** Ends a due run without a snapshot, by a transaction of its own. */
async function endDue(
  database: Database,
  { clock }: RunContext,
  schedule: Schedule,
  ended: Ended,
): Promise<RunOutcome> {
  const at = clock();
  return await transact(database, async (tx) => {
    const locked = await claim(tx, schedule, at);
    return locked === undefined ? "elsewhere" : await endRun(tx, locked, ended, at);
  });
}

type Ended = { readonly skipped: SkipReason } | { readonly failed: string };

/** Ends a due run without a snapshot. */
async function endRun(tx: Transaction, schedule: Schedule, ended: Ended, at: Date): Promise<RunOutcome> {
  const failed = "failed" in ended;
  await updateSchedule(tx, toKey(schedule), {
    ...toEnd(schedule, at),
    lastError: failed ? ended.failed : null,
  });
  await appendEvent(tx, schedule.pool.poolId, {
    type: failed ? "schedule.failed" : "schedule.skipped",
    at,
    body: { ...toSubject(schedule), ...(failed ? { message: ended.failed } : { reason: ended.skipped }) },
  });
  return failed ? "failed" : "skipped";
}

/** What every run leaves behind. */
function toEnd(schedule: Schedule, at: Date) {
  return {
    lastRunAt: at,
    ...(isDue(schedule, at) ? { nextRunAt: toNextRun(schedule, schedule.createdAt, at) } : {}),
    ...(schedule.keep === undefined ? {} : { retentionsAsked: schedule.retentionsAsked + 1 }),
  };
}

/** The volumes that a schedule covers; an empty list when there is none. */
async function chooseVolumes(
  connection: Connection,
  { pool, name, volumeIds, label }: Schedule,
  { scheduleVolumesMax }: StorageLimits,
): Promise<string[] | "all"> {
  if (volumeIds !== undefined) return volumeIds;
  if (label === undefined) return await hasVolumes(connection, pool) ? "all" : [];
  const wanted = parseLabelSelector(label);
  const carrying = await findCarrying(connection, "volume", pool.poolId, wanted, scheduleVolumesMax + 1);
  if (carrying.length <= scheduleVolumesMax) return carrying;
  throw new StorageError(
    "invalid-argument",
    `Cannot run schedule ${name}: more than ${scheduleVolumesMax} volumes carry its label`,
  );
}

async function isUnchanged(database: Database, schedule: Schedule, limits: StorageLimits): Promise<boolean> {
  const { skipUnchanged, lastSnapshotId, pool } = schedule;
  if (!skipUnchanged || lastSnapshotId === undefined) return false;
  const volumeIds = await chooseVolumes(database, schedule, limits);
  return volumeIds.length > 0 && !await selectChanged(database, pool, volumeIds, lastSnapshotId);
}

function isDue({ nextRunAt }: Schedule, at: Date): boolean {
  return nextRunAt !== undefined && nextRunAt <= at;
}

/** The system itself, by a schedule. */
export function toRunner({ name }: Schedule): Actor {
  return { ...SYSTEM, origin: `schedule ${name}` };
}

function toKey({ pool: { poolId }, scheduleId }: Schedule): ScheduleKey {
  return { poolId, scheduleId };
}

function toSubject({ scheduleId, name }: Schedule) {
  return { scheduleId, name };
}
