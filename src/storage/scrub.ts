/**
 * Scrubs: passes over all blocks of a device that compare each with its checksum, so that what no client reads is looked at too.
 *
 *     running ──► done │ cancelled
 *
 * A device has one at a time, and its last one is remembered. A pass goes through the flushed blocks in the order of their keys
 * ({@linkcode scrubStep} does one step), and its row says how far it is: who takes it up goes on there. Blocks that are written
 * meanwhile are looked at as they are found. What reclaim moves meanwhile from ahead of the pass to behind it is for the next one, and
 * what is in the cache is for its readers. A corrupt block is told and left as it is.
 */

import { and, eq } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { devices, scrubs } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import type { Device } from "./device.ts";
import { appendEvent, type EventType } from "./event.ts";
import { createId } from "./identifier.ts";

export type ScrubStatus = "running" | "done" | "cancelled";

/** A pass as it stands. */
export interface Scrub {
  readonly poolId: string;
  readonly deviceId: string;
  readonly scrubId: string;
  readonly status: ScrubStatus;
  /** Segments that it is past, of all that were ever taken. */
  readonly segmentsDone: number;
  readonly segmentsTotal: number;
  /** Blocks that have a checksum and data. */
  readonly blocksChecked: number;
  /** Blocks that were written before there were checksums. */
  readonly blocksUnchecked: number;
  readonly blocksCorrupt: number;
  /** The first of them, {@linkcode PLACES_MAX} at most. */
  readonly corrupt: CorruptPlace[];
  readonly startedAt: Date;
  readonly endedAt?: Date;
}

/** Where a corrupt block was found. */
export interface CorruptPlace {
  readonly segmentId: number;
  /** Its index in the segment. */
  readonly block: number;
  readonly sequence: number;
  /** What is wrong with it. */
  readonly fault: string;
  /** Whose history it is of, and its index there; absent where no map names the segment. */
  readonly volumeId?: string;
  readonly lba?: number;
}

/** Places that are remembered of one pass; more are counted. A medium that fails has more than anybody reads one by one. */
export const PLACES_MAX = 100;

// Statements

function selectScrubs(connection: Connection) {
  return connection.select({
    scrub: scrubs,
    firstSegmentId: devices.firstSegmentId,
    segmentsTouched: devices.segmentsTouched,
  }).from(scrubs).innerJoin(
    devices,
    and(eq(devices.poolId, scrubs.poolId), eq(devices.deviceId, scrubs.deviceId)),
  );
}

type ScrubRow = Awaited<ReturnType<typeof selectScrubs>>[number];

/** Starts a pass from the beginning, unless one is running. */
async function insertScrub(
  tx: Transaction,
  { poolId, deviceId }: Device,
  scrubId: string,
  at: Date,
): Promise<boolean> {
  const rows = await tx.$client`
    insert into scrubs (pool_id, device_id, scrub_id, status, told_at, started_at)
    values (${poolId}, ${deviceId}, ${scrubId}, 'running', ${at.toISOString()}, ${at.toISOString()})
    on conflict (pool_id, device_id) do update set scrub_id = excluded.scrub_id, status = 'running',
      done_segment = default, done_block = default, blocks_checked = default, blocks_unchecked = default,
      blocks_corrupt = default, corrupt = default, told_at = excluded.told_at, started_at = excluded.started_at,
      ended_at = null
      where scrubs.status <> 'running'
    returning scrub_id`;
  return rows.length > 0;
}

async function updateCancelled(tx: Transaction, { poolId, deviceId }: Device, at: Date): Promise<boolean> {
  const rows = await tx.$client`
    update scrubs set status = 'cancelled', ended_at = ${at.toISOString()}
    where pool_id = ${poolId} and device_id = ${deviceId} and status = 'running' returning scrub_id`;
  return rows.length > 0;
}

// Verbs

/** Has a device scrubbed. Nothing happens while it is. Answers the pass as it stands then. */
export async function startScrub(
  database: Database,
  actor: Actor,
  device: Device,
  at: Date,
): Promise<Scrub> {
  return await transact(database, async (tx) => {
    const started = await insertScrub(tx, device, createId(), at);
    const scrub = await getScrub(tx, device);
    if (started) {
      await tell(tx, actor, device, scrub, { action: "scrub.start", type: "scrub.started", at, body: {} });
    }
    return scrub;
  });
}

/** The pass that a device is in, or its last one. @throws {StorageError} `scrub-not-found` when it never had one. */
export async function getScrub(connection: Connection, { poolId, deviceId, name }: Device): Promise<Scrub> {
  const [row] = await selectScrubs(connection)
    .where(and(eq(scrubs.poolId, poolId), eq(scrubs.deviceId, deviceId))).limit(1);
  if (row === undefined) {
    throw new StorageError("scrub-not-found", `Cannot find a scrub of device ${name}: it was never scrubbed`);
  }
  return toScrub(row);
}

/** Ends a pass before it is through; one that has ended stays as it is. @throws {StorageError} `scrub-not-found`. */
export async function cancelScrub(
  database: Database,
  actor: Actor,
  device: Device,
  at: Date,
): Promise<Scrub> {
  return await transact(database, async (tx) => {
    const cancelled = await updateCancelled(tx, device, at);
    const scrub = await getScrub(tx, device);
    const end = { action: "scrub.cancel", type: "scrub.finished", at, body: toEndBody(scrub) } as const;
    if (cancelled) await tell(tx, actor, device, scrub, end);
    return scrub;
  });
}

/** What is told of a pass that has ended. */
export function toEndBody({ status, blocksChecked, blocksUnchecked, blocksCorrupt }: Scrub) {
  return { status, blocksChecked, blocksUnchecked, blocksCorrupt };
}

async function tell(
  tx: Transaction,
  actor: Actor,
  { poolId, deviceId, name: targetName }: Device,
  { scrubId }: Scrub,
  { action, type, at, body }: {
    action: "scrub.start" | "scrub.cancel";
    type: EventType;
    at: Date;
    body: Record<string, unknown>;
  },
): Promise<void> {
  await appendAudit(tx, actor, { poolId, at, action, targetId: deviceId, targetName });
  await appendEvent(tx, poolId, { type, at, deviceId, body: { scrubId, ...body } });
}

function toScrub({ scrub, firstSegmentId, segmentsTouched }: ScrubRow): Scrub {
  const { doneSegment, endedAt } = scrub;
  const segmentsDone = scrub.status === "done" ? segmentsTouched : Math.max(0, doneSegment - firstSegmentId);
  return {
    poolId: scrub.poolId,
    deviceId: scrub.deviceId,
    scrubId: scrub.scrubId,
    status: scrub.status,
    segmentsDone,
    segmentsTotal: segmentsTouched,
    blocksChecked: scrub.blocksChecked,
    blocksUnchecked: scrub.blocksUnchecked,
    blocksCorrupt: scrub.blocksCorrupt,
    corrupt: scrub.corrupt as CorruptPlace[],
    startedAt: scrub.startedAt,
    ...(endedAt === null ? {} : { endedAt }),
  };
}
