/**
 * Schedules: which volumes of a pool get a snapshot when, and how long those are kept.
 *
 * A schedule covers the volumes it names, those that carry a label at the time of the run, or every volume of its pool. What
 * people change raises its `revision`: who is about to do something decided on an earlier one finds out. A paused schedule
 * has no next run; what it would have run meanwhile is not made up for.
 *
 * Whoever changes a schedule's row locks it behind the pool's row, if that too, and ahead of the pool's events.
 */

import { and, asc, count, eq, gt } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { pools, schedules } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit, type AuditAction } from "./audit.ts";
import { appendEvent, type EventType } from "./event.ts";
import { createId, isId, NAME_PATTERN, requireName, requireOne } from "./identifier.ts";
import { applyLabelPatch, type LabelPatch, type Labels, parseLabelSelector, requireLabels } from "./label.ts";
import type { StorageLimits } from "./limits.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import { lockPool, type Pool } from "./pool.ts";
import { nextMoment, type Recurrence, requireRecurrence } from "./recurrence.ts";
import { type Keep, requireKeep } from "./retention.ts";

/** What people say of a schedule. */
export interface ScheduleSettings extends Recurrence {
  /** The volumes to cover; absent, and `label` too: every volume of the pool. */
  readonly volumeIds?: string[];
  /** `key` or `key=value`: the volumes that carry it at the time of the run. */
  readonly label?: string;
  /** Absent: nothing is removed. */
  readonly keep?: Keep;
  /** No snapshot while no covered volume has changed since the last one. */
  readonly skipUnchanged: boolean;
  /** The snapshots' names: `{schedule}` and `{time}` stand for those. */
  readonly snapshotName: string;
  /** Labels of the snapshots. */
  readonly labels: Labels;
  readonly paused: boolean;
}

/** A schedule, and how it stands. */
export interface Schedule extends ScheduleSettings {
  readonly pool: Pool;
  readonly scheduleId: string;
  readonly name: string;
  readonly createdAt: Date;
  readonly revision: number;
  /** Absent while it is paused. */
  readonly nextRunAt?: Date;
  readonly lastRunAt?: Date;
  readonly lastSnapshotId?: string;
  /** Why the last run failed; absent when it did not. */
  readonly lastError?: string;
  readonly retentionsAsked: number;
}

/** A change of a schedule; what is absent stays. `cron` and `every` replace each other, and so do the ways to choose volumes. */
export interface ScheduleChange {
  readonly volumeIds?: string[];
  readonly label?: string;
  readonly cron?: string;
  readonly every?: string;
  readonly timeZone?: string;
  /** A merge patch, like that of labels. */
  readonly keep?: { readonly [rule in keyof Keep]: Keep[rule] | null } | null;
  readonly skipUnchanged?: boolean;
  readonly snapshotName?: string;
  readonly labels?: LabelPatch;
  readonly paused?: boolean;
}

/** Where a schedule is. */
export interface ScheduleKey {
  readonly poolId: string;
  readonly scheduleId: string;
}

/** The name that snapshots get unless the schedule says another. */
export const SNAPSHOT_NAME_DEFAULT = "{schedule}-{time}";
/** Longest template of a name. */
export const SNAPSHOT_NAME_LENGTH_MAX = 128;

// Statements

function selectSchedules(connection: Connection) {
  return connection.select({ schedule: schedules, pool: pools }).from(schedules)
    .innerJoin(pools, eq(pools.poolId, schedules.poolId));
}

function isSchedule({ poolId, scheduleId }: ScheduleKey) {
  return and(eq(schedules.poolId, poolId), eq(schedules.scheduleId, scheduleId));
}

/** A schedule by its key, or none. */
export async function findSchedule(connection: Connection, key: ScheduleKey): Promise<Schedule | undefined> {
  const [row] = await selectSchedules(connection).where(isSchedule(key));
  return row === undefined ? undefined : toSchedule(row);
}

/** Locks a schedule's row and reads it. With `skipLocked`, one that somebody else has locked is none. */
export async function lockSchedule(
  tx: Transaction,
  key: ScheduleKey,
  { skipLocked = false } = {},
): Promise<Schedule | undefined> {
  const [row] = await selectSchedules(tx).where(isSchedule(key))
    .for("no key update", skipLocked ? { of: schedules, skipLocked } : { of: schedules });
  return row === undefined ? undefined : toSchedule(row);
}

/** Writes what has become of a schedule whose row is locked. */
export async function updateSchedule(
  tx: Transaction,
  key: ScheduleKey,
  values: Partial<typeof schedules.$inferInsert>,
): Promise<void> {
  await tx.update(schedules).set(values).where(isSchedule(key));
}

async function countSchedules(tx: Transaction, poolId: string): Promise<number> {
  const [row] = await tx.select({ found: count() }).from(schedules).where(eq(schedules.poolId, poolId));
  return row.found;
}

// Verbs

