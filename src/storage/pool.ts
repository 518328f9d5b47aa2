/**
 * Pools: one storage system each, with its devices, its volumes, one cache and one sequence. Nothing crosses pools.
 *
 * Invariants kept here:
 * - *Ordered* (2): sequence order is commit order within a pool. Sequence numbers are taken from the pool's row
 *   (`pool_heads`) under its lock, {@linkcode lockPool}, and the lock is held until the commit. A number is given back
 *   by a rollback, so there are no gaps. A bare PostgreSQL sequence would give neither.
 * - *One lock* (8): whatever changes the map takes the same lock. Those changes that do more than add also raise
 *   `mapVersion`, and a process that reads a version it does not know forgets what it remembered of the map.
 *
 * The lock is the first one a transaction takes, and nothing slow happens under it. The flusher never takes it: what it
 * has done stands in a row of its own (`pool_tails`). So what is dirty is a difference of two counters.
 */

import { and, asc, eq, gt, sql } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { bigintLiteral, uuidLiteral } from "../database/literal.ts";
import {
  auditHeads,
  cache,
  devices,
  eventHeads,
  flushPolicies,
  poolHeads,
  poolLives,
  pools,
  poolTails,
} from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { BLOCK_SIZE_BYTES_MAX, BLOCK_SIZE_BYTES_MIN, isBlockSize } from "./block.ts";
import type { CacheMode } from "./cache_mode.ts";
import { appendEvent } from "./event.ts";
import {
  FLUSH_AT_ONCE,
  type FlushPolicy,
  type FlushPolicyInput,
  insertPolicy,
  toFlushPolicy,
} from "./flush_policy.ts";
import { createId, isId, requireName, requireOne } from "./identifier.ts";
import { beginLife, NO_LIFE } from "./life.ts";
import type { StorageLimits } from "./limits.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";

/** What a pool is; it never changes, so a process may remember it. */
export interface Pool {
  readonly poolId: string;
  readonly name: string;
  readonly blockSizeBytes: number;
  readonly segmentBlocks: number;
  /** Writes are refused while the cache holds more. */
  readonly cacheBytesMax: number;
  readonly createdAt: Date;
}

/** The ordered point of a pool, as read under its lock. */
export interface PoolHead {
  /** The life of the database in which it stands there. */
  readonly life: string;
  readonly cacheMode: CacheMode;
  readonly sequenceAppended: number;
  readonly bytesAppended: number;
  readonly mapVersion: number;
  readonly timelinesCreated: number;
  readonly segmentsCreated: number;
  /** Entries that never were in the cache. */
  readonly entriesThrough: number;
  /** Entries and bytes in the cache; at most that, for a flush may be under way. */
  readonly dirtyEntries: number;
  readonly dirtyBytes: number;
}

/** A pool and how it stands. Segments and blocks are counts. */
export interface PoolStatus extends Pool {
  readonly cacheMode: CacheMode;
  /** The life of the database, or {@linkcode NO_LIFE}. */
  readonly writeVerifier: string;
  readonly flushPolicy: FlushPolicy;
  readonly deviceCount: number;
  readonly capacityBytes: number;
  readonly segmentCount: number;
  readonly freeSegments: number;
  /** Segments taken, in bytes: what devices run out of. */
  readonly mappedBytes: number;
  readonly dirtyEntries: number;
  readonly dirtyBytes: number;
  readonly sequenceAppended: number;
  readonly sequenceFlushed: number;
}

/** What a new pool may choose. */
export interface NewPool {
  readonly name: string;
  /** A power of two, 512 … 65,536. */
  readonly blockSizeBytes: number;
  /** A power of two. */
  readonly segmentBlocks: number;
  readonly cacheBytesMax: number;
  /** Write-back, unless given. */
  readonly cacheMode?: CacheMode;
  /** At once, unless given. */
  readonly flushPolicy?: FlushPolicyInput;
}

/** The pool that is meant where none is named. */
export const DEFAULT_POOL = "main";

/** Largest segment: its blocks share one row's worth of work in the flusher. */
export const SEGMENT_BYTES_MAX = 4 * 1024 * 1024;

// Statements

interface HeadRow {
  sequence_appended: number;
  bytes_appended: number;
  map_version: number;
  timelines_created: number;
  segments_created: number;
  cache_mode: CacheMode;
  entries_through: number;
  dirty_entries: number;
  dirty_bytes: number;
  life: string | null;
}

