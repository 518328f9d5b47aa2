/**
 * The bundled PostgreSQL is killed under a running server: the server starts it again by itself, and nothing that was answered
 * is lost.
 */

import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { findEmbeddedPostgres } from "../../src/database/embedded/embedded_postgres.ts";
import { Client } from "../support/client.ts";
import { until } from "../support/door.ts";
import { findPostmaster, makeDataDirectory } from "../support/own_postgres.ts";
import { startBundledServerProcess } from "../support/server.ts";
import { Load, LOAD_BLOCKS } from "./load.ts";

const SEED = 502;

/** All processes of a PostgreSQL but the main one. */
async function findBackends(dataDir: string): Promise<number[]> {
  const database = openDatabase((await findEmbeddedPostgres(dataDir)).url, { connectionsMax: 1 });
  try {
    const rows = await database.$client<{ pid: number }[]>`
      select pid from pg_stat_activity where pid <> pg_backend_pid()`;
    return rows.map(({ pid }) => pid);
  } finally {
    await closeDatabase(database);
  }
}

function kill(pid: number): void {
  try {
    Deno.kill(pid, "SIGKILL");
  } catch {
    // A worker that had ended by itself.
  }
}

Deno.test(`SIGKILL of the bundled PostgreSQL, whole or its main process alone, is mended by the server (seed ${SEED})`, async () => {
  const dataDir = await makeDataDirectory();
  try {
    await using server = await startBundledServerProcess(dataDir);
    const client = new Client(server.url);
    await client.createVolume({ name: "v", blockCount: LOAD_BLOCKS });
    const load = new Load(server.url, "v", SEED);
    try {
      for (const whole of [true, false]) {
        await load.answer(50);
        const postmaster = await findPostmaster(dataDir);
        const backends = whole ? await findBackends(dataDir) : [];
        for (const pid of [postmaster, ...backends]) kill(pid);
        await until(async () => await findPostmaster(dataDir).catch(() => postmaster) !== postmaster);
        await load.answer(100);
      }
      await load.verify(client);
    } finally {
      await load.stop();
    }
    server.kill("SIGTERM");
    await server.ended();
  } finally {
    await Deno.remove(dataDir, { recursive: true });
  }
});
