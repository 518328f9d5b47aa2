/**
 * `worker`: a flusher, a reclaimer, a copier and a scheduler in a process of their own. Any number may run beside any number of servers.
 */

import { type Config, STORAGE_LIMITS } from "../config.ts";
import { findEmbeddedPostgres } from "../database/embedded/embedded_postgres.ts";
import { migrate } from "../database/migrate.ts";
import { describeFault, startLog } from "../log.ts";
import { Storage } from "../storage/storage.ts";
import { describeDatabase, untilStopped, useDatabase, whenAborted } from "./process.ts";

/** Flushes, reclaims, copies and runs schedules until SIGINT or SIGTERM. The bundled PostgreSQL must run already: it belongs to the server. */
export async function work(config: Config): Promise<void> {
  await using resources = new AsyncDisposableStack();
  using signals = new DisposableStack();
  const stopped = untilStopped(signals);
  const { logger } = resources.use(await startLog(config));
  const database = useDatabase(
    resources,
    config.databaseUrl ?? (await findEmbeddedPostgres(config.dataDir)).url,
  );
  await migrate(database);
  const storage = new Storage({
    database,
    limits: STORAGE_LIMITS,
    flusher: true,
    onFault: (error) => logger.error("background fault", describeFault(error)),
  });
  resources.use(storage);
  await storage.start();
  console.log(`Flushing ${describeDatabase(config)}`);
  await whenAborted(stopped);
  console.log("Stopping after the step in hand");
}
