/**
 * The audit: who did what, when, by which command.
 *
 * Invariant, *told truthfully* (9): a record is written in the transaction it speaks of. What was refused left no
 * trace, so it has no record. The same call tells a request's idempotency key what was done.
 */

import { and, asc, eq, gt } from "drizzle-orm";
import type { Database, Transaction } from "../database/client.ts";
import { audit } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { PhaseRecord } from "../scsi/phases.ts";
import type { ScsiStatus } from "../scsi/sense.ts";
import type { Actor } from "./actor.ts";
import { recordOutcome } from "./idempotency.ts";
import { createId, isId } from "./identifier.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";

/** What was done; the noun is the target's. */
export type AuditAction =
  | "client.create"
  | "client.revoke"
  | "client.rotate"
  | "copy.cancel"
  | "copy.create"
  | "pool.create"
  | "device.add"
  | "volume.clone"
  | "volume.create"
  | "volume.label"
  | "volume.resize"
  | "volume.delete"
  | "volume.import"
  | "volume.revert"
  | "schedule.change"
  | "schedule.create"
  | "schedule.delete"
  | "schedule.run"
  | "snapshot.cancel"
  | "snapshot.create"
  | "snapshot.delete"
  | "snapshot.hold"
  | "snapshot.label";

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
  const inserted = tx.$client`
    insert into audit (pool_id, audit_id, at, client_id, client_name, origin, action, target_id, target_name, cdb,
      data_out, scsi_status, phases, marker_sequence)
    values (${record.poolId}, ${auditId}, ${record.at.toISOString()}, ${actor.clientId}, ${actor.clientName},
      ${actor.origin}, ${record.action}, ${record.targetId}, ${record.targetName ?? null}, ${
    command?.cdb ?? null
  },
      ${command?.dataOut ?? null}, ${command?.scsiStatus ?? null},
      ${command === undefined ? null : JSON.stringify(command.phases)}::text::jsonb,
      ${command?.markerSequence ?? null})`;
  await Promise.all([recorded, inserted]);
  return auditId;
}

/** Adds the phases with which a disconnected command ends, and its status. */
export async function completeAudit(
  tx: Transaction,
  poolId: string,
  auditId: string,
  phases: PhaseRecord[],
  scsiStatus: ScsiStatus,
): Promise<void> {
  await tx.$client`
    update audit set phases = phases || ${JSON.stringify(phases)}::text::jsonb, scsi_status = ${scsiStatus}
    where pool_id = ${poolId} and audit_id = ${auditId}`;
}

/** The records, oldest first. */
export async function listAudit(database: Database, page: PageRequest): Promise<Page<AuditRecord>> {
  const rows = await database.select().from(audit)
    .where(page.after === undefined ? undefined : gt(audit.auditId, page.after))
    .orderBy(asc(audit.auditId))
    .limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.auditId, toRecord);
}

/** @throws {StorageError} `audit-record-not-found`. */
export async function getAuditRecord(database: Database, auditId: string): Promise<AuditRecord> {
  const rows = isId(auditId)
    ? await database.select().from(audit).where(and(eq(audit.auditId, auditId))).limit(1)
    : [];
  if (rows.length === 0) {
    throw new StorageError("audit-record-not-found", `Cannot find audit record ${auditId.slice(0, 64)}`);
  }
  return toRecord(rows[0]);
}

function toRecord(row: typeof audit.$inferSelect): AuditRecord {
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
    ...(row.cdb === null ? {} : { command: toCommand(row, row.cdb) }),
  };
}

function toCommand(row: typeof audit.$inferSelect, cdb: Uint8Array): AuditedCommand {
  return {
    cdb,
    ...(row.dataOut === null ? {} : { dataOut: row.dataOut }),
    ...(row.scsiStatus === null ? {} : { scsiStatus: row.scsiStatus as ScsiStatus }),
    phases: row.phases as PhaseRecord[],
    markerSequence: row.markerSequence as number,
  };
}
