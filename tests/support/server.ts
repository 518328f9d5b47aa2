/**
 * Real processes of the program, as a user starts them.
 */

import { TextLineStream } from "@std/streams";
import { dirname, fromFileUrl, join } from "@std/path";

const ROOT = dirname(dirname(dirname(fromFileUrl(import.meta.url))));
/** The permissions that the tasks name: what is tested is that they suffice. */
const PERMISSIONS = await readPermissions("start");
/** Longest wait for a process to come up or to end. */
const PROCESS_MS_MAX = 60_000;

export const TEST_TOKEN = "test-token-0123456789";

export interface TestProcess extends AsyncDisposable {
  readonly pid: number;
  kill(signal: Deno.Signal): void;
  /** Its exit code; fails if it does not end in time. */
  ended(): Promise<Deno.CommandStatus>;
}

export interface TestServer extends TestProcess {
  readonly url: string;
}

export interface StartOptions {
  /** What is run instead of `main.ts`. */
  readonly program?: string;
  /** Told what is logged, which else goes to standard error. */
  readonly onLog?: (text: string) => void;
}

const MAIN = join(ROOT, "src/main.ts");

/** Starts `main.ts serve`, or another program that serves like it, on a free port and waits until it serves. */
export async function startServerProcess(
  environment: { DATABASE_URL: string } & Record<string, string>,
  args: string[] = [],
  options: StartOptions = {},
): Promise<TestServer> {
  const pattern = /Snapmark serves at (\S+)/;
  const { child, found } = await startProcess(["serve", ...args], environment, pattern, options);
  return { ...child, url: found };
}

/** Starts `main.ts serve` with the bundled PostgreSQL in `dataDir`, which the caller owns. */
export async function startBundledServerProcess(dataDir: string): Promise<TestServer> {
  const environment = { SNAPMARK_DATA_DIR: dataDir };
  const { child, found } = await startProcess(["serve"], environment, /Snapmark serves at (\S+)/);
  return { ...child, url: found };
}

/** Starts `main.ts worker` and waits until it flushes. */
export async function startWorkerProcess(
  environment: { DATABASE_URL: string },
  options: StartOptions = {},
): Promise<TestProcess> {
  return (await startProcess(["worker"], environment, /(Flushing) /, options)).child;
}

/** Runs a task that ends by itself, as `deno.json` has it. */
export async function runTask(
  name: string,
  environment: Record<string, string>,
  args: string[] = [],
): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", ...await readPermissions(name), join(ROOT, "src/main.ts"), name, ...args],
    env: { NO_COLOR: "1", ...environment },
    signal: AbortSignal.timeout(PROCESS_MS_MAX),
  }).output();
  const [out, error] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  return { code, stdout: out, stderr: error };
}

async function startProcess(
  args: string[],
  environment: Record<string, string>,
  pattern: RegExp,
  { program = MAIN, onLog }: StartOptions = {},
): Promise<{ child: TestProcess; found: string }> {
  const dataDir = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", ...PERMISSIONS, program, ...args],
    env: {
      SNAPMARK_PORT: "0",
      SNAPMARK_ADMIN_TOKEN: TEST_TOKEN,
      SNAPMARK_DATA_DIR: dataDir,
      SNAPMARK_LOG: "error",
      ...environment,
    },
    stdout: "piped",
    stderr: onLog === undefined ? "inherit" : "piped",
  }).spawn();
  const logged = onLog === undefined ? undefined : tellAll(process.stderr, onLog);
  const deadline = AbortSignal.timeout(PROCESS_MS_MAX);
  const found = await findLine(process, pattern, deadline);
  const ended = () => within(process.status, PROCESS_MS_MAX);
  const child = {
    pid: process.pid,
    kill: (signal: Deno.Signal) => process.kill(signal),
    ended,
    [Symbol.asyncDispose]: async () => {
      try {
        process.kill("SIGKILL");
      } catch {
        // It has ended.
      }
      await ended();
      await logged;
      await Deno.remove(dataDir, { recursive: true });
    },
  };
  return { child, found };
}

/** The first match of `pattern` on standard output, which is read on to its end so that it never fills. */
async function findLine(process: Deno.ChildProcess, pattern: RegExp, signal: AbortSignal): Promise<string> {
  const lines = process.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  signal.addEventListener("abort", () => reject(new Error(`Cannot find ${pattern} in time`)), { once: true });
  void (async () => {
    for await (const line of lines) {
      const match = pattern.exec(line as string);
      if (match !== null) resolve(match[1]);
    }
    reject(new Error(`Cannot find ${pattern}: the process ended`));
  })();
  return await promise;
}

async function tellAll(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  tell: (text: string) => void,
): Promise<void> {
  for await (const text of stream.pipeThrough(new TextDecoderStream())) tell(text);
}

async function readPermissions(task: string): Promise<string[]> {
  const { tasks } = JSON.parse(await Deno.readTextFile(join(ROOT, "deno.json")));
  return tasks[task].split(" ").filter((word: string) => word.startsWith("--"));
}

async function within<T>(promise: Promise<T>, ms: number): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`Cannot wait longer than ${ms} ms`)), ms);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
