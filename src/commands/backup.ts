/**
 * `backup` and `restore`: the bundled PostgreSQL's data, copied while the server is stopped, and put in place again. Of a PostgreSQL
 * that DATABASE_URL names, its own tools make backups.
 */

import type { Config } from "../config.ts";
import { closeDatabase, openDatabase } from "../database/client.ts";
import { copyIn, copyOut } from "../database/embedded/cold_copy.ts";
import { startEmbeddedPostgres, whileAbsent, whileStopped } from "../database/embedded/embedded_postgres.ts";
import { endLives } from "../storage/life.ts";
import { untilStopped } from "./process.ts";

const MIB = 1024 * 1024;

/** Backs up to a directory that is not there yet; the server has to be stopped. */
export async function backUp(config: Config, target: string | undefined): Promise<void> {
  requireBundled(config, "back up");
  if (target === undefined) {
    throw new Error("Cannot back up: expected --to DIRECTORY, which is not there yet");
  }
  using signals = new DisposableStack();
  const { dataDir } = config;
  const options = { dataDir, signal: untilStopped(signals), onProgress: (line: string) => console.log(line) };
  const { fileCount, bytes } = await whileStopped(options, (home) => copyOut(home, target, new Date()));
  console.log(`Backed up ${dataDir} to ${target}: ${fileCount} files, ${Math.ceil(bytes / MIB)} MiB`);
}

/** Restores from such a directory, to a data directory without a database. */
export async function restore(config: Config, source: string | undefined): Promise<void> {
  requireBundled(config, "restore");
  if (source === undefined) throw new Error("Cannot restore: expected --from DIRECTORY, a backup");
  const { dataDir } = config;
  const { madeAt, postgres } = await whileAbsent(dataDir, (home) => copyIn(source, home));
  await beginAnew(dataDir);
  console.log(`Restored ${dataDir} as of ${madeAt} (PostgreSQL ${postgres}); now run verify, and start`);
}

/** So that no write verifier from before says that nothing was lost. */
async function beginAnew(dataDir: string): Promise<void> {
  await using server = await startEmbeddedPostgres({ dataDir });
  const database = openDatabase(server.url, { connectionsMax: 1 });
  try {
    await endLives(database);
  } finally {
    await closeDatabase(database);
  }
}

function requireBundled({ databaseUrl }: Config, what: string): void {
  if (databaseUrl === undefined) return;
  throw new Error(
    `Cannot ${what} the database that DATABASE_URL names: use PostgreSQL's own tools, as README tells`,
  );
}
