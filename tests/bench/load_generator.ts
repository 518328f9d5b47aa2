/**
 * Load generators as processes: started, watched for the CPU time they take, and their counts judged.
 */

import { join } from "@std/path";
import { TextLineStream } from "@std/streams";
import type {
  BenchServer,
  ClosedLoad,
  ClosedLoadResult,
  GeneratorShare,
  OpenLoad,
  OpenLoadResult,
  OpenLoadRun,
} from "./bed.ts";
import { endProcess, toDenoArguments } from "./child_process.ts";
import type { ClosedLoadCount, ClosedLoadOrder } from "./load_closed.ts";
import type { OpenLoadCount, OpenLoadOrder } from "./load_open.ts";
import type { LoadPlan } from "./load_plan.ts";
import { parseWrkOutput, toWrkArguments, toWrkScript } from "./load_wrk.ts";
import { readCpuSeconds } from "./machine.ts";

const WARMUP_SECONDS = 0.5;
/** How often the CPU time is read: what a process took after the last time is not seen. */
const WATCH_MS = 100;
/** How much longer than planned a generator may take: a pause of an open load is part of it. */
const OVERTIME_MS_MAX = 60_000;
const DENO_GENERATOR = `Deno ${Deno.version.deno} over raw sockets`;

/** Starts generators; scripts go into `directory`. `wrk` names its version, where there is one. */
export class LoadGenerators {
  readonly #shares = new Map<string, { shareMin: number; shareMax: number }>();
  #scripts = 0;

  constructor(private readonly directory: string, private readonly wrk: string | undefined) {}

  list(): GeneratorShare[] {
    return [...this.#shares].map(([generator, shares]) => ({ generator, ...shares }));
  }

  async runClosed(load: ClosedLoad): Promise<ClosedLoadResult> {
    const order: ClosedLoadOrder = {
      plan: toPlan(load.server, load),
      connections: load.connections,
      warmupSeconds: load.warmupSeconds ?? WARMUP_SECONDS,
      seconds: load.seconds,
    };
    const { program, args, generator } = await this.#prepareClosed(order);
    const child = spawn(program, args, "null");
    const watch = watchCpu(child.pid);
    const output = await finish(child, order.warmupSeconds + order.seconds);
    const generatorShare = this.#note(generator, watch.end());
    const count = this.wrk === undefined ? JSON.parse(output) as ClosedLoadCount : parseWrkOutput(output);
    requireSuccess(count);
    const blocksPerSecond = count.requests * load.blocksPerRequest / count.seconds;
    const megabytesPerSecond = blocksPerSecond * load.blockSizeBytes / 1e6;
    return { ...count, blocksPerSecond, megabytesPerSecond, generatorShare, generator };
  }

  startOpen(load: OpenLoad): OpenLoadRun {
    const { ratePerSecond, seconds, warmupSeconds, connectionsMax } = load;
    const shape = { method: "PUT", blocksPerRequest: 1, order: "random" } as const;
    const plan = toPlan(load.server, { ...load, ...shape });
    const order: OpenLoadOrder = { plan, ratePerSecond, seconds, warmupSeconds, connectionsMax };
    const args = toDenoArguments("tests/bench/load_open.ts", [JSON.stringify(order)]);
    const child = spawn(Deno.execPath(), args, "piped");
    const watch = watchCpu(child.pid);
    return openRun(child, warmupSeconds + seconds, (count) => {
      const generatorShare = this.#note(`${DENO_GENERATOR} (open loop)`, watch.end());
      requireSuccess(count);
      return { ...count, generatorShare };
    }, watch.end);
  }

  async #prepareClosed(
    order: ClosedLoadOrder,
  ): Promise<{ program: string; args: string[]; generator: string }> {
    if (this.wrk === undefined) {
      const args = toDenoArguments("tests/bench/load_closed.ts", [JSON.stringify(order)]);
      return { program: Deno.execPath(), args, generator: DENO_GENERATOR };
    }
    const script = join(this.directory, `load-${this.#scripts++}.lua`);
    await Deno.writeTextFile(script, toWrkScript(order));
    return { program: "wrk", args: toWrkArguments(order, script), generator: this.wrk };
  }

