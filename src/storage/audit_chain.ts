/**
 * The audit as a chain: whoever changes, takes out, puts in or moves a row makes every hash from there on wrong.
 *
 *     hash   = SHA-256(hash of the row before in its pool, or 32 zero bytes for the first; the row's fields)
 *     field  = length in bytes as decimal digits, ":", UTF-8 bytes, ","
 *     null   = "-,"
 *
 * The fields of a record: "record", pool id, audit id, moment (UTC, microseconds: 2026-11-25T18:56:20.123000Z), client id, client
 * name, origin, action, target id, target name, CDB in hex, data-out in hex, SCSI status, phases, marker's sequence. Those of a
 * completion, which tells how a command ended that was disconnected: "completion", pool id, audit id, SCSI status, phases. Phases
 * are JSON as PostgreSQL writes jsonb: keys by length and then by bytes, one space behind each colon and comma.
 *
 * Invariants:
 * - Numbers rise without a gap in commit order within a pool: number and hash are taken from the pool's row in `audit_heads`,
 *   which stays locked until the commit. Behind it a transaction locks nothing but the heads of further pools, by the pools' ids,
 *   and those of events.
 * - What is chained never changes. How a command ended is a row of its own.
 *
 * PostgreSQL makes the hashes, in the statement that locks the head: a round trip less under that lock. {@linkcode verifyChain}
 * makes them again here, by other code. Who may rewrite the database can chain it anew from any row on; what a receipt
 * ({@linkcode Receipt}) has of it is out of their reach.
 */

import type { Connection, Database, Transaction } from "../database/client.ts";
import type { NewAuditRecord } from "./audit.ts";
import type { Actor } from "./actor.ts";
import type { PhaseRecord } from "../scsi/phases.ts";
import type { ScsiStatus } from "../scsi/sense.ts";

/** Why a row does not fit. */
export type ChainFault = "changed" | "missing" | "unexpected";

/** A part of a chain, as it was found. */
export interface VerifiedChain {
  /** Rows of this part that fit. */
  readonly rowCount: number;
  /** The last row that fits: its number, 0 before the first, and its hash in hex. */
  readonly number: number;
  readonly hash: string;
  /** The first row that does not. */
  readonly fault?: { readonly number: number; readonly auditId?: string; readonly reason: ChainFault };
  /** The number to go on behind; absent when the chain is through, or does not fit. */
  readonly next?: number;
}

const START = new Uint8Array(32);

// Statements

type Client = Connection["$client"];

/** The fields of the record `r`. */
function recordFields($client: Client) {
  return $client`array['record', r.pool_id::text, r.audit_id::text, chain_moment(r.at), r.client_id::text, r.client_name,
    r.origin, r.action, r.target_id::text, r.target_name, encode(r.cdb, 'hex'), encode(r.data_out, 'hex'), r.scsi_status,
    r.phases::text, r.marker_sequence::text]`;
}

/** The fields of the completion `r`. */
function completionFields($client: Client) {
  return $client`array['completion', r.pool_id::text, r.audit_id::text, r.scsi_status, r.phases::text]`;
}

/** Chains a record. It takes the pool's audit lock. */
export async function chainRecord(
  tx: Transaction,
  actor: Actor,
  auditId: string,
  { poolId, at, action, targetId, targetName, command }: NewAuditRecord,
): Promise<void> {
  const { $client } = tx;
  const chained = await $client`
    with r as (
      select ${poolId}::uuid as pool_id, ${auditId}::uuid as audit_id, ${at.toISOString()}::timestamptz as at,
        ${actor.clientId}::uuid as client_id, ${actor.clientName}::text as client_name, ${actor.origin}::text as origin,
        ${action}::text as action, ${targetId}::uuid as target_id, ${targetName ?? null}::text as target_name,
        ${command?.cdb ?? null}::bytea as cdb, ${command?.dataOut ?? null}::bytea as data_out,
        ${command?.scsiStatus ?? null}::text as scsi_status,
        ${command === undefined ? null : JSON.stringify(command.phases)}::text::jsonb as phases,
        ${command?.markerSequence ?? null}::bigint as marker_sequence
    ), head as (
      update audit_heads h set chain_number = h.chain_number + 1,
        chain_hash = chain_hash(h.chain_hash, ${recordFields($client)})
      from r where h.pool_id = ${poolId}
      returning h.chain_number, h.chain_hash
    )
    insert into audit (pool_id, audit_id, at, client_id, client_name, origin, action, target_id, target_name, cdb,
      data_out, scsi_status, phases, marker_sequence, chain_number, chain_hash)
    select r.*, head.chain_number, head.chain_hash from r cross join head`;
  requireChained(chained.count, poolId);
}

/** Chains how a command ended. It takes the pool's audit lock. */
export async function chainCompletion(
  tx: Transaction,
  poolId: string,
  auditId: string,
  phases: PhaseRecord[],
  scsiStatus: ScsiStatus,
): Promise<void> {
  const { $client } = tx;
  const chained = await $client`
    with r as (
      select ${poolId}::uuid as pool_id, ${auditId}::uuid as audit_id, ${scsiStatus}::text as scsi_status,
        ${JSON.stringify(phases)}::text::jsonb as phases
    ), head as (
      update audit_heads h set chain_number = h.chain_number + 1,
        chain_hash = chain_hash(h.chain_hash, ${completionFields($client)})
      from r where h.pool_id = ${poolId}
      returning h.chain_number, h.chain_hash
    )
    insert into audit_completions (pool_id, audit_id, scsi_status, phases, chain_number, chain_hash)
    select r.*, head.chain_number, head.chain_hash from r cross join head`;
  requireChained(chained.count, poolId);
}

