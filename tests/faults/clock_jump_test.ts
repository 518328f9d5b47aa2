/**
 * The server's clock jumps an hour ahead and an hour back, again and again, under clients that write and snapshot, beside a
 * schedule and a copy: nothing is lost, cuts are in the order of their sequences, schedules neither storm nor stand still, leases are
 * not waited for, and no figure is negative.
 */

import { assert, assertEquals } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { Client } from "../support/client.ts";
import { createTestDatabase } from "../support/database.ts";
import { until } from "../support/door.ts";
import { startServerProcess, TEST_TOKEN } from "../support/server.ts";
import { Load, LOAD_BLOCKS } from "./load.ts";

const SEED = 504;
const CHILD = fromFileUrl(new URL("./clock_child.ts", import.meta.url));
/** The signals that the server takes for it: an hour ahead, right again, an hour behind, right again. */
const JUMPS = ["SIGHUP", "SIGUSR2", "SIGUSR2", "SIGHUP"] as const;
const EVERY_SECONDS = 10;
const ANSWERS = 60;
const WAIT_MS_MAX = 90_000;

Deno.test(`a clock that jumps an hour ahead and back under load loses nothing and holds nothing up (seed ${SEED})`, async () => {
  await using test = await createTestDatabase();
  await using server = await startServerProcess({ DATABASE_URL: test.url }, [], { program: CHILD });
  const client = new Client(server.url);
  const { $client } = test.database;
  const call = async (method: string, path: string, json?: unknown) => {
    const headers = { authorization: `Bearer ${TEST_TOKEN}`, "content-type": "application/json" };
    const body = json === undefined ? null : JSON.stringify(json);
    const response = await fetch(`${server.url}${path}`, { method, headers, body });
    assert(response.ok, `${method} ${path} was answered ${response.status}`);
    return await response.json();
  };
  await client.createPool({ name: "vault" });
  await client.addDevice({ name: "vault", pool: "vault", sizeBytes: 2 ** 26 });
  await client.createVolume({ name: "v", blockCount: LOAD_BLOCKS });
  const load = new Load(server.url, "v", SEED);
  try {
    await load.answer(ANSWERS);
    await call("POST", "/schedules", { name: "s", volumes: ["v"], every: `PT${EVERY_SECONDS}S` });
    const startedAt = performance.now();
    for (const jump of JUMPS) {
      const { id } = await call("POST", `/snapshots/${load.cuts.at(-1)?.id}/copies`, { pool: "vault" });
      const runs = await countRuns();
      server.kill(jump);
      await load.answer(ANSWERS);
      // Neither the schedule nor the copy waits for an hour to be over.
      await patiently(async () => await countRuns() > runs);
      await patiently(async () => (await call("GET", `/copies/${id}`)).status === "done");
      await until(async () => (await fetch(`${server.url}/health/ready`)).status === 200);
      assertNoNegative(
        await (await fetch(`${server.url}/metrics`, {
          headers: { authorization: `Bearer ${TEST_TOKEN}` },
        })).text(),
      );
    }
    const elapsedSeconds = (performance.now() - startedAt) / 1000;
    // At most one more for each jump: what is made up for, once.
    const runsMax = elapsedSeconds / EVERY_SECONDS + 1 + JUMPS.length;
    assert(await countRuns() <= runsMax, `${await countRuns()} runs in ${elapsedSeconds} s`);
    await load.verify(client);
  } finally {
    await load.stop();
  }
  // In the order of their markers, whatever their clocks say; and it did jump.
  const rows = await $client<{ created_at: string; marker_sequence: number }[]>`
    select s.created_at, marker_sequence from snapshots s join pools p using (pool_id) where p.name = 'main'
    order by marker_sequence`;
  const moments = rows.map((row) => new Date(row.created_at).getTime());
  const back = moments.filter((at, index) => at < (moments[index - 1] ?? 0));
  assertEquals(back.length, 2);
  const sequences = load.cuts.map(({ sequence }) => sequence);
  assertEquals(sequences, sequences.toSorted((a, b) => a - b));
  server.kill("SIGTERM");
  assertEquals((await server.ended()).code, 0);

  async function countRuns(): Promise<number> {
    const [{ count }] = await $client`select count(*) from events where type = 'schedule.ran'`;
    return count;
  }
});

/** Waits longer than most tests have to, and far less than an hour. */
async function patiently(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_MS_MAX;
  while (!await condition()) {
    if (performance.now() > deadline) throw new Error(`Cannot wait any longer until ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Fails where a line of metrics ends in a negative number. */
function assertNoNegative(metrics: string): void {
  assertEquals(metrics.split("\n").filter((line) => !line.startsWith("#") && / -\d/.test(line)), []);
}
