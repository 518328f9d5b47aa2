/**
 * The parameter list codec against lists written by hand from the layout, and against everything that is none.
 */

import { assertEquals } from "@std/assert";
import {
  decodeSnapshotParameterList,
  encodeSnapshotParameterList,
  PARAMETER_LIST_BYTES_MAX,
  type SnapshotParameterList,
} from "../../src/scsi/parameter_list.ts";
import { assertRefused, assertTotal } from "./refusal.ts";

const VOLUME_A = "00112233-4455-6677-8899-aabbccddeeff";
const VOLUME_B = "0190f3d2-7c1b-7abc-8def-0123456789ab";

const NAME_HEX = "01000003" + "616263";
const DESCRIPTION_HEX = "02000005" + "c3a9e282ac";
const VOLUME_A_HEX = "03000010" + "00112233445566778899aabbccddeeff";
const RANGE_HEX = "04000020" + "0190f3d27c1b7abc8def0123456789ab" + "0000000000000102" + "0000010000000001";
const VOLUME_B_HEX = "03000010" + "0190f3d27c1b7abc8def0123456789ab";

/** Hex written by hand, and what it says. */
const GOLDEN: readonly (readonly [hex: string, list: SnapshotParameterList])[] = [
  ["00000000", { volumeIds: [], ranges: [] }],
  ["00000007" + NAME_HEX, { name: "abc", volumeIds: [], ranges: [] }],
  ["00000009" + DESCRIPTION_HEX, { description: "é€", volumeIds: [], ranges: [] }],
  ["00000014" + VOLUME_A_HEX, { volumeIds: [VOLUME_A], ranges: [] }],
  ["00000038" + NAME_HEX + DESCRIPTION_HEX + VOLUME_A_HEX + VOLUME_B_HEX, {
    name: "abc",
    description: "é€",
    volumeIds: [VOLUME_A, VOLUME_B],
    ranges: [],
  }],
  ["00000024" + RANGE_HEX, {
    volumeIds: [],
    ranges: [{ volumeId: VOLUME_B, lba: 258, blockCount: 2 ** 40 + 1 }],
  }],
  ["00000038" + VOLUME_A_HEX + RANGE_HEX, {
    volumeIds: [VOLUME_A],
    ranges: [{ volumeId: VOLUME_B, lba: 258, blockCount: 2 ** 40 + 1 }],
  }],
  ["00000008" + "01000000" + "02000000", { name: "", description: "", volumeIds: [], ranges: [] }],
  ["00000008" + "01000004" + "efbbbf00", { name: "\ufeff\u0000", volumeIds: [], ranges: [] }],
];

for (const [hex, list] of GOLDEN) {
  Deno.test(`encodeSnapshotParameterList() encodes ${hex}`, () => {
    assertEquals(encodeSnapshotParameterList(list).toHex(), hex);
  });

  Deno.test(`decodeSnapshotParameterList() decodes ${hex}`, () => {
    assertEquals(decodeHex(hex), list);
  });
}

Deno.test("decodeSnapshotParameterList() takes descriptors in any order and a volume twice", () => {
  assertEquals(decodeHex("00000038" + VOLUME_B_HEX + DESCRIPTION_HEX + VOLUME_B_HEX + NAME_HEX), {
    name: "abc",
    description: "é€",
    volumeIds: [VOLUME_B, VOLUME_B],
    ranges: [],
  });
});

Deno.test("decodeSnapshotParameterList() reads a view into a larger buffer", () => {
  const buffer = Uint8Array.fromHex("ffffff" + "00000007" + NAME_HEX + "ffffff");
  assertEquals(decodeSnapshotParameterList(buffer.subarray(3, 14)), {
    name: "abc",
    volumeIds: [],
    ranges: [],
  });
});

Deno.test("encodeSnapshotParameterList() takes UUIDs in upper case", () => {
  assertEquals(
    encodeSnapshotParameterList({ volumeIds: [VOLUME_B.toUpperCase()], ranges: [] }).toHex(),
    "00000014" + VOLUME_B_HEX,
  );
});

Deno.test("encodeSnapshotParameterList() fills the bound exactly and refuses one byte more", () => {
  const bound = 65_536;
  assertEquals(PARAMETER_LIST_BYTES_MAX, bound);
  const full = encodeSnapshotParameterList({ name: "n".repeat(bound - 8), volumeIds: [], ranges: [] });
  assertEquals(full.length, bound);
  assertEquals(decodeSnapshotParameterList(full).name?.length, bound - 8);
  assertRefused(
    () => encodeSnapshotParameterList({ name: "n".repeat(bound - 7), volumeIds: [], ranges: [] }),
    "parameter-list-length-invalid",
    "at most 65536 bytes, found 65537",
  );
});

