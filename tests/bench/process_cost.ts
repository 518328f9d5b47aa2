/**
 * What processes cost: CPU seconds of a server and of the whole PostgreSQL behind it, and the most memory that a process had.
 *
 * From Linux's `/proc` (proc(5)); elsewhere they are unknown, and asking fails. Deno lets only a program that may do everything
 * read there, so `cat` does.
 */

import type { Database } from "../../src/database/client.ts";

/** `USER_HZ` of every Linux that Deno runs on. */
const TICKS_PER_SECOND = 100;
/** Places behind the name in `/proc/<pid>/stat`: parent, own times, and times of the children that have ended. */
const PARENT_INDEX = 1;
const OWN_TIMES = [11, 12];
const ENDED_CHILDREN_TIMES = [13, 14];

/** The postmaster: the parent of every backend. */
export async function findPostmaster({ $client }: Database): Promise<number> {
  const [{ pid }] = await $client<{ pid: number }[]>`select pg_backend_pid() as pid`;
  return Number((await readStats(String(pid))).get(pid)?.[PARENT_INDEX]);
}

/** CPU seconds of a process and of PostgreSQL: the postmaster, its processes, and those that have ended. */
export async function readCpuSeconds(processId: number, postmaster: number): Promise<number> {
  const stats = await readStats("[0-9]*");
  let ticks = sum(stats.get(processId), OWN_TIMES) + sum(stats.get(postmaster), ENDED_CHILDREN_TIMES);
  for (const [pid, stat] of stats) {
    if (pid === postmaster || Number(stat[PARENT_INDEX]) === postmaster) ticks += sum(stat, OWN_TIMES);
  }
  return ticks / TICKS_PER_SECOND;
}

/** The most memory that a process ever had resident. */
export async function readPeakMemoryBytes(processId: number): Promise<number> {
  const status = await readFiles(`/proc/${processId}/status`);
  return Number(/^VmHWM:\s*(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

/** The fields behind the name, of each process whose id matches. */
async function readStats(pattern: string): Promise<Map<number, string[]>> {
  const stats = await readFiles(`/proc/${pattern}/stat`);
  return new Map(
    stats.trim().split("\n").map((stat) => [
      parseInt(stat),
      stat.slice(stat.lastIndexOf(")") + 2).split(" "),
    ]),
  );
}

/** Files whose paths match, one behind the other; those that vanish meanwhile are left out. */
async function readFiles(pattern: string): Promise<string> {
  const { stdout } = await new Deno.Command("sh", {
    args: ["-c", `cat ${pattern}`],
    stdin: "null",
    stderr: "null",
  }).output();
  return new TextDecoder().decode(stdout);
}

/** @throws when the process is not there. */
function sum(stat: string[] | undefined, indexes: number[]): number {
  if (stat === undefined) throw new Error("Cannot tell a process's CPU time: it has ended");
  return indexes.reduce((total, index) => total + Number(stat[index]), 0);
}
