/**
 * How much memory there is for us: the machine's, or what a container is allowed of it.
 */

/** Where Linux says what a container may use, in bytes: control groups of version 2, then 1. */
const LIMITS = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/** Memory in bytes. */
export async function readMemoryBytes(limits: readonly string[] = LIMITS): Promise<number> {
  const allowed = await Promise.all(limits.map(readLimit));
  return Math.min(Deno.systemMemoryInfo().total, ...allowed);
}

/** A file that is missing, or says `max`, limits nothing. */
async function readLimit(path: string): Promise<number> {
  try {
    const bytes = parseInt(await Deno.readTextFile(path));
    return Number.isNaN(bytes) ? Infinity : bytes;
  } catch {
    return Infinity;
  }
}
