/**
 * Devices: backing stores of a pool. A device's blocks live in a partition of `blocks` of their own.
 *
 * A device can be added at any time and at any size in the same time: its segments get the next numbers of the pool,
 * and the free list knows them by two numbers. The partition is attached rather than created in place, because ATTACH
 * lets reads and flushes of the other devices go on.
 */

import { and, asc, eq, gt } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { devices } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { requireBlockCount } from "./block.ts";
import { appendEvent } from "./event.ts";
import { createId, isId, requireName, requireOne } from "./identifier.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";
import { advancePool, lockPool, type Pool } from "./pool.ts";

/** A device. Block and segment counts are whole segments; `freeSegments` of them are on the free list. */
export interface Device {
  readonly poolId: string;
  readonly deviceId: string;
  readonly name: string;
  readonly blockCount: number;
  readonly firstSegmentId: number;
  readonly segmentCount: number;
  readonly freeSegments: number;
  readonly createdAt: Date;
}

/** A segment as its device describes it: blocks `[firstBlock, firstBlock + blockCount)` of the device. */
export interface SegmentDescriptor {
  readonly segmentId: number;
  readonly deviceId: string;
  readonly firstBlock: number;
  readonly blockCount: number;
  readonly state: "free" | "mapped";
  /** The map row that names the segment, when it is mapped. */
  readonly timelineId?: number;
  readonly slot?: number;
  readonly epoch?: number;
}

/**
 * A partition is vacuumed when a tenth of it is dead, and without pauses. With PostgreSQL's defaults vacuum falls ever further
 * behind a writer that overwrites: 4.6 GB instead of 1.8 for a volume of 1 GiB after 70 s, at the same rate of writes.
 */
const VACUUM = ["", "toast."].flatMap((table) => [
  `${table}autovacuum_vacuum_scale_factor = 0.1`,
  `${table}autovacuum_vacuum_cost_delay = 0`,
]).join(", ");

// Statements

async function attachPartition(tx: Transaction, deviceId: string): Promise<void> {
  const partition = `blocks_${deviceId.replaceAll("-", "")}`;
  await tx.$client.unsafe(`create table ${partition} (like blocks including all) with (${VACUUM})`);
  await tx.$client.unsafe(`alter table blocks attach partition ${partition} for values in ('${deviceId}')`);
}

interface DescriptorRow {
  segment_id: number;
  timeline_id: number | null;
  slot: number | null;
  epoch: number | null;
}

async function selectDescriptors(
  database: Database,
  poolId: string,
  firstSegmentId: number,
  endSegmentId: number,
): Promise<DescriptorRow[]> {
  return await database.$client<DescriptorRow[]>`
    select s.segment_id, m.timeline_id, m.slot, m.epoch
    from generate_series(${firstSegmentId}::bigint, ${endSegmentId - 1}::bigint) as s (segment_id)
    left join segment_map m on m.pool_id = ${poolId} and m.segment_id = s.segment_id
    order by s.segment_id`;
}

// Verbs

/**
 * Adds a device of `blockCount` blocks, rounded down to whole segments.
 *
 * @throws {StorageError} `name-taken`; `invalid-argument` for a name or a device smaller than one segment.
 */
export async function addDevice(
  database: Database,
  actor: Actor,
  pool: Pool,
  input: { name: string; blockCount: number },
  at: Date,
): Promise<Device> {
  requireName(input.name);
  requireBlockCount(input.blockCount);
  const segmentCount = Math.floor(input.blockCount / pool.segmentBlocks);
  if (segmentCount < 1) {
    throw new StorageError(
      "invalid-argument",
      `Cannot add a device of ${input.blockCount} blocks: a segment has ${pool.segmentBlocks}`,
    );
  }
  const { poolId } = pool;
  const deviceId = createId();
  const blockCount = segmentCount * pool.segmentBlocks;
  try {
    return await transact(database, async (tx) => {
      // 1. The partition, before the pool is locked
      await attachPartition(tx, deviceId);
      // 2. The numbers of its segments
      const { segmentsCreated } = await lockPool(tx, poolId);
      await advancePool(tx, poolId, { segments: segmentCount });
      // 3. The device, and word of it
      const row = {
        poolId,
        deviceId,
        name: input.name,
        blockCount,
        firstSegmentId: segmentsCreated,
        segmentCount,
        createdAt: at,
      };
      await tx.insert(devices).values(row);
      await appendAudit(tx, actor, {
        poolId,
        at,
        action: "device.add",
        targetId: deviceId,
        targetName: input.name,
      });
      await appendEvent(tx, poolId, {
        type: "device.added",
        at,
        deviceId,
        body: { name: input.name, blockCount },
      });
      return { ...row, freeSegments: segmentCount };
    });
  } catch (error) {
    if (!isUniqueViolation(error, "devices_name")) throw error;
    throw new StorageError("name-taken", `Cannot add device ${input.name}: the pool has one of that name`);
  }
}

/** @throws {StorageError} `device-not-found`, `ambiguous-name`. */
export async function getDevice(connection: Connection, reference: string, poolId?: string): Promise<Device> {
  const rows = await connection.select().from(devices).where(and(
    isId(reference) ? eq(devices.deviceId, reference) : eq(devices.name, reference),
    poolId === undefined ? undefined : eq(devices.poolId, poolId),
  )).limit(2);
  return toDevice(requireOne(rows, "device-not-found", reference));
}

/** The devices, of one pool or of all, in order of creation. */
export async function listDevices(
  database: Database,
  poolId: string | undefined,
  page: PageRequest,
): Promise<Page<Device>> {
  const rows = await database.select().from(devices).where(and(
    poolId === undefined ? undefined : eq(devices.poolId, poolId),
    page.after === undefined ? undefined : gt(devices.deviceId, page.after),
  )).orderBy(asc(devices.deviceId)).limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.deviceId, toDevice);
}

/** The descriptors of a device's segments, ascending; a page's key is the last segment's id. */
export async function listSegments(
  database: Database,
  pool: Pool,
  device: Device,
  page: PageRequest,
): Promise<Page<SegmentDescriptor>> {
  const first = Math.max(device.firstSegmentId, Number(page.after ?? -1) + 1);
  const end = Math.min(first + page.itemsMax + 1, device.firstSegmentId + device.segmentCount);
  const rows = await selectDescriptors(database, device.poolId, first, end);
  return toPage(rows, page, (row) => row.segment_id, (row) => toDescriptor(row, pool, device));
}

function toDevice(row: typeof devices.$inferSelect): Device {
  const { segmentsTouched, segmentsReturned, ...device } = row;
  return { ...device, freeSegments: row.segmentCount - segmentsTouched + segmentsReturned };
}

function toDescriptor(row: DescriptorRow, pool: Pool, device: Device): SegmentDescriptor {
  const descriptor = {
    segmentId: row.segment_id,
    deviceId: device.deviceId,
    firstBlock: (row.segment_id - device.firstSegmentId) * pool.segmentBlocks,
    blockCount: pool.segmentBlocks,
  };
  const { timeline_id: timelineId, slot, epoch } = row;
  if (timelineId === null || slot === null || epoch === null) return { ...descriptor, state: "free" };
  return { ...descriptor, state: "mapped", timelineId, slot, epoch };
}
