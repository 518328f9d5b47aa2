/**
 * Invariant 11: every table leads its key with `pool_id`, and every statement on a hot table names it. Clients and their
 * idempotency keys are of no pool, for they may be who creates one, and by which request; the signing key is of the installation.
 */

import { assertEquals } from "@std/assert";
import { createTestDatabase } from "../support/database.ts";

const STORAGE = new URL("../../src/storage/", import.meta.url);
const HOT_TABLE =
  /\b(?:from|join|into|update)\s+(cache|blocks|segment_map|pool_heads|pool_tails|free_segments)\b/;

Deno.test("every table of a pool leads its primary key with pool_id", async () => {
  await using test = await createTestDatabase();
  const rows = await test.database.$client<{ relname: string; first: string }[]>`
    select c.relname, a.attname as first from pg_index i
    join pg_class c on c.oid = i.indrelid
    join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
    where i.indisprimary and c.relnamespace = 'public'::regnamespace and c.relname <> 'schema_migrations'
    order by c.relname`;
  const poolless = rows.filter(({ first }) => first !== "pool_id").map((row) => ({ ...row }));
  assertEquals(poolless, [
    { relname: "clients", first: "client_id" },
    { relname: "idempotency_keys", first: "client_id" },
    { relname: "signing_keys", first: "key_name" },
  ]);
  const tables = await test.database.$client`
    select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')`;
  assertEquals(rows.length, tables[0].count - 1);
});

Deno.test("every statement on a hot table names pool_id", async () => {
  const nameless: string[] = [];
  let hot = 0;
  for await (const file of Deno.readDir(STORAGE)) {
    const text = await Deno.readTextFile(new URL(file.name, STORAGE));
    for (const [, statement] of text.matchAll(/(?:client(?:<[^`]*>)?|return |^\s+)`([^`]*)`/gm)) {
      if (!HOT_TABLE.test(statement)) continue;
      hot += 1;
      if (!statement.includes("pool_id")) nameless.push(`${file.name}: ${statement}`);
    }
  }
  assertEquals(nameless, []);
  assertEquals(hot > 12, true);
});

Deno.test("the flush inserts and deletes by two statements, not by one that writes twice", async () => {
  const text = await Deno.readTextFile(new URL("flush.ts", STORAGE));
  assertEquals(
    /\bwith\b[^`]*\b(delete|insert|update)\b[^`]*\)/i.test(
      text.match(/`\s*insert into blocks[^`]*`/)?.[0] ?? "with insert)",
    ),
    false,
  );
  assertEquals(text.match(/delete from cache/g)?.length, 1);
});