function requireChained(count: number, poolId: string): void {
  if (count !== 1) throw new Error(`Cannot chain a row of the audit: pool ${poolId} has no head`);
}

interface HeadRow {
  head_number: number;
  head_hash: Uint8Array;
}

interface ChainedRow extends HeadRow {
  chain_number: number;
  chain_hash: Uint8Array;
  audit_id: string;
  fields: (string | null)[];
}

/** The head, and up to `rowsMax` rows behind `after`, all as of one moment. A head without rows is one row without a number. */
async function selectChain(
  { $client }: Database,
  poolId: string,
  after: number,
  rowsMax: number,
): Promise<(HeadRow & (ChainedRow | { chain_number: null }))[]> {
  return await $client<(HeadRow & (ChainedRow | { chain_number: null }))[]>`
    select h.chain_number as head_number, h.chain_hash as head_hash, c.* from audit_heads h left join lateral (
      (
        select r.chain_number, r.chain_hash, r.audit_id, to_jsonb(${
    recordFields($client)
  }) as fields from audit r
        where r.pool_id = ${poolId} and r.chain_number > ${after}::bigint order by r.chain_number limit ${rowsMax}
      ) union all (
        select r.chain_number, r.chain_hash, r.audit_id, to_jsonb(${
    completionFields($client)
  }) from audit_completions r
        where r.pool_id = ${poolId} and r.chain_number > ${after}::bigint order by r.chain_number limit ${rowsMax}
      )
      order by chain_number limit ${rowsMax}
    ) c on true
    where h.pool_id = ${poolId}
    order by c.chain_number`;
}

async function selectHash(
  { $client }: Database,
  poolId: string,
  number: number,
): Promise<Uint8Array | undefined> {
  const [row] = await $client<{ chain_hash: Uint8Array }[]>`
    select chain_hash from audit where pool_id = ${poolId} and chain_number = ${number}
    union all select chain_hash from audit_completions where pool_id = ${poolId} and chain_number = ${number}
    limit 1`;
  return row?.chain_hash;
}

// Verbs

/**
 * Checks up to `rowsMax` rows of a pool's chain, the first ones or those behind number `after`, which was checked before. With the
 * last ones it checks that nothing is missing at the end.
 */
export async function verifyChain(
  database: Database,
  poolId: string,
  { after = 0, rowsMax }: { after?: number; rowsMax: number },
): Promise<VerifiedChain> {
  const start = after === 0 ? START : await selectHash(database, poolId, after);
  if (start === undefined) return toFault({ rowCount: 0, number: after, hash: START }, after, "missing");
  // What stands before the first number is found with it.
  const behind = after === 0 ? Number.MIN_SAFE_INTEGER : after;
  const rows = await selectChain(database, poolId, behind, rowsMax);
  let last = { rowCount: 0, number: after, hash: start };
  if (rows.length === 0) return toFault(last, after + 1, "missing");
  const [{ head_number: headNumber, head_hash: headHash }] = rows;
  const chained = rows.filter((row): row is ChainedRow => row.chain_number !== null);
  for (const row of chained) {
    const { chain_number: number, audit_id: auditId } = row;
    if (number <= last.number || number > headNumber) return toFault(last, number, "unexpected", auditId);
    if (number > last.number + 1) return toFault(last, last.number + 1, "missing");
    const hash = await hashFields(last.hash, row.fields);
    if (!isSame(hash, row.chain_hash)) return toFault(last, number, "changed", auditId);
    last = { rowCount: last.rowCount + 1, number, hash };
  }
  if (chained.length === rowsMax) return { ...toVerified(last), next: last.number };
  if (last.number !== headNumber) return toFault(last, last.number + 1, "missing");
  return isSame(last.hash, headHash) ? toVerified(last) : toFault(last, last.number, "changed");
}

/** Fields as they are hashed and signed, in bytes. */
export function frameFields(fields: (string | null)[]): Uint8Array<ArrayBuffer> {
  const encoder = new TextEncoder();
  const framed = fields.map((field) => field === null ? "-," : `${encoder.encode(field).length}:${field},`);
  return encoder.encode(framed.join(""));
}

interface Last {
  readonly rowCount: number;
  readonly number: number;
  readonly hash: Uint8Array;
}

function toVerified({ hash, ...last }: Last): VerifiedChain {
  return { ...last, hash: hash.toHex() };
}

function toFault(last: Last, number: number, reason: ChainFault, auditId?: string): VerifiedChain {
  return {
    ...toVerified(last),
    fault: { number, reason, ...(auditId === undefined ? {} : { auditId }) },
  };
}

async function hashFields(previous: Uint8Array, fields: (string | null)[]): Promise<Uint8Array> {
  const framed = frameFields(fields);
  const hashed = new Uint8Array(previous.length + framed.length);
  hashed.set(previous);
  hashed.set(framed, previous.length);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", hashed));
}

function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
