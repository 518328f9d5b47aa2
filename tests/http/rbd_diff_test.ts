/** The codec of `rbd diff v1`, against streams written out by hand after the published format. */

import { assertEquals, assertRejects } from "@std/assert";
import { StorageError } from "../../src/errors.ts";
import { decodeDiff, DIFF_PIECE_BYTES, type DiffRecord, encodeDiff } from "../../src/http/rbd_diff.ts";
import { below, seeded } from "../support/history.ts";

// "rbd diff v1\n", from snapshot "a", to snapshot "bc", an image of 4,096 bytes; 5 bytes at 512, zeros from 1,024 to 3,072.
const HEADER = "7262642064696666207631" + "0a";
const FROM = "66" + "01000000" + "61";
const TO = "74" + "02000000" + "6263";
const SIZE = "73" + "0010000000000000";
const WRITE = "77" + "0002000000000000" + "0500000000000000" + "0102030405";
const ZERO = "7a" + "0004000000000000" + "0008000000000000";
const END = "65";
const WHOLE = HEADER + FROM + TO + SIZE + WRITE + ZERO + END;
const PARSED = {
  header: { from: "a", to: "bc", sizeBytes: 4096 },
  records: [
    { offsetBytes: 512, data: new Uint8Array([1, 2, 3, 4, 5]) },
    { offsetBytes: 1024, lengthBytes: 2048 },
  ],
};

async function* chunksOf(bytes: Uint8Array, chunkBytes: number) {
  for (let start = 0; start < bytes.length; start += chunkBytes) {
    yield await Promise.resolve(bytes.subarray(start, start + chunkBytes));
  }
}

async function decode(hex: string | Uint8Array, chunkBytes = 7) {
  const bytes = typeof hex === "string" ? Uint8Array.fromHex(hex) : hex;
  const { header, records } = await decodeDiff(chunksOf(bytes, chunkBytes));
  return { header, records: await Array.fromAsync(records) };
}

async function encode(parsed: { header: typeof PARSED.header; records: DiffRecord[] }): Promise<Uint8Array> {
  async function* records() {
    yield* await Promise.resolve(parsed.records);
  }
  const chunks = await Array.fromAsync(encodeDiff(parsed.header, records()));
  return new Uint8Array(chunks.flatMap((chunk) => [...chunk]));
}

async function refuses(hex: string | Uint8Array, message: string): Promise<void> {
  const error = await assertRejects(() => decode(hex), StorageError, message);
  assertEquals(error.code, "stream-invalid");
}

Deno.test("decodeDiff() reads a stream written out by hand, whatever the chunks", async () => {
  for (const chunkBytes of [1, 2, 13, 1_000]) assertEquals(await decode(WHOLE, chunkBytes), PARSED);
});

Deno.test("decodeDiff() takes metadata in any order, and a stream of nothing", async () => {
  assertEquals((await decode(HEADER + SIZE + TO + FROM + END)).header, PARSED.header);
  assertEquals(await decode(HEADER + SIZE + END), { header: { sizeBytes: 4096 }, records: [] });
});

Deno.test("encodeDiff() writes exactly those bytes", async () => {
  assertEquals((await encode(PARSED)).toHex(), WHOLE);
});