Deno.test("encodeSnapshotParameterList() takes as many volumes as fit and refuses one more", () => {
  const volumeIds = Array.from({ length: 3276 }, () => VOLUME_A);
  const list = { volumeIds, ranges: [] };
  assertEquals(decodeSnapshotParameterList(encodeSnapshotParameterList(list)), list);
  assertRefused(
    () => encodeSnapshotParameterList({ volumeIds: [...volumeIds, VOLUME_B], ranges: [] }),
    "parameter-list-length-invalid",
  );
});

Deno.test("encodeSnapshotParameterList() refuses a text longer than its length field, counted in bytes", () => {
  assertRefused(
    () => encodeSnapshotParameterList({ name: "é".repeat(32_768), volumeIds: [], ranges: [] }),
    "parameter-list-length-invalid",
    "NAME to have at most 65535 bytes, found 65536",
  );
});

Deno.test("encodeSnapshotParameterList() refuses half a surrogate pair", () => {
  const act = (list: SnapshotParameterList) => () => encodeSnapshotParameterList(list);
  assertRefused(act({ name: "a\ud800", volumeIds: [], ranges: [] }), "parameter-list-invalid", "NAME");
  assertRefused(
    act({ description: "\udc00b", volumeIds: [], ranges: [] }),
    "parameter-list-invalid",
    "DESCRIPTION",
  );
});

Deno.test("encodeSnapshotParameterList() refuses a volume id that is no UUID", () => {
  const strange = [
    "",
    "volume",
    VOLUME_A.slice(1),
    VOLUME_A + "0",
    VOLUME_A + "\n",
    VOLUME_A.replaceAll("-", ""),
    `{${VOLUME_A}}`,
    VOLUME_A.replace("f", "g"),
  ];
  for (const id of strange) {
    assertRefused(
      () => encodeSnapshotParameterList({ volumeIds: [id], ranges: [] }),
      "parameter-list-invalid",
      "UUID",
    );
  }
});

Deno.test("decodeSnapshotParameterList() refuses a list shorter than its header", () => {
  for (const hex of ["", "00", "0000", "000000"]) {
    assertRefused(() => decodeHex(hex), "parameter-list-length-invalid", `found ${hex.length / 2} in all`);
  }
});

Deno.test("decodeSnapshotParameterList() refuses a list that is not as long as its header states", () => {
  for (const stated of ["00000000", "00000006", "00000008", "00000107", "80000007", "ffffffff"]) {
    assertRefused(() => decodeHex(stated + NAME_HEX), "parameter-list-length-invalid", "found 7");
  }
  assertRefused(() => decodeHex("00000007" + NAME_HEX + "00"), "parameter-list-length-invalid", "found 8");
});

Deno.test("decodeSnapshotParameterList() refuses a descriptor that runs past the end", () => {
  for (const hex of ["0000000101", "000000020100", "00000003010000"]) {
    assertRefused(
      () => decodeHex(hex),
      "parameter-list-length-invalid",
      "expected 4 bytes in the descriptor at byte 4",
    );
  }
  assertRefused(
    () => decodeHex("00000006" + "010000036162"),
    "parameter-list-length-invalid",
    "expected 7 bytes in the descriptor at byte 4, found 6",
  );
  assertRefused(
    () => decodeHex("0000000b" + NAME_HEX + "0200ffff"),
    "parameter-list-length-invalid",
    "descriptor at byte 11",
  );
});

Deno.test("decodeSnapshotParameterList() refuses a descriptor of zero bytes behind the last one", () => {
  assertRefused(() => decodeHex("0000000b" + NAME_HEX + "00000000"), "parameter-list-invalid", "found 00h");
  assertRefused(() => decodeHex("00000009" + NAME_HEX + "0000"), "parameter-list-length-invalid");
});

Deno.test("decodeSnapshotParameterList() refuses a list over the bound, however well formed", () => {
  const value = new Uint8Array(65_536 - 8).fill(0x61).toHex();
  assertEquals(decodeHex("0000fffc" + "0100fff8" + value).name?.length, 65_528);
  assertRefused(
    () => decodeHex("0000fffd" + "0100fff9" + value + "61"),
    "parameter-list-length-invalid",
    "at most 65536 bytes, found 65537",
  );
});

Deno.test("decodeSnapshotParameterList() refuses every unknown type", () => {
  for (let type = 0; type < 256; type++) {
    if (type >= 0x01 && type <= 0x04) continue;
    const hex = Uint8Array.of(0, 0, 0, 4, type, 0, 0, 0).toHex();
    assertRefused(
      () => decodeHex(hex),
      "parameter-list-invalid",
      "descriptor type 01h to 04h at byte 4",
    );
  }
});

Deno.test("decodeSnapshotParameterList() refuses every value but 0 in the reserved byte", () => {
  for (let value = 1; value < 256; value++) {
    const bytes = Uint8Array.fromHex("00000007" + NAME_HEX);
    bytes[5] = value;
    assertRefused(() => decodeSnapshotParameterList(bytes), "parameter-list-invalid", "byte 5 (reserved)");
  }
});

