/**
 * PostgreSQL is slow: every statement reaches it late, and every answer comes late. Requests succeed or are answered 503, readiness
 * tells when it is too slow to be of use, nothing answered is lost, and all goes on at once when it is fast again.
 */

import { assert, assertEquals } from "@std/assert";
import { Client } from "../support/client.ts";
import { until } from "../support/door.ts";
import { below, seeded } from "../support/history.ts";
import { startOwnPostgres } from "../support/own_postgres.ts";
import { startPostgresProxy } from "../support/postgres_proxy.ts";
import { startServerProcess } from "../support/server.ts";
import { Load, LOAD_BLOCKS } from "./load.ts";

const SEED = 503;
/** Each way. A batch of writes is several of them. */
const DELAY_MS_MAX = 80;
/** Above what readiness waits for. */
const USELESS_MS = 2_500;
const ANSWERS = 40;

Deno.test(`PostgreSQL whose every message is delayed: nothing answered is lost, readiness tells, all goes on (seed ${SEED})`, async () => {
  await using postgres = await startOwnPostgres();
  await using proxy = startPostgresProxy(postgres.url);
  await using server = await startServerProcess({ DATABASE_URL: proxy.url });
  const client = new Client(server.url);
  await client.createVolume({ name: "v", blockCount: LOAD_BLOCKS });
  const random = seeded(SEED);
  const slowBy = (ms: () => number) => {
    const wait = () => new Promise<void>((resolve) => setTimeout(resolve, ms()));
    proxy.hooks = { onConnect: wait, onStatement: wait, onAnswer: wait };
  };
  const isReady = async () => (await (await fetch(`${server.url}/health/ready`)).json()).ready;
  const load = new Load(server.url, "v", SEED);
  try {
    await load.answer(ANSWERS);
    slowBy(() => below(random, DELAY_MS_MAX));
    await load.answer(ANSWERS);
    assertEquals(await isReady(), true);
    slowBy(() => USELESS_MS);
    await until(async () => !await isReady());
    proxy.hooks = {};
    await until(isReady);
    await load.answer(ANSWERS);
    await load.verify(client);
    assert(load.answered >= 3 * ANSWERS);
  } finally {
    await load.stop();
  }
});
