/**
 * One COPY of rows that are encoded already, as a statement of its own.
 */

import type { Client } from "../../src/database/client.ts";

/**
 * Copies `encoded`, in PostgreSQL's binary format, into every column of `table` and commits. Why `reject` is taken over:
 * see `copyRows()` in `src/database/copy.ts`.
 */
export async function copyInto(
  client: Client,
  table: string,
  encoded: Uint8Array<ArrayBuffer>,
): Promise<void> {
  const copying = client`copy ${client(table)} from stdin (format binary)`;
  const sink = await copying.writable();
  await new Promise<void>((resolve, reject) => {
    Object.assign(copying, { reject });
    sink.once("error", reject);
    sink.once("finish", resolve);
    sink.end(encoded);
  });
}
