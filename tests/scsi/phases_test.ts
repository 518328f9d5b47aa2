/**
 * The phases of a transaction, in the order in which the design tells them.
 */

import { assertEquals } from "@std/assert";
import {
  completedPhases,
  disconnectedPhases,
  type PhaseRecord,
  reselectedPhases,
  selectionPhases,
} from "../../src/scsi/phases.ts";

const RECEIVED_AT = new Date("2026-03-04T05:06:07.008Z");
const ANSWERED_AT = new Date("2026-03-04T05:06:07.010Z");
const SEALED_AT = new Date("2026-03-04T05:06:09.000Z");
const RECEIVED = "2026-03-04T05:06:07.008Z";
const ANSWERED = "2026-03-04T05:06:07.010Z";
const SEALED = "2026-03-04T05:06:09.000Z";

Deno.test("selectionPhases() tells a request without data-out", () => {
  assertEquals(selectionPhases({ receivedAt: RECEIVED_AT, dataOut: false }), [
    { phase: "BUS FREE", at: RECEIVED },
    { phase: "ARBITRATION", at: RECEIVED },
    { phase: "SELECTION", at: RECEIVED },
    { phase: "COMMAND", at: RECEIVED },
  ]);
});

Deno.test("selectionPhases() ends with DATA OUT when a parameter list follows", () => {
  assertEquals(selectionPhases({ receivedAt: RECEIVED_AT, dataOut: true }), [
    { phase: "BUS FREE", at: RECEIVED },
    { phase: "ARBITRATION", at: RECEIVED },
    { phase: "SELECTION", at: RECEIVED },
    { phase: "COMMAND", at: RECEIVED },
    { phase: "DATA OUT", at: RECEIVED },
  ]);
});

Deno.test("completedPhases() tells STATUS, COMMAND COMPLETE and a free bus", () => {
  assertEquals(completedPhases(ANSWERED_AT), [
    { phase: "STATUS", at: ANSWERED, status: "GOOD" },
    { phase: "MESSAGE IN", at: ANSWERED, message: "COMMAND COMPLETE" },
    { phase: "BUS FREE", at: ANSWERED },
  ]);
});

Deno.test("completedPhases() tells the status of a refused command", () => {
  assertEquals(completedPhases(ANSWERED_AT, "TASK SET FULL")[0], {
    phase: "STATUS",
    at: ANSWERED,
    status: "TASK SET FULL",
  });
});

Deno.test("disconnectedPhases() tells DISCONNECT and a free bus, without a status", () => {
  assertEquals(disconnectedPhases(ANSWERED_AT), [
    { phase: "MESSAGE IN", at: ANSWERED, message: "DISCONNECT" },
    { phase: "BUS FREE", at: ANSWERED },
  ]);
});

Deno.test("reselectedPhases() tells the target's return and its answer", () => {
  assertEquals(reselectedPhases(SEALED_AT), [
    { phase: "ARBITRATION", at: SEALED },
    { phase: "RESELECTION", at: SEALED },
    { phase: "STATUS", at: SEALED, status: "GOOD" },
    { phase: "MESSAGE IN", at: SEALED, message: "COMMAND COMPLETE" },
    { phase: "BUS FREE", at: SEALED },
  ]);
});

Deno.test("reselectedPhases() tells the status of a snapshot that came to nothing", () => {
  const statuses = reselectedPhases(SEALED_AT, "CHECK CONDITION").map(({ status }) => status);
  assertEquals(statuses, [undefined, undefined, "CHECK CONDITION", undefined, undefined]);
});

Deno.test("phases of a transaction without IMMED join into the standard's sequence", () => {
  const phases: PhaseRecord[] = [
    ...selectionPhases({ receivedAt: RECEIVED_AT, dataOut: true }),
    ...disconnectedPhases(ANSWERED_AT),
    ...reselectedPhases(SEALED_AT),
  ];
  assertEquals(phases.map(({ phase, message }) => message ?? phase), [
    "BUS FREE",
    "ARBITRATION",
    "SELECTION",
    "COMMAND",
    "DATA OUT",
    "DISCONNECT",
    "BUS FREE",
    "ARBITRATION",
    "RESELECTION",
    "STATUS",
    "COMMAND COMPLETE",
    "BUS FREE",
  ]);
});
