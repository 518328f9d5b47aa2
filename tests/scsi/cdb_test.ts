/**
 * The SNAPSHOT command codec against CDBs written by hand from the layout, and against everything that is none.
 */

import { assert, assertEquals } from "@std/assert";
import {
  decodeSnapshotCdb,
  encodeSnapshotCdb,
  formatByte,
  formatHex,
  parseCdbHex,
  SNAPSHOT_10_OPCODE,
  SNAPSHOT_12_OPCODE,
  SNAPSHOT_6_OPCODE,
  type SnapshotCdb,
  type SnapshotCdbFields,
} from "../../src/scsi/cdb.ts";
import { assertRefused, assertTotal } from "./refusal.ts";

const WHOLE_VOLUME: SnapshotCdbFields = {
  immed: false,
  pool: false,
  list: false,
  firstLba: 0,
  blockCount: 0,
};

/** Hex written by hand, and what it says; each is the smallest command that says it. */
const GOLDEN: readonly (readonly [hex: string, cdb: SnapshotCdb])[] = [
  ["c00000000000", snapshot6({})],
  ["c00100000000", snapshot6({ immed: true })],
  ["c00200000000", snapshot6({ pool: true })],
  ["c00400000000", snapshot6({ list: true })],
  ["c00700000000", snapshot6({ immed: true, pool: true, list: true })],
  ["c1000000000000000100", snapshot10({ firstLba: 0, blockCount: 1 })],
  ["c1010000000700000800", snapshot10({ immed: true, firstLba: 7, blockCount: 8 })],
  ["c1000000000100000000", snapshot10({ firstLba: 1, blockCount: 0 })],
  ["c10512345678009abc00", snapshot10({ immed: true, list: true, firstLba: 0x12345678, blockCount: 0x9abc })],
  ["c100ffffffff00ffff00", snapshot10({ firstLba: 4_294_967_295, blockCount: 65_535 })],
  ["c20000000000000100000000", snapshot12({ firstLba: 0, blockCount: 65_536 })],
  ["c204123456789abcdef00000", snapshot12({ list: true, firstLba: 0x12345678, blockCount: 0x9abcdef0 })],
  ["c200ffffffffffffffff0000", snapshot12({ firstLba: 4_294_967_295, blockCount: 4_294_967_295 })],
];

Deno.test("SNAPSHOT opcodes are C0h, C1h and C2h", () => {
  assertEquals([SNAPSHOT_6_OPCODE, SNAPSHOT_10_OPCODE, SNAPSHOT_12_OPCODE], [0xc0, 0xc1, 0xc2]);
});

for (const [hex, cdb] of GOLDEN) {
  Deno.test(`encodeSnapshotCdb() encodes ${hex}`, () => {
    assertEquals(formatHex(encodeSnapshotCdb(cdb)), hex);
  });

  Deno.test(`decodeSnapshotCdb() decodes ${hex}`, () => {
    assertEquals(decodeSnapshotCdb(parseCdbHex(hex)), cdb);
  });
}

Deno.test("decodeSnapshotCdb() decodes a longer command than needed", () => {
  assertEquals(decodeSnapshotCdb(parseCdbHex("c1020000000000000000")), snapshot10({ pool: true }));
  assertEquals(
    decodeSnapshotCdb(parseCdbHex("c20000000002000000030000")),
    snapshot12({ firstLba: 2, blockCount: 3 }),
  );
});

Deno.test("decodeSnapshotCdb() reads a view into a larger buffer", () => {
  const buffer = Uint8Array.fromHex("ffff" + "c1010000000700000800" + "ffff");
  assertEquals(
    decodeSnapshotCdb(buffer.subarray(2, 12)),
    snapshot10({ immed: true, firstLba: 7, blockCount: 8 }),
  );
});

