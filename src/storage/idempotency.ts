/**
 * Idempotency keys: a request that a client sends again under its key is carried out once, and answered as the first time.
 *
 *     claimed ──(work commits, and the outcome with it)──► done ──(the answer is stored)──► answered
 *        └──(refused for now, failed)──► released: as if the key had never been used
 *
 * Invariant, *once*: the outcome is written by the transaction that does the work, in {@linkcode recordOutcome}, and only for the
 * attempt that has the key; an attempt that lost it is rolled back. So work is committed if and only if its key says so, and
 * at most one attempt of a key ever commits, whoever dies at whichever moment.
 *
 * An attempt has the key for a bounded time, its lease. When that is over another attempt takes over: it carries the request out
 * if nothing was done, else it makes the answer from what stands there. Leases need no more than roughly equal clocks:
 * one that ends early costs the slow attempt its work, never a second execution. One that ends later than any could is from before the
 * clock was set back, and counts as over.
 *
 * What holds and what does not:
 * - *Once* holds for a request whose work is one transaction with an audit record, which is every one that takes a key. One of several
 *   transactions would be taken for done after its first. One without an audit record would be carried out again by whoever takes
 *   over from an attempt that died; its stored answer is repeated all the same.
 * - An answer that was stored is repeated as it was. One that is made again, because the server died between the commit and the
 *   storing, or because it was too large to store, tells of the same thing as it is now; when that is gone by then, so is the
 *   answer (`…-not-found`), and still nothing is done twice.
 * - A key is forgotten after a while; then it is a new one.
 *
 * A key belongs to a client and to no pool: it is the one table whose key does not lead with the pool.
 *
 * Source: draft-ietf-httpapi-idempotency-key-header-07.
 */

import type { Database, Transaction } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import type { AuditAction } from "./audit.ts";
import { createId } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";

/** An attempt that has a key. */
export interface KeyClaim {
  readonly clientId: string;
  readonly key: string;
  /** The attempt. */
  readonly ownerId: string;
}

/** One thing that a request has done, as its audit record has it. */
export interface Outcome {
  readonly poolId: string;
  readonly action: AuditAction;
  readonly targetId: string;
  /** Where in the queue that was. */
  readonly sequence?: number;
}

/** An answer as it is repeated. */
export interface KeptAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly location?: string;
  readonly body: string;
}

/** What to do with a request under a key. */
export type Claimed =
  /** Carry it out. */
  | { readonly state: "claimed"; readonly claim: KeyClaim }
  /** It was carried out, with that outcome in order, and has no answer. */
  | { readonly state: "done"; readonly claim: KeyClaim; readonly outcomes: Outcome[] }
  | { readonly state: "answered"; readonly answer: KeptAnswer };

// Statements

interface KeyRow {
  is_same: boolean;
  status: number | null;
  content_type: string | null;
  location: string | null;
  body: string | null;
}

/** A claim, the fingerprint of its request, and when its lease ends. */
interface NewClaim extends KeyClaim {
  readonly fingerprint: Uint8Array;
  readonly at: Date;
  readonly leaseUntil: Date;
  /** No lease that was taken by this clock ends later. */
  readonly leaseBeyond: Date;
}

/** Leases that the clocks of two processes may be apart. */
const LEASES_MAX = 2;

/** Takes a key that is new, or was made before `forgottenBefore`. */
async function insertKey({ $client }: Database, claim: NewClaim, forgottenBefore: Date): Promise<boolean> {
  const rows = await $client`
    insert into idempotency_keys as k (client_id, key, fingerprint, owner_id, lease_until, created_at)
    values (${claim.clientId}, ${claim.key}, ${claim.fingerprint}, ${claim.ownerId}, ${claim.leaseUntil.toISOString()},
      ${claim.at.toISOString()})
    on conflict (client_id, key) do update set
      fingerprint = excluded.fingerprint, owner_id = excluded.owner_id, lease_until = excluded.lease_until,
      created_at = excluded.created_at, outcome = null, status = null, content_type = null, location = null, body = null
    where k.created_at <= ${forgottenBefore.toISOString()}
    returning 1`;
  return rows.length > 0;
}

/** Takes over a key of the same request that has no answer and whose lease is over; answers its row, if it could. */
async function takeOver({ $client }: Database, claim: NewClaim): Promise<Outcome[] | null | undefined> {
  const [row] = await $client<{ outcome: Outcome[] | null }[]>`
    update idempotency_keys set owner_id = ${claim.ownerId}, lease_until = ${claim.leaseUntil.toISOString()}
    where client_id = ${claim.clientId} and key = ${claim.key} and fingerprint = ${claim.fingerprint}
      and status is null
      and (lease_until <= ${claim.at.toISOString()} or lease_until > ${claim.leaseBeyond.toISOString()})
    returning outcome`;
  return row?.outcome;
}

async function selectKey(
  { $client }: Database,
  { clientId, key, fingerprint }: NewClaim,
): Promise<KeyRow | undefined> {
  const [row] = await $client<KeyRow[]>`
    select fingerprint = ${fingerprint} as is_same, status, content_type, location, body from idempotency_keys
    where client_id = ${clientId} and key = ${key}`;
  return row;
}

