/**
 * The demo: its pure parts by literal expectations, and the whole of it as a process against real servers.
 */

import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { TextLineStream } from "@std/streams";
import { drawQueue, drawShare, formatBytes, formatEntries } from "../../src/commands/demo_bar.ts";
import {
  type DemoWrite,
  findDifferences,
  makeBlocks,
  replayWrites,
} from "../../src/commands/demo_contents.ts";
import { formatLatency, measureLatency } from "../../src/commands/demo_latency.ts";
import { planFile } from "../../src/commands/demo_load.ts";
import { verifyBlocks } from "../../src/commands/demo_verify.ts";
import { createTestDatabase } from "../support/database.ts";
import { startServerProcess, TEST_TOKEN } from "../support/server.ts";

const BLOCK_BYTES = 512;
const MAIN = fromFileUrl(new URL("../../src/main.ts", import.meta.url));
const PERMISSIONS = ["net", "read", "write", "run", "env", "sys"].map((name) => `--allow-${name}`);
/** Longest wait for a demo to end. */
const DEMO_MS_MAX = 120_000;

// Contents

Deno.test("makeBlocks() makes each block from its LBA and its version alone", () => {
  const two = makeBlocks({ lba: 5, blockCount: 2, version: 7 }, BLOCK_BYTES);
  assertEquals(two.length, 1024);
  assertEquals(two.slice(0, 24).toHex(), "05000000070000004adf88cea03076deff5a7fea5b424f5f");
  assertEquals(two.slice(512, 536).toHex(), "0600000007000000865b6f8333079f60bf690f068c3e0294");
  assertEquals(makeBlocks({ lba: 6, blockCount: 1, version: 7 }, BLOCK_BYTES), two.slice(512));
});

const WRITES: DemoWrite[] = [
  { sequence: 9, lba: 1, blockCount: 1, version: 3 },
  { sequence: 4, lba: 0, blockCount: 3, version: 1 },
  { sequence: 7, lba: 2, blockCount: 2, version: 2 },
];

Deno.test("replayWrites() replays in order of sequence, not of acknowledgement", () => {
  assertEquals([...replayWrites(WRITES, 6)], [1, 3, 2, 2, 0, 0]);
});

Deno.test("replayWrites() leaves out the write that has the end sequence, and all after it", () => {
  assertEquals([...replayWrites(WRITES, 6, 9)], [1, 1, 2, 2, 0, 0]);
  assertEquals([...replayWrites(WRITES, 6, 7)], [1, 1, 1, 0, 0, 0]);
  assertEquals([...replayWrites(WRITES, 6, 4)], [0, 0, 0, 0, 0, 0]);
});

/** Blocks of the given versions from LBA 0 on. */
function makeVolume(versions: number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(versions.length * BLOCK_BYTES);
  for (const [lba, version] of versions.entries()) {
    if (version > 0) bytes.set(makeBlocks({ lba, blockCount: 1, version }, BLOCK_BYTES), lba * BLOCK_BYTES);
  }
  return bytes;
}

Deno.test("findDifferences() finds none where every block has its version, and zeros where none was written", () => {
  const bytes = makeVolume([1, 3, 0, 2]);
  assertEquals(findDifferences(bytes, 0, Uint32Array.of(1, 3, 0, 2), BLOCK_BYTES), []);
  assertEquals(findDifferences(bytes.slice(512), 1, Uint32Array.of(9, 3, 0, 2), BLOCK_BYTES), []);
});

Deno.test("findDifferences() tells an older version, a block of another place, lost and unexpected data", () => {
  const bytes = makeVolume([1, 2, 0, 4]);
  bytes.copyWithin(3 * BLOCK_BYTES, 0, BLOCK_BYTES);
  assertEquals(findDifferences(bytes, 0, Uint32Array.of(0, 3, 5, 1), BLOCK_BYTES), [
    { lba: 0, versionExpected: 0, versionFound: 1 },
    { lba: 1, versionExpected: 3, versionFound: 2 },
    { lba: 2, versionExpected: 5, versionFound: 0 },
    { lba: 3, versionExpected: 1, versionFound: 1 },
  ]);
});

