import { assert, assertEquals, assertRejects } from "@std/assert";
import { closeDatabase, openDatabase, transact } from "../../src/database/client.ts";
import { isConnectionLost } from "../../src/database/connection_error.ts";
import { createTestDatabase } from "../support/database.ts";

Deno.test("transact() whose connection is lost rejects, and what its body still says runs in nobody else's transaction", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  await database.$client`create table t (who text)`;
  const lost = Promise.withResolvers<void>();
  const late = Promise.withResolvers<unknown>();
  const transaction = transact(database, async ({ $client }) => {
    const [{ pid }] = await $client`select pg_backend_pid() as pid`;
    await $client`insert into t values ('lost')`;
    await database.$client`select pg_terminate_backend(${pid})`;
    await lost.promise;
    try {
      await $client`insert into t values ('late')`;
      late.resolve("it ran");
    } catch (error) {
      late.resolve(error);
      throw error;
    }
  });
  const error = await assertRejects(() => transaction);
  assertEquals(isConnectionLost(error), true);
  lost.resolve();
  assertEquals(isConnectionLost(await late.promise), true);
  await transact(database, ({ $client }) => $client`insert into t values ('next')`);
  assertEquals((await database.$client`select who from t`).map(({ who }) => who), ["next"]);
});

Deno.test("transact() rolls back what its body did before it failed", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  await database.$client`create table t (who text)`;
  const failing = transact(database, async ({ $client }) => {
    await $client`insert into t values ('gone')`;
    throw new Error("on purpose");
  });
  await assertRejects(() => failing, Error, "on purpose");
  assertEquals((await database.$client`select count(*) from t`)[0].count, 0);
});

Deno.test("openDatabase() lets pass the loss of a connection that nobody awaits: the process goes on", async () => {
  await using test = await createTestDatabase("template1");
  void Promise.reject(
    Object.assign(new Error("terminating connection"), { code: "57P01", severity: "FATAL" }),
  );
  const query = "select b.oid, b.typarray from pg_catalog.pg_type a";
  void Promise.reject(Object.assign(new Error("canceling statement"), { code: "57014", query }));
  assertEquals((await test.database.$client`select 1 as one`)[0].one, 1);
});

Deno.test("a connection that was lost in the middle of an answer leaves nothing of it in the next one's answer", async () => {
  await using test = await createTestDatabase("template1");
  const database = openDatabase(test.url, { connectionsMax: 1 });
  try {
    await assertRejects(async () =>
      await database.$client`select pg_terminate_backend(pg_backend_pid()) from generate_series(1, 3)`
    );
    assertEquals(await selectUntilConnected(() => database.$client`select 7 as seven`), [{ seven: 7 }]);
    await assertRejects(() =>
      transact(
        database,
        ({ $client }) => $client`select pg_terminate_backend(pg_backend_pid()) from generate_series(1, 3)`,
      )
    );
    assertEquals(
      await selectUntilConnected(() => transact(database, ({ $client }) => $client`select 7 as seven`)),
      [{ seven: 7 }],
    );
  } finally {
    await closeDatabase(database);
  }
});

/** The first statement behind a lost connection may be refused with that one's error. */
async function selectUntilConnected(select: () => Promise<Iterable<unknown>>): Promise<unknown[]> {
  for (let tries = 0; tries < 5; tries++) {
    try {
      return [...await select()];
    } catch (error) {
      assert(isConnectionLost(error), String(error));
    }
  }
  throw new Error("Cannot connect again");
}

Deno.test("transact() gets its connection however much is being sent on those that there are", async () => {
  await using test = await createTestDatabase("template1");
  const database = openDatabase(test.url, { connectionsMax: 2 });
  try {
    const text = "x".repeat(1_200);
    // Until what waits to be sent is just below what the platform takes at once.
    for (let queries = 2; queries <= 260; queries += 1) {
      const sending = Array.from(
        { length: queries },
        () => database.$client`select length(${text}) as length`.execute(),
      );
      const transaction = transact(database, ({ $client }) => $client`select 1 as one`);
      await Promise.all([...sending, transaction]);
    }
    const [{ open }] = await database.$client`
      select count(*) as open from pg_stat_activity
      where datname = current_database() and state like 'idle in transaction%'`;
    assertEquals(open, 0);
  } finally {
    await closeDatabase(database);
  }
});
