/**
 * Rows into a table by `COPY … FROM STDIN (FORMAT binary)`: the fastest way in, and the only one that does not send
 * block data as text.
 *
 * The format is PostgreSQL's (manual, "COPY", "Binary Format"): a header, per row a field count and then each field
 * as length and bytes in network order, a trailer.
 */

import type { Transaction } from "./client.ts";

/** How a column's values are written; the names are PostgreSQL's. */
export type CopyType = "bytea" | "int2" | "int4" | "int8" | "text" | "timestamptz" | "uuid";
/** A value of a row, by its column's {@linkcode CopyType}; `null` is NULL in every one. */
export type CopyValue = Uint8Array | number | string | Date | null;

/** The table to fill, and the columns that each row has, in order. */
export interface CopyTarget {
  readonly table: string;
  readonly columns: Readonly<Record<string, CopyType>>;
}

/**
 * Copies `rows` into the target table, all within `tx`. The rows are encoded whole: the caller bounds their bytes.
 *
 * postgres.js counts the query as answered once it has given its stream, and tells an error that PostgreSQL finds after
 * the last byte to nobody: the stream would wait until the server ends the transaction. So the query's rejection is
 * taken over for the time of the copy.
 */
export async function copyRows(tx: Transaction, target: CopyTarget, rows: CopyValue[][]): Promise<void> {
  const { $client } = tx;
  const encoded = encodeCopyRows(Object.values(target.columns), rows);
  const copying = $client`
    copy ${$client(target.table)} (${$client(Object.keys(target.columns))}) from stdin (format binary)`;
  const sink = await copying.writable();
  await new Promise<void>((resolve, reject) => {
    Object.assign(copying, { reject });
    sink.once("error", reject);
    sink.once("finish", resolve);
    try {
      sink.end(encoded);
    } catch (error) {
      // postgres.js writes to the socket that it had; there is none once the connection is lost.
      reject(
        Object.assign(new Error("The connection was lost at a COPY", { cause: error }), {
          code: "CONNECTION_CLOSED",
        }),
      );
    }
  });
}

const SIGNATURE = new Uint8Array([0x50, 0x47, 0x43, 0x4f, 0x50, 0x59, 0x0a, 0xff, 0x0d, 0x0a, 0x00]);
/** Signature, flags, header extension length. */
const HEADER_BYTES = SIGNATURE.length + 8;
const TRAILER_BYTES = 2;
const FIXED_BYTES = { int2: 2, int4: 4, int8: 8, timestamptz: 8, uuid: 16 } as const;
/** PostgreSQL counts microseconds from 2000-01-01. */
const POSTGRES_EPOCH_MS = Date.UTC(2000, 0, 1);
const encoder = new TextEncoder();

/** Encodes `rows` in PostgreSQL's binary COPY format. */
export function encodeCopyRows(types: CopyType[], rows: CopyValue[][]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES + countRowBytes(types, rows) + TRAILER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(SIGNATURE);
  let offset = HEADER_BYTES;
  for (const row of rows) {
    view.setInt16(offset, types.length);
    offset += 2;
    for (const [index, type] of types.entries()) {
      offset = writeField(view, bytes, offset, type, row[index]);
    }
  }
  view.setInt16(offset, -1);
  return bytes;
}

function countRowBytes(types: CopyType[], rows: CopyValue[][]): number {
  let total = 0;
  for (const row of rows) {
    total += 2;
    for (const [index, type] of types.entries()) total += 4 + countFieldBytes(type, row[index]);
  }
  return total;
}

function countFieldBytes(type: CopyType, value: CopyValue): number {
  if (value === null) return 0;
  if (type === "bytea") return (value as Uint8Array).length;
  if (type === "text") return encoder.encode(value as string).length;
  return FIXED_BYTES[type];
}

function writeField(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  type: CopyType,
  value: CopyValue,
): number {
  if (value === null) {
    view.setInt32(offset, -1);
    return offset + 4;
  }
  const length = countFieldBytes(type, value);
  view.setInt32(offset, length);
  writeValue(view, bytes, offset + 4, type, value);
  return offset + 4 + length;
}

function writeValue(
  view: DataView,
  bytes: Uint8Array,
  offset: number,
  type: CopyType,
  value: Exclude<CopyValue, null>,
): void {
  switch (type) {
    case "bytea":
      return bytes.set(value as Uint8Array, offset);
    case "text":
      return bytes.set(encoder.encode(value as string), offset);
    case "uuid":
      return bytes.set(Uint8Array.fromHex((value as string).replaceAll("-", "")), offset);
    case "int2":
      return view.setInt16(offset, value as number);
    case "int4":
      return view.setInt32(offset, value as number);
    case "int8":
      return view.setBigInt64(offset, BigInt(value as number));
    case "timestamptz":
      return view.setBigInt64(offset, BigInt((value as Date).getTime() - POSTGRES_EPOCH_MS) * 1000n);
  }
}
