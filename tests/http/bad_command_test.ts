/** Commands that are none: reserved bits, unknown operation codes, wrong lengths, ranges and lists that cannot be. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestVolume, type TestDoor } from "../support/door.ts";
import {
  assertNothingStored,
  assertProblem,
  INVALID_ARGUMENT,
  INVALID_FIELD_IN_CDB,
  INVALID_REQUEST,
  LBA_OUT_OF_RANGE,
  LIST_INVALID,
  type Refusal,
  refusalsOf,
  sense,
  VOLUME_NOT_FOUND,
} from "./problem.ts";

const CDB_LENGTH_INVALID: Refusal = { status: 422, code: "cdb-length-invalid", scsi: sense(0x5, 0x24, 0x00) };
const OPCODE_UNKNOWN: Refusal = { status: 422, code: "cdb-opcode-unknown", scsi: sense(0x5, 0x20, 0x00) };
const LIST_LENGTH_INVALID: Refusal = {
  status: 422,
  code: "parameter-list-length-invalid",
  scsi: sense(0x5, 0x1a, 0x00),
};

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v", { blockCount: 64 });
  await createTestVolume(door, "w", { blockCount: 64 });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);

/** Of each operation code: the bytes that must be zero besides reserved flags, and the length. */
const COMMANDS = [[0xc0, [2, 3, 4, 5], 6], [0xc1, [6, 9], 10], [0xc2, [10, 11], 12]] as const;

for (const [opcode, zeroBytes, length] of COMMANDS) {
  Deno.test(`POST /snapshots refuses each reserved bit of ${opcode.toString(16)}h with 5/24h/00h`, async () => {
    await assertNothingStored(door, async () => {
      const reserved: [index: number, bit: number][] = [3, 4, 5, 6, 7].map((bit) => [1, bit]);
      for (const index of zeroBytes) for (let bit = 0; bit < 8; bit++) reserved.push([index, bit]);
      for (const [index, bit] of reserved) {
        const cdb = new Uint8Array(length);
        cdb[0] = opcode;
        cdb[1] = 0b011;
        cdb[index] |= 1 << bit;
        const answer = await door.call("POST", "/snapshots", { json: { cdb: cdb.toHex() } });
        assertProblem(answer, INVALID_FIELD_IN_CDB);
      }
    });
  });

  Deno.test(`POST /snapshots refuses ${opcode.toString(16)}h in any length but ${length} with 5/24h/00h`, async () => {
    await assertNothingStored(door, async () => {
      for (let wrong = 1; wrong <= 32; wrong++) {
        if (wrong === length) continue;
        const cdb = new Uint8Array(wrong);
        cdb.set([opcode, 0b011].slice(0, wrong));
        const answer = await door.call("POST", "/snapshots", { json: { cdb: cdb.toHex() } });
        assertProblem(answer, CDB_LENGTH_INVALID);
      }
    });
  });
}

Deno.test("POST /snapshots refuses each of the 253 unknown operation codes with 5/20h/00h", async () => {
  await assertNothingStored(door, async () => {
    let unknown = 0;
    for (let opcode = 0; opcode < 256; opcode++) {
      if (opcode >= 0xc0 && opcode <= 0xc2) continue;
      const cdb = `${opcode.toString(16).padStart(2, "0")}0300000000`;
      assertProblem(await door.call("POST", "/snapshots", { json: { cdb } }), OPCODE_UNKNOWN);
      unknown += 1;
    }
    assertEquals(unknown, 253);
  });
});

