/**
 * What the SCSI side answers: a status, and with CHECK CONDITION the sense data that say why.
 *
 * {@linkcode SCSI_ANSWERS} is this side's table over the closed list of error codes, and does not compile when a
 * code is missing from it. An initiator acts on the answer without reading any message, so each is chosen for what
 * it makes the initiator do: come again later (BUSY, TASK SET FULL), try again (ABORTED COMMAND), or stop and look.
 * `null` stands where no command a SCSI initiator can send ends that way; the front door answers alone.
 *
 * Source: SAM-5 (statuses), SPC-4 4.5.3 (fixed-format sense data) and 4.5.6 (sense keys and additional sense codes),
 * SBC-3 (logical block provisioning: out of space is DATA PROTECT).
 */

import type { ErrorCode } from "../errors.ts";

/** The statuses a target of ours ends a command with. */
export type ScsiStatus = "GOOD" | "CHECK CONDITION" | "BUSY" | "TASK SET FULL" | "RESERVATION CONFLICT";

/** The status byte of each status (SAM-5). */
export const SCSI_STATUS_BYTES: Readonly<Record<ScsiStatus, number>> = {
  "GOOD": 0x00,
  "CHECK CONDITION": 0x02,
  "BUSY": 0x08,
  "RESERVATION CONFLICT": 0x18,
  "TASK SET FULL": 0x28,
};

/** A status with its sense data: all three of them with CHECK CONDITION, none with another status. */
export interface ScsiAnswer {
  readonly status: ScsiStatus;
  readonly senseKey?: number;
  /** Additional sense code. */
  readonly asc?: number;
  /** Additional sense code qualifier. */
  readonly ascq?: number;
}

// Sense keys (SPC-4 4.5.6).
const NOT_READY = 0x2;
const MEDIUM_ERROR = 0x3;
const HARDWARE_ERROR = 0x4;
const ILLEGAL_REQUEST = 0x5;
const DATA_PROTECT = 0x7;
const ABORTED_COMMAND = 0xb;

