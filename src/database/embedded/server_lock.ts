/**
 * The lock that makes one server the only one on a data directory.
 *
 * It is an advisory lock (`flock`) on a file that stays. The kernel frees it when its holder dies in whatever way, so
 * there is no stale lock to judge. The number inside is for the message, and for whoever wants to stop the server: it
 * goes with the lock, or somebody would later end another process that got it. The PostgreSQL we start does not inherit
 * the lock and may outlive us: the next server takes the lock and adopts that PostgreSQL.
 */
import { EmbeddedPostgresError } from "./embedded_error.ts";

/** Holds a directory until it is closed. */
export interface ServerLock {
  close(): void;
}

/** Takes `<directory>/server.lock` without waiting. Throws when another server holds it. */
export async function lockDirectory(directory: string): Promise<ServerLock> {
  const path = `${directory}/server.lock`;
  const file = await openFile(path);
  try {
    if (!await file.tryLock(true)) {
      const holder = (await Deno.readTextFile(path)).trim();
      const process = holder === "" ? "" : ` (process ${holder})`;
      throw new Error(`Cannot start on ${directory}: another Snapmark server${process} is using it`);
    }
    await file.truncate(0);
    await file.write(new TextEncoder().encode(`${Deno.pid}\n`));
    return { close: () => release(file) };
  } catch (error) {
    file.close();
    throw error;
  }
}

function release(file: Deno.FsFile): void {
  try {
    file.truncateSync(0);
  } finally {
    file.close();
  }
}

async function openFile(path: string): Promise<Deno.FsFile> {
  try {
    return await Deno.open(path, { read: true, write: true, create: true });
  } catch (cause) {
    throw new EmbeddedPostgresError(`Cannot write to ${path}`, String(cause), { cause });
  }
}
