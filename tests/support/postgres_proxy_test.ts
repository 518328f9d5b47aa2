/**
 * The proxy tells statements from answers, holds both, and cuts connections: what tests of faults stand on.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { closeDatabase, openDatabase, transact } from "../../src/database/client.ts";
import { copyRowsAfter } from "../../src/database/copy.ts";
import { createTestDatabase } from "./database.ts";
import { COPY_DONE, type ProxiedStatement, type ProxyHooks, startPostgresProxy } from "./postgres_proxy.ts";

const TARGET = { table: "t", columns: { n: "int4" } } as const;

async function createBed(hooks: ProxyHooks = {}) {
  const resources = new AsyncDisposableStack();
  const test = resources.use(await createTestDatabase("template1"));
  await test.database.$client`create table t (n integer)`;
  const proxy = resources.use(startPostgresProxy(test.url, hooks));
  const database = openDatabase(proxy.url, { connectionsMax: 1 });
  resources.defer(() => closeDatabase(database, 0));
  return { proxy, database, test, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

Deno.test("startPostgresProxy() tells each statement and each answer once, in their order", async () => {
  const told: string[] = [];
  const tell = (what: string) => ({ text }: ProxiedStatement) => {
    if (!text.includes("pg_catalog")) told.push(`${what} ${text}`);
  };
  await using bed = await createBed({ onStatement: tell("ask"), onAnswer: tell("answer") });
  await transact(bed.database, async ({ $client }) => {
    // The second is sent before the first is answered.
    await Promise.all([$client`insert into t values (${1})`, $client`insert into t values (${2})`]);
  });
  await copyRowsAfter(bed.database, ["select 1"], TARGET, [[3], [4]]);
  const copy = "select 1;copy t (n) from stdin (format binary)";
  assertEquals(told.filter((line) => line.startsWith("ask")), [
    "ask begin ",
    "ask insert into t values ($1)",
    "ask insert into t values ($1)",
    "ask commit",
    `ask ${copy}`,
    `ask ${COPY_DONE}`,
  ]);
  assertEquals(
    told.filter((line) => line.startsWith("answer")),
    told.filter((line) => line.startsWith("ask")).map((line) => line.replace("ask", "answer")),
  );
  assertEquals((await bed.test.database.$client`select n from t order by n`).map(({ n }) => n), [1, 2, 3, 4]);
});

Deno.test("startPostgresProxy() goes on behind an error, also one in the middle of a COPY", async () => {
  await using bed = await createBed();
  const { $client } = bed.database;
  await assertRejects(() => Promise.resolve($client`select ${1}::integer / 0`), Error, "division by zero");
  await assertRejects(() => copyRowsAfter(bed.database, ["select 1 / 0"], TARGET, [[1]]), Error, "division");
  const wrong = { table: "t", columns: { n: "int8" } } as const;
  await assertRejects(
    () => copyRowsAfter(bed.database, [], wrong, [[1], [2]]),
    Error,
    "incorrect binary data",
  );
  assertEquals((await $client`select ${7}::integer as n`)[0].n, 7);
  await copyRowsAfter(bed.database, [], TARGET, [[1]]);
  assertEquals((await $client`select count(*)::integer as n from t`)[0].n, 1);
});

for (const at of ["onStatement", "onAnswer"] as const) {
  Deno.test(`startPostgresProxy() holds a commit at ${at}; cut then, it has ${at === "onAnswer" ? "" : "not "}happened`, async () => {
    const held = Promise.withResolvers<void>();
    await using bed = await createBed({
      [at]: async ({ text }: ProxiedStatement) => {
        if (text !== "commit") return;
        held.resolve();
        await new Promise(() => {});
      },
    });
    const { proxy, database, test } = bed;
    const inserting = transact(database, ({ $client }) => Promise.resolve($client`insert into t values (1)`));
    const outcome = inserting.then(() => "answered", (error) => error.code);
    await held.promise;
    assertEquals(
      await Promise.race([outcome, new Promise((resolve) => setTimeout(resolve, 50, "held"))]),
      "held",
    );
    proxy.hooks = {};
    proxy.cut();
    assertEquals(await outcome, "outcome-unknown");
    const rows = await test.database.$client`select from t`;
    assertEquals(rows.length, at === "onAnswer" ? 1 : 0);
    assert((await database.$client`select 1`).length === 1, "it takes further connections");
  });
}
