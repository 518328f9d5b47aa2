/**
 * The limit of writes: `COPY … (FORMAT binary)` into a bare table shaped like `cache`, by one connection of postgres.js.
 *
 * Rows are encoded outside of the timing, once; before each COPY their sequences are put in place. A COPY is 8 MiB and
 * commits.
 */

import type { Client } from "../../src/database/client.ts";
import { type CopyType, type CopyValue, encodeCopyRows } from "../../src/database/copy.ts";
import { BARE_CACHE } from "./bare_tables.ts";
import type { BenchDatabase } from "./bed.ts";
import { BLOCK_BYTES, takeBlock } from "./block_contents.ts";
import { copyInto } from "./copy_into.ts";
import { timeSeconds } from "./stopwatch.ts";

const COPY_BYTES = 8 * 2 ** 20;
/** Signature, flags, header extension length. */
const HEADER_BYTES = 19;
const TRAILER_BYTES = 2;
const LENGTH_BYTES = 4;

/** Rows of `dataBytes` of data each, about `totalBytes` in all. */
export interface CopyLoad {
  readonly dataBytes: number;
  readonly totalBytes: number;
}

export interface CopyRate {
  readonly blocksPerSecond: number;
  readonly megabytesPerSecond: number;
}

/** Copies so many bytes into an empty {@linkcode BARE_CACHE}, after a checkpoint, and empties it again. */
export async function measureCopy(
  { database }: BenchDatabase,
  { dataBytes, totalBytes }: CopyLoad,
): Promise<CopyRate> {
  const batch = await encodeBatch(database.$client, dataBytes);
  const batches = Math.max(1, Math.round(totalBytes / COPY_BYTES));
  await database.$client`checkpoint`;
  const seconds = await timeSeconds(async () => {
    for (let index = 0; index < batches; index++) {
      batch.stamp(1 + index * batch.rows);
      await copyInto(database.$client, BARE_CACHE, batch.encoded);
    }
  });
  await database.$client.unsafe(`truncate ${BARE_CACHE}`);
  const bytesPerSecond = batches * COPY_BYTES / seconds;
  return { blocksPerSecond: bytesPerSecond / BLOCK_BYTES, megabytesPerSecond: bytesPerSecond / 1e6 };
}

interface Batch {
  readonly encoded: Uint8Array<ArrayBuffer>;
  readonly rows: number;
  /** Numbers the rows from `sequence` on. */
  stamp(sequence: number): void;
}

async function encodeBatch(client: Client, rowBytes: number): Promise<Batch> {
  const columns = await client<{ name: string; type: CopyType }[]>`
    select a.attname as name, t.typname as type from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = ${BARE_CACHE}::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum`;
  const id = crypto.randomUUID();
  const makeRow = () => columns.map(({ name, type }) => makeValue(name, type, id, rowBytes));
  const types = columns.map(({ type }) => type);
  const rows = COPY_BYTES / rowBytes;
  const encoded = encodeCopyRows(types, Array.from({ length: rows }, makeRow));
  const strideBytes = (encoded.length - HEADER_BYTES - TRAILER_BYTES) / rows;
  const before = columns.findIndex(({ name }) => name === "sequence");
  const offset = encodeCopyRows(types.slice(0, before), [makeRow().slice(0, before)]).length - TRAILER_BYTES +
    LENGTH_BYTES;
  const view = new DataView(encoded.buffer);
  const stamp = (sequence: number) => {
    for (let row = 0; row < rows; row++) view.setBigInt64(offset + row * strideBytes, BigInt(sequence + row));
  };
  return { encoded, rows, stamp };
}

function makeValue(name: string, type: CopyType, id: string, rowBytes: number): CopyValue {
  switch (type) {
    case "bytea": {
      const bytes = new Uint8Array(rowBytes);
      for (let start = 0; start < rowBytes; start += BLOCK_BYTES) bytes.set(takeBlock(), start);
      return bytes;
    }
    case "uuid":
      return id;
    case "timestamptz":
      return new Date();
    case "text":
      return "write";
  }
  return name === "size_bytes" ? rowBytes : name === "block_count" ? rowBytes / BLOCK_BYTES : 1;
}
