/**
 * A disk that is soon full: a file system in memory of a few megabytes, and a file on it that can be taken away again. Making one takes
 * the right to mount, which root has.
 */

import { join } from "@std/path";

export interface SmallDisk extends AsyncDisposable {
  readonly path: string;
  /** Makes room: removes what it was made with. */
  makeRoom(): Promise<void>;
}

/** Mounts one of `sizeBytes`, of which `ballastBytes` are taken until there is to be room; tells why it cannot. */
export async function mountSmallDisk(sizeBytes: number, ballastBytes: number): Promise<SmallDisk | string> {
  if (Deno.build.os !== "linux") return "file systems in memory are mounted on Linux only";
  const path = await Deno.makeTempDir({ prefix: "snapmark-disk-" });
  const mounted = await run("mount", "-t", "tmpfs", "-o", `size=${sizeBytes},mode=0777`, "tmpfs", path);
  if (mounted !== "") {
    await Deno.remove(path);
    return `a file system in memory cannot be mounted: ${mounted}`;
  }
  const ballast = join(path, "ballast");
  await Deno.writeFile(ballast, new Uint8Array(ballastBytes));
  return {
    path,
    makeRoom: async () => await Deno.remove(ballast),
    [Symbol.asyncDispose]: async () => {
      // Whatever was started on it has ended by then, or ends now.
      await run("umount", "-l", path);
      await Deno.remove(path);
    },
  };
}

/** Runs a program; answers what it complains of. */
async function run(program: string, ...args: string[]): Promise<string> {
  try {
    const { success, stderr } = await new Deno.Command(program, { args }).output();
    return success ? "" : new TextDecoder().decode(stderr).trim();
  } catch (error) {
    return (error as Error).message;
  }
}

/** Gives a directory to the owner of another one: PostgreSQL does not run as root. */
export async function giveToOwnerOf(path: string, of: string): Promise<void> {
  const { uid, gid } = await Deno.stat(of);
  await Deno.chown(path, uid, gid);
}

/** Moves a directory, with its owners, to a place that a link in its own then leads to. */
export async function moveTo(place: string, directory: string): Promise<void> {
  const script = 'cp -a "$2" "$1" && rm -r "$2" && ln -s "$1" "$2"';
  const complaint = await run("/bin/sh", "-c", script, "sh", place, directory);
  if (complaint !== "") throw new Error(`Cannot move ${directory}: ${complaint}`);
}
