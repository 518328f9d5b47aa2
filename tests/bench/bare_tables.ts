/**
 * The peer of `flush` and `cost`: tables of the same shape as `cache` and one partition of `blocks`, with nothing around them.
 *
 * The shape is read from the catalogue, so that it follows the schema: columns with their storage, the table's own
 * parameters, the primary key. No other index, no check, no trigger.
 */

import type { Client, Database } from "../../src/database/client.ts";
import { type CopyType, type CopyValue, encodeCopyRows } from "../../src/database/copy.ts";
import { BLOCK_BYTES, takeBlock } from "./block_contents.ts";

/** Rows of one COPY: 8 MiB of blocks. */
const COPY_ROWS_MAX = 2_048;
/** Blocks of a segment in the rows that are made up here. */
const SEGMENT_BLOCKS = 16;

export const BARE_CACHE = "bare_cache";
export const BARE_BLOCKS = "bare_blocks";

// Statements

/** A table itself, or a leaf of it if it is partitioned. */
async function findLeaf(client: Client, table: string): Promise<string> {
  const [row] = await client<{ leaf: string }[]>`
    select coalesce(
      (select relid::regclass::text from pg_partition_tree(${table}::regclass) where isleaf order by relid limit 1),
      ${table}
    ) as leaf`;
  return row.leaf;
}

interface Shape {
  readonly parameters: string | null;
  readonly primaryKey: string;
}

async function readShape(client: Client, table: string): Promise<Shape> {
  const [row] = await client<{ parameters: string | null; primary_key: string }[]>`
    select array_to_string(c.reloptions, ', ') as parameters, pg_get_constraintdef(k.oid) as primary_key
    from pg_class c join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
    where c.oid = ${table}::regclass`;
  return { parameters: row.parameters, primaryKey: row.primary_key };
}

export interface Column {
  readonly name: string;
  readonly type: CopyType;
}

/** The columns of a table, in its order. */
export async function readColumns(client: Client, table: string): Promise<Column[]> {
  const rows = await client<{ name: string; type: CopyType }[]>`
    select a.attname as name, t.typname as type from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = ${table}::regclass and a.attnum > 0 and not a.attisdropped
    order by a.attnum`;
  return [...rows];
}

// Verbs

/** Creates {@linkcode BARE_CACHE} and {@linkcode BARE_BLOCKS} in a migrated database that has a device. */
export async function createBareTables({ $client }: Database): Promise<void> {
  await createBare($client, "cache", BARE_CACHE);
  await createBare($client, "blocks", BARE_BLOCKS);
}

async function createBare(client: Client, like: string, table: string): Promise<void> {
  const leaf = await findLeaf(client, like);
  const { parameters, primaryKey } = await readShape(client, leaf);
  await client.unsafe(`create table ${table} (like ${leaf} including storage including compression)`);
  if (parameters !== null) await client.unsafe(`alter table ${table} set (${parameters})`);
  await client.unsafe(`alter table ${table} add ${primaryKey}`);
}

/** Copies what stands in `cache` into {@linkcode BARE_CACHE}, and answers the number of rows. */
export async function copyCache({ $client }: Database): Promise<number> {
  const { count } = await $client.unsafe(`insert into ${BARE_CACHE} select * from cache`);
  return count;
}

/** The limit of flushing: one statement, whose keys do not collide; as PostgreSQL likes it best, by a sequential scan. */
export async function insertSelect({ $client }: Database): Promise<void> {
  await $client.begin(async (tx) => {
    await tx`set local enable_seqscan = on`;
    await tx.unsafe(`
      insert into ${BARE_BLOCKS} (pool_id, device_id, segment_id, block_index, sequence, data)
      select pool_id, device_id, segment_id, first_block, sequence, data from ${BARE_CACHE}`);
  });
}

/** Rows for {@linkcode BARE_CACHE}, encoded: of 4 KiB each, one to each of `lbas`, in that order. */
export async function* encodeBareRows(
  { $client }: Database,
  lbas: Uint32Array,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const columns = await readColumns($client, BARE_CACHE);
  const id = crypto.randomUUID();
  for (let start = 0; start < lbas.length; start += COPY_ROWS_MAX) {
    const rows = Array.from(
      lbas.subarray(start, start + COPY_ROWS_MAX),
      (lba, index) => columns.map((column) => makeValue(column, { id, sequence: start + index + 1, lba })),
    );
    yield encodeCopyRows(columns.map(({ type }) => type), rows);
  }
}

/** Copies encoded rows into {@linkcode BARE_CACHE}: one COPY, one commit. For `reject`, see `copyRows()` in `src/`. */
export async function copyBareRows({ $client }: Database, encoded: Uint8Array<ArrayBuffer>): Promise<void> {
  const copying = $client.unsafe(`copy ${BARE_CACHE} from stdin (format binary)`);
  const sink = await copying.writable();
  await new Promise<void>((resolve, reject) => {
    Object.assign(copying, { reject });
    sink.once("error", reject);
    sink.once("finish", resolve);
    sink.end(encoded);
  });
}

/** A write of one block, as the appender would put it; only what makes rows differ is told apart by name. */
export function makeValue(
  { name, type }: Column,
  { id, sequence, lba }: { id: string; sequence: number; lba: number },
): CopyValue {
  switch (name) {
    case "sequence":
      return sequence;
    case "lba":
      return lba;
    case "segment_id":
      return Math.floor(lba / SEGMENT_BLOCKS);
    case "first_block":
      return lba % SEGMENT_BLOCKS;
    case "block_count":
      return 1;
    case "size_bytes":
      return BLOCK_BYTES;
    case "priority":
      return 0;
  }
  switch (type) {
    case "bytea":
      return takeBlock();
    case "uuid":
      return id;
    case "timestamptz":
      return new Date();
    case "text":
      return "write";
  }
  return 1;
}
