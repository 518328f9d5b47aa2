import { assertEquals } from "@std/assert";
import { chooseBytes } from "../../src/http/byte_range.ts";

const ETAG = '"a"';
const choose = (range?: string, ifRange?: string) => chooseBytes(100, ETAG, { range, ifRange });
const WHOLE = { start: 0, end: 100, partial: false };
const part = (start: number, end: number) => ({ start, end, partial: true });

Deno.test("chooseBytes() takes one range, open or closed, and a suffix", () => {
  assertEquals(choose("bytes=0-0"), part(0, 1));
  assertEquals(choose("bytes=10-19"), part(10, 20));
  assertEquals(choose("bytes=10-"), part(10, 100));
  assertEquals(choose("bytes=90-1000"), part(90, 100));
  assertEquals(choose("bytes=-1"), part(99, 100));
  assertEquals(choose("bytes=-1000"), part(0, 100));
  assertEquals(choose("BYTES= 5-6 "), part(5, 7));
});

Deno.test("chooseBytes() finds no byte of a range behind the end, or of an empty suffix", () => {
  assertEquals([choose("bytes=100-"), choose("bytes=100-200"), choose("bytes=-0")], [
    undefined,
    undefined,
    undefined,
  ]);
  assertEquals(chooseBytes(0, ETAG, { range: "bytes=0-", ifRange: undefined }), undefined);
});

Deno.test("chooseBytes() ignores what is malformed, of several ranges, of other units, or of another tag", () => {
  for (
    const range of [
      "bytes=",
      "bytes=-",
      "bytes=a-b",
      "bytes=5-4",
      "bytes=0-1,3-4",
      "lines=0-1",
      "bytes 0-1",
      "bytes=--1",
    ]
  ) {
    assertEquals(choose(range), WHOLE, range);
  }
  assertEquals(choose(), WHOLE);
  assertEquals(choose("bytes=0-1", '"b"'), WHOLE);
  assertEquals(choose("bytes=0-1", `W/${ETAG}`), WHOLE);
  assertEquals(choose("bytes=0-1", ETAG), part(0, 2));
});