Deno.test("findDifferences() finds a single flipped bit anywhere in a block", () => {
  for (const index of [0, 4, 8, 255, 511]) {
    const bytes = makeVolume([1]);
    bytes[index] ^= 1;
    assertEquals(findDifferences(bytes, 0, Uint32Array.of(1), BLOCK_BYTES).length, 1, `byte ${index}`);
  }
});

// Verification

function verify(found: Uint8Array<ArrayBuffer>, versions: number[], onCompared?: (count: number) => void) {
  return verifyBlocks({
    subject: "the snapshot",
    versions: Uint32Array.from(versions),
    blockSizeBytes: BLOCK_BYTES,
    read: ({ lba, blockCount }) =>
      Promise.resolve(found.slice(lba * BLOCK_BYTES, (lba + blockCount) * BLOCK_BYTES)),
    ...(onCompared === undefined ? {} : { onCompared }),
  });
}

Deno.test("verifyBlocks() compares every block", async () => {
  const versions = Array.from({ length: 5_000 }, (_, lba) => lba % 7);
  const compared: number[] = [];
  await verify(makeVolume(versions), versions, (count) => compared.push(count));
  assertEquals(compared, [2048, 4096, 5000]);
});

Deno.test("verifyBlocks() refuses what a tampered replay does not explain", async () => {
  const versions = [1, 1, 2, 2, 0];
  for (
    const [tampered, message] of [
      [
        [1, 1, 2, 3, 0],
        "1 of 5 blocks differ from what was written; in block 3, expected version 3, found version 2",
      ],
      [
        [0, 1, 2, 2, 4],
        "2 of 5 blocks differ from what was written; in block 0, expected zeros, found version 1",
      ],
    ] as const
  ) {
    await assertRejects(
      () => verify(makeVolume(versions), [...tampered]),
      Error,
      `Cannot confirm the snapshot: ${message}`,
    );
  }
});

Deno.test("verifyBlocks() refuses a damaged block and a short answer", async () => {
  const damaged = makeVolume([1, 2]);
  damaged[BLOCK_BYTES + 100] ^= 1;
  await assertRejects(() => verify(damaged, [1, 2]), Error, "in block 1, version 2 is damaged");
  await assertRejects(() => verify(makeVolume([1]), [1, 2]), Error, "expected 1024 bytes, found 512");
});

// Load and latency

Deno.test("planFile() covers every block once, in turns of four sizes", () => {
  assertEquals(planFile({ blockCount: 1_000, blockSizeBytes: 4096 }), [
    { lba: 0, blockCount: 256 },
    { lba: 256, blockCount: 64 },
    { lba: 320, blockCount: 192 },
    { lba: 512, blockCount: 128 },
    { lba: 640, blockCount: 256 },
    { lba: 896, blockCount: 64 },
    { lba: 960, blockCount: 40 },
  ]);
});

const TIMINGS = [
  { startedAt: 0, endedAt: 10 },
  { startedAt: 0, endedAt: 30 },
  { startedAt: 0, endedAt: 20 },
  { startedAt: 90, endedAt: 100 },
  { startedAt: 50, endedAt: 300 },
  { startedAt: 200, endedAt: 240 },
];

Deno.test("measureLatency() counts a write to the snapshot's time when it was under way then", () => {
  assertEquals(measureLatency(TIMINGS, { requestedAt: 100, sealedAt: 200 }), {
    before: { writeCount: 3, medianMs: 20, maxMs: 30 },
    during: { writeCount: 3, medianMs: 40, maxMs: 250 },
    after: { writeCount: 0 },
  });
});

Deno.test("formatLatency() makes a table with a line for each phase", () => {
  const phased = measureLatency(TIMINGS, { requestedAt: 35, sealedAt: 45 });
  assertEquals(formatLatency({ large: phased, small: phased }), [
    "Write latency, p50 / max   large                         small",
    "  before the snapshot      20 / 30 ms, 3 writes          20 / 30 ms, 3 writes",
    "  while taken and sealed   no writes                     no writes",
    "  after its seal           40 / 250 ms, 3 writes         40 / 250 ms, 3 writes",
  ]);
});

// The bar

const PLAIN = { columns: 67, color: false };

