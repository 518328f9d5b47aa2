/** Digests of blocks on their way (RFC 9530): checked on writes, told on reads. */

import { assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { createTestDoor, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { BLOCK_BYTES } from "../support/storage.ts";
import { assertProblem } from "./problem.ts";

const OCTETS = "application/octet-stream";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v");
  await createTestVolume(door, "w");
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const digestOf = (bytes: Uint8Array | string, algorithm = "sha256") =>
  `:${createHash(algorithm).update(bytes).digest("base64")}:`;
const block = (stamp: number) => fill(stamp, 1, BLOCK_BYTES);
const readBlock = async (lba: number) => (await door.call("GET", `/volumes/v/blocks/${lba}`)).body;

function put(lba: number, octets: Uint8Array<ArrayBuffer>, digest: string) {
  // Plain in all else, so that the fast lane would take it.
  const headers = { "content-type": OCTETS, "content-digest": digest };
  return door.call("PUT", `/volumes/v/blocks/${lba}`, { octets, headers });
}

function postWrites(json: string, digest: string) {
  const headers = { "content-type": "application/json", "content-digest": digest };
  return door.call("POST", "/volumes/v/writes", { octets: new TextEncoder().encode(json), headers });
}

const RIGHT: [what: string, toField: (bytes: Uint8Array | string) => string][] = [
  ["its digest", (bytes) => `sha-256=${digestOf(bytes)}`],
  ["digests of several kinds", (bytes) => `sha-512=${digestOf("x", "sha512")} ,  sha-256=${digestOf(bytes)}`],
  [
    "the digest twice, of which the last counts",
    (bytes) => `sha-256=${digestOf("x")}, sha-256=${digestOf(bytes)}`,
  ],
  ["a digest of another kind alone, which nobody checks", () => `sha-512=${digestOf("x", "sha512")}`],
];
for (const [index, [what, toField]] of RIGHT.entries()) {
  Deno.test(`a write with ${what} is taken`, async () => {
    const written = await put(index, block(index + 1), toField(block(index + 1)));
    assertEquals([written.status, written.body.lba], [200, index]);
    assertEquals(await readBlock(index), block(index + 1));
    const json = JSON.stringify({ writes: [{ lba: index, data: block(index + 11).toBase64() }] });
    assertEquals((await postWrites(json, toField(json))).status, 200);
    assertEquals(await readBlock(index), block(index + 11));
  });
}

const WRONG: [what: string, field: string, code: string][] = [
  ["the digest of something else", `sha-256=${digestOf("x")}`, "digest-mismatch"],
  ["the digest of nothing", `sha-256=${digestOf("")}`, "digest-mismatch"],
  [
    "the right digest, and then a wrong one",
    `sha-256=${digestOf(block(9))}, sha-256=${digestOf("x")}`,
    "digest-mismatch",
  ],
  ["a digest of 31 bytes", `sha-256=:${new Uint8Array(31).toBase64()}:`, "invalid-request"],
  ["an empty digest", "sha-256=::", "invalid-request"],
  ["a digest that is not base64", "sha-256=:a:", "invalid-request"],
  ["a digest without colons", `sha-256=${digestOf(block(9)).slice(1, -1)}`, "invalid-request"],
  ["a field that is no dictionary", "sha-256", "invalid-request"],
  ["a field with an empty member", `sha-256=${digestOf(block(9))},,`, "invalid-request"],
  ["a digest in upper case", `SHA-256=${digestOf(block(9))}`, "invalid-request"],
];
for (const [what, field, code] of WRONG) {
  Deno.test(`a write with ${what} is refused, and nothing is written`, async () => {
    const before = await door.call("GET", "/pools/main");
    assertProblem(await put(50, block(9), field), { status: 400, code });
    const json = JSON.stringify({ writes: [{ lba: 50, data: block(9).toBase64() }] });
    assertProblem(await postWrites(json, field), { status: 400, code });
    assertEquals((await door.call("GET", "/pools/main")).body.sequenceAppended, before.body.sequenceAppended);
    assertEquals(await readBlock(50), new Uint8Array(BLOCK_BYTES));
  });
}

for (
  const [wanted, isTold] of [
    ["sha-256=1", true],
    ["sha-256=10, sha-512=3", true],
    ["sha-512=3", false],
    ["sha-256=0", false],
  ] as const
) {
  Deno.test(`a read that wants ${wanted} is ${isTold ? "" : "not "}told a digest, of the body as it is sent`, async () => {
    await door.call("PUT", "/volumes/w/blocks/0", { octets: block(3) });
    const { body: { id } } = await door.call("POST", "/snapshots", { json: { volumes: ["w"] } });
    for (const path of ["/volumes/w/blocks/0?count=2", `/snapshots/${id}/blocks/0?count=2`]) {
      const read = async (accept: string) => {
        const headers = {
          authorization: "Bearer door-token-0123456789",
          accept,
          "want-content-digest": wanted,
        };
        const response = await fetch(`${door.url}${path}`, { headers });
        return { headers: response.headers, bytes: new Uint8Array(await response.arrayBuffer()) };
      };
      for (const accept of [OCTETS, "application/json"]) {
        const { headers, bytes } = await read(accept);
        assertEquals(headers.get("content-digest"), isTold ? `sha-256=${digestOf(bytes)}` : null);
        assertEquals(headers.get("content-type"), accept);
      }
    }
  });
}

for (const wanted of ["sha-256", "sha-256=high", "sha-256=-1", "sha-256=100", ","]) {
  Deno.test(`a read that wants "${wanted}" is refused`, async () => {
    const answer = await door.call("GET", "/volumes/w/blocks/0", {
      headers: { "want-content-digest": wanted },
    });
    assertProblem(answer, { status: 400, code: "invalid-request" });
  });
}

Deno.test("a read that wants nothing is told no digest", async () => {
  assertEquals((await door.call("GET", "/volumes/w/blocks/0")).headers.has("content-digest"), false);
});
