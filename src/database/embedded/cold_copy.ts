/**
 * Cold copies of the bundled PostgreSQL: its data directory, copied while no server runs on it, and put in place again.
 *
 * The package has no pg_dump and no pg_basebackup, and a file copy of a running server is worthless. So a copy is made between a stop
 * that writes everything out and the next start, with the data directory's lock held throughout.
 *
 * ```
 * <copy>/
 *   postgres/      PostgreSQL's own data directory
 *   admin-token    if there is one
 *   backup.json    written last: what has it is complete
 * ```
 *
 * A copy and a restored database appear under their names only when they are complete and on the disk.
 */
import { basename, dirname, join, resolve } from "@std/path";
import { CREATING_PREFIX, readVersion } from "./cluster.ts";
import { EmbeddedPostgresError } from "./embedded_error.ts";
import type { Home } from "./home.ts";
import type { ServerUser } from "./program.ts";
import { syncPath } from "./runtime.ts";

/** What `backup.json` says. */
export interface ColdCopy {
  readonly format: 1;
  /** PostgreSQL's major version, which names the format of the data. */
  readonly postgres: string;
  readonly madeAt: string;
  readonly fileCount: number;
  readonly bytes: number;
}

const FORMAT = 1;
const DATABASE = "postgres";
const TOKEN = "admin-token";
const MANIFEST = "backup.json";
/** Files copied at a time: each waits for the disk. */
const COPIES_AT_ONCE = 16;

/** Copies the database of a home, on which no server runs, to a directory that is not there yet. */
export async function copyOut(home: Home, target: string, at: Date): Promise<ColdCopy> {
  const version = await readVersion(home);
  if (version === null) {
    throw new EmbeddedPostgresError(`Cannot back up ${home.dataDirectory}: there is no database in it`);
  }
  await requireAbsent(target);
  const parent = dirname(resolve(target));
  await Deno.mkdir(parent, { recursive: true });
  const incomplete = await Deno.makeTempDir({ dir: parent, prefix: `${basename(target)}.incomplete-` });
  try {
    const copied = await copyTree(home.database, join(incomplete, DATABASE), null);
    await copyToken(home.dataDirectory, incomplete);
    const copy: ColdCopy = { format: FORMAT, postgres: version, madeAt: at.toISOString(), ...copied };
    await Deno.writeTextFile(join(incomplete, MANIFEST), `${JSON.stringify(copy)}\n`, { mode: 0o600 });
    await syncPath(join(incomplete, MANIFEST));
    await syncPath(incomplete);
    await Deno.rename(incomplete, target);
    await syncPath(parent);
    return copy;
  } catch (error) {
    await Deno.remove(incomplete, { recursive: true }).catch(() => {});
    throw error;
  }
}

/** Puts a copy in place as the database of a home that has none. A token that is there already stays. */
export async function copyIn(source: string, home: Home): Promise<ColdCopy> {
  const copy = await readManifest(source);
  if (await readVersion(home) !== null) {
    throw new EmbeddedPostgresError(
      `Cannot restore to ${home.dataDirectory}: there is a database in ${home.database}; choose an empty data directory`,
    );
  }
  const incomplete = await Deno.makeTempDir({ dir: home.directory, prefix: CREATING_PREFIX });
  try {
    const { fileCount, bytes } = await copyTree(
      join(source, DATABASE),
      join(incomplete, DATABASE),
      home.user,
    );
    if (fileCount !== copy.fileCount || bytes !== copy.bytes) {
      throw new EmbeddedPostgresError(
        `Cannot restore from ${source}: expected ${copy.fileCount} files of ${copy.bytes} bytes, found ${fileCount} of ${bytes}`,
      );
    }
    await copyToken(source, home.dataDirectory);
    await Deno.rename(join(incomplete, DATABASE), home.database);
    await syncPath(home.directory);
    return copy;
  } finally {
    await Deno.remove(incomplete, { recursive: true });
  }
}

async function requireAbsent(path: string): Promise<void> {
  try {
    await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  throw new EmbeddedPostgresError(`Cannot back up to ${path}: it is there already`);
}

async function readManifest(source: string): Promise<ColdCopy> {
  try {
    const copy = JSON.parse(await Deno.readTextFile(join(source, MANIFEST)));
    if (copy.format === FORMAT) return copy;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound) && !(error instanceof SyntaxError)) throw error;
  }
  throw new EmbeddedPostgresError(`Cannot restore from ${source}: expected a backup, with ${MANIFEST} in it`);
}

/** Copies the token unless there is one. */
async function copyToken(from: string, to: string): Promise<void> {
  try {
    const token = await Deno.readFile(join(from, TOKEN));
    await Deno.writeFile(join(to, TOKEN), token, { createNew: true, mode: 0o600 });
    await syncPath(join(to, TOKEN));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound) && !(error instanceof Deno.errors.AlreadyExists)) {
      throw error;
    }
  }
}

/** Copies files and directories with their modes, for `owner`, and writes them through to the disk. */
async function copyTree(
  from: string,
  to: string,
  owner: ServerUser | null,
): Promise<{ fileCount: number; bytes: number }> {
  const directories: string[] = [];
  const files: { from: string; to: string }[] = [];
  await listTree(from, to, directories, files);
  const give = async (path: string) => {
    if (owner !== null) await Deno.chown(path, owner.uid, owner.gid);
  };
  for (const directory of directories) {
    await Deno.mkdir(directory);
    await Deno.chmod(directory, 0o700);
    await give(directory);
  }
  const fileCount = files.length;
  let bytes = 0;
  const copyFiles = async () => {
    for (let paths = files.pop(); paths !== undefined; paths = files.pop()) {
      await Deno.copyFile(paths.from, paths.to);
      await give(paths.to);
      await syncPath(paths.to);
      const { size } = await Deno.stat(paths.to);
      bytes += size;
    }
  };
  await Promise.all(Array.from({ length: COPIES_AT_ONCE }, copyFiles));
  for (const directory of directories.toReversed()) await syncPath(directory);
  return { fileCount, bytes };
}

async function listTree(
  from: string,
  to: string,
  directories: string[],
  files: { from: string; to: string }[],
): Promise<void> {
  directories.push(to);
  for await (const { name, isDirectory, isFile } of Deno.readDir(from)) {
    const paths = { from: join(from, name), to: join(to, name) };
    if (isDirectory) await listTree(paths.from, paths.to, directories, files);
    else if (isFile) files.push(paths);
    else {
      throw new EmbeddedPostgresError(
        `Cannot copy ${paths.from}: it is a link, as of a tablespace; use PostgreSQL's own tools`,
      );
    }
  }
}