Deno.test("drawQueue() draws the marker between what is flushed and what waits", () => {
  const queue = { sequenceFirst: 100, sequenceFlushed: 140, sequenceAppended: 200 };
  assertEquals(drawQueue(queue, "file 37 %", PLAIN), "queue ████░░░░░░  file 37 %");
  assertEquals(drawQueue({ ...queue, sequenceMarker: 171 }, "", PLAIN), "queue ████░░░◆░░  ");
  assertEquals(drawQueue({ ...queue, sequenceMarker: 200 }, "", PLAIN), "queue ████░░░░░◆  ");
  assertEquals(drawQueue({ ...queue, sequenceMarker: 141 }, "", PLAIN), "queue ████◆░░░░░  ");
  assertEquals(drawQueue({ ...queue, sequenceMarker: 121 }, "", PLAIN), "queue ██◆█░░░░░░  ");
});

Deno.test("drawQueue() draws an empty queue, and one that is flushed", () => {
  const queue = { sequenceFirst: 5, sequenceFlushed: 5, sequenceAppended: 5 };
  assertEquals(drawQueue(queue, "", PLAIN), "queue ░░░░░░░░░░  ");
  assertEquals(
    drawQueue({ ...queue, sequenceFlushed: 9, sequenceAppended: 9 }, "", PLAIN),
    "queue ██████████  ",
  );
});

Deno.test("drawQueue() fills no line to its edge, however wide or narrow the terminal is", () => {
  const queue = { sequenceFirst: 0, sequenceFlushed: 1, sequenceAppended: 2, sequenceMarker: 2 };
  for (
    const [columns, length] of [[1, 0], [20, 19], [80, 79], [0, 79], [100, 99], [132, 131], [
      500,
      131,
    ]] as const
  ) {
    assertEquals(
      drawQueue(queue, "x".repeat(500), { columns, color: false }).length,
      length,
      `${columns} columns`,
    );
  }
});

Deno.test("drawQueue() colours what is flushed and the marker, and nothing where colours are unwanted", () => {
  const queue = { sequenceFirst: 0, sequenceFlushed: 2, sequenceAppended: 10, sequenceMarker: 5 };
  assertEquals(
    drawQueue(queue, "", { ...PLAIN, color: true }),
    "queue \x1b[32m██\x1b[0m░░\x1b[1;33m◆\x1b[0m░░░░░  ",
  );
  assert(!drawQueue(queue, "", PLAIN).includes("\x1b"));
});

Deno.test("drawShare() draws from nothing to all, and never more", () => {
  assertEquals(drawShare("check", 0, "", PLAIN), "check ░░░░░░░░░░  ");
  assertEquals(drawShare("check", 0.55, "half", PLAIN), "check █████░░░░░  half");
  assertEquals(drawShare("check", 1.5, "", PLAIN), "check ██████████  ");
});

Deno.test("formatBytes() and formatEntries() tell amounts as a person reads them", () => {
  assertEquals([0, 1, 4096, 1048576, 26_214_400].map(formatBytes), [
    "0 KiB",
    "1 KiB",
    "4 KiB",
    "1.0 MiB",
    "25.0 MiB",
  ]);
  assertEquals([0, 1, 1234].map(formatEntries), ["0 entries", "1 entry", "1,234 entries"]);
});

// The whole

function spawnDemo(args: string[], environment: Record<string, string>) {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", ...PERMISSIONS, MAIN, "demo", ...args],
    env: { SNAPMARK_PORT: "0", SNAPMARK_ADMIN_TOKEN: TEST_TOKEN, ...environment },
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(DEMO_MS_MAX),
  }).spawn();
}

