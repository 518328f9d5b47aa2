/**
 * Where the bundled PostgreSQL of a data directory lives, and as which user it runs.
 *
 * It lives in the data directory and runs as the user we are – unless we are root. PostgreSQL refuses to run as root,
 * so then it runs as the owner of the database there is, else as the user `postgres`, else as `nobody`; and that user
 * may be unable to reach the data directory, which often lies below root's own home. The home is then a directory of
 * its own below {@linkcode SYSTEM_DIRECTORY}, and the file `postgres-location` in the data directory says so.
 *
 * Three rules keep a database from being mistaken for another one:
 *
 * - A database, once made, is never looked for elsewhere. When its home is gone or out of reach, the start fails; it
 *   does not begin an empty database in a better place.
 * - The location is written before anything is made there, so a database below the system directory always has a file
 *   that names it.
 * - A home left behind by a deleted data directory is not taken over: a new data directory at the same path gets a
 *   home with the next number.
 */
import { encodeHex } from "@std/encoding";
import { dirname, join } from "@std/path";
import { EmbeddedPostgresError } from "./embedded_error.ts";
import { runProgram, type ServerUser } from "./program.ts";

/** The place of one data directory's PostgreSQL. */
export interface Home {
  /** Absolute path without symbolic links. */
  readonly dataDirectory: string;
  /** Absolute path of what holds the database, the runtime, the log and mostly the sockets. */
  readonly directory: string;
  /** Absolute path of PostgreSQL's own data directory (`PGDATA`). It may not exist yet. */
  readonly database: string;
  /** Absolute path of the file PostgreSQL's messages go to. */
  readonly log: string;
  /** The user to run PostgreSQL as; `null` is the user we are. */
  readonly user: ServerUser | null;
}

/** Where programs keep their state by the Filesystem Hierarchy Standard, open to every user's eyes. */
const SYSTEM_DIRECTORY = "/var/lib/snapmark";

/** Homes one path can have had: far above any use, it only bounds the search. */
const HOMES_PER_PATH_MAX = 1000;

/** The unprivileged users to try, the most fitting first. initdb looks its user up, so a bare number will not do. */
const SERVER_USERS = ["postgres", "nobody"];

/** Entering a directory takes no time, unless it lies on a network that hangs. */
const REACH_LIMIT_MS = 10_000;

/**
 * What a path must not contain: PostgreSQL's own programs put paths between double quotes into shell commands without
 * escaping them.
 */
