/**
 * Processes that a bench starts: Deno programs of this repository, ended with what they belong to.
 */

import { dirname, fromFileUrl, join } from "@std/path";
import { TextLineStream } from "@std/streams";

const ROOT = dirname(dirname(dirname(fromFileUrl(import.meta.url))));
const PERMISSIONS = [
  "--no-prompt",
  "--allow-net",
  "--allow-read",
  "--allow-write",
  "--allow-run",
  "--allow-sys=uid,systemMemoryInfo",
];
/** Longest wait for a process to come up; the `select` peer fills its table first. */
const START_MS_MAX = 60_000;
/** Longest wait for a process to end by itself. */
const END_MS_MAX = 10_000;

export interface ChildProcess extends AsyncDisposable {
  readonly processId: number;
  /** What it said of itself when it was up. */
  readonly found: string;
  kill(signal: Deno.Signal): void;
}

/** The command line of a Deno program of this repository; `script` is relative to its root. */
export function toDenoArguments(script: string, args: string[], environment: string[] = []): string[] {
  const variables = environment.length === 0
    ? ["--ignore-env"]
    : [`--allow-env=${environment.join(",")}`, "--ignore-env"];
  return ["run", ...PERMISSIONS, ...variables, join(ROOT, script), ...args];
}

/** Starts a program and waits until a line of its output matches `pattern`, whose first group is kept. */
export async function startProcess(
  script: string,
  args: string[],
  pattern: RegExp,
  env: Record<string, string> = {},
): Promise<ChildProcess> {
  const child = new Deno.Command(Deno.execPath(), {
    args: toDenoArguments(script, args, Object.keys(env)),
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  try {
    const found = await findLine(child, pattern);
    return {
      processId: child.pid,
      found,
      kill: (signal) => child.kill(signal),
      [Symbol.asyncDispose]: () => endProcess(child),
    };
  } catch (error) {
    await endProcess(child);
    throw error;
  }
}

/** Ends a process by SIGTERM, and by SIGKILL if that takes too long. */
export async function endProcess(child: Deno.ChildProcess): Promise<void> {
  const killing = setTimeout(() => signalProcess(child, "SIGKILL"), END_MS_MAX);
  signalProcess(child, "SIGTERM");
  // One that is held still would never take notice.
  signalProcess(child, "SIGCONT");
  await child.status;
  clearTimeout(killing);
}

function signalProcess(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch {
    // It has ended.
  }
}

/** Reads on to the output's end, so that it never fills. */
async function findLine(child: Deno.ChildProcess, pattern: RegExp): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const timer = setTimeout(
    () => reject(new Error(`Cannot find ${pattern} in ${START_MS_MAX} ms`)),
    START_MS_MAX,
  );
  void (async () => {
    const lines = child.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
    for await (const line of lines) {
      const match = pattern.exec(line as string);
      if (match !== null) resolve(match[1]);
    }
    reject(new Error(`Cannot find ${pattern}: the process ended`));
  })();
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
  }
}