for (
  const [what, hex, message] of [
    ["nothing", "", "ended before"],
    ["another first line", HEADER.replace("31", "32") + SIZE + END, "does not begin"],
    ["no size", HEADER + TO + END, "no size"],
    ["no size before data", HEADER + WRITE + SIZE + END, "no size"],
    ["a size twice", HEADER + SIZE + SIZE + END, "s twice"],
    ["a name twice", HEADER + SIZE + TO + TO + END, "t twice"],
    ["metadata behind data", HEADER + SIZE + ZERO + TO + END, "t stands behind data"],
    ["an unknown record", HEADER + SIZE + "78" + END, "unknown record, tag 120"],
    ["no end", HEADER + SIZE + ZERO, "ended before"],
    ["bytes behind the end", WHOLE + "00", "bytes follow"],
    ["a second end", WHOLE + END, "bytes follow"],
    ["an empty name", HEADER + "66" + "00000000" + SIZE + END, "0 bytes"],
    ["a name of 256 bytes", HEADER + "66" + "00010000" + "61".repeat(256) + SIZE + END, "256 bytes"],
    ["a name of 4 GiB", HEADER + "66" + "ffffffff" + SIZE + END, "4294967295 bytes"],
    ["a name that is not UTF-8", HEADER + "66" + "01000000" + "ff" + SIZE + END, "not UTF-8"],
    ["a size of 2^63", HEADER + "73" + "0000000000000080" + END, "less than 2^53"],
    ["an empty record", HEADER + SIZE + "7a" + "00".repeat(16) + END, "is empty"],
    [
      "data of 2^60 bytes",
      HEADER + SIZE + "77" + "00".repeat(8) + "0000000000000010" + END,
      "less than 2^53",
    ],
    [
      "data behind the size",
      HEADER + SIZE + "7a" + "000c000000000000" + "0005000000000000" + END,
      "ends behind the size",
    ],
    ["data that descend", HEADER + SIZE + ZERO + WRITE + END, "begins before 3072"],
    ["data that overlap", HEADER + SIZE + ZERO + ZERO + END, "begins before 3072"],
  ] as const
) {
  Deno.test(`decodeDiff() refuses ${what}`, async () => await refuses(hex, message));
}

Deno.test("decodeDiff() refuses a stream that is cut anywhere", async () => {
  const whole = Uint8Array.fromHex(WHOLE);
  for (let length = 0; length < whole.length; length++) {
    await refuses(whole.subarray(0, length), "ended before");
  }
});

Deno.test("decodeDiff() of a stream with a wrong byte refuses it, or reads what it says: what it reads encodes to it", async () => {
  const random = seeded(7);
  const whole = Uint8Array.fromHex(WHOLE);
  let refused = 0;
  for (let tries = 0; tries < 2_000; tries++) {
    const bytes = whole.slice();
    bytes[below(random, bytes.length)] ^= 1 + below(random, 255);
    try {
      const parsed = await decode(bytes);
      assertEquals(await encode(parsed as typeof PARSED), bytes);
    } catch (error) {
      if (!(error instanceof StorageError)) throw error;
      assertEquals(error.code, "stream-invalid");
      refused += 1;
    }
  }
  assertEquals(refused > 1_000, true);
});

Deno.test("decodeDiff() gives large data in bounded pieces, and stops reading when it is left", async () => {
  const blocks = 5;
  const sizeBytes = blocks * DIFF_PIECE_BYTES - 100;
  let read = 0;
  let closed = false;
  async function* body() {
    try {
      const head = await encode({ header: { from: "a", to: "b", sizeBytes }, records: [] });
      yield head.subarray(0, -1);
      const record = new Uint8Array(17);
      record[0] = "w".charCodeAt(0);
      new DataView(record.buffer).setBigUint64(9, BigInt(sizeBytes), true);
      yield record;
      for (; read < sizeBytes; read += 1_000) yield new Uint8Array(Math.min(1_000, sizeBytes - read));
      yield new TextEncoder().encode("e");
    } finally {
      closed = true;
    }
  }
  const { records } = await decodeDiff(body());
  const first = await records.next();
  assertEquals((first.value as { data: Uint8Array }).data.length, DIFF_PIECE_BYTES);
  assertEquals(read < 2 * DIFF_PIECE_BYTES, true);
  await records.return(undefined);
  assertEquals(closed, true);
  read = 0;
  const lengths = (await Array.fromAsync((await decodeDiff(body())).records))
    .map((record) => (record as { data: Uint8Array }).data.length);
  assertEquals(lengths, [...new Array(blocks - 1).fill(DIFF_PIECE_BYTES), DIFF_PIECE_BYTES - 100]);
});
