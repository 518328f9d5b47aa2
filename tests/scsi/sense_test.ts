/**
 * SCSI answers: the table over the error codes, row by row, and the bytes of sense data.
 */

import { assert, assertEquals } from "@std/assert";
import { ERROR_CODES, type ErrorCode } from "../../src/errors.ts";
import {
  encodeFixedSense,
  formatScsiAnswer,
  SCSI_ANSWERS,
  SCSI_STATUS_BYTES,
  type ScsiAnswer,
} from "../../src/scsi/sense.ts";

/** Each code with its status, or with its sense key, additional sense code and qualifier. */
const EXPECTED: Record<ErrorCode, string | null> = {
  "ambiguous-name": null,
  "audit-record-not-found": null,
  "cache-full": "TASK SET FULL",
  "cdb-field-invalid": "5/24h/00h",
  "cdb-length-invalid": "5/24h/00h",
  "cdb-opcode-unknown": "5/20h/00h",
  "client-not-found": null,
  "copy-not-found": null,
  "data-corrupt": "3/11h/00h",
  "database-unavailable": "2/08h/00h",
  "device-not-found": null,
  "disk-full": "7/27h/07h",
  "forbidden": "5/20h/02h",
  "held": null,
  "idempotency-key-in-progress": null,
  "idempotency-key-reused": null,
  "in-use": null,
  "insufficient-space": "7/27h/07h",
  "invalid-argument": null,
  "lba-out-of-range": "5/21h/00h",
  "name-taken": "5/26h/00h",
  "not-whole-blocks": null,
  "outcome-unknown": "4/08h/00h",
  "outside-snapshot": "5/21h/00h",
  "parameter-list-invalid": "5/26h/00h",
  "parameter-list-length-invalid": "5/1Ah/00h",
  "pool-not-found": null,
  "rate-limited": "BUSY",
  "request-too-large": "5/24h/00h",
  "schedule-not-found": null,
  "scrub-not-found": null,
  "snapshot-not-found": null,
  "stream-invalid": null,
  "timed-out": "B/2Eh/02h",
  "too-busy": "BUSY",
  "too-many-at-once": "TASK SET FULL",
  "too-many-snapshots": "5/55h/03h",
  "unrelated-snapshots": null,
  "volume-changed": null,
  "volume-not-found": "5/25h/00h",
};

Deno.test("SCSI_STATUS_BYTES are those of SAM-5", () => {
  assertEquals(SCSI_STATUS_BYTES, {
    "GOOD": 0x00,
    "CHECK CONDITION": 0x02,
    "BUSY": 0x08,
    "RESERVATION CONFLICT": 0x18,
    "TASK SET FULL": 0x28,
  });
});

Deno.test("SCSI_ANSWERS has a row for every error code and no other", () => {
  assertEquals(Object.keys(SCSI_ANSWERS).toSorted(), ERROR_CODES.toSorted());
});

for (const code of ERROR_CODES) {
  Deno.test(`SCSI_ANSWERS answers ${code} with ${EXPECTED[code] ?? "nothing"}`, () => {
    assertEquals(describeAnswer(SCSI_ANSWERS[code]), EXPECTED[code]);
  });
}

Deno.test("SCSI_ANSWERS carries sense data with CHECK CONDITION and with no other status", () => {
  for (const answer of Object.values(SCSI_ANSWERS)) {
    if (answer === null) continue;
    const hasSense = answer.status === "CHECK CONDITION";
    for (const part of [answer.senseKey, answer.asc, answer.ascq]) assertEquals(part !== undefined, hasSense);
    assert(answer.status !== "GOOD");
  }
});

Deno.test("formatScsiAnswer() writes status and sense data as numbers", () => {
  assertEquals(formatScsiAnswer({ status: "CHECK CONDITION", senseKey: 5, asc: 0x24, ascq: 0 }), {
    status: "CHECK CONDITION",
    senseKey: 5,
    asc: 36,
    ascq: 0,
  });
});

Deno.test("formatScsiAnswer() leaves sense data out where there is none", () => {
  assertEquals(Object.keys(formatScsiAnswer({ status: "GOOD" })), ["status"]);
  assertEquals(Object.keys(formatScsiAnswer({ status: "BUSY", senseKey: undefined })), ["status"]);
});

Deno.test("formatScsiAnswer() returns a copy", () => {
  const answer: ScsiAnswer = { status: "GOOD" };
  assert(formatScsiAnswer(answer) !== answer);
});

Deno.test("encodeFixedSense() encodes 18 bytes of fixed format", () => {
  const golden: readonly (readonly [hex: string, answer: ScsiAnswer])[] = [
    ["70000500000000" + "0a" + "00000000" + "2400" + "00000000", {
      status: "CHECK CONDITION",
      senseKey: 5,
      asc: 0x24,
      ascq: 0,
    }],
    ["70000700000000" + "0a" + "00000000" + "2707" + "00000000", {
      status: "CHECK CONDITION",
      senseKey: 7,
      asc: 0x27,
      ascq: 7,
    }],
    ["70000b00000000" + "0a" + "00000000" + "2e02" + "00000000", {
      status: "CHECK CONDITION",
      senseKey: 11,
      asc: 0x2e,
      ascq: 2,
    }],
  ];
  for (const [hex, answer] of golden) assertEquals(encodeFixedSense(answer).toHex(), hex);
});

Deno.test("encodeFixedSense() encodes NO SENSE for an answer without sense data", () => {
  assertEquals(
    encodeFixedSense({ status: "GOOD" }).toHex(),
    "70000000000000" + "0a" + "00000000" + "000000000000",
  );
});

function describeAnswer(answer: ScsiAnswer | null): string | null {
  if (answer === null) return null;
  const { status, senseKey, asc, ascq } = answer;
  if (senseKey === undefined) return status;
  return [senseKey.toString(16).toUpperCase(), describeByte(asc), describeByte(ascq)].join("/");
}

function describeByte(value: number | undefined): string {
  return `${value?.toString(16).toUpperCase().padStart(2, "0")}h`;
}
