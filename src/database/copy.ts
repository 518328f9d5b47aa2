/**
 * Rows into a table by `COPY … FROM STDIN (FORMAT binary)`: the fastest way in, and the only one that does not send
 * block data as text.
 *
 * The format is PostgreSQL's (manual, "COPY", "Binary Format"): a header, per row a field count and then each field
 * as length and bytes in network order, a trailer.
 */

import { StorageError } from "../errors.ts";
import type { Client, Database, Transaction } from "./client.ts";
import { isConnectionLost } from "./connection_error.ts";

/** How a column's values are written; the names are PostgreSQL's. */
export type CopyType = "bytea" | "int2" | "int4" | "int8" | "text" | "timestamptz" | "uuid";
/** A value of a row, by its column's {@linkcode CopyType}; `null` is NULL in every one. */
export type CopyValue = Uint8Array | number | string | Date | null;

/** The table to fill, and the columns that each row has, in order. */
export interface CopyTarget {
  readonly table: string;
  readonly columns: Readonly<Record<string, CopyType>>;
}

/** Copies `rows` into the target table, all within `tx`. The rows are encoded whole: the caller bounds their bytes. */
export async function copyRows(tx: Transaction, target: CopyTarget, rows: CopyValue[][]): Promise<void> {
  await new Copy(tx.$client, [], target, rows).run();
}

/**
 * Runs `statements`, which answer nothing, then copies `rows`, and then runs `behind`, in one message: within `tx`, or for a
 * database as a transaction of its own. That saves the round trips of begin, of each statement and of commit.
 *
 * @param onStarted is called when the statements are done and PostgreSQL waits for the rows.
 * @throws {StorageError} `outcome-unknown` when the connection was lost while committing.
 */
export async function copyRowsAfter(
  connection: Database | Transaction,
  statements: string[],
  target: CopyTarget,
  rows: CopyValue[][],
  onStarted?: () => void,
  behind: string[] = [],
): Promise<void> {
  if (!isDatabase(connection)) {
    return await new Copy(connection.$client, statements, target, rows, behind).run(onStarted);
  }
  await connection.singleConnections.use(async (client) => {
    const copy = new Copy(client, statements, target, rows, behind);
    try {
      await copy.run(onStarted);
    } catch (error) {
      if (!copy.isSent || !isConnectionLost(error)) throw error;
      throw new StorageError(
        "outcome-unknown",
        "Cannot tell whether the request took effect: the database connection was lost at its commit",
        { cause: error },
      );
    }
  });
}

function isDatabase(connection: Database | Transaction): connection is Database {
  return "singleConnections" in connection;
}

/**
 * One COPY.
 *
 * postgres.js counts the query as answered once it has given its stream, and tells an error that PostgreSQL finds after
 * the last byte to nobody: the stream would wait until the server ends the transaction. So the query's outcome is taken over
 * for the time of the copy: it comes when PostgreSQL has done the whole message, after the commit.
 *
 * Whenever a stream ends, postgres.js sends a CopyFail. That of a connection that was lost comes late, on the connection that took its
 * place, and would break off the COPY that is under way there. So none is sent: all rows are given at once, and there is
 * nothing to break off.
 */
class Copy {
  /** Whether the last byte is on its way: from then on it may have taken effect. */
  isSent = false;

  constructor(
    private readonly client: Client,
    private readonly statements: string[],
    private readonly target: CopyTarget,
    private readonly rows: CopyValue[][],
    private readonly behind: string[] = [],
  ) {}