async function runDemo(args: string[], environment: Record<string, string> = {}) {
  const { code, stdout, stderr } = await spawnDemo(args, environment).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Names of the volumes that are left. */
async function listVolumes(url: string): Promise<string[]> {
  const response = await fetch(`${url}/volumes`, { headers: { authorization: `Bearer ${TEST_TOKEN}` } });
  const { volumes } = await response.json() as { volumes: { name: string }[] };
  return volumes.map(({ name }) => name);
}

Deno.test("demo() plays on the server at --url, verifies every block and leaves no volume", async () => {
  await using resources = new AsyncDisposableStack();
  const { url: databaseUrl } = resources.use(await createTestDatabase());
  const { url } = resources.use(await startServerProcess({ DATABASE_URL: databaseUrl }));

  const { code, stdout, stderr } = await runDemo(["--url", `${url}/`]);

  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  const stages = [
    /^Playing on http:\S+: a running server, with the token from SNAPMARK_ADMIN_TOKEN$/,
    /^Created volume demo-\d{17}: 12,288 blocks of 4 KiB$/,
    /^Writing a file of 48\.0 MiB, while a second client overwrites blocks of it$/,
    /^Requesting a snapshot at 2[4-8]\.\d MiB; nobody stops writing$/,
    /^Marker [\d,]+ is committed: .+ ahead of it$/,
    /^Sealed [\d,]+ ms after the request; entries ahead of the marker: .*\b0$/,
    /^Write latency, p50 \/ max /,
    /^ {2}before the snapshot +[\d,]+ \/ [\d,]+ ms, [\d,]+ writes? +[\d,]+ \/ [\d,]+ ms, [\d,]+ writes?$/,
    /^ {2}while taken and sealed +[\d,]+ \/ [\d,]+ ms, [\d,]+ writes? +[\d,]+ \/ [\d,]+ ms, [\d,]+ writes?$/,
    /^ {2}after its seal +\S/,
    /^Verified the snapshot: all 12,288 blocks equal the replay of the [\d,]+ writes before marker [\d,]+$/,
    /^Verified the volume: all 12,288 blocks equal the replay of all [\d,]+ writes; [\d,]+ of them are newer/,
    /^Deleted volume demo-\d{17}$/,
    /^Snapshot demo-\d{17}-halfway stays: it outlives its volume$/,
  ];
  const lines = stdout.trimEnd().split("\n");
  for (const [index, pattern] of stages.entries()) {
    assert(pattern.test(lines[index]), `Expected ${pattern}, found ${lines[index]}`);
  }
  assertEquals(lines.length, stages.length);
  assertEquals(await listVolumes(url), []);
});

Deno.test("demo() finds the server that runs where the configuration says", async () => {
  await using resources = new AsyncDisposableStack();
  const { url: databaseUrl } = resources.use(await createTestDatabase());
  const { url } = resources.use(await startServerProcess({ DATABASE_URL: databaseUrl }));
  const { hostname, port } = new URL(url);

  const { code, stdout } = await runDemo([], { SNAPMARK_HOST: hostname, SNAPMARK_PORT: port });

  assertEquals(code, 0);
  assertStringIncludes(stdout, `Playing on ${url}: a running server`);
});

Deno.test("demo() starts and stops a server of its own where none runs", async () => {
  await using test = await createTestDatabase();

  const { code, stdout, stderr } = await runDemo([], { DATABASE_URL: test.url });

  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  assertStringIncludes(stdout, ": a server of its own\n");
  assertStringIncludes(stdout, "Verified the volume");
});

Deno.test("demo() ends cleanly when it is interrupted in the middle of writing", async () => {
  await using resources = new AsyncDisposableStack();
  const { url: databaseUrl } = resources.use(await createTestDatabase());
  const { url } = resources.use(await startServerProcess({ DATABASE_URL: databaseUrl }));

  const process = spawnDemo(["--url", url], {});
  const stderr = new Response(process.stderr).text();
  const lines: string[] = [];
  for await (
    const line of process.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())
  ) {
    lines.push(line as string);
    if (lines.length === 3) process.kill("SIGINT");
  }

  assertEquals((await process.status).code, 1);
  assertEquals(await stderr, "Cannot finish the demo: it was interrupted\n");
  assert(lines.at(-1)?.startsWith("Deleted volume demo-"), lines.at(-1));
  assertEquals(await listVolumes(url), []);
});

Deno.test("demo() says in a sentence why it cannot play", async () => {
  await using resources = new AsyncDisposableStack();
  const { url: databaseUrl } = resources.use(await createTestDatabase());
  const { url } = resources.use(await startServerProcess({ DATABASE_URL: databaseUrl }));

  const stranger = await runDemo(["--url", url], { SNAPMARK_ADMIN_TOKEN: "another-token-0123456789" });
  assertEquals(stranger.code, 1);
  assertEquals(
    stranger.stderr,
    "The server refused POST /volumes with 401: Cannot let this request in: expected a valid bearer token\n",
  );

  const misled = await runDemo(["--url", "ftp://127.0.0.1"]);
  assertEquals(misled.code, 1);
  assertEquals(misled.stderr, "Cannot play there: expected --url to start with http:// or https://\n");
});