  #note(generator: string, share: number): number {
    const { shareMin, shareMax } = this.#shares.get(generator) ?? { shareMin: 1, shareMax: 0 };
    this.#shares.set(generator, { shareMin: Math.min(shareMin, share), shareMax: Math.max(shareMax, share) });
    return share;
  }
}

function toPlan(
  { url, token }: BenchServer,
  load: Omit<ClosedLoad, "server" | "connections" | "seconds">,
): LoadPlan {
  const { method, volumes, blockCount, blocksPerRequest, blockSizeBytes, order } = load;
  const { strideBlocks = blocksPerRequest, firstStep = 0 } = load;
  return {
    url,
    token,
    method,
    volumes,
    blockCount,
    blocksPerRequest,
    blockSizeBytes,
    order,
    strideBlocks,
    firstStep,
  };
}

function spawn(program: string, args: string[], stdin: "null" | "piped"): Deno.ChildProcess {
  return new Deno.Command(program, { args, stdin, stdout: "piped", stderr: "inherit" }).spawn();
}

/** Looks at a process again and again; `end` answers the share of all cores that it took. */
function watchCpu(processId: number): { end: () => number } {
  const startedAt = performance.now();
  let share = 0;
  const look = async () => {
    const cpuSeconds = await readCpuSeconds(processId);
    const seconds = (performance.now() - startedAt) / 1000;
    if (cpuSeconds !== undefined) share = cpuSeconds / (seconds * navigator.hardwareConcurrency);
  };
  const timer = setInterval(look, WATCH_MS);
  return { end: () => (clearInterval(timer), share) };
}

async function finish(child: Deno.ChildProcess, seconds: number): Promise<string> {
  const timer = setTimeout(() => void endProcess(child), seconds * 1000 + OVERTIME_MS_MAX);
  const { success, stdout, code } = await child.output();
  clearTimeout(timer);
  const output = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`Cannot load the server: the generator ended with ${code}: ${output}`);
  return output;
}

function requireSuccess({ requests, failures }: { requests: number; failures: number }): void {
  if (failures > 0) {
    throw new Error(`Cannot count ${requests} requests: ${failures} were not answered with success`);
  }
  if (requests === 0) throw new Error("Cannot count requests: none was answered");
}

function openRun(
  child: Deno.ChildProcess,
  seconds: number,
  judge: (count: OpenLoadCount) => OpenLoadResult,
  stopWatching: () => void,
): OpenLoadRun {
  const warmedUp = Promise.withResolvers<void>();
  const paused = Promise.withResolvers<void>();
  const result = Promise.withResolvers<OpenLoadResult>();
  for (const { promise } of [warmedUp, paused, result]) promise.catch(() => {});
  const rejectAll = (error: unknown) => [warmedUp, paused, result].forEach(({ reject }) => reject(error));
  const timer = setTimeout(() => void endProcess(child), seconds * 1000 + OVERTIME_MS_MAX);
  const read = async () => {
    const lines = child.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
    for await (const line of lines) {
      if (line === "warmed up") warmedUp.resolve();
      else if (line === "paused") paused.resolve();
      else result.resolve(judge(JSON.parse(line as string)));
    }
    throw new Error("Cannot load the server: the generator ended");
  };
  void read().catch(rejectAll).finally(() => clearTimeout(timer));
  const commands = child.stdin.getWriter();
  const say = (word: string) => commands.write(new TextEncoder().encode(`${word}\n`));
  return {
    warmedUp: warmedUp.promise,
    result: result.promise,
    pause: async () => {
      await say("pause");
      await paused.promise;
    },
    resume: () => say("resume"),
    [Symbol.asyncDispose]: async () => {
      stopWatching();
      await commands.close().catch(() => {});
      await endProcess(child);
    },
  };
}
