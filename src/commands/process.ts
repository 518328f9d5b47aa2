/**
 * What commands do: find and open the database, and run until they are told to stop.
 */

import type { Config } from "../config.ts";
import { closeDatabase, type Database, openDatabase } from "../database/client.ts";
import { findEmbeddedPostgres, startEmbeddedPostgres } from "../database/embedded/embedded_postgres.ts";

/** How long statements in flight may take when the process stops. */
const CLOSE_SECONDS = 2;

/** Where the database is, for a command that comes and goes; starts the bundled PostgreSQL when none runs, until `resources` end. */
export async function findDatabase(
  resources: AsyncDisposableStack,
  { databaseUrl, dataDir }: Config,
  signal: AbortSignal,
): Promise<string> {
  if (databaseUrl !== undefined) return databaseUrl;
  try {
    return (await findEmbeddedPostgres(dataDir)).url;
  } catch {
    return resources.use(await startEmbeddedPostgres({ dataDir, signal })).url;
  }
}

/** Opens the database at `url`, to be closed with `resources`. */
export function useDatabase(resources: AsyncDisposableStack, url: string): Database {
  return resources.adopt(openDatabase(url), (database) => closeDatabase(database, CLOSE_SECONDS));
}

/** Aborted by SIGINT or SIGTERM, for as long as `resources` lives. */
export function untilStopped(resources: DisposableStack): AbortSignal {
  const stopping = new AbortController();
  const stop = () => stopping.abort();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(signal, stop);
    resources.defer(() => Deno.removeSignalListener(signal, stop));
  }
  return stopping.signal;
}

/** Resolves when `signal` is aborted. */
export function whenAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

/** `url` without its password: for messages. */
export function describeDatabase({ databaseUrl, dataDir }: Config): string {
  if (databaseUrl === undefined) return `the bundled PostgreSQL in ${dataDir}`;
  const url = new URL(databaseUrl);
  url.password = "";
  url.search = "";
  return url.href;
}