for (
  const [what, json, refusal] of [
    ["an empty CDB", { cdb: "" }, CDB_LENGTH_INVALID],
    ["half a byte", { cdb: "c0010000000" }, CDB_LENGTH_INVALID],
    ["17 bytes", { cdb: "c0".repeat(17) }, CDB_LENGTH_INVALID],
    ["what is no hex", { cdb: "c001000000zz" }, INVALID_FIELD_IN_CDB],
    ["0x before the hex", { cdb: "0xc00100000000" }, INVALID_FIELD_IN_CDB],
    ["a CDB that addresses nothing", { cdb: "c00100000000" }, INVALID_ARGUMENT],
    ["POOL with a range", { cdb: "c1030000000000000100" }, INVALID_FIELD_IN_CDB],
    ["a range past the end", { cdb: "c1010000003f00000200", volume: "v" }, LBA_OUT_OF_RANGE],
    ["a range at the end", { cdb: "c1010000004000000000", volume: "v" }, LBA_OUT_OF_RANGE],
    ["a range past the end", { cdb: "c201ffffffffffffffff0000", volume: "v" }, LBA_OUT_OF_RANGE],
    ["LIST without a list", { cdb: "c00700000000" }, LIST_LENGTH_INVALID],
    ["a list without LIST", { cdb: "c00300000000", dataOut: "00000000" }, LIST_LENGTH_INVALID],
    ["an empty list", { cdb: "c00700000000", dataOut: "" }, LIST_LENGTH_INVALID],
    ["a list longer than it says", { cdb: "c00700000000", dataOut: "0000000000" }, LIST_LENGTH_INVALID],
    [
      "a list shorter than it says",
      { cdb: "c00700000000", dataOut: "0000000501000002" },
      LIST_LENGTH_INVALID,
    ],
    [
      "a descriptor past the end",
      { cdb: "c00700000000", dataOut: "000000050100000561" },
      LIST_LENGTH_INVALID,
    ],
    ["an unknown descriptor", { cdb: "c00700000000", dataOut: "0000000404000000" }, LIST_INVALID],
    ["a reserved byte", { cdb: "c00700000000", dataOut: "000000050101000161" }, LIST_INVALID],
    ["two names", { cdb: "c00700000000", dataOut: "0000000a01000001610100000162" }, LIST_INVALID],
    ["an empty name", { cdb: "c00700000000", dataOut: "0000000401000000" }, LIST_INVALID],
    ["a name that is not UTF-8", { cdb: "c00700000000", dataOut: "0000000501000001ff" }, LIST_INVALID],
    ["half a UUID", { cdb: "c00500000000", dataOut: `0000000c03000008${"00".repeat(8)}` }, LIST_INVALID],
    [
      "an unknown volume",
      { cdb: "c00500000000", dataOut: `0000001403000010${"00".repeat(16)}` },
      VOLUME_NOT_FOUND,
    ],
    [
      "POOL with listed volumes",
      { cdb: "c00700000000", dataOut: `0000001403000010${"00".repeat(16)}` },
      LIST_INVALID,
    ],
    ["data-out that is no hex", { cdb: "c00700000000", dataOut: "0g" }, INVALID_REQUEST],
    ["half a byte of data-out", { cdb: "c00700000000", dataOut: "000" }, INVALID_REQUEST],
    ["an unknown volume", { cdb: "c00100000000", volume: "nowhere" }, VOLUME_NOT_FOUND],
    ["an unknown pool", { cdb: "c00300000000", pool: "nowhere" }, { status: 404, code: "pool-not-found" }],
    ["a range past the end", { volumes: ["v"], lba: 60, blockCount: 5 }, LBA_OUT_OF_RANGE],
    ["a range at the end", { volumes: ["v"], lba: 64 }, LBA_OUT_OF_RANGE],
    ["an LBA that no CDB has room for", { volumes: ["v"], lba: 2 ** 32 }, LBA_OUT_OF_RANGE],
    ["a count that no CDB has room for", { volumes: ["v"], blockCount: 2 ** 32 }, LBA_OUT_OF_RANGE],
    ["a volume whole and by ranges", { volumes: ["v"], ranges: [{ volume: "v", lba: 0 }] }, LIST_INVALID],
    ["one of several ranges past the end", {
      ranges: [{ volume: "v", lba: 0, blockCount: 1 }, { volume: "v", lba: 63, blockCount: 2 }],
    }, LBA_OUT_OF_RANGE],
    ["a range of an unknown volume", { ranges: [{ volume: "nowhere", lba: 0 }] }, VOLUME_NOT_FOUND],
    ["no ranges at all", { ranges: [] }, INVALID_REQUEST],
    ["a range without an LBA", { ranges: [{ volume: "v" }] }, INVALID_REQUEST],
    ["ranges, and a range", { ranges: [{ volume: "v", lba: 0 }], lba: 1 }, INVALID_FIELD_IN_CDB],
    [
      "a range of 31 bytes",
      { cdb: "c00500000000", dataOut: `000000230400001f${"00".repeat(31)}` },
      LIST_INVALID,
    ],
    [
      "POOL with listed ranges",
      { cdb: "c00700000000", dataOut: `0000002404000020${"00".repeat(32)}` },
      LIST_INVALID,
    ],
    ["a range of two volumes", { volumes: ["v", "w"], lba: 1 }, INVALID_FIELD_IN_CDB],
    ["a range of the pool", { lba: 1, blockCount: 1 }, INVALID_FIELD_IN_CDB],
    ["a volume named twice", { volumes: ["v", "v"] }, LIST_INVALID],
  ] as const
) {
  refuses(`${what} (${JSON.stringify(json).slice(0, 70)})`, ["POST", "/snapshots", { json }], refusal);
}
refuses("a CDB that is no text", ["POST", "/snapshots", { json: { cdb: 0xc0 } }], INVALID_REQUEST);
refuses("another wait", ["POST", "/snapshots?wait=flushed", { json: {} }], INVALID_REQUEST);
refuses(
  "to wait for a CDB",
  ["POST", "/snapshots?wait=sealed", { json: { cdb: "c00300000000" } }],
  INVALID_REQUEST,
);
