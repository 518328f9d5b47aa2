/** Runs one of PostgreSQL's programs to its end: as a given user, in a bare environment, within a time limit. */
import { EmbeddedPostgresError } from "./embedded_error.ts";

/** The operating system's user PostgreSQL runs as. */
export interface ServerUser {
  /** For messages. */
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
}

/** How {@linkcode runProgram} runs a program. */
export interface ProgramOptions {
  readonly args: readonly string[];
  /** The user must be able to enter it: it is entered after the change of user. */
  readonly directory: string;
  /** `null` runs it as the user we are. Another user can only be given by root. */
  readonly user: ServerUser | null;
  /** The program is killed when it takes longer. */
  readonly limitMs: number;
  /** Interrupts the program when aborted, as Ctrl-C would: it may still put its things in order. */
  readonly signal?: AbortSignal;
}

/** How a program ended. */
export interface ProgramOutcome {
  readonly success: boolean;
  /** Everything it printed, standard output first. */
  readonly printed: string;
}

/**
 * The programs' whole environment. Ours is not passed on: `PGDATA`, `PGOPTIONS`, `LD_LIBRARY_PATH` or a `HOME` the
 * user cannot read would change what they do. `TZ` spares initdb the comparison of every known time zone.
 */
const ENVIRONMENT = { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" };

/** Runs a program and returns how it ended. Throws when it cannot be run, takes too long, or `signal` is aborted. */
export async function runProgram(path: string, options: ProgramOptions): Promise<ProgramOutcome> {
  const { limitMs, signal } = options;
  signal?.throwIfAborted();
  const child = spawnProgram(path, options);
  const kill = (name: Deno.Signal) => {
    try {
      child.kill(name);
    } catch {
      // It has just ended by itself.
    }
  };
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    kill("SIGKILL");
  }, limitMs);
  const interrupt = () => kill("SIGINT");
  signal?.addEventListener("abort", interrupt);
  try {
    const { success, stdout, stderr } = await child.output();
    signal?.throwIfAborted();
    if (timedOut) throw new EmbeddedPostgresError(`Cannot wait longer for ${path}: it had ${limitMs} ms`);
    const decoder = new TextDecoder();
    return { success, printed: (decoder.decode(stdout) + decoder.decode(stderr)).trim() };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", interrupt);
  }
}

function spawnProgram(path: string, { args, directory, user }: ProgramOptions): Deno.ChildProcess {
  try {
    return new Deno.Command(path, {
      args: [...args],
      cwd: directory,
      clearEnv: true,
      env: ENVIRONMENT,
      // Root's supplementary groups are dropped along with its user id.
      ...(user === null ? {} : { uid: user.uid, gid: user.gid }),
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  } catch (cause) {
    throw new EmbeddedPostgresError(`Cannot run ${path}`, String(cause), { cause });
  }
}
