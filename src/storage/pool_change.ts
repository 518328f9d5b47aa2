/**
 * Changing a pool: what of it may change is how its queue is flushed.
 *
 * What a pool is never changes, so processes may remember it. What may change stands where those who obey it look each time.
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import type { Actor } from "./actor.ts";
import { appendAudit } from "./audit.ts";
import { appendEvent } from "./event.ts";
import { type FlushPolicy, type FlushPolicyInput, toFlushPolicy, updatePolicy } from "./flush_policy.ts";
import type { StorageLimits } from "./limits.ts";
import { lockPool, type Pool } from "./pool.ts";

/** What is to change; what is absent stays. */
export interface PoolChange {
  readonly flushPolicy?: FlushPolicyInput;
}

// Statements

async function selectSettings(tx: Transaction, poolId: string): Promise<{ flushPolicy: FlushPolicy }> {
  const [row] = await tx.$client<{ policy: FlushPolicy }[]>`
    select policy from flush_policies where pool_id = ${poolId}`;
  return { flushPolicy: row.policy };
}

// Verbs

/**
 * Changes a pool. All processes obey it: the policy after their flushers' next look.
 *
 * @throws {StorageError} `invalid-argument` for a policy that cannot be kept.
 */
export async function changePool(
  database: Database,
  actor: Actor,
  pool: Pool,
  { flushPolicy }: PoolChange,
  limits: StorageLimits,
  at: Date,
): Promise<void> {
  const { poolId, name } = pool;
  const policy = flushPolicy === undefined ? undefined : toFlushPolicy(flushPolicy, pool, limits);
  await transact(database, async (tx) => {
    await lockPool(tx, poolId);
    if (policy !== undefined) await updatePolicy(tx, poolId, policy);
    const settings = await selectSettings(tx, poolId);
    await appendAudit(tx, actor, { poolId, at, action: "pool.change", targetId: poolId, targetName: name });
    await appendEvent(tx, poolId, { type: "pool.changed", at, body: { name, ...settings } });
  });
}
