import { assertEquals } from "@std/assert";
import { getTableConfig, PgTable } from "drizzle-orm/pg-core";
import * as schema from "../../src/database/schema.ts";
import { createTestDatabase } from "../support/database.ts";

Deno.test("the drizzle schema is what the migrations make: tables, columns, types, nullability", async () => {
  await using test = await createTestDatabase();
  const rows = await test.database.$client<{ column: string; type: string; required: boolean }[]>`
    select c.relname || '.' || a.attname as column, format_type(a.atttypid, null) as type, a.attnotnull as required
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0
      and not a.attisdropped
      and c.relname <> 'schema_migrations'
    order by 1`;
  const declared = Object.values(schema).filter((value) => value instanceof PgTable).flatMap((table) => {
    const { name, columns } = getTableConfig(table);
    return columns.map((column) => ({
      column: `${name}.${column.name}`,
      type: column.getSQLType().replace(/ \(\d+\)/, "").replace(
        /^timestamp with.*|timestamp\(6\) with.*/,
        "timestamp with time zone",
      ),
      required: column.notNull,
    }));
  });
  declared.sort((a, b) => a.column < b.column ? -1 : 1);
  assertEquals(declared, rows.map((row) => ({ ...row })).sort((a, b) => a.column < b.column ? -1 : 1));
});
