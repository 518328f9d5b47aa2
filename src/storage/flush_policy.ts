/**
 * The flush policy of a pool: when those entries are flushed that nobody waits for.
 *
 * - *at-once*: as they come; the flusher only gathers for a moment.
 * - *interval*: when the oldest has waited so long. Blocks that are written over meanwhile are flushed once.
 * - *threshold*: when so much is dirty; or when the oldest has waited for the longest time, so that nothing stays dirty for
 *   ever in a pool at rest.
 *
 * Whatever the policy, flushing goes on at once as long as a marker waits for its seal or a client for its flush, and begins
 * before writes are slowed: {@linkcode judgeFlush}. What is due is asked for up to the end of the queue at that moment, and
 * that stands in the database. So a step of bounded size does not end what the policy has begun, who waits reaches the flusher in whichever
 * process it is, and a flusher that is killed forgets nothing.
 *
 * The policy stands in a row of its own, which neither appends nor flushes lock. Flushers read it with each look, so a change is
 * obeyed by all of them after `flushPollMs` at most.
 */

import type { Connection, Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { StorageLimits } from "./limits.ts";

export type FlushPolicy =
  | { readonly kind: "at-once" }
  | { readonly kind: "interval"; readonly intervalMs: number }
  | {
    readonly kind: "threshold";
    readonly dirtyBytes: number;
    /** How long an entry waits at most. */
    readonly maxAgeMs: number;
  };

/** What a client says: the longest wait may be absent. */
export type FlushPolicyInput =
  | Exclude<FlushPolicy, { kind: "threshold" }>
  | { readonly kind: "threshold"; readonly dirtyBytes: number; readonly maxAgeMs?: number };

/** What pools have that choose none. */
export const FLUSH_AT_ONCE: FlushPolicy = { kind: "at-once" };

/** How the queue of a pool stands that has entries. */
export interface QueueState {
  readonly policy: FlushPolicy;
  /** Whether the pool caches nothing: what is left from before is to go. */
  readonly isThrough: boolean;
  readonly cacheBytesMax: number;
  readonly dirtyBytes: number;
  readonly sequenceFlushed: number;
  /** Up to which flushing was asked for. */
  readonly sequenceAsked: number;
  readonly hasMarker: boolean;
  /** When the oldest entry was appended; null when it was not looked for, or just went. */
  readonly oldestAt: Date | null;
}

/** `asked`: somebody waits, or it was due before. `due`: it is now, and is to be asked for. */
export type FlushCall = "asked" | "due" | "resting";

type PolicyLimits = Pick<
  StorageLimits,
  "flushRestMsMin" | "flushRestMsMax" | "flushAgeMsDefault" | "flushPressureShare"
>;

// Statements

export async function insertPolicy(tx: Transaction, poolId: string, policy: FlushPolicy): Promise<void> {
  await tx.$client`
    insert into flush_policies (pool_id, policy) values (${poolId}, ${JSON.stringify(policy)}::text::jsonb)`;
}

export async function updatePolicy(tx: Transaction, poolId: string, policy: FlushPolicy): Promise<void> {
  await tx.$client`
    update flush_policies set policy = ${JSON.stringify(policy)}::text::jsonb where pool_id = ${poolId}`;
}

/** Asks for all to be flushed that was appended by now. */
export async function askFlush({ $client }: Connection, poolId: string): Promise<void> {
  await $client`
    update flush_policies f set sequence_asked = greatest(f.sequence_asked, h.sequence_appended)
    from pool_heads h where f.pool_id = ${poolId} and h.pool_id = f.pool_id`;
}

/** How long the policy of row `f` lets an entry wait, in milliseconds. */
export function selectRestMs({ $client }: Connection) {
  return $client`coalesce((f.policy ->> 'intervalMs')::bigint, (f.policy ->> 'maxAgeMs')::bigint, 0)`;
}

// Verbs

/** Whether a pool with entries is to be flushed at `at`. */
export function judgeFlush(
  { policy, isThrough, cacheBytesMax, dirtyBytes, sequenceFlushed, sequenceAsked, hasMarker, oldestAt }:
    QueueState,
  at: Date,
  { flushPressureShare }: Pick<PolicyLimits, "flushPressureShare">,
): FlushCall {
  if (policy.kind === "at-once" || isThrough || hasMarker || sequenceFlushed < sequenceAsked) return "asked";
  const restMs = policy.kind === "interval" ? policy.intervalMs : policy.maxAgeMs;
  const bytes = policy.kind === "interval" ? Infinity : policy.dirtyBytes;
  // In either direction: the clock may have been set back.
  const isOld = oldestAt !== null && Math.abs(at.getTime() - oldestAt.getTime()) >= restMs;
  const isLarge = dirtyBytes >= Math.min(bytes, flushPressureShare * cacheBytesMax);
  return isOld || isLarge ? "due" : "resting";
}

/**
 * The policy that a client means.
 *
 * @throws {StorageError} `invalid-argument` for one that cannot be kept.
 */
export function toFlushPolicy(
  input: FlushPolicyInput,
  { blockSizeBytes, cacheBytesMax }: { blockSizeBytes: number; cacheBytesMax: number },
  limits: PolicyLimits,
): FlushPolicy {
  if (input.kind === "at-once") return FLUSH_AT_ONCE;
  if (input.kind === "interval") {
    requireRest(input.intervalMs, limits);
    return { kind: "interval", intervalMs: input.intervalMs };
  }
  const { dirtyBytes, maxAgeMs = limits.flushAgeMsDefault } = input;
  requireRest(maxAgeMs, limits);
  const most = Math.floor(limits.flushPressureShare * cacheBytesMax);
  if (dirtyBytes < blockSizeBytes || dirtyBytes > most) {
    throw new StorageError(
      "invalid-argument",
      `Cannot flush at ${dirtyBytes} dirty bytes: expected ${blockSizeBytes} to ${most}, from where a cache of ${cacheBytesMax} is flushed anyway`,
    );
  }
  return { kind: "threshold", dirtyBytes, maxAgeMs };
}

function requireRest(ms: number, { flushRestMsMin, flushRestMsMax }: PolicyLimits): void {
  if (ms >= flushRestMsMin && ms <= flushRestMsMax) return;
  throw new StorageError(
    "invalid-argument",
    `Cannot let entries wait for ${ms} ms: expected ${flushRestMsMin} to ${flushRestMsMax}`,
  );
}