/** The SCSI answer to each error code; `null` where there is none. */
export const SCSI_ANSWERS: Readonly<Record<ErrorCode, ScsiAnswer | null>> = {
  // SCSI addresses by number and UUID: no name to be ambiguous.
  "ambiguous-name": null,
  "audit-record-not-found": null,
  // The queue holds as many commands as it may. An initiator lowers its queue depth and comes again.
  "cache-full": { status: "TASK SET FULL" },
  // INVALID FIELD IN CDB
  "cdb-field-invalid": checkCondition(ILLEGAL_REQUEST, 0x24, 0x00),
  "cdb-length-invalid": checkCondition(ILLEGAL_REQUEST, 0x24, 0x00),
  // INVALID COMMAND OPERATION CODE
  "cdb-opcode-unknown": checkCondition(ILLEGAL_REQUEST, 0x20, 0x00),
  // Clients are the front doors' own, as initiators are the transport's.
  "client-not-found": null,
  "copy-not-found": null,
  // UNRECOVERED READ ERROR: an initiator goes to another copy of the data, if it has one, and not on with these.
  "data-corrupt": checkCondition(MEDIUM_ERROR, 0x11, 0x00),
  // LOGICAL UNIT COMMUNICATION FAILURE. Nothing was done. Not BUSY: someone may have to go and look, and NOT READY
  // says so.
  "database-unavailable": checkCondition(NOT_READY, 0x08, 0x00),
  // Devices stand behind the target, where no initiator addresses them.
  "device-not-found": null,
  // SPACE ALLOCATION FAILED WRITE PROTECT, as for a pool that is out of segments: somebody has to make room.
  "disk-full": checkCondition(DATA_PROTECT, 0x27, 0x07),
  // ACCESS DENIED - NO ACCESS RIGHTS
  "forbidden": checkCondition(ILLEGAL_REQUEST, 0x20, 0x02),
  "held": null,
  // Keys are HTTP's: a SCSI initiator knows its commands by their tags.
  "idempotency-key-in-progress": null,
  "idempotency-key-reused": null,
  "in-use": null,
  // SPACE ALLOCATION FAILED WRITE PROTECT
  "insufficient-space": checkCondition(DATA_PROTECT, 0x27, 0x07),
  // An argument that is neither in a CDB nor in a parameter list: those have codes of their own.
  "invalid-argument": null,
  // LOGICAL BLOCK ADDRESS OUT OF RANGE
  "lba-out-of-range": checkCondition(ILLEGAL_REQUEST, 0x21, 0x00),
  // INVALID FIELD IN PARAMETER LIST: the one place where an initiator can give a name.
  "name-taken": checkCondition(ILLEGAL_REQUEST, 0x26, 0x00),
  // SCSI counts in blocks: it cannot say half of one.
  "not-whole-blocks": null,
  // LOGICAL UNIT COMMUNICATION FAILURE, met half way. Not ABORTED COMMAND: it would be sent again at once, and a
  // snapshot may be taken twice. An initiator reports HARDWARE ERROR upwards instead.
  "outcome-unknown": checkCondition(HARDWARE_ERROR, 0x08, 0x00),
  "outside-snapshot": checkCondition(ILLEGAL_REQUEST, 0x21, 0x00),
  // INVALID FIELD IN PARAMETER LIST
  "parameter-list-invalid": checkCondition(ILLEGAL_REQUEST, 0x26, 0x00),
  // PARAMETER LIST LENGTH ERROR
  "parameter-list-length-invalid": checkCondition(ILLEGAL_REQUEST, 0x1a, 0x00),
  // The pool is the target: where there is none, a selection times out and nobody sends a status.
  "pool-not-found": null,
  // The initiator comes too fast: it waits, and sends the same again.
  "rate-limited": { status: "BUSY" },
  // INVALID FIELD IN CDB, as SBC-3 has it for a transfer length above the MAXIMUM TRANSFER LENGTH.
  "request-too-large": checkCondition(ILLEGAL_REQUEST, 0x24, 0x00),
  // Schedules are the system's own: no command names one.
  "schedule-not-found": null,
  // Scrubs are of devices, which no initiator addresses.
  "scrub-not-found": null,
  // A snapshot has no logical unit number of its own.
  "snapshot-not-found": null,
  // Streams come by doors of other kinds.
  "stream-invalid": null,
  // COMMAND TIMEOUT DURING PROCESSING (SPC-5). The command was given up and left nothing behind, so an initiator
  // may send it again; where that is not certain the code is outcome-unknown.
  "timed-out": checkCondition(ABORTED_COMMAND, 0x2e, 0x02),
  "too-busy": { status: "BUSY" },
  // As many commands of this initiator are in the task set as may be. It lowers its queue depth and comes again.
  "too-many-at-once": { status: "TASK SET FULL" },
  // INSUFFICIENT RESOURCES
  "too-many-snapshots": checkCondition(ILLEGAL_REQUEST, 0x55, 0x03),
  "unrelated-snapshots": null,
  "volume-changed": null,
  // LOGICAL UNIT NOT SUPPORTED
  "volume-not-found": checkCondition(ILLEGAL_REQUEST, 0x25, 0x00),
};

/** Bytes of fixed-format sense data without vendor specific ones. */
const FIXED_SENSE_BYTES = 18;
/** Current error, fixed format; the INFORMATION field is not valid. */
const FIXED_SENSE_RESPONSE_CODE = 0x70;
/** Bytes that follow byte 7, which holds their number. */
const ADDITIONAL_SENSE_BYTES = FIXED_SENSE_BYTES - 8;

/** Writes an answer as the object the wire carries: a copy, with numbers, and without what does not apply. */
export function formatScsiAnswer({ status, senseKey, asc = 0, ascq = 0 }: ScsiAnswer): ScsiAnswer {
  return senseKey === undefined ? { status } : { status, senseKey, asc, ascq };
}

/** Encodes the sense data of an answer, 18 bytes; an answer that has none encodes as NO SENSE. */
export function encodeFixedSense({ senseKey = 0, asc = 0, ascq = 0 }: ScsiAnswer): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(FIXED_SENSE_BYTES);
  bytes[0] = FIXED_SENSE_RESPONSE_CODE;
  bytes[2] = senseKey;
  bytes[7] = ADDITIONAL_SENSE_BYTES;
  bytes[12] = asc;
  bytes[13] = ascq;
  return bytes;
}

function checkCondition(senseKey: number, asc: number, ascq: number): ScsiAnswer {
  return { status: "CHECK CONDITION", senseKey, asc, ascq };
}