Deno.test("encodeSnapshotCdb() round-trips every boundary and flag, with the smallest command", () => {
  const firstLbas = [0, 1, 255, 256, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
  const blockCounts = [0, 1, 255, 256, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
  for (const firstLba of firstLbas) {
    for (const blockCount of blockCounts) {
      for (let flags = 0; flags < 8; flags++) {
        const fields = {
          immed: flags % 2 === 1,
          pool: flags % 4 >= 2,
          list: flags >= 4,
          firstLba,
          blockCount,
        };
        const whole = firstLba === 0 && blockCount === 0;
        if (fields.pool && !whole) continue;
        const { immed, pool, list, ...rest } = decodeSnapshotCdb(encodeSnapshotCdb(fields));
        const length = whole ? 6 : blockCount < 65_536 ? 10 : 12;
        assertEquals({ immed, pool, list, firstLba: rest.firstLba, blockCount: rest.blockCount }, fields);
        assertEquals([rest.length, rest.name], [length, `SNAPSHOT(${length})`]);
      }
    }
  }
});

Deno.test("encodeSnapshotCdb() refuses an LBA or a count that no command can say", () => {
  for (const value of [2 ** 32, 2 ** 53, -1, 0.5, NaN, Infinity, -Infinity]) {
    assertRefused(
      () => encodeSnapshotCdb({ ...WHOLE_VOLUME, firstLba: value }),
      "cdb-field-invalid",
      `first LBA ${value}`,
    );
    assertRefused(
      () => encodeSnapshotCdb({ ...WHOLE_VOLUME, blockCount: value }),
      "cdb-field-invalid",
      `number of blocks ${value}`,
    );
  }
});

Deno.test("encodeSnapshotCdb() refuses a range together with POOL", () => {
  for (const range of [{ firstLba: 1, blockCount: 0 }, { firstLba: 0, blockCount: 1 }]) {
    assertRefused(
      () => encodeSnapshotCdb({ ...WHOLE_VOLUME, ...range, pool: true }),
      "cdb-field-invalid",
      "POOL",
    );
  }
});

Deno.test("decodeSnapshotCdb() refuses a range together with POOL", () => {
  assertRefused(() => decodeHex("c1020000000100000000"), "cdb-field-invalid", "first LBA 1 and 0 blocks");
  assertRefused(() => decodeHex("c1020000000000000100"), "cdb-field-invalid", "first LBA 0 and 1 blocks");
  assertRefused(() => decodeHex("c20200000000000000010000"), "cdb-field-invalid", "POOL (byte 1, 02h)");
});

Deno.test("decodeSnapshotCdb() refuses every unknown opcode, whatever the length", () => {
  for (let opcode = 0; opcode < 256; opcode++) {
    if (opcode >= 0xc0 && opcode <= 0xc2) continue;
    for (let length = 1; length <= 17; length++) {
      const bytes = new Uint8Array(length);
      bytes[0] = opcode;
      assertRefused(() => decodeSnapshotCdb(bytes), "cdb-opcode-unknown", formatByte(opcode));
    }
  }
});

Deno.test("decodeSnapshotCdb() refuses every length but that of the opcode", () => {
  assertRefused(() => decodeSnapshotCdb(new Uint8Array()), "cdb-length-invalid");
  for (const [opcode, expected] of [[0xc0, 6], [0xc1, 10], [0xc2, 12]]) {
    for (let length = 1; length <= 17; length++) {
      if (length === expected) continue;
      const bytes = new Uint8Array(length);
      bytes[0] = opcode;
      assertRefused(
        () => decodeSnapshotCdb(bytes),
        "cdb-length-invalid",
        `SNAPSHOT(${expected}): expected ${expected} bytes, found ${length}`,
      );
    }
  }
});

Deno.test("decodeSnapshotCdb() refuses every reserved flag, naming byte and value", () => {
  for (const hex of ["c00000000000", "c1000000000000000000", "c20000000000000000000000"]) {
    for (let flags = 0; flags < 256; flags++) {
      const bytes = Uint8Array.fromHex(hex);
      bytes[1] = flags;
      if (flags < 8) {
        const { immed, pool, list } = decodeSnapshotCdb(bytes);
        assertEquals([immed, pool, list], [(flags & 1) === 1, (flags & 2) === 2, (flags & 4) === 4]);
      } else {
        const finding = `byte 1 (flags) to be zero, found ${formatByte(flags)}`;
        assertRefused(() => decodeSnapshotCdb(bytes), "cdb-field-invalid", finding);
      }
    }
  }
});

Deno.test("decodeSnapshotCdb() refuses every value but 0 in a byte that must be zero", () => {
  const mustBeZero: readonly (readonly [hex: string, fields: Record<number, string>])[] = [
    ["c00000000000", { 2: "reserved", 3: "reserved", 4: "reserved", 5: "CONTROL" }],
    ["c1000000000700000800", { 6: "group number", 9: "CONTROL" }],
    ["c20000000007000000080000", { 10: "group number", 11: "CONTROL" }],
  ];
  for (const [hex, fields] of mustBeZero) {
    for (const [index, field] of Object.entries(fields)) {
      for (let value = 1; value < 256; value++) {
        const bytes = Uint8Array.fromHex(hex);
        bytes[Number(index)] = value;
        const finding = `byte ${index} (${field}) to be 00h, found ${formatByte(value)}`;
        assertRefused(() => decodeSnapshotCdb(bytes), "cdb-field-invalid", finding);
      }
    }
  }
});

Deno.test("decodeSnapshotCdb() decodes or refuses every first byte at every length", () => {
  let decodedCount = 0;
  for (let opcode = 0; opcode < 256; opcode++) {
    for (let length = 0; length <= 17; length++) {
      for (const filler of [0x00, 0x01, 0x7f, 0x80, 0xff]) {
        const bytes = new Uint8Array(length).fill(filler);
        if (length > 0) bytes[0] = opcode;
        const cdb = assertTotal(() => decodeSnapshotCdb(bytes));
        if (cdb === undefined) continue;
        decodedCount++;
        assertEquals(cdb, { ...WHOLE_VOLUME, name: cdb.name, opcode, length });
      }
    }
  }
  // One for each opcode: filler 00h alone leaves every reserved byte zero.
  assertEquals(decodedCount, 3);
});

Deno.test("decodeSnapshotCdb() decodes or refuses every single-byte change of a CDB", () => {
  for (const [hex] of GOLDEN) {
    for (let index = 0; index < hex.length / 2; index++) {
      for (let value = 0; value < 256; value++) {
        const bytes = Uint8Array.fromHex(hex);
        bytes[index] = value;
        const cdb = assertTotal(() => decodeSnapshotCdb(bytes));
        if (cdb === undefined) continue;
        const again = decodeSnapshotCdb(encodeSnapshotCdb(cdb));
        assertEquals({ ...cdb, name: again.name, opcode: again.opcode, length: again.length }, again);
        assert(again.length <= cdb.length);
      }
    }
  }
});

Deno.test("parseCdbHex() takes both cases and up to 16 bytes", () => {
  assertEquals(parseCdbHex("c0AbEf00"), Uint8Array.of(0xc0, 0xab, 0xef, 0x00));
  assertEquals(parseCdbHex("00"), Uint8Array.of(0));
  assertEquals(parseCdbHex("ff".repeat(16)).length, 16);
});

Deno.test("parseCdbHex() refuses nothing, half a byte and more than 16 bytes", () => {
  for (
    const text of ["", "c", "c00", "0".repeat(31), "0".repeat(33), "0".repeat(34), "z".repeat(1_000_000)]
  ) {
    assertRefused(() => parseCdbHex(text), "cdb-length-invalid", `found ${text.length}`);
  }
});

Deno.test("parseCdbHex() refuses every character that is no hex digit", () => {
  for (let code = 0; code < 0x300; code++) {
    const character = String.fromCharCode(code);
    if ("0123456789abcdefABCDEF".includes(character)) continue;
    assertRefused(() => parseCdbHex("c0" + character + "0"), "cdb-field-invalid", "at 2");
    assertRefused(() => parseCdbHex("c00" + character), "cdb-field-invalid", "at 3");
  }
  assertRefused(() => parseCdbHex("0xc0"), "cdb-field-invalid");
});

Deno.test("formatHex() writes lower case, two digits a byte", () => {
  assertEquals(formatHex(Uint8Array.of(0x00, 0x0a, 0xc0, 0xff)), "000ac0ff");
  assertEquals(formatHex(new Uint8Array()), "");
});

Deno.test("formatByte() writes two upper-case digits and an h", () => {
  assertEquals([0x00, 0x0a, 0xc0].map(formatByte), ["00h", "0Ah", "C0h"]);
});

function decodeHex(hex: string): SnapshotCdb {
  return decodeSnapshotCdb(parseCdbHex(hex));
}

function snapshot6(fields: Partial<SnapshotCdbFields>): SnapshotCdb {
  return { name: "SNAPSHOT(6)", opcode: 0xc0, length: 6, ...WHOLE_VOLUME, ...fields };
}

function snapshot10(fields: Partial<SnapshotCdbFields>): SnapshotCdb {
  return { name: "SNAPSHOT(10)", opcode: 0xc1, length: 10, ...WHOLE_VOLUME, ...fields };
}

function snapshot12(fields: Partial<SnapshotCdbFields>): SnapshotCdb {
  return { name: "SNAPSHOT(12)", opcode: 0xc2, length: 12, ...WHOLE_VOLUME, ...fields };
}