Deno.test("decodeSnapshotParameterList() refuses a second NAME or DESCRIPTION, even after an empty one", () => {
  assertRefused(() => decodeHex("0000000e" + NAME_HEX + NAME_HEX), "parameter-list-invalid", "NAME once");
  assertRefused(
    () => decodeHex("0000000b" + "01000000" + NAME_HEX),
    "parameter-list-invalid",
    "again at byte 8",
  );
  assertRefused(
    () => decodeHex("00000012" + DESCRIPTION_HEX + DESCRIPTION_HEX),
    "parameter-list-invalid",
    "DESCRIPTION once",
  );
});

Deno.test("decodeSnapshotParameterList() refuses invalid UTF-8", () => {
  // A lone continuation, an overlong form, a surrogate, beyond U+10FFFF, cut off, a byte UTF-8 never has.
  for (const value of ["80000000", "c0af6161", "eda08061", "f4908080", "6161e282", "ff616161"]) {
    assertRefused(() => decodeHex("00000008" + "01000004" + value), "parameter-list-invalid", "NAME");
    assertRefused(() => decodeHex("00000008" + "02000004" + value), "parameter-list-invalid", "DESCRIPTION");
  }
});

Deno.test("decodeSnapshotParameterList() refuses a UUID of any size but 16 bytes", () => {
  for (let valueBytes = 0; valueBytes <= 40; valueBytes++) {
    if (valueBytes === 16) continue;
    const bytes = new Uint8Array(8 + valueBytes);
    bytes.set([0, 0, 0, 4 + valueBytes, 0x03, 0, 0, valueBytes]);
    assertRefused(
      () => decodeSnapshotParameterList(bytes),
      "parameter-list-invalid",
      `16 bytes, found ${valueBytes}`,
    );
  }
});

Deno.test("decodeSnapshotParameterList() refuses a range of any size but 32 bytes, and numbers from 2^53 on", () => {
  for (let valueBytes = 0; valueBytes <= 64; valueBytes++) {
    if (valueBytes === 32) continue;
    const bytes = new Uint8Array(8 + valueBytes);
    bytes.set([0, 0, 0, 4 + valueBytes, 0x04, 0, 0, valueBytes]);
    assertRefused(
      () => decodeSnapshotParameterList(bytes),
      "parameter-list-invalid",
      `32 bytes, found ${valueBytes}`,
    );
  }
  for (const numbers of ["0020000000000000" + "0000000000000001", "0000000000000001" + "ffffffffffffffff"]) {
    const hex = "00000024" + "04000020" + "0190f3d27c1b7abc8def0123456789ab" + numbers;
    assertRefused(() => decodeHex(hex), "parameter-list-invalid", "below 2^53");
  }
});

Deno.test("encodeSnapshotParameterList() refuses a range without whole numbers", () => {
  for (const [lba, blockCount] of [[-1, 1], [0.5, 1], [0, 2 ** 53], [0, NaN]]) {
    const list = { volumeIds: [], ranges: [{ volumeId: VOLUME_A, lba, blockCount }] };
    assertRefused(() => encodeSnapshotParameterList(list), "parameter-list-invalid", "whole numbers");
  }
});

Deno.test("decodeSnapshotParameterList() decodes or refuses every cut and every single-byte change of a list", () => {
  for (const [hex] of GOLDEN) {
    const golden = Uint8Array.fromHex(hex);
    for (let length = 0; length < golden.length; length++) {
      assertRefused(
        () => decodeSnapshotParameterList(golden.subarray(0, length)),
        "parameter-list-length-invalid",
      );
    }
    for (let index = 0; index < golden.length; index++) {
      for (let value = 0; value < 256; value++) assertRoundTripOrRefusal(golden.with(index, value));
    }
  }
});

Deno.test("decodeSnapshotParameterList() decodes or refuses every type with every length up to 255", () => {
  for (let type = 0; type < 256; type++) {
    for (let valueBytes = 0; valueBytes < 256; valueBytes++) {
      assertRoundTripOrRefusal(Uint8Array.of(0, 0, 0, 6, type, 0, 0, valueBytes, 0x61, 0x62));
    }
  }
});

Deno.test("decodeSnapshotParameterList() decodes or refuses every text of two bytes", () => {
  for (let first = 0; first < 256; first++) {
    for (let second = 0; second < 256; second++) {
      assertRoundTripOrRefusal(Uint8Array.of(0, 0, 0, 6, 0x01, 0, 0, 2, first, second));
    }
  }
});

function decodeHex(hex: string): SnapshotParameterList {
  return decodeSnapshotParameterList(Uint8Array.fromHex(hex));
}

/** What decodes must say the same after another round; the order of descriptors may change, their size may not. */
function assertRoundTripOrRefusal(bytes: Uint8Array): void {
  const list = assertTotal(() => decodeSnapshotParameterList(bytes));
  if (list === undefined) return;
  const again = encodeSnapshotParameterList(list);
  assertEquals(again.length, bytes.length);
  assertEquals(decodeSnapshotParameterList(again), list);
}
