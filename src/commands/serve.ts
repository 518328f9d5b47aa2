/**
 * `serve`: config → database → storage → front door; stopped in reverse.
 */

import { type Config, FIRST_POOL, HTTP_LIMITS, STORAGE_LIMITS } from "../config.ts";
import { type EmbeddedPostgres, startEmbeddedPostgres } from "../database/embedded/embedded_postgres.ts";
import type { Database } from "../database/client.ts";
import { migrate } from "../database/migrate.ts";
import { StorageError } from "../errors.ts";
import { readCertificate } from "../http/certificate.ts";
import { Metrics } from "../http/metrics.ts";
import { type HttpServer, serveHttp } from "../http/server.ts";
import { describeFault, startLog } from "../log.ts";
import { SYSTEM } from "../storage/actor.ts";
import { Storage } from "../storage/storage.ts";
import { authenticateAdmin, findAdminToken } from "../token.ts";
import { describeDatabase, untilStopped, useDatabase, whenAborted } from "./process.ts";

/** Serves until SIGINT or SIGTERM. `flusher`: whether this process flushes too. */
export async function serve(config: Config, options: { flusher: boolean }): Promise<void> {
  await using resources = new AsyncDisposableStack();
  using signals = new DisposableStack();
  const stopped = untilStopped(signals);
  const { server, token, lost } = await startServer(resources, config, { ...options, signal: stopped });
  console.log(describeServer(server, token.place, describeDatabase(config)));
  await whenAborted(AbortSignal.any([stopped, lost]));
  lost.throwIfAborted();
  console.log("Stopping: finishing what is in flight");
}

/** A server that runs, its token, and what is aborted when its own PostgreSQL has ended for good. Everything it needs is stopped with `resources`, in reverse. */
export async function startServer(
  resources: AsyncDisposableStack,
  config: Config,
  options: { flusher: boolean; signal: AbortSignal },
): Promise<{ server: HttpServer; token: { token: string; place: string }; lost: AbortSignal }> {
  const { logger } = resources.use(await startLog(config));
  const { url, lost } = config.databaseUrl === undefined
    ? await startPostgres(resources, config, options.signal)
    : { url: config.databaseUrl, lost: new AbortController().signal };
  const database = useDatabase(resources, url);
  const migrations = await migrateFirst(database, config);
  logger.info("database ready", { migrations });
  const metrics = new Metrics();
  const storage = new Storage({
    database,
    limits: STORAGE_LIMITS,
    flusher: options.flusher,
    observer: metrics,
    onFault: (error) => {
      metrics.countFault(error);
      logger.error("background fault", describeFault(error));
    },
  });
  await createFirstPool(storage, config);
  await storage.start();
  resources.use(storage);
  // Made now if there is none: no snapshot that is taken waits for it, or has to do without its receipt.
  await storage.receipts.listKeys();
  const token = await findAdminToken(config);
  const server = serveHttp(
    {
      storage,
      metrics,
      limits: { ...HTTP_LIMITS, blocksBytesMax: STORAGE_LIMITS.requestBytesMax },
      cacheBytesMax: config.cacheBytesMax,
      corsOrigins: config.corsOrigins,
      authenticate: authenticateAdmin(token.token),
      onRequest: (record) => logger.info("request", { ...record }),
      onFault: (error, requestId) => logger.error("request fault", { requestId, ...describeFault(error) }),
      onCorrupt: ({ message: error }, requestId) => logger.error("data corrupt", { requestId, error }),
    },
    config,
    config.tls === undefined
      ? undefined
      : { files: config.tls, certificate: await readCertificate(config.tls) },
  );
  resources.defer(() => server.stop(HTTP_LIMITS.drainMs));
  return { server, token, lost };
}

async function migrateFirst(database: Database, config: Config): Promise<string[]> {
  try {
    return await migrate(database);
  } catch (error) {
    if (config.databaseUrl === undefined || !(error instanceof Error)) throw error;
    throw new Error(`Cannot use the database that DATABASE_URL names: ${error.message}`, { cause: error });
  }
}

async function startPostgres(
  resources: AsyncDisposableStack,
  { dataDir }: Config,
  signal: AbortSignal,
): Promise<EmbeddedPostgres> {
  const onProgress = (line: string) => console.log(line);
  return resources.use(await startEmbeddedPostgres({ dataDir, signal, keep: true, onProgress }));
}

/** Creates what is missing of the first pool and its device; another process may be at it at the same time. */
async function createFirstPool(storage: Storage, { deviceBytes, cacheBytesMax }: Config): Promise<void> {
  const { name } = FIRST_POOL;
  try {
    if ((await storage.listPools({ itemsMax: 1 })).items.length === 0) {
      await storage.createPool(SYSTEM, { ...FIRST_POOL, cacheBytesMax });
    }
    const pool = await storage.getPool(name);
    if (pool.deviceCount > 0) return;
    const sizeBytes = deviceBytes - deviceBytes % pool.blockSizeBytes;
    await storage.addDevice(SYSTEM, { name: `${name}-1`, pool: name, sizeBytes });
  } catch (error) {
    if (!(error instanceof StorageError) || error.code !== "name-taken") throw error;
  }
}

function describeServer({ url }: HttpServer, place: string, database: string): string {
  const token = place.includes("/") ? `$(cat ${place})` : `$${place}`;
  return [
    "",
    `Snapmark serves at ${url} (reference: ${url}/docs)`,
    `The data are in ${database}, the token is in ${place}`,
    `Try: curl -H "Authorization: Bearer ${token}" ${url}/pools`,
    "",
  ].join("\n");
}
