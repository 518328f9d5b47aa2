/**
 * `migrate`: brings the database to this version's schema and ends.
 */

import type { Config } from "../config.ts";
import { migrate } from "../database/migrate.ts";
import { describeDatabase, findDatabase, untilStopped, useDatabase } from "./process.ts";

/** Migrates; starts the bundled PostgreSQL for it when none runs. */
export async function migrateDatabase(config: Config): Promise<void> {
  await using resources = new AsyncDisposableStack();
  using signals = new DisposableStack();
  const url = await findDatabase(resources, config, untilStopped(signals));
  const applied = await migrate(useDatabase(resources, url));
  const what = applied.length === 0 ? "nothing to do" : applied.join(", ");
  console.log(`Migrated ${describeDatabase(config)}: ${what}`);
}
