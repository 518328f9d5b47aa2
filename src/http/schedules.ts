/**
 * `/schedules`: snapshots that are taken by themselves, and how long they are kept.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { CRON_LENGTH_MAX } from "../storage/recurrence.ts";
import { KEEP_COUNT_MAX } from "../storage/retention.ts";
import {
  type Schedule as StorageSchedule,
  SNAPSHOT_NAME_DEFAULT,
  SNAPSHOT_NAME_LENGTH_MAX,
} from "../storage/schedule.ts";
import { type Door, type DoorApp, toActor } from "./door.ts";
import { HttpError } from "./errors.ts";
import {
  given,
  Id,
  ID_KEY,
  jsonBody,
  jsonResponse,
  Labels,
  LabelsPatch,
  listOf,
  Moment,
  Name,
  NoQuery,
  pageOf,
  PageQuery,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  toPageBody,
  toPageRequest,
} from "./schema.ts";
import { Snapshot, toReceiptedBody } from "./snapshot_body.ts";

const Duration = z.string().min(1).max(64).openapi({
  description: "An ISO 8601 duration of weeks, days of 24 hours, hours, minutes and seconds",
  example: "PT6H",
});
const KeepCount = z.int().min(1).max(KEEP_COUNT_MAX);

const KEEP = {
  last: KeepCount.optional().openapi({ description: "So many of the newest" }),
  hourly: KeepCount.optional().openapi({
    description: "The newest one of each of so many hours that have one; the other periods alike",
  }),
  daily: KeepCount.optional(),
  weekly: KeepCount.optional().openapi({ description: "Weeks begin on Monday" }),
  monthly: KeepCount.optional(),
  for: Duration.optional().openapi({ description: "Those that are no older than the newest by more" }),
};

const Keep = z.strictObject(KEEP).openapi("Keep", {
  description: "What any rule keeps is kept, and the newest always. By the clock of the schedule's time zone",
});

const KeepPatch = z.strictObject(
  Object.fromEntries(Object.entries(KEEP).map(([rule, value]) => [rule, value.nullable()])) as {
    [rule in keyof typeof KEEP]: z.ZodNullable<(typeof KEEP)[rule]>;
  },
).nullable();

const Cron = z.string().min(1).max(CRON_LENGTH_MAX).openapi({
  description: "Five fields: minute, hour, day of month, month, day of week",
  example: "30 2 * * *",
});
const Every = Duration.openapi({
  description: "An ISO 8601 duration, counted from the schedule's creation",
  example: "PT6H",
});
const TimeZone = z.string().min(1).max(64).openapi({ example: "Europe/Berlin" });
const Selector = z.string().min(1).max(512).openapi({
  description: "`key` or `key=value`: the pool's volumes that carry it at the time of the run",
  example: "env=prod",
});
const SnapshotName = z.string().min(1).max(SNAPSHOT_NAME_LENGTH_MAX).openapi({
  description:
    "Name of its snapshots; `{schedule}` and `{time}` (UTC, to the second, needed) stand for those. One that is " +
    "taken gets a number behind, `.2`",
  example: SNAPSHOT_NAME_DEFAULT,
});
const SkipUnchanged = z.boolean().openapi({
  description: "Take none while no covered volume has changed since the last one",
});

const Schedule = z.object({
  id: Id,
  name: Name,
  poolId: Id,
  volumes: z.array(Id).optional().openapi({
    description: "Absent, and `label` too: every volume of the pool",
  }),
  label: Selector.optional(),
  cron: Cron.optional(),
  every: Every.optional(),
  timeZone: TimeZone,
  keep: Keep.optional().openapi({ description: "Absent: nothing is removed" }),
  skipUnchanged: SkipUnchanged,
  snapshotName: SnapshotName,
  labels: Labels.openapi({ description: "Of its snapshots" }),
  paused: z.boolean(),
  createdAt: Moment,
  nextRunAt: Moment.optional().openapi({ description: "Absent while it is paused" }),
  lastRunAt: Moment.optional(),
  lastSnapshotId: Id.optional(),
  lastError: z.string().optional().openapi({
    description: "Why the last run failed; absent when it did not",
  }),
}).openapi("Schedule");

const NewSchedule = z.strictObject({
  name: Name,
  volumes: listOf(Reference).optional().openapi({
    description: "All in one cut; by default, all of the pool at the time of the run",
  }),
  label: Selector.optional(),
  pool: Reference.optional().openapi({ description: "By default that of the volumes, or else `main`" }),
  cron: Cron.optional(),
  every: Every.optional(),
  timeZone: TimeZone.default("UTC"),
  keep: Keep.optional(),
  skipUnchanged: SkipUnchanged.default(false),
  snapshotName: SnapshotName.default(SNAPSHOT_NAME_DEFAULT),
  labels: Labels.default({}),
  paused: z.boolean().default(false),
}).openapi("NewSchedule", {
  description: "Either `cron` or `every`; either `volumes` or `label`, or neither",
});

const ScheduleChange = z.strictObject({
  volumes: listOf(Reference).optional(),
  label: Selector.optional(),
  cron: Cron.optional(),
  every: Every.optional(),
  timeZone: TimeZone.optional(),
  keep: KeepPatch.optional(),
  skipUnchanged: SkipUnchanged.optional(),
  snapshotName: SnapshotName.optional(),
  labels: LabelsPatch.optional(),
  paused: z.boolean().optional(),
}).openapi("ScheduleChange", {
  description: "A JSON merge patch. `cron` and `every` replace each other, and so do `volumes` and `label`",
});

const params = z.object({ schedule: Reference });

const createScheduleRoute = createRoute({
  method: "post",
  path: "/schedules",
  operationId: "createSchedule",
  summary: "Have snapshots taken by themselves",
  tags: ["schedules"],
  request: { query: NoQuery, ...jsonBody(NewSchedule) },
  responses: { 201: jsonResponse("The schedule", Schedule), default: PROBLEM_RESPONSE },
});

const listRoute = createRoute({
  method: "get",
  path: "/schedules",
  operationId: "listSchedules",
  summary: "List the schedules",
  tags: ["schedules"],
  request: { query: PageQuery.extend(PoolQuery.shape) },
  responses: {
    200: jsonResponse("A page of schedules", pageOf("schedules", Schedule)),
    default: PROBLEM_RESPONSE,
  },
});

const getRoute = createRoute({
  method: "get",
  path: "/schedules/{schedule}",
  operationId: "getSchedule",
  summary: "A schedule, and how it stands",
  tags: ["schedules"],
  request: { params, query: PoolQuery },
  responses: { 200: jsonResponse("The schedule", Schedule), default: PROBLEM_RESPONSE },
});

const changeRoute = createRoute({
  method: "patch",
  path: "/schedules/{schedule}",
  operationId: "changeSchedule",
  summary: "Change a schedule, pause it or have it go on",
  description:
    "What it would have run while it was paused is not made up for. Rules that changed are applied in the background.",
  tags: ["schedules"],
  request: { params, query: PoolQuery, ...jsonBody(ScheduleChange) },
  responses: { 200: jsonResponse("The schedule", Schedule), default: PROBLEM_RESPONSE },
});

const runRoute = createRoute({
  method: "post",
  path: "/schedules/{schedule}/run",
  operationId: "runSchedule",
  summary: "Take the schedule's snapshot now, paused or not, changed or not",
  tags: ["schedules"],
  request: { params, query: PoolQuery },
  responses: { 202: jsonResponse("The marker is committed", Snapshot), default: PROBLEM_RESPONSE },
});

const deleteRoute = createRoute({
  method: "delete",
  path: "/schedules/{schedule}",
  operationId: "deleteSchedule",
  summary: "Delete a schedule; its snapshots stay",
  tags: ["schedules"],
  request: { params, query: PoolQuery },
  responses: { 204: { description: "Deleted" }, default: PROBLEM_RESPONSE },
});

export function registerSchedules(app: DoorApp, { storage, limits }: Door): void {
  app.openapi(createScheduleRoute, async (c) => {
    const { keep, ...input } = c.req.valid("json");
    const schedule = await storage.schedules.create(toActor(c), {
      ...given(input),
      ...(keep === undefined ? {} : { keep: given(keep) }),
    });
    return c.json(toBody(schedule), 201, { location: `/schedules/${schedule.scheduleId}` });
  });

  app.openapi(listRoute, async (c) => {
    const query = c.req.valid("query");
    const page = await storage.schedules.list(query.pool, toPageRequest(query, limits, ID_KEY));
    return c.json(toPageBody("schedules", page, toBody), 200);
  });

  app.openapi(getRoute, async (c) => {
    const schedule = await storage.schedules.get(c.req.valid("param").schedule, c.req.valid("query").pool);
    return c.json(toBody(schedule), 200);
  });

  app.openapi(changeRoute, async (c) => {
    const { keep, ...input } = c.req.valid("json");
    if (keep === undefined && Object.keys(input).length === 0) {
      throw new HttpError("invalid-request", "Cannot change nothing: expected something to change");
    }
    const { schedule } = c.req.valid("param");
    const changed = await storage.schedules.change(toActor(c), schedule, c.req.valid("query").pool, {
      ...given(input),
      ...(keep === undefined ? {} : { keep: keep === null ? null : given(keep) }),
    });
    return c.json(toBody(changed), 200);
  });

  app.openapi(runRoute, async (c) => {
    const { schedule } = c.req.valid("param");
    const snapshot = await storage.schedules.run(toActor(c), schedule, c.req.valid("query").pool);
    return c.json(await toReceiptedBody(storage, snapshot), 202, {
      location: `/snapshots/${snapshot.snapshotId}`,
    });
  });

  app.openapi(deleteRoute, async (c) => {
    await storage.schedules.delete(toActor(c), c.req.valid("param").schedule, c.req.valid("query").pool);
    return c.body(null, 204);
  });
}

/** A schedule as the wire shows it. */
export function toBody(schedule: StorageSchedule): z.input<typeof Schedule> {
  const { pool, scheduleId, volumeIds, createdAt, nextRunAt, lastRunAt, ...rest } = schedule;
  const { revision: _revision, retentionsAsked: _asked, ...settings } = rest;
  return {
    id: scheduleId,
    poolId: pool.poolId,
    ...settings,
    ...(volumeIds === undefined ? {} : { volumes: volumeIds }),
    createdAt: createdAt.toISOString(),
    ...(nextRunAt === undefined ? {} : { nextRunAt: nextRunAt.toISOString() }),
    ...(lastRunAt === undefined ? {} : { lastRunAt: lastRunAt.toISOString() }),
  };
}