async function deleteForgotten({ $client }: Database, before: Date, keysMax: number): Promise<void> {
  await $client`
    with forgotten as materialized (
      select client_id, key from idempotency_keys where created_at <= ${before.toISOString()}
      order by created_at limit ${keysMax} for update skip locked
    )
    delete from idempotency_keys k using forgotten f where k.client_id = f.client_id and k.key = f.key`;
}

async function addOutcome(
  tx: Transaction,
  { clientId, key, ownerId }: KeyClaim,
  outcome: Outcome,
): Promise<boolean> {
  const rows = await tx.$client`
    update idempotency_keys set outcome = coalesce(outcome, '[]') || ${JSON.stringify([outcome])}::text::jsonb
    where client_id = ${clientId} and key = ${key} and owner_id = ${ownerId}
    returning 1`;
  return rows.length > 0;
}

async function updateAnswer(
  { $client }: Database,
  { clientId, key, ownerId }: KeyClaim,
  { status, contentType, location, body }: KeptAnswer,
): Promise<void> {
  await $client`
    update idempotency_keys set status = ${status}, content_type = ${contentType}, location = ${
    location ?? null
  },
      body = ${body}
    where client_id = ${clientId} and key = ${key} and owner_id = ${ownerId}`;
}

/** Waits for a commit that is under way, so what that has done is seen. */
async function deleteUndone({ $client }: Database, { clientId, key, ownerId }: KeyClaim): Promise<void> {
  await $client`
    delete from idempotency_keys
    where client_id = ${clientId} and key = ${key} and owner_id = ${ownerId} and outcome is null`;
}

async function endLease(
  { $client }: Database,
  { clientId, key, ownerId }: KeyClaim,
  at: Date,
): Promise<void> {
  await $client`
    update idempotency_keys set lease_until = ${at.toISOString()}
    where client_id = ${clientId} and key = ${key} and owner_id = ${ownerId}`;
}

// Verbs

/** The keys that clients have used. */
export class IdempotencyKeys {
  constructor(
    private readonly database: Database,
    private readonly limits: StorageLimits,
    private readonly clock: () => Date,
  ) {}

  /**
   * Claims a key for a request.
   *
   * @param fingerprint what tells the request from others under the same key.
   * @throws {StorageError} `idempotency-key-reused` for another request's key, `idempotency-key-in-progress` while another attempt
   *   has it.
   */
  async claim(clientId: string, key: string, fingerprint: Uint8Array): Promise<Claimed> {
    const at = this.clock();
    const { idempotencyKeptMs, idempotencyLeaseMs, idempotencySweepKeys } = this.limits;
    const forgottenBefore = new Date(at.getTime() - idempotencyKeptMs);
    const claim = { clientId, key, ownerId: createId() };
    const leaseUntil = new Date(at.getTime() + idempotencyLeaseMs);
    const leaseBeyond = new Date(at.getTime() + LEASES_MAX * idempotencyLeaseMs);
    const wanted = { ...claim, fingerprint, at, leaseUntil, leaseBeyond };
    // 1. More are forgotten than one comes anew, so they never heap up
    await deleteForgotten(this.database, forgottenBefore, idempotencySweepKeys);
    // 2. A new one
    if (await insertKey(this.database, wanted, forgottenBefore)) return { state: "claimed", claim };
    // 3. One that nobody has any more
    const outcomes = await takeOver(this.database, wanted);
    if (outcomes === null) return { state: "claimed", claim };
    if (outcomes !== undefined) return { state: "done", claim, outcomes };
    // 4. One that somebody has, or that has its answer
    return { state: "answered", answer: requireAnswer(await selectKey(this.database, wanted)) };
  }

  /** Stores the answer that the request was given; one that is too large will be made again. */
  async keep(claim: KeyClaim, answer: KeptAnswer): Promise<void> {
    if (answer.body.length > this.limits.idempotencyAnswerCharactersMax) return await this.release(claim);
    await updateAnswer(this.database, claim, answer);
  }

  /** Gives the key back, so that the next attempt need not wait. What was done stays known. */
  async release(claim: KeyClaim): Promise<void> {
    await deleteUndone(this.database, claim);
    await endLease(this.database, claim, this.clock());
  }
}

/**
 * Writes what a request under a key has done, in the transaction that does it.
 *
 * @throws {StorageError} `idempotency-key-in-progress` when another attempt has taken over: the transaction must not commit.
 */
export async function recordOutcome(tx: Transaction, { claim }: Actor, outcome: Outcome): Promise<void> {
  if (claim === undefined || await addOutcome(tx, claim, outcome)) return;
  throw new StorageError(
    "idempotency-key-in-progress",
    "Cannot finish this request: it took so long that another one took over its Idempotency-Key",
  );
}

/** A key that is gone was given back a moment ago. */
function requireAnswer(row: KeyRow | undefined): KeptAnswer {
  if (row?.is_same === false) {
    throw new StorageError(
      "idempotency-key-reused",
      "Cannot take this Idempotency-Key: it was used for another request",
    );
  }
  if (row === undefined || row.status === null) {
    throw new StorageError(
      "idempotency-key-in-progress",
      "Cannot answer yet: the first request with this Idempotency-Key is in progress",
    );
  }
  return {
    status: row.status,
    contentType: row.content_type ?? "",
    ...(row.location === null ? {} : { location: row.location }),
    body: row.body ?? "",
  };
}
