import { assertEquals, assertRejects } from "@std/assert";
import { isConnectionError, transact } from "../../src/database/client.ts";
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
  assertEquals(isConnectionError(error), true);
  lost.resolve();
  assertEquals(isConnectionError(await late.promise), true);
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
  void Promise.reject(Object.assign(new Error("terminating connection"), { code: "57P01" }));
  assertEquals((await test.database.$client`select 1 as one`)[0].one, 1);
});
