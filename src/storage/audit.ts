/**
 * The audit: who did what, when, by which command.
 *
 * Invariant, *told truthfully* (9): a record is written in the transaction it speaks of. What was refused left no
 * trace, so it has no record. The same call tells a request's idempotency key what was done.
 *
 * Records are chained (`audit_chain.ts`): write them late in a transaction, right before its events.
 */

import { and, asc, eq, gt } from "drizzle-orm";
import type { Database, Transaction } from "../database/client.ts";
import { audit, auditCompletions } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { PhaseRecord } from "../scsi/phases.ts";
import type { ScsiStatus } from "../scsi/sense.ts";
import type { Actor } from "./actor.ts";
import { chainRecord } from "./audit_chain.ts";
import { recordOutcome } from "./idempotency.ts";
import { createId, isId } from "./identifier.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";

/** What was done; the noun is the target's. */
export type AuditAction =
  | "client.change"
  | "client.create"
  | "client.revoke"
  | "client.rotate"
  | "copy.cancel"
  | "copy.create"
  | "pool.change"
  | "pool.create"
  | "device.add"
  | "volume.clone"
  | "volume.create"
  | "volume.label"
  | "volume.limit"
  | "volume.resize"
  | "volume.delete"
  | "volume.import"
  | "volume.revert"
  | "schedule.change"
  | "schedule.create"
  | "schedule.delete"
  | "schedule.run"
  | "scrub.cancel"
  | "scrub.start"
  | "snapshot.cancel"
  | "snapshot.create"
  | "snapshot.delete"
  | "snapshot.hold"
  | "snapshot.label"
  | "snapshot.verify";

/** Where records stand that are of no pool, such as those of clients. */
export const NO_POOL = "00000000-0000-0000-0000-000000000000";

/** The SCSI command that carried a request, and how its transaction went. */
export interface AuditedCommand {
  readonly cdb: Uint8Array;
  /** The parameter list, when the command has one. */
  readonly dataOut?: Uint8Array;
  /** Absent until the command has ended. */
  readonly scsiStatus?: ScsiStatus;
  readonly phases: PhaseRecord[];
  readonly markerSequence: number;
}

/** One record of the audit. */
export interface AuditRecord {
  /** {@linkcode NO_POOL} where it is of none. */
  readonly poolId: string;
  readonly auditId: string;
  readonly at: Date;
  readonly clientId: string;
  readonly clientName: string;
  readonly origin: string;
  readonly action: AuditAction;
  readonly targetId: string;
  readonly targetName?: string;
  readonly command?: AuditedCommand;
  /** Its place in its pool's chain, and the hash there. */
  readonly chainNumber: number;
  readonly chainHash: Uint8Array;
}

/** What {@linkcode appendAudit} is told besides who asked. */
export type NewAuditRecord =
  & Pick<AuditRecord, "poolId" | "at" | "action" | "targetId" | "targetName" | "command">
  & {
    readonly auditId?: string;
    /** Where in the queue it was, of what has no command that says so. */
    readonly sequence?: number;
  };

/** Writes a record and answers its id. */
export async function appendAudit(tx: Transaction, actor: Actor, record: NewAuditRecord): Promise<string> {
  const auditId = record.auditId ?? createId();
  const { command, poolId, action, targetId } = record;
  const sequence = command?.markerSequence ?? record.sequence;
  const recorded = recordOutcome(tx, actor, {
    poolId,
    action,
    targetId,
    ...(sequence === undefined ? {} : { sequence }),
  });
  await Promise.all([recorded, chainRecord(tx, actor, auditId, record)]);
  return auditId;
}

/** Writes records of several pools, in the order of the pools' ids, so that no two who do wait for each other. */
export async function appendAudits(tx: Transaction, actor: Actor, records: NewAuditRecord[]): Promise<void> {
  const inOrder = records.toSorted((a, b) => a.poolId < b.poolId ? -1 : 1);
  for (const record of inOrder) await appendAudit(tx, actor, record);
}

function selectAudit(database: Database) {
  return database.select({ record: audit, completion: auditCompletions }).from(audit).leftJoin(
    auditCompletions,
    and(eq(auditCompletions.poolId, audit.poolId), eq(auditCompletions.auditId, audit.auditId)),
  );
}

type AuditRow = Awaited<ReturnType<typeof selectAudit>>[number];

/** The records, oldest first. */
export async function listAudit(database: Database, page: PageRequest): Promise<Page<AuditRecord>> {
  const rows = await selectAudit(database)
    .where(page.after === undefined ? undefined : gt(audit.auditId, page.after))
    .orderBy(asc(audit.auditId))
    .limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.record.auditId, toRecord);
}

/** @throws {StorageError} `audit-record-not-found`. */
export async function getAuditRecord(database: Database, auditId: string): Promise<AuditRecord> {
  const rows = isId(auditId) ? await selectAudit(database).where(eq(audit.auditId, auditId)).limit(1) : [];
  if (rows.length === 0) {
    throw new StorageError("audit-record-not-found", `Cannot find audit record ${auditId.slice(0, 64)}`);
  }
  return toRecord(rows[0]);
}

function toRecord({ record: row, completion }: AuditRow): AuditRecord {
  return {
    poolId: row.poolId,
    auditId: row.auditId,
    at: row.at,
    clientId: row.clientId,
    clientName: row.clientName,
    origin: row.origin,
    action: row.action as AuditAction,
    targetId: row.targetId,
    ...(row.targetName === null ? {} : { targetName: row.targetName }),
    ...(row.cdb === null ? {} : { command: toCommand(row, row.cdb, completion) }),
    chainNumber: row.chainNumber,
    chainHash: row.chainHash,
  };
}

/** A command as it was recorded, with what came of it since. */
function toCommand(
  row: AuditRow["record"],
  cdb: Uint8Array,
  completion: AuditRow["completion"],
): AuditedCommand {
  const scsiStatus = completion?.scsiStatus ?? row.scsiStatus;
  return {
    cdb,
    ...(row.dataOut === null ? {} : { dataOut: row.dataOut }),
    ...(scsiStatus === null ? {} : { scsiStatus: scsiStatus as ScsiStatus }),
    phases: [...row.phases as PhaseRecord[], ...(completion?.phases ?? []) as PhaseRecord[]],
    markerSequence: row.markerSequence as number,
  };
}
