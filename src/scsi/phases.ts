/**
 * The bus phases a SNAPSHOT transaction goes through, as the standard names them, each with its time.
 *
 * The initiator is the client, the target is the pool. The audit row keeps the phases in order:
 *
 *     request          BUS FREE → ARBITRATION → SELECTION → COMMAND (→ DATA OUT, with a parameter list)
 *     with IMMED       → STATUS → MESSAGE IN (COMMAND COMPLETE) → BUS FREE
 *     without          → MESSAGE IN (DISCONNECT) → BUS FREE
 *       when sealed    ARBITRATION → RESELECTION → STATUS → MESSAGE IN (COMMAND COMPLETE) → BUS FREE
 *
 * No wire is arbitrated for, so the phases of one step share one moment: that of the request's arrival, or of the
 * transaction that recorded what they speak of. A refused command goes the way of IMMED, with the status it got.
 *
 * Source: SCSI-2 (ANSI X3.131-1994), clause 6, and SPI-3 (phases, their sequences, messages). The IDENTIFY messages
 * after SELECTION and RESELECTION are left out: the audit row names the client and the volumes.
 */

import type { ScsiStatus } from "./sense.ts";

/** A bus phase that a transaction of ours can be in. */
export type ScsiPhase =
  | "BUS FREE"
  | "ARBITRATION"
  | "SELECTION"
  | "RESELECTION"
  | "COMMAND"
  | "DATA OUT"
  | "STATUS"
  | "MESSAGE IN";

/** One phase of a transaction, as the audit row keeps it. */
export interface PhaseRecord {
  phase: ScsiPhase;
  /** When the phase was entered: ISO 8601, UTC. */
  at: string;
  /** Of MESSAGE IN alone: what the target said. */
  message?: "DISCONNECT" | "COMMAND COMPLETE";
  /** Of STATUS alone: what the target answered. */
  status?: ScsiStatus;
}

/** Tells how the request came in: from a free bus to the command and, with `dataOut`, its parameter list. */
export function selectionPhases(
  { receivedAt, dataOut }: { receivedAt: Date; dataOut: boolean },
): PhaseRecord[] {
  const at = receivedAt.toISOString();
  const phases: PhaseRecord[] = [
    { phase: "BUS FREE", at },
    { phase: "ARBITRATION", at },
    { phase: "SELECTION", at },
    { phase: "COMMAND", at },
  ];
  if (dataOut) phases.push({ phase: "DATA OUT", at });
  return phases;
}

/** Tells how a command was answered without the bus being left in between: with IMMED, or refused. */
export function completedPhases(answeredAt: Date, status: ScsiStatus = "GOOD"): PhaseRecord[] {
  const at = answeredAt.toISOString();
  return [
    { phase: "STATUS", at, status },
    { phase: "MESSAGE IN", at, message: "COMMAND COMPLETE" },
    { phase: "BUS FREE", at },
  ];
}

/** Tells how the target left the bus to come back when the snapshot is sealed. */
export function disconnectedPhases(disconnectedAt: Date): PhaseRecord[] {
  const at = disconnectedAt.toISOString();
  return [
    { phase: "MESSAGE IN", at, message: "DISCONNECT" },
    { phase: "BUS FREE", at },
  ];
}

/** Tells how the target came back to answer: GOOD when sealed, another status when the snapshot came to nothing. */
export function reselectedPhases(reselectedAt: Date, status: ScsiStatus = "GOOD"): PhaseRecord[] {
  const at = reselectedAt.toISOString();
  return [
    { phase: "ARBITRATION", at },
    { phase: "RESELECTION", at },
    ...completedPhases(reselectedAt, status),
  ];
}