/**
 * Creates a schedule.
 *
 * @throws {StorageError} `name-taken`; `invalid-argument` for settings that are none, or too many schedules.
 */
export async function createSchedule(
  database: Database,
  actor: Actor,
  pool: Pool,
  { name, ...settings }: { name: string } & ScheduleSettings,
  limits: StorageLimits,
  at: Date,
): Promise<Schedule> {
  requireName(name);
  requireSettings(name, settings, limits, at);
  const { poolId } = pool;
  const nextRunAt = toNextRun(settings, at, at);
  const row = { poolId, scheduleId: createId(), name, ...toColumns(settings), createdAt: at, nextRunAt };
  try {
    return await transact(database, async (tx) => {
      // Two at once could exceed the bound together.
      await lockPool(tx, poolId);
      requireRoom(await countSchedules(tx, poolId), limits);
      const [inserted] = await tx.insert(schedules).values(row).returning();
      const schedule = toSchedule({ schedule: inserted, pool });
      await tellOfSchedule(tx, actor, schedule, "schedule.create", at);
      return schedule;
    });
  } catch (error) {
    if (!isUniqueViolation(error, "schedules_name")) throw error;
    throw new StorageError("name-taken", `Cannot create schedule ${name}: the pool has one of that name`);
  }
}

/** @throws {StorageError} `schedule-not-found`, `ambiguous-name`. */
export async function getSchedule(
  connection: Connection,
  reference: string,
  poolId?: string,
): Promise<Schedule> {
  const rows = await selectSchedules(connection).where(and(
    isId(reference) ? eq(schedules.scheduleId, reference) : eq(schedules.name, reference),
    poolId === undefined ? undefined : eq(schedules.poolId, poolId),
  )).limit(2);
  return toSchedule(requireOne(rows, "schedule-not-found", reference));
}

/** The schedules, of one pool or of all, in order of creation. */
export async function listSchedules(
  database: Database,
  poolId: string | undefined,
  page: PageRequest,
): Promise<Page<Schedule>> {
  const rows = await selectSchedules(database).where(and(
    poolId === undefined ? undefined : eq(schedules.poolId, poolId),
    page.after === undefined ? undefined : gt(schedules.scheduleId, page.after),
  )).orderBy(asc(schedules.scheduleId)).limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.schedule.scheduleId, toSchedule);
}

/**
 * Changes a schedule. Its next run follows from now on, and rules that changed are applied in the background.
 *
 * @throws {StorageError} `schedule-not-found`; `invalid-argument` for settings that are none.
 */
export async function changeSchedule(
  database: Database,
  actor: Actor,
  key: ScheduleKey,
  change: ScheduleChange,
  limits: StorageLimits,
  at: Date,
): Promise<Schedule> {
  return await transact(database, async (tx) => {
    const found = requireFound(await lockSchedule(tx, key), key);
    const settings = applyChange(found, change);
    requireSettings(found.name, settings, limits, at);
    const retained = change.keep !== undefined && settings.keep !== undefined;
    await updateSchedule(tx, key, {
      ...toColumns(settings),
      revision: found.revision + 1,
      nextRunAt: isTimed(change) ? toNextRun(settings, found.createdAt, at) : found.nextRunAt ?? null,
      retentionsAsked: found.retentionsAsked + (retained ? 1 : 0),
    });
    const changed = requireFound(await findSchedule(tx, key), key);
    await tellOfSchedule(tx, actor, changed, "schedule.change", at);
    return changed;
  });
}

/** Deletes a schedule; its snapshots stay. @throws {StorageError} `schedule-not-found`. */
export async function deleteSchedule(
  database: Database,
  actor: Actor,
  key: ScheduleKey,
  at: Date,
): Promise<void> {
  await transact(database, async (tx) => {
    const found = requireFound(await lockSchedule(tx, key), key);
    await tx.delete(schedules).where(isSchedule(key));
    await tellOfSchedule(tx, actor, found, "schedule.delete", at);
  });
}

/** @throws {StorageError} `schedule-not-found` when there is none. */
export function requireFound(schedule: Schedule | undefined, { scheduleId }: ScheduleKey): Schedule {
  if (schedule !== undefined) return schedule;
  throw new StorageError("schedule-not-found", `Cannot find schedule ${scheduleId}`);
}

/** When a schedule runs next, behind `after`; `null` while it is paused. */
export function toNextRun(settings: ScheduleSettings, createdAt: Date, after: Date): Date | null {
  return settings.paused ? null : nextMoment(settings, createdAt, after) ?? null;
}

/** The name of a snapshot that is taken at that time. */
export function toSnapshotName(template: string, schedule: string, at: Date): string {
  const time = at.toISOString().replace(/\.\d+Z$/, "Z").replaceAll(/[-:]/g, "");
  return template.replaceAll("{schedule}", schedule).replaceAll("{time}", time);
}

/** The record of what was done to a schedule. */
export function toScheduleAudit({ pool, scheduleId, name }: Schedule, action: AuditAction, at: Date) {
  return { poolId: pool.poolId, at, action, targetId: scheduleId, targetName: name };
}