  async run(onStarted?: () => void): Promise<void> {
    const { table, columns } = this.target;
    const encoded = encodeCopyRows(Object.values(columns), this.rows);
    const copying = this.client.unsafe(
      [
        ...this.statements,
        `copy ${table} (${Object.keys(columns).join()}) from stdin (format binary)`,
        ...this.behind,
      ].join(";"),
    );
    const sink = await copying.writable();
    sink._destroy = (error, callback) => callback(error);
    onStarted?.();
    await new Promise<void>((resolve, reject) => {
      Object.assign(copying, { reject, resolve: () => resolve() });
      sink.once("error", reject);
      try {
        sink.end(encoded);
        this.isSent = true;
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
  return new CopyEncoder(types).encode(rows);
}

const MILLISECONDS_TO_MICROSECONDS = 1000;
const HALF = 2 ** 32;

/** Texts and UUIDs recur in nearly every row, so their bytes are remembered for the time of one encoding. */
class CopyEncoder {
  readonly #texts = new Map<string, Uint8Array>();
  readonly #ids = new Map<string, Uint8Array>();
  #bytes = new Uint8Array();
  #view = new DataView(this.#bytes.buffer);

  constructor(private readonly types: CopyType[]) {}

  encode(rows: CopyValue[][]): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(HEADER_BYTES + this.#countBytes(rows) + TRAILER_BYTES);
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
    bytes.set(SIGNATURE);
    let offset = HEADER_BYTES;
    for (const row of rows) offset = this.#writeRow(row, offset);
    this.#view.setInt16(offset, -1);
    return bytes;
  }

  #countBytes(rows: CopyValue[][]): number {
    const { types } = this;
    let total = 0;
    for (const row of rows) {
      total += 2 + 4 * types.length;
      for (let index = 0; index < types.length; index++) {
        total += this.#countFieldBytes(types[index], row[index]);
      }
    }
    return total;
  }

  #countFieldBytes(type: CopyType, value: CopyValue): number {
    if (value === null) return 0;
    if (type === "bytea") return (value as Uint8Array).length;
    if (type === "text") return this.#textOf(value as string).length;
    return FIXED_BYTES[type];
  }

  #writeRow(row: CopyValue[], start: number): number {
    const { types } = this;
    this.#view.setInt16(start, types.length);
    let offset = start + 2;
    for (let index = 0; index < types.length; index++) {
      const value = row[index];
      const length = value === null ? -1 : this.#countFieldBytes(types[index], value);
      this.#view.setInt32(offset, length);
      offset += 4;
      if (value === null) continue;
      this.#writeValue(types[index], value, offset);
      offset += length;
    }
    return offset;
  }

  #writeValue(type: CopyType, value: Exclude<CopyValue, null>, offset: number): void {
    switch (type) {
      case "bytea":
        return this.#bytes.set(value as Uint8Array, offset);
      case "text":
        return this.#bytes.set(this.#textOf(value as string), offset);
      case "uuid":
        return this.#bytes.set(this.#idOf(value as string), offset);
      case "int2":
        return this.#view.setInt16(offset, value as number);
      case "int4":
        return this.#view.setInt32(offset, value as number);
      case "int8":
        return this.#writeWhole(value as number, offset);
      case "timestamptz": {
        const sinceEpochMs = (value as Date).getTime() - POSTGRES_EPOCH_MS;
        return this.#writeWhole(sinceEpochMs * MILLISECONDS_TO_MICROSECONDS, offset);
      }
    }
  }

  /** Two halves: a BigInt for each of many numbers would be garbage. */
  #writeWhole(value: number, offset: number): void {
    this.#view.setInt32(offset, Math.floor(value / HALF));
    this.#view.setUint32(offset + 4, value % HALF + (value < 0 ? HALF : 0));
  }

  #textOf(text: string): Uint8Array {
    return remember(this.#texts, text, () => encoder.encode(text));
  }

  #idOf(id: string): Uint8Array {
    return remember(this.#ids, id, () => Uint8Array.fromHex(id.replaceAll("-", "")));
  }
}

function remember(known: Map<string, Uint8Array>, key: string, make: () => Uint8Array): Uint8Array {
  const found = known.get(key);
  if (found !== undefined) return found;
  const made = make();
  known.set(key, made);
  return made;
}