/** Locks the pool's row until the transaction ends, and reads it. Take it before any other lock but the tail's. */
export async function lockPool(tx: Transaction, poolId: string): Promise<PoolHead> {
  const [row] = await tx.$client<HeadRow[]>`
    select h.sequence_appended, h.bytes_appended, h.map_version, h.timelines_created, h.segments_created, h.cache_mode,
      h.entries_through, h.sequence_appended - h.entries_through - t.entries_flushed as dirty_entries,
      h.bytes_appended - t.bytes_flushed as dirty_bytes, l.life
    from pool_heads h join pool_tails t on t.pool_id = h.pool_id left join pool_lives l on l.pool_id = h.pool_id
    where h.pool_id = ${poolId}
    for update of h`;
  return {
    life: row.life ?? await beginLife(tx, poolId),
    cacheMode: row.cache_mode,
    sequenceAppended: row.sequence_appended,
    bytesAppended: row.bytes_appended,
    mapVersion: row.map_version,
    timelinesCreated: row.timelines_created,
    segmentsCreated: row.segments_created,
    entriesThrough: row.entries_through,
    dirtyEntries: row.dirty_entries,
    dirtyBytes: row.dirty_bytes,
  };
}

/** Waits for the pool's tail, the right to move blocks and to take entries out of the queue. Take it before the pool's row. */
export async function lockTail(tx: Transaction, poolId: string): Promise<void> {
  await tx.$client`select from pool_tails where pool_id = ${poolId} for update`;
}

/** How far {@linkcode advancePool} moves each counter. */
export interface PoolAdvance {
  readonly sequences?: number;
  /** Of those, the ones that are not in the cache. */
  readonly through?: number;
  readonly bytes?: number;
  readonly mapVersions?: number;
  readonly timelines?: number;
  readonly segments?: number;
}

/** Moves the counters of a pool that this transaction has locked. */
export async function advancePool(tx: Transaction, poolId: string, by: PoolAdvance): Promise<void> {
  await tx.$client`
    update pool_heads set
      sequence_appended = sequence_appended + ${by.sequences ?? 0}::bigint,
      entries_through = entries_through + ${by.through ?? 0}::bigint,
      bytes_appended = bytes_appended + ${by.bytes ?? 0}::bigint,
      map_version = map_version + ${by.mapVersions ?? 0}::bigint,
      timelines_created = timelines_created + ${by.timelines ?? 0}::bigint,
      segments_created = segments_created + ${by.segments ?? 0}::bigint
    where pool_id = ${poolId}`;
}

/**
 * The statement that moves the head on from where `head` says it stands. It fails, and with it the transaction, when the
 * head or the map has changed since, or the database has come back from a crash: {@linkcode isHeadMoved}. It locks the pool like {@linkcode lockPool}.
 */
export function formatAdvance(
  poolId: string,
  head: PoolHead,
  by: { sequences: number; bytes: number; through: boolean },
): string {
  const counts = [head.mapVersion, head.sequenceAppended, by.sequences, by.bytes].map(bigintLiteral);
  return `select append_at(${uuidLiteral(poolId)}, ${
    uuidLiteral(head.life)
  }, ${counts.join()}, ${by.through})`;
}

/** Tells whether `error` says that a pool's head was not where {@linkcode formatAdvance} had it. */
export function isHeadMoved(error: unknown): boolean {
  return (error as { code?: string }).code === "SM001";
}

function selectStatus(database: Connection) {
  return database.select({
    poolId: pools.poolId,
    name: pools.name,
    blockSizeBytes: pools.blockSizeBytes,
    segmentBlocks: pools.segmentBlocks,
    cacheBytesMax: pools.cacheBytesMax,
    createdAt: pools.createdAt,
    cacheMode: poolHeads.cacheMode,
    life: poolLives.life,
    flushPolicy: flushPolicies.policy,
    sequenceAppended: poolHeads.sequenceAppended,
    bytesAppended: poolHeads.bytesAppended,
    entriesThrough: poolHeads.entriesThrough,
    // What was written through, no flusher has come by.
    sequenceFlushed: sql<number>`coalesce((
      select ${cache.sequence} - 1 from ${cache}
      where ${cache.poolId} = ${pools.poolId} and ${cache.sequence} > ${poolTails.sequenceFlushed}
      order by ${cache.sequence} limit 1
    ), ${poolHeads.sequenceAppended})`,
    entriesFlushed: poolTails.entriesFlushed,
    bytesFlushed: poolTails.bytesFlushed,
    deviceCount: sql<number>`(select count(*) from ${devices} where ${devices.poolId} = ${pools.poolId})`,
    blockCount: sumOfDevices(sql`${devices.blockCount}`),
    segmentCount: sumOfDevices(sql`${devices.segmentCount}`),
    takenSegments: sumOfDevices(sql`${devices.segmentsTouched} - ${devices.segmentsReturned}`),
  }).from(pools)
    .innerJoin(poolHeads, eq(poolHeads.poolId, pools.poolId))
    .innerJoin(poolTails, eq(poolTails.poolId, pools.poolId))
    .innerJoin(flushPolicies, eq(flushPolicies.poolId, pools.poolId))
    .leftJoin(poolLives, eq(poolLives.poolId, pools.poolId));
}

function sumOfDevices(value: ReturnType<typeof sql>) {
  return sql<
    number
  >`(select coalesce(sum(${value}), 0)::bigint from ${devices} where ${devices.poolId} = ${pools.poolId})`;
}

// Verbs

