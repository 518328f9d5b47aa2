/**
 * Data that are not as they were written, as the door tells of them: in the log and in the figures, once for each request that met
 * some. An answer that was begun already breaks off there.
 */

import { StorageError } from "../errors.ts";
import type { Door } from "./door.ts";

type Told = Pick<Door, "metrics" | "onCorrupt">;

/** Tells of `error`, if it is of corrupt data. */
export function tellCorrupt(error: unknown, requestId: string, { metrics, onCorrupt }: Told): void {
  if (!(error instanceof StorageError) || error.code !== "data-corrupt") return;
  metrics.countCorrupt();
  onCorrupt(error, requestId);
}

/** The chunks of a body, which is sent while it is read. */
export async function* tellingOfCorrupt<T>(
  chunks: AsyncIterable<T>,
  requestId: string,
  door: Told,
): AsyncGenerator<T> {
  try {
    yield* chunks;
  } catch (error) {
    tellCorrupt(error, requestId, door);
    throw error;
  }
}
