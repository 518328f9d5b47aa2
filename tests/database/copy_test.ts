import { assertEquals, assertRejects } from "@std/assert";
import { transact } from "../../src/database/client.ts";
import { copyRows, copyRowsAfter, encodeCopyRows } from "../../src/database/copy.ts";
import { createTestDatabase } from "../support/database.ts";

Deno.test("encodeCopyRows() writes PostgreSQL's binary format", () => {
  const bytes = encodeCopyRows(["int4", "text", "bytea"], [[7, "é", null]]);
  assertEquals(
    bytes.toHex(),
    "5047434f50590aff0d0a00" + "00000000" + "00000000" + "0003" + "0000000400000007" + "00000002c3a9" +
      "ffffffff" + "ffff",
  );
});

Deno.test("copyRows() stores every type as it was given", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  await database.$client`
    create table t (a uuid, b int2, c int4, d int8, e text, f timestamptz, g bytea)`;
  const id = "01a20573-4b9a-71ce-9029-d1d9944da612";
  const at = new Date("2026-11-22T22:49:31.905Z");
  const columns = {
    a: "uuid",
    b: "int2",
    c: "int4",
    d: "int8",
    e: "text",
    f: "timestamptz",
    g: "bytea",
  } as const;
  const rows = [
    [id, -2, 3, Number.MAX_SAFE_INTEGER, "a\n\\N", at, new Uint8Array([0, 255])],
    [null, null, null, null, null, null, null],
    [id, 1, -1, -5, "", new Date("1999-01-01T00:00:00Z"), new Uint8Array()],
  ];
  await transact(database, (tx) => copyRows(tx, { table: "t", columns }, rows));
  const found = await database.$client`select a, b, c, d, e, f::text, g from t`;
  assertEquals(found.map((row) => ({ ...row })), [
    {
      a: id,
      b: -2,
      c: 3,
      d: 9007199254740991,
      e: "a\n\\N",
      f: "2026-11-22 22:49:31.905+00",
      g: new Uint8Array([0, 255]),
    },
    { a: null, b: null, c: null, d: null, e: null, f: null, g: null },
    { a: id, b: 1, c: -1, d: -5, e: "", f: "1999-01-01 00:00:00+00", g: new Uint8Array() },
  ]);
});

Deno.test("copyRows() fails when the table refuses a row, and the connection goes on", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  await database.$client`create table t (a int4 primary key)`;
  const target = { table: "t", columns: { a: "int4" } } as const;
  await assertRejects(
    () => transact(database, (tx) => copyRows(tx, target, [[1], [1]])),
    Error,
    "duplicate key",
  );
  await transact(database, (tx) => copyRows(tx, target, [[1], [2]]));
  const [row] = await database.$client`select count(*) from t`;
  assertEquals(row.count, 2);
});

Deno.test("copyRows() brings thousands of batches through few connections", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  await database.$client`create table t (a int4, b bytea)`;
  const target = { table: "t", columns: { a: "int4", b: "bytea" } } as const;
  const data = new Uint8Array(20_000);
  const batches = 2_000;
  let next = 0;
  await Promise.all(Array.from({ length: 4 }, async () => {
    while (next < batches) {
      const batch = next++;
      await transact(database, (tx) => copyRows(tx, target, [[batch, data], [batch, null]]));
    }
  }));
  const [row] = await database.$client`select count(*), sum(length(b))::bigint as bytes from t`;
  assertEquals({ ...row }, { count: 2 * batches, bytes: batches * data.length });
});

Deno.test("copyRowsAfter() commits its statements and its rows together, or neither", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  await database.$client`create table t (a int4 primary key)`;
  const target = { table: "t", columns: { a: "int4" } } as const;
  await copyRowsAfter(database, ["insert into t values (7)", "select 1"], target, [[1], [2]]);
  const before = "insert into t values (8)";
  await assertRejects(
    () => copyRowsAfter(database, [before, "select 1 / 0"], target, [[3]]),
    Error,
    "division",
  );
  await assertRejects(() => copyRowsAfter(database, [before], target, [[3], [3]]), Error, "duplicate key");
  const rows = await database.$client`select a from t order by a`;
  assertEquals(rows.map(({ a }) => a), [1, 2, 7]);
});

Deno.test("copyRowsAfter() brings thousands of batches through few connections beside other statements", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  await database.$client`create table t (a int4, b bytea)`;
  const target = { table: "t", columns: { a: "int4", b: "bytea" } } as const;
  const data = new Uint8Array(20_000);
  const batches = 2_000;
  let next = 0;
  await Promise.all(Array.from({ length: 16 }, async () => {
    while (next < batches) {
      const batch = next++;
      await copyRowsAfter(database, ["select 1"], target, [[batch, data], [batch, null]]);
      await database.$client`select count(*) from t where a = ${batch}`;
    }
  }));
  const [row] = await database.$client`select count(*), sum(length(b))::bigint as bytes from t`;
  assertEquals({ ...row }, { count: 2 * batches, bytes: batches * data.length });
});
