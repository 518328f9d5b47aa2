/**
 * A PostgreSQL of one test's own, to be hung, killed, stopped and started again while others use it.
 *
 * It has the settings of the bundled one, so its commits are on disk. A SIGKILL of processes would not need that, for the
 * system keeps what they have written; it is left as it is, because that is what users run.
 */

import { join } from "@std/path";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import {
  type EmbeddedPostgres,
  startEmbeddedPostgres,
} from "../../src/database/embedded/embedded_postgres.ts";

export interface OwnPostgres extends AsyncDisposable {
  /** The same after each start. */
  readonly url: string;
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Ends every process of it by SIGKILL, until {@linkcode OwnPostgres.start}. */
  kill(): Promise<void>;
  /** Stops every process of it where it is (SIGSTOP), until {@linkcode OwnPostgres.wake}. */
  hang(): Promise<void>;
  wake(): void;
}

/** Starts one on a new directory. */
export async function startOwnPostgres(): Promise<OwnPostgres> {
  const dataDir = await makeDataDirectory();
  let running: EmbeddedPostgres | undefined = await startEmbeddedPostgres({ dataDir });
  const { url } = running;
  let hung: number[] = [];
  const own = {
    url,
    start: async () => {
      running = await startEmbeddedPostgres({ dataDir });
      if (running.url !== url) throw new Error(`Cannot use this PostgreSQL: it has moved to ${running.url}`);
    },
    stop: async () => {
      await running?.stop();
      running = undefined;
    },
    kill: async () => {
      await killProcesses(await findPostmaster(dataDir));
      // Frees the data directory: there is nothing left to stop.
      await own.stop();
    },
    hang: async () => {
      hung = await stopProcesses(dataDir, url);
    },
    wake: () => {
      for (const pid of hung.splice(0)) Deno.kill(pid, "SIGCONT");
    },
  };
  return {
    ...own,
    [Symbol.asyncDispose]: async () => {
      own.wake();
      await own.stop();
      await Deno.remove(dataDir, { recursive: true });
    },
  };
}

/** A directory for the bundled PostgreSQL, which runs as another user when we are root, and has to get through. */
export async function makeDataDirectory(): Promise<string> {
  const dataDir = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  await Deno.chmod(dataDir, 0o711);
  return dataDir;
}

/** The number of the main process of the PostgreSQL in a data directory. */
export async function findPostmaster(dataDir: string): Promise<number> {
  return Number((await Deno.readTextFile(join(dataDir, "postgres", "postmaster.pid"))).split("\n")[0]);
}

/** The main process first, so that it can start none that is not in the list. */
async function killProcesses(postmaster: number): Promise<void> {
  for (const pid of [postmaster, ...await findChildren(postmaster)]) {
    try {
      Deno.kill(pid, "SIGKILL");
    } catch {
      // It had ended by itself.
    }
  }
}

/** Asked through a shell: Deno opens /proc only to programs that are allowed everything. */
const LIST_CHILDREN = Deno.build.os === "linux" ? 'cat "/proc/$1/task/$1/children"' : 'pgrep -P "$1"';

async function findChildren(pid: number): Promise<number[]> {
  const { stdout } = await new Deno.Command("/bin/sh", { args: ["-c", LIST_CHILDREN, "sh", String(pid)] })
    .output();
  return new TextDecoder().decode(stdout).split(/\s+/).filter(Boolean).map(Number);
}

/** The main process first, so that it can start none that is not in the list. Answers all of them. */
async function stopProcesses(dataDir: string, url: string): Promise<number[]> {
  const postmaster = await findPostmaster(dataDir);
  const database = openDatabase(url, { connectionsMax: 1 });
  let pids: number[] = [];
  try {
    await database.$client`select 1`;
    Deno.kill(postmaster, "SIGSTOP");
    const rows = await database.$client<{ pid: number }[]>`
      select pid from pg_stat_activity where pid <> pg_backend_pid()`;
    pids = [postmaster, ...rows.map(({ pid }) => pid)];
    for (const pid of pids) Deno.kill(pid, "SIGSTOP");
    return pids;
  } finally {
    await closeDatabase(database);
  }
}
