/**
 * A server that is killed between the commit of what a request did and its answer: the next server answers the request's second
 * attempt, and does nothing again.
 */

import { assertEquals } from "@std/assert";
import { createTestDatabase } from "../support/database.ts";
import { startServerProcess, TEST_TOKEN } from "../support/server.ts";

/** What the answer's storing waits for, so that the server can be killed there. */
const LOCK = 20_261_125;

async function take(url: string): Promise<Response> {
  return await fetch(`${url}/snapshots`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${TEST_TOKEN}`,
      "content-type": "application/json",
      "idempotency-key": '"killed"',
    },
    body: JSON.stringify({ pool: "main" }),
    signal: AbortSignal.timeout(30_000),
  });
}

Deno.test("a snapshot under a key is taken once though the server is killed between its commit and its answer", async () => {
  await using test = await createTestDatabase();
  const { $client } = test.database;
  await $client.unsafe(`
    create function wait() returns trigger language plpgsql as 'begin perform pg_advisory_lock(${LOCK}); return new; end';
    create trigger wait before update on idempotency_keys for each row when (new.status is not null) execute function wait()`);
  const waiting = () =>
    $client<{ pid: number }[]>`
      select pid from pg_stat_activity where datname = current_database() and wait_event = 'advisory'`;
  {
    await using server = await startServerProcess({ DATABASE_URL: test.url });
    const holder = await $client.reserve();
    await holder`select pg_advisory_lock(${LOCK})`;
    const first = take(server.url).then(() => "answered", () => "lost");
    while ((await waiting()).length === 0);
    server.kill("SIGKILL");
    await server.ended();
    // Its connection would store the answer all the same, once it may.
    for (const { pid } of await waiting()) await $client`select pg_terminate_backend(${pid})`;
    while ((await waiting()).length > 0);
    await holder`select pg_advisory_unlock(${LOCK})`;
    holder.release();
    assertEquals(await first, "lost");
  }
  assertEquals([...await $client`select status from idempotency_keys`].map((row) => ({ ...row })), [{
    status: null,
  }]);

  await using server = await startServerProcess({ DATABASE_URL: test.url });
  const early = await take(server.url);
  assertEquals([early.status, (await early.json()).code], [409, "idempotency-key-in-progress"]);
  await $client`update idempotency_keys set lease_until = now()`;
  const answers = [await take(server.url), await take(server.url)];
  const bodies = await Promise.all(answers.map((answer) => answer.json()));
  assertEquals(answers.map(({ status }) => status), [202, 202]);
  const rows = await $client<{ snapshot_id: string }[]>`select snapshot_id from snapshots`;
  assertEquals(rows.map((row) => row.snapshot_id), [bodies[0].id]);
  assertEquals(bodies[1], bodies[0]);
  assertEquals(
    answers.map(({ headers }) => headers.get("location")),
    Array(2).fill(`/snapshots/${bodies[0].id}`),
  );
});
