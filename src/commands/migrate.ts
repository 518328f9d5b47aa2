/**
 * `migrate`: brings the database to this version's schema and ends.
 */

import type { Config } from "../config.ts";
import { findEmbeddedPostgres, startEmbeddedPostgres } from "../database/embedded/embedded_postgres.ts";
import { migrate } from "../database/migrate.ts";
import { describeDatabase, untilStopped, useDatabase } from "./process.ts";

/** Migrates; starts the bundled PostgreSQL for it when none runs. */
export async function migrateDatabase(config: Config): Promise<void> {
  await using resources = new AsyncDisposableStack();
  using signals = new DisposableStack();
  const url = config.databaseUrl ?? await findOrStart(resources, config, untilStopped(signals));
  const applied = await migrate(useDatabase(resources, url));
  const what = applied.length === 0 ? "nothing to do" : applied.join(", ");
  console.log(`Migrated ${describeDatabase(config)}: ${what}`);
}

async function findOrStart(
  resources: AsyncDisposableStack,
  { dataDir }: Config,
  signal: AbortSignal,
): Promise<string> {
  try {
    return (await findEmbeddedPostgres(dataDir)).url;
  } catch {
    return resources.use(await startEmbeddedPostgres({ dataDir, signal })).url;
  }
}
