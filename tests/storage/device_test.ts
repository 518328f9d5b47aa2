import { assertEquals } from "@std/assert";
import { createTestStorage } from "../support/storage.ts";

/** As migration 0004 alters them, and as `addDevice` makes them. */
const OPTIONS = ["autovacuum_vacuum_scale_factor=0.1", "autovacuum_vacuum_cost_delay=0"];

Deno.test("addDevice() makes a partition that is vacuumed without pauses, and so do the migrations of one that there is", async () => {
  await using test = await createTestStorage();
  const { $client } = test.test.database;
  const readOptions = () =>
    $client`
      select c.reloptions as heap, t.reloptions as toast
      from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class t on t.oid = c.reltoastrelid
      where inhparent = 'blocks'::regclass`.then((rows) => rows.map((row) => ({ ...row })));
  const expected = [{ heap: OPTIONS, toast: OPTIONS }];
  assertEquals(await readOptions(), expected);
  const [{ name }] = await $client`
    select inhrelid::regclass::text as name from pg_inherits where inhparent = 'blocks'::regclass`;
  await $client.unsafe(
    `alter table ${name} reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_delay,
      toast.autovacuum_vacuum_scale_factor, toast.autovacuum_vacuum_cost_delay)`,
  );
  await $client.unsafe(
    await Deno.readTextFile(new URL("../../migrations/0004_vacuum_blocks.sql", import.meta.url)),
  );
  assertEquals(await readOptions(), expected);
});
