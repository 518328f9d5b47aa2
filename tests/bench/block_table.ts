/**
 * A bare table of blocks by LBA: what a prepared `select` reads without anything around it.
 */

import type { Database } from "../../src/database/client.ts";
import { encodeCopyRows } from "../../src/database/copy.ts";
import { takeBlock } from "./block_contents.ts";
import { copyInto } from "./copy_into.ts";

/** Rows of one COPY: 8 MiB of blocks. */
const COPY_ROWS_MAX = 2_048;

/** Makes the table with rows for `[0, blockCount)`, stored as `blocks` stores its data. */
export async function createBlockTable(database: Database, table: string, blockCount: number): Promise<void> {
  const { $client } = database;
  await $client.unsafe(`create table ${table} (lba bigint primary key, data bytea)`);
  await $client.unsafe(`alter table ${table} alter column data set storage external`);
  for (let start = 0; start < blockCount; start += COPY_ROWS_MAX) {
    const count = Math.min(COPY_ROWS_MAX, blockCount - start);
    const rows = Array.from({ length: count }, (_, index) => [start + index, takeBlock()]);
    await copyInto($client, table, encodeCopyRows(["int8", "bytea"], rows));
  }
  await $client.unsafe(`vacuum analyze ${table}`);
}
