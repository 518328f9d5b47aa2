/** Bodies that are streamed: at the rate of their client, and given up where it takes nothing. */

import { assert, assertEquals } from "@std/assert";
import { HTTP_LIMITS } from "../../src/config.ts";
import { createTestDoor, createTestVolume, type TestDoor, until } from "../support/door.ts";
import { sendRaw } from "./raw_request.ts";

const KIB = 1024;
/** Far more than the buffers of two sockets hold. */
const LARGE_BLOCKS = 131_072;

async function createClient(door: TestDoor, rates = {}): Promise<string> {
  const json = { name: "c", scopes: ["read", "write"], ...rates };
  return (await door.call("POST", "/clients", { json })).body.token;
}

/** What is under way and held, beside the look at it itself. */
async function readLoad(door: TestDoor): Promise<[requests: number, heldBytes: number]> {
  const { body } = await door.call("GET", "/metrics");
  const read = (name: string) => Number(new RegExp(`^snapmark_http_${name} (\\d+)$`, "m").exec(body)?.[1]);
  return [read("requests_under_way") - 1, read("held_bytes")];
}

const PACED: [string, (door: TestDoor, token: string) => ReturnType<TestDoor["call"]>][] = [
  ["a download", (door, token) => door.call("GET", "/snapshots/s/image", { token })],
  [
    "an upload",
    (door, token) => door.call("PUT", "/volumes/v/image", { token, octets: new Uint8Array(512 * KIB) }),
  ],
];

for (const [what, stream] of PACED) {
  Deno.test(`${what} goes at its client's bytes a second, and is not refused for them`, async () => {
    let nowMs = 0;
    await using door = await createTestDoor({ now: () => nowMs });
    await createTestVolume(door, "v", { blockCount: 1_024 });
    await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
    const token = await createClient(door, { bytesPerSecondMax: 64 * KIB });
    let status: number | undefined;
    void stream(door, token).then((answer) => status = answer.status);
    await until(() => {
      nowMs += 10;
      return status !== undefined;
    });
    assertEquals(status, 200);
    // 512 KiB: a second's worth there is, another may be owed, and six come in six seconds.
    assert(nowMs >= 6_000, `it took ${nowMs} ms`);
  });
}

Deno.test("a download whose client takes nothing is given up, and counts as a request until its connection ends", async () => {
  let nowMs = 0;
  await using door = await createTestDoor({ now: () => nowMs });
  await createTestVolume(door, "v", { blockCount: LARGE_BLOCKS });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  const token = await createClient(door);
  const connection = await sendRaw(
    door,
    "GET /snapshots/s/image",
    [`authorization: Bearer ${token}`],
    "",
    null,
  );
  await until(async () => (await readLoad(door)).join() === `1,${KIB * KIB}`);
  await until(async () => {
    nowMs += HTTP_LIMITS.sendIdleMs;
    return (await readLoad(door)).join() === "1,0";
  });
  // What the buffers had taken is not all of it, and nothing comes behind it.
  const chunk = new Uint8Array(KIB * KIB);
  let received = 0;
  const read = () => connection.read(chunk).catch(() => null);
  for (let length = await read(); length !== null; length = await read()) received += length;
  assert(received < LARGE_BLOCKS * 512, `${received} bytes`);
  connection.close();
  await until(async () => (await readLoad(door)).join() === "0,0");
});