const TOLD = {
  "schedule.create": "schedule.created",
  "schedule.change": "schedule.changed",
  "schedule.delete": "schedule.deleted",
} as const satisfies Partial<Record<AuditAction, EventType>>;

async function tellOfSchedule(
  tx: Transaction,
  actor: Actor,
  schedule: Schedule,
  action: keyof typeof TOLD,
  at: Date,
): Promise<void> {
  const { pool: { poolId }, scheduleId, name } = schedule;
  await appendAudit(tx, actor, toScheduleAudit(schedule, action, at));
  await appendEvent(tx, poolId, { type: TOLD[action], at, body: { scheduleId, name } });
}

function isTimed({ cron, every, timeZone, paused }: ScheduleChange): boolean {
  return [cron, every, timeZone, paused].some((one) => one !== undefined);
}

function applyChange(schedule: Schedule, { keep, labels, ...plain }: ScheduleChange): ScheduleSettings {
  const found = toSettings(schedule);
  // One way to choose volumes takes the other's place, and so does one way to say when.
  const chosen = plain.volumeIds ?? plain.label;
  const timed = plain.cron ?? plain.every;
  return withoutAbsent({
    ...found,
    ...(chosen === undefined ? {} : { volumeIds: undefined, label: undefined }),
    ...(timed === undefined ? {} : { cron: undefined, every: undefined }),
    ...plain,
    keep: keep === undefined ? found.keep : applyKeepPatch(found.keep, keep),
    labels: labels === undefined ? found.labels : applyLabelPatch(found.labels, labels),
  }) as ScheduleSettings;
}

function applyKeepPatch(
  keep: Keep | undefined,
  patch: NonNullable<ScheduleChange["keep"]> | null,
): Keep | undefined {
  if (patch === null) return undefined;
  const rules = Object.entries({ ...keep, ...patch }).filter(([, rule]) => rule !== null);
  return Object.fromEntries(rules);
}

function requireRoom(found: number, { schedulesMax }: StorageLimits): void {
  if (found < schedulesMax) return;
  throw new StorageError(
    "invalid-argument",
    `Cannot create another schedule: the pool has ${found}, and may have ${schedulesMax}`,
  );
}

function requireSettings(name: string, settings: ScheduleSettings, limits: StorageLimits, at: Date): void {
  requireRecurrence(settings, limits.scheduleEverySecondsMin);
  requireChoice(settings, limits);
  if (settings.keep !== undefined) requireKeep(settings.keep);
  requireLabels(settings.labels, limits);
  requireSnapshotName(settings.snapshotName, name, at);
}

/** Without the time in it, every snapshot but the first would have a taken name. */
function requireSnapshotName(template: string, schedule: string, at: Date): void {
  const isTemplate = template.length <= SNAPSHOT_NAME_LENGTH_MAX && template.includes("{time}");
  if (isTemplate && NAME_PATTERN.test(toSnapshotName(template, schedule, at))) return;
  throw new StorageError(
    "invalid-argument",
    "Cannot name snapshots so: expected {time} in it, and with that and {schedule} replaced a name of at most 63 characters",
  );
}

function requireChoice({ volumeIds, label }: ScheduleSettings, { scheduleVolumesMax }: StorageLimits): void {
  if (volumeIds !== undefined && label !== undefined) {
    throw new StorageError("invalid-argument", "Cannot choose volumes both by name and by label");
  }
  if (label !== undefined) parseLabelSelector(label);
  if (volumeIds === undefined) return;
  const distinct = new Set(volumeIds).size;
  if (distinct === volumeIds.length && distinct >= 1 && distinct <= scheduleVolumesMax) return;
  throw new StorageError(
    "invalid-argument",
    `Cannot cover these volumes: expected 1 to ${scheduleVolumesMax}, each once`,
  );
}

function toSettings(schedule: Schedule): ScheduleSettings {
  const { volumeIds, label, cron, every, timeZone, keep, skipUnchanged, snapshotName, labels, paused } =
    schedule;
  return withoutAbsent({
    volumeIds,
    label,
    cron,
    every,
    timeZone,
    keep,
    skipUnchanged,
    snapshotName,
    labels,
    paused,
  }) as ScheduleSettings;
}

function toColumns(settings: ScheduleSettings) {
  const { volumeIds = null, label = null, cron = null, every = null, keep = null, ...others } = settings;
  return { ...others, volumeIds, label, cron, every, keep };
}

function toSchedule(
  { schedule, pool }: { schedule: typeof schedules.$inferSelect; pool: Pool },
): Schedule {
  const { poolId: _poolId, retentionsDone: _done, ...row } = schedule;
  const present = Object.fromEntries(Object.entries(row).filter(([, value]) => value !== null));
  return { ...present, pool } as unknown as Schedule;
}

function withoutAbsent(input: object): object {
  return Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined));
}
