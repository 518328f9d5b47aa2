/**
 * Changing a pool: what of it may change is how its cache takes writes, and how its queue is flushed.
 *
 * What a pool is never changes, so processes may remember it. What may change stands where those who obey it look each time.
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { type CacheMode, updateCacheMode } from "./cache_mode.ts";
import { appendEvent } from "./event.ts";
import { type FlushPolicy, type FlushPolicyInput, toFlushPolicy, updatePolicy } from "./flush_policy.ts";
import type { StorageLimits } from "./limits.ts";
import { lockPool, type Pool } from "./pool.ts";

/** What is to change; what is absent stays. */
export interface PoolChange {
  readonly cacheMode?: CacheMode;
  readonly flushPolicy?: FlushPolicyInput;
}

// Statements

interface Settings {
  readonly cacheMode: CacheMode;
  readonly flushPolicy: FlushPolicy;
}

async function selectSettings(tx: Transaction, poolId: string): Promise<Settings> {
  const [row] = await tx.$client<{ cache_mode: CacheMode; policy: FlushPolicy }[]>`
    select h.cache_mode, f.policy from pool_heads h join flush_policies f on f.pool_id = h.pool_id
    where h.pool_id = ${poolId}`;
  return { cacheMode: row.cache_mode, flushPolicy: row.policy };
}

// Verbs

/**
 * Changes a pool. All processes obey it: the mode from the next append on, the policy after their flushers' next look.
 *
 * @throws {StorageError} `invalid-argument` for a policy that cannot be kept.
 */
export async function changePool(
  database: Database,
  actor: Actor,
  pool: Pool,
  { cacheMode, flushPolicy }: PoolChange,
  limits: StorageLimits,
  at: Date,
): Promise<void> {
  const { poolId, name } = pool;
  const policy = flushPolicy === undefined ? undefined : toFlushPolicy(flushPolicy, pool, limits);
  await transact(database, async (tx) => {
    await lockPool(tx, poolId);
    if (cacheMode !== undefined) await updateCacheMode(tx, poolId, cacheMode);
    if (policy !== undefined) await updatePolicy(tx, poolId, policy);
    const settings = await selectSettings(tx, poolId);
    await appendAudit(tx, actor, { poolId, at, action: "pool.change", targetId: poolId, targetName: name });
    await appendEvent(tx, poolId, { type: "pool.changed", at, body: { name, ...settings } });
  });
}
