/**
 * PostgreSQL hangs, or is restarted, under a server that clients write to: requests succeed or are answered 503, readiness
 * tells it, nothing that was answered is lost, subscribers see what comes after, and all goes on without a restart.
 */

import { assert, assertEquals } from "@std/assert";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { Client } from "../support/client.ts";
import { until } from "../support/door.ts";
import { type OwnPostgres, startOwnPostgres } from "../support/own_postgres.ts";
import { startServerProcess, TEST_TOKEN, type TestServer } from "../support/server.ts";
import { subscribe } from "../support/websocket.ts";
import { Load, LOAD_BLOCKS } from "./load.ts";

const SEED = 501;
const HANG_MS = 30_000;
/** Readiness answers within two seconds, whatever the database does. */
const READY_MS_MAX = 4_000;
const RESTARTS = 2;

interface Bed {
  readonly postgres: OwnPostgres;
  readonly server: TestServer;
  readonly client: Client;
  readonly load: Load;
}

async function prepare(resources: AsyncDisposableStack): Promise<Bed> {
  const postgres = resources.use(await startOwnPostgres());
  const server = resources.use(await startServerProcess({ DATABASE_URL: postgres.url }));
  const client = new Client(server.url);
  await client.createVolume({ name: "v", blockCount: LOAD_BLOCKS });
  const load = new Load(server.url, "v", SEED);
  resources.defer(() => load.stop());
  await load.answer(50);
  return { postgres, server, client, load };
}

async function isReady({ url }: TestServer): Promise<boolean> {
  const response = await fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(READY_MS_MAX) });
  return (await response.json()).ready;
}

/** How many sessions listen for events. */
async function countListeners({ url }: OwnPostgres): Promise<number> {
  const database = openDatabase(url, { connectionsMax: 1 });
  try {
    return (await database.$client`select from pg_stat_activity where query ilike 'listen %'`).length;
  } finally {
    await closeDatabase(database);
  }
}

Deno.test(`PostgreSQL hung for ${HANG_MS} ms under load: readiness tells, nothing answered is lost, all goes on (seed ${SEED})`, async () => {
  await using resources = new AsyncDisposableStack();
  const { postgres, server, client, load } = await prepare(resources);
  assertEquals(await isReady(server), true);
  await postgres.hang();
  const woken = Promise.withResolvers<void>();
  setTimeout(woken.resolve, HANG_MS);
  try {
    assertEquals(await isReady(server), false);
    assertEquals((await fetch(`${server.url}/health/live`)).status, 200);
    const metrics = await fetch(`${server.url}/metrics`, {
      headers: { authorization: `Bearer ${TEST_TOKEN}` },
      signal: AbortSignal.timeout(READY_MS_MAX),
    });
    assert((await metrics.text()).includes("\nsnapmark_database_up 0\n"));
    const before = load.answered;
    await woken.promise;
    assert(load.answered - before === 0, "it was not hung");
  } finally {
    await woken.promise;
    postgres.wake();
  }
  await load.answer(100);
  await until(() => isReady(server));
  await load.verify(client);
});

Deno.test(`PostgreSQL restarted ${RESTARTS} times under load: a subscriber sees what comes after, and all goes on (seed ${SEED})`, async () => {
  await using resources = new AsyncDisposableStack();
  const { postgres, server, client, load } = await prepare(resources);
  const subscriber = resources.use(
    await subscribe({ url: server.url }, "?type=volume.created", TEST_TOKEN),
  );
  for (let restart = 1; restart <= RESTARTS; restart++) {
    await postgres.stop();
    assertEquals(await isReady(server), false);
    await postgres.start();
    await load.answer(100);
    await until(() => isReady(server));
    await until(async () => await countListeners(postgres) === 1);
    await client.createVolume({ name: `after-${restart}`, blockCount: 1 });
    assertEquals((await subscriber.take(restart)).length, restart);
  }
  await load.verify(client);
});