// deno-lint-ignore no-control-regex -- a line break in a path would end the line in postmaster.pid
const UNQUOTABLE = /["$`\\\x00-\x1f]/;

/** Finds the home of a data directory, or chooses and creates it. The caller holds the data directory's lock. */
export async function openHome(dataDirectory: string): Promise<Home> {
  const recorded = await findHome(dataDirectory);
  if (recorded.user === null) return recorded;
  if (await canReach(recorded.directory, recorded.user)) return recorded;

  if (recorded.directory !== dataDirectory || await exists(recorded.database)) {
    throw new EmbeddedPostgresError(
      `Cannot start on ${dataDirectory}: its database is in ${recorded.database}, which the user ` +
        `${recorded.user.name} cannot reach (root cannot run PostgreSQL)`,
    );
  }
  const directory = await createSystemHome(dataDirectory, recorded.user);
  return toHome(dataDirectory, directory, recorded.user);
}

/** Finds where a data directory's PostgreSQL lives, or would live if nothing is made yet. Changes nothing. */
export async function findHome(dataDirectory: string): Promise<Home> {
  const directory = await readLocation(dataDirectory) ?? dataDirectory;
  if (UNQUOTABLE.test(directory)) {
    throw new EmbeddedPostgresError(
      `Cannot keep PostgreSQL in ${directory}: its programs do not work below a path with ", $, \` or \\`,
    );
  }
  if (!await exists(directory)) {
    const location = join(dataDirectory, LOCATION_FILE);
    throw new EmbeddedPostgresError(
      `Cannot find the database of ${dataDirectory}: ${location} says ${directory}, which does not exist`,
    );
  }
  const home = toHome(dataDirectory, directory, null);
  const owner = await stat(home.database);
  const us = Deno.uid();
  if (us === 0) return { ...home, user: await chooseUser(owner) };
  if (owner !== null && owner.uid !== us) {
    throw new EmbeddedPostgresError(
      `Cannot use ${home.database}: it belongs to the user with number ${owner.uid}, and we are number ${us}`,
    );
  }
  return home;
}

function toHome(dataDirectory: string, directory: string, user: ServerUser | null): Home {
  return {
    dataDirectory,
    directory,
    database: join(directory, "postgres"),
    log: join(directory, "postgres.log"),
    user,
  };
}

// Users

/** Chooses whom root runs PostgreSQL as: the owner of the database if there is one. */
async function chooseUser(owner: Deno.FileInfo | null): Promise<ServerUser> {
  const users = await readUsers();
  if (owner?.uid && owner.gid !== null) {
    const { uid, gid } = owner;
    return users.find((user) => user.uid === uid) ?? { name: `number ${uid}`, uid, gid };
  }
  const chosen = SERVER_USERS.map((name) => users.find((user) => user.name === name))
    .find((user) => user !== undefined);
  if (chosen === undefined) {
    throw new EmbeddedPostgresError(
      `Cannot start the bundled PostgreSQL as root: there is no user ${
        SERVER_USERS.join(" or ")
      } to run it as`,
    );
  }
  return chosen;
}

/** Reads passwd(5). */
async function readUsers(): Promise<ServerUser[]> {
  const text = await Deno.readTextFile("/etc/passwd");
  return text.split("\n").map((line) => line.split(":")).filter((fields) => fields.length >= 4)
    .map(([name, _password, uid, gid]) => ({ name, uid: Number(uid), gid: Number(gid) }));
}

/**
 * Whether the user can enter a directory. Tried instead of worked out from the modes of all directories above, which
 * would miss access control lists and security modules.
 */
async function canReach(directory: string, user: ServerUser): Promise<boolean> {
  const args = ["-c", 'cd "$1"', "sh", directory];
  const { success } = await runProgram("/bin/sh", { args, directory: "/", user, limitMs: REACH_LIMIT_MS });
  return success;
}

// Location

const LOCATION_FILE = "postgres-location";

/** Reads where the database is, if it is not in the data directory itself. */
async function readLocation(dataDirectory: string): Promise<string | null> {
  try {
    const text = await Deno.readTextFile(join(dataDirectory, LOCATION_FILE));
    return text.split("\n", 1)[0];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Writes where the database is, complete or not at all. */
async function writeLocation(dataDirectory: string, directory: string, user: ServerUser): Promise<void> {
  const path = join(dataDirectory, LOCATION_FILE);
  const lines = [
    directory,
    "",
    "The line above is where Snapmark keeps the database of this data directory, and reads back at every start.",
    "It is not in here because Snapmark was started by root: root cannot run PostgreSQL, and the user that runs it",
    `(${user.name}) cannot reach this directory. Delete both or neither, and back up both.`,
  ];
  const incomplete = `${path}.incomplete`;
  await Deno.writeTextFile(incomplete, lines.join("\n") + "\n");
  await Deno.rename(incomplete, path);
}

/** Creates a home below the system directory for a data directory the user cannot reach. */
async function createSystemHome(dataDirectory: string, user: ServerUser): Promise<string> {
  await createOpenDirectories(SYSTEM_DIRECTORY);
  const bytes = new TextEncoder().encode(dataDirectory);
  const hash = encodeHex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))).slice(0, 16);
  for (let number = 1; number <= HOMES_PER_PATH_MAX; number++) {
    const directory = join(SYSTEM_DIRECTORY, number === 1 ? hash : `${hash}-${number}`);
    if (!await createOpenDirectory(directory)) continue;
    if (!await canReach(directory, user)) {
      await Deno.remove(directory);
      throw new EmbeddedPostgresError(
        `Cannot start on ${dataDirectory}: the user ${user.name} can reach neither it nor ${SYSTEM_DIRECTORY} ` +
          `(root cannot run PostgreSQL)`,
      );
    }
    await writeLocation(dataDirectory, directory, user);
    return directory;
  }
  throw new EmbeddedPostgresError(
    `Cannot start on ${dataDirectory}: ${SYSTEM_DIRECTORY} has ${HOMES_PER_PATH_MAX} homes named ${hash}`,
  );
}

async function createOpenDirectories(path: string): Promise<void> {
  if (await exists(path)) return;
  await createOpenDirectories(dirname(path));
  await createOpenDirectory(path);
}

/** Creates a directory everyone can enter, whatever our umask. Returns false when there is one already. */
async function createOpenDirectory(path: string): Promise<boolean> {
  try {
    await Deno.mkdir(path);
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return false;
    throw error;
  }
  await Deno.chmod(path, 0o755);
  return true;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path) !== null;
}

async function stat(path: string): Promise<Deno.FileInfo | null> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