/**
 * Creates a pool without devices.
 *
 * @throws {StorageError} `name-taken`; `invalid-argument` for a name, size or policy out of bounds.
 */
export async function createPool(
  database: Database,
  actor: Actor,
  { cacheMode = "write-back", flushPolicy = FLUSH_AT_ONCE, ...input }: NewPool,
  limits: StorageLimits,
  at: Date,
): Promise<Pool> {
  requireName(input.name);
  requirePoolShape(input);
  const policy = toFlushPolicy(flushPolicy, input, limits);
  const pool = { poolId: createId(), ...input, createdAt: at };
  const { poolId } = pool;
  try {
    await transact(database, async (tx) => {
      await tx.insert(pools).values(pool);
      await tx.insert(poolHeads).values({ poolId, cacheMode });
      await tx.insert(poolTails).values({ poolId });
      await insertPolicy(tx, poolId, policy);
      await tx.insert(auditHeads).values({ poolId });
      await tx.insert(eventHeads).values({ poolId });
      await appendAudit(tx, actor, {
        poolId,
        at,
        action: "pool.create",
        targetId: poolId,
        targetName: pool.name,
      });
      await appendEvent(tx, poolId, { type: "pool.created", at, body: { name: pool.name } });
    });
  } catch (error) {
    if (!isUniqueViolation(error, "pools_name")) throw error;
    throw new StorageError("name-taken", `Cannot create pool ${pool.name}: there is one of that name`);
  }
  return pool;
}

/** @throws {StorageError} `pool-not-found`. */
export async function getPool(connection: Connection, reference: string): Promise<Pool> {
  const rows = await connection.select().from(pools)
    .where(isId(reference) ? eq(pools.poolId, reference) : eq(pools.name, reference));
  return requireOne(rows, "pool-not-found", reference);
}

/** The id of a pool, if one is named. @throws {StorageError} `pool-not-found`. */
export async function findPoolId(
  connection: Connection,
  reference: string | undefined,
): Promise<string | undefined> {
  return reference === undefined ? undefined : (await getPool(connection, reference)).poolId;
}

/** How the pool stands. @throws {StorageError} `pool-not-found`. */
export async function getPoolStatus(database: Database, reference: string): Promise<PoolStatus> {
  const rows = await selectStatus(database)
    .where(isId(reference) ? eq(pools.poolId, reference) : eq(pools.name, reference));
  return toStatus(requireOne(rows, "pool-not-found", reference));
}

/** The pools, in order of creation. */
export async function listPools(database: Database, page: PageRequest): Promise<Page<PoolStatus>> {
  const rows = await selectStatus(database)
    .where(and(page.after === undefined ? undefined : gt(pools.poolId, page.after)))
    .orderBy(asc(pools.poolId))
    .limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.poolId, toStatus);
}

function requirePoolShape({ blockSizeBytes, segmentBlocks, cacheBytesMax }: NewPool): void {
  if (!isBlockSize(blockSizeBytes)) {
    throw new StorageError(
      "invalid-argument",
      `Cannot use blocks of ${blockSizeBytes} bytes: expected a power of two, ${BLOCK_SIZE_BYTES_MIN} to ${BLOCK_SIZE_BYTES_MAX}`,
    );
  }
  const segmentBytes = segmentBlocks * blockSizeBytes;
  if (!Number.isInteger(Math.log2(segmentBlocks)) || segmentBlocks < 1 || segmentBytes > SEGMENT_BYTES_MAX) {
    throw new StorageError(
      "invalid-argument",
      `Cannot use segments of ${segmentBlocks} blocks: expected a power of two and at most ${SEGMENT_BYTES_MAX} bytes`,
    );
  }
  if (!Number.isSafeInteger(cacheBytesMax) || cacheBytesMax < blockSizeBytes) {
    throw new StorageError(
      "invalid-argument",
      "Cannot use this cache bound: expected room for one block at least",
    );
  }
}

function toStatus(row: Awaited<ReturnType<typeof selectStatus>>[number]): PoolStatus {
  const { poolId, name, blockSizeBytes, segmentBlocks, cacheBytesMax, createdAt } = row;
  return {
    poolId,
    name,
    blockSizeBytes,
    segmentBlocks,
    cacheBytesMax,
    createdAt,
    cacheMode: row.cacheMode as CacheMode,
    writeVerifier: row.life ?? NO_LIFE,
    flushPolicy: row.flushPolicy as FlushPolicy,
    deviceCount: row.deviceCount,
    capacityBytes: row.blockCount * blockSizeBytes,
    segmentCount: row.segmentCount,
    freeSegments: row.segmentCount - row.takenSegments,
    mappedBytes: row.takenSegments * segmentBlocks * blockSizeBytes,
    dirtyEntries: row.sequenceAppended - row.entriesThrough - row.entriesFlushed,
    dirtyBytes: row.bytesAppended - row.bytesFlushed,
    sequenceAppended: row.sequenceAppended,
    sequenceFlushed: row.sequenceFlushed,
  };
}
