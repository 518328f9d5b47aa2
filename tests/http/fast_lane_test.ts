/**
 * The fast lane answers as the usual way does: each request is sent in its plain form, and once more with a header that
 * changes nothing but that the lane leaves it alone.
 */

import { assertEquals, assertNotEquals } from "@std/assert";
import { BLOCK_BYTES } from "../support/storage.ts";
import { type Answer, type CallOptions, createTestDoor, createTestVolume } from "../support/door.ts";

const OCTETS = "application/octet-stream";
const DETOURS = { PUT: { "content-type": `${OCTETS};detour=1` }, GET: { accept: `${OCTETS};q=1` } } as const;

const block = (byte: number, length = BLOCK_BYTES) => new Uint8Array(length).fill(byte);

/** What must be alike: all but ids, moments and the sequence. */
function comparable({ status, headers, body }: Answer) {
  const named = Object.fromEntries(
    [...headers].filter(([name]) => name !== "x-request-id" && name !== "date"),
  );
  const told = body instanceof Uint8Array || body === undefined
    ? body
    : { ...body, requestId: undefined, sequence: typeof body.sequence };
  return { status, headers: named, body: told };
}

const CASES: [string, "PUT" | "GET", string, CallOptions][] = [
  ["a write", "PUT", "/volumes/v/blocks/3", { octets: block(7) }],
  ["a write of several blocks", "PUT", "/volumes/v/blocks/5", { octets: block(8, 3 * BLOCK_BYTES) }],
  ["a read", "GET", "/volumes/v/blocks/3", {}],
  ["a read of several blocks", "GET", "/volumes/v/blocks/2?count=7", {}],
  ["a write past the end", "PUT", "/volumes/v/blocks/64", { octets: block(1) }],
  ["a write at no number that there is", "PUT", "/volumes/v/blocks/999999999999999", { octets: block(1) }],
  ["a write of less than a block", "PUT", "/volumes/v/blocks/0", { octets: block(1, 100) }],
  ["a write of nothing", "PUT", "/volumes/v/blocks/0", { octets: block(1, 0) }],
  ["a write to no volume", "PUT", "/volumes/none/blocks/0", { octets: block(1) }],
  ["a read past the end", "GET", "/volumes/v/blocks/60?count=5", {}],
  ["a read of no blocks", "GET", "/volumes/v/blocks/0?count=0", {}],
  ["a read of too many", "GET", "/volumes/v/blocks/0?count=999999999", {}],
  ["a read of no volume", "GET", "/volumes/none/blocks/0", {}],
  ["a read with a wrong token", "GET", "/volumes/v/blocks/0", { token: "wrong-token-0123456789" }],
  ["a write without a token", "PUT", "/volumes/v/blocks/0", { octets: block(1), token: null }],
];

for (const [name, method, path, options] of CASES) {
  Deno.test(`the fast lane answers ${name} as the usual way does`, async () => {
    await using door = await createTestDoor();
    await createTestVolume(door, "v");
    await door.call("PUT", "/volumes/v/blocks/2", { octets: block(3, 2 * BLOCK_BYTES) });
    const plain = { ...(method === "PUT" ? { "content-type": OCTETS } : {}) };
    const usual = await door.call(method, path, { ...options, headers: DETOURS[method] });
    const fast = await door.call(method, path, { ...options, headers: plain });
    assertEquals(comparable(fast), comparable(usual));
    assertNotEquals(fast.headers.get("x-request-id"), usual.headers.get("x-request-id"));
    const [, first, second] = door.requests.slice(-3);
    assertEquals({ ...second, requestId: "", milliseconds: 0 }, { ...first, requestId: "", milliseconds: 0 });
  });
}
