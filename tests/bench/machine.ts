/**
 * The machine that a bench ran on: its cores, what ran on them, and what time a process took of them.
 *
 * Linux tells both in `/proc` (proc(5)); elsewhere they are unknown.
 */

/** `USER_HZ` of every Linux that Deno runs on. */
const TICKS_PER_SECOND = 100;
/** `utime` is field 14 of `/proc/<pid>/stat`, and the fields are counted from behind the name, field 2. */
const UTIME_INDEX = 11;

export interface Machine {
  readonly cores: number;
  readonly cpuModel: string;
  readonly memoryGib: number;
}

export interface Versions {
  readonly deno: string;
  readonly postgres: string;
  /** Short hash, with `+` where files differ from it. */
  readonly snapmark: string;
}

/** What the machine is. */
export async function describeMachine(): Promise<Machine> {
  const cpu = await readText("/proc/cpuinfo");
  return {
    cores: navigator.hardwareConcurrency,
    cpuModel: /^model name\s*: (.+)$/m.exec(cpu)?.[1] ?? "unknown",
    memoryGib: Math.round(
      Number(/^MemTotal:\s*(\d+) kB$/m.exec(await readText("/proc/meminfo"))?.[1] ?? 0) / 2 ** 20,
    ),
  };
}

/** What ran on it; `postgres` is the server's own version. */
export async function describeVersions(postgres: string): Promise<Versions> {
  const commit = await run("git", ["rev-parse", "--short", "HEAD"]);
  const changed = await run("git", ["status", "--porcelain", "--untracked-files=no"]);
  return {
    deno: Deno.version.deno,
    postgres,
    snapmark: commit === undefined ? "unknown" : `${commit}${changed === "" ? "" : "+"}`,
  };
}

/** CPU seconds that a process has taken so far, in user and system mode; undefined when it has ended. */
export async function readCpuSeconds(processId: number): Promise<number | undefined> {
  const stat = await readText(`/proc/${processId}/stat`);
  if (stat === "") return undefined;
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[UTIME_INDEX]) + Number(fields[UTIME_INDEX + 1])) / TICKS_PER_SECOND;
}

/** What a program prints; undefined when it is not there or fails. */
export async function run(program: string, args: string[]): Promise<string | undefined> {
  try {
    const { success, stdout } = await new Deno.Command(program, { args, stdin: "null", stderr: "null" })
      .output();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch {
    return undefined;
  }
}

/** Deno opens nothing below `/proc` unless all is permitted (`--allow-all`), so another program reads it. */
async function readText(path: string): Promise<string> {
  return await run("cat", [path]) ?? "";
}
