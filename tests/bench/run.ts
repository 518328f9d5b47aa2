/**
 * `deno task bench [--quick] [--json FILE] [--repetitions N] [NAME …]`: runs the benches, or those named, on a bundled
 * PostgreSQL in a temporary directory, and prints one table.
 *
 * Progress goes to standard error. A bench that breaks is told and the others go on; the exit code then is 1. How fast
 * anything was never changes it. SIGINT and SIGTERM stop the run and leave nothing behind.
 */

import { parseArgs } from "@std/cli/parse-args";
import { untilStopped } from "../../src/commands/process.ts";
import { afterBench } from "./after.ts";
import type { Bed } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { changesBench } from "./changes.ts";
import { costBench } from "./cost.ts";
import { flushBench } from "./flush.ts";
import { growthBench } from "./growth.ts";
import { imageBench } from "./image.ts";
import { describeMachine, describeVersions } from "./machine.ts";
import { modesBench } from "./modes.ts";
import { poolsBench } from "./pools.ts";
import { openPostgresBed } from "./postgres_bed.ts";
import { putBench } from "./put.ts";
import { queueBench } from "./queue.ts";
import { readBench } from "./read.ts";
import { readDepthBench } from "./read_depth.ts";
import { reclaimBench } from "./reclaim.ts";
import { formatReport, type Report, toJson } from "./report.ts";
import { sealBench } from "./seal.ts";
import { stallBench } from "./stall.ts";
import type { RowResult } from "./table.ts";
import { within } from "./time_limit.ts";

/** In the order in which they run. */
const BENCHES: readonly Bench[] = [
  putBench,
  flushBench,
  readBench,
  readDepthBench,
  imageBench,
  stallBench,
  afterBench,
  sealBench,
  changesBench,
  reclaimBench,
  queueBench,
  poolsBench,
  modesBench,
  costBench,
  growthBench,
];
const REPETITIONS = 3;
const REPETITIONS_QUICK = 1;
const REPETITIONS_MAX = 100;
const MINUTE_MS = 60_000;
/** Longest time of one step of a bench: to open it, to repeat it once, to close it. */
const STEP_MS_MAX = 3 * MINUTE_MS;
/** The same of a bench that runs only when it is named. */
const LONG_STEP_MS_MAX = 90 * MINUTE_MS;
const USAGE = `Usage: deno task bench [--quick] [--json FILE] [--repetitions N] [NAME …]
Benches: ${BENCHES.map(({ name }) => name).join(", ")}`;

interface Options {
  readonly benches: readonly Bench[];
  readonly quick: boolean;
  readonly repetitions: number;
  readonly json?: string;
}

/** Reads the command line. @throws {Error} that says what is wrong with it. */
function readOptions(args: string[]): Options {
  const unknown: string[] = [];
  const flags = parseArgs(args, {
    boolean: ["quick"],
    string: ["json", "repetitions"],
    unknown: (argument: string, key?: string) => {
      if (key !== undefined) unknown.push(argument);
      return true;
    },
  });
  const names: string[] = flags._.map(String);
  unknown.push(...names.filter((name) => BENCHES.every((bench) => bench.name !== name)));
  if (unknown.length > 0) throw new Error(`Cannot understand ${unknown.join(" ")}`);
  const repetitions = Number(flags.repetitions ?? (flags.quick ? REPETITIONS_QUICK : REPETITIONS));
  if (!Number.isInteger(repetitions) || repetitions < 1 || repetitions > REPETITIONS_MAX) {
    throw new Error(`Cannot repeat ${flags.repetitions} times: expected 1 to ${REPETITIONS_MAX}`);
  }
  const benches = BENCHES.filter(({ name, onlyWhenNamed }) =>
    names.length === 0 ? onlyWhenNamed !== true : names.includes(name)
  );
  return {
    benches,
    quick: flags.quick,
    repetitions,
    ...(flags.json === undefined ? {} : { json: flags.json }),
  };
}

async function runAll({ benches, quick, repetitions }: Options, signal: AbortSignal): Promise<Report> {
  const startedAt = performance.now();
  await using bed = await openPostgresBed({ quick, repetitions, onProgress: tell, signal });
  const results: RowResult[] = [];
  const broken: Report["broken"][number][] = [];
  for (const bench of benches) {
    try {
      results.push(...await runBench(bed, bench, signal));
    } catch (error) {
      signal.throwIfAborted();
      tell(`${bench.name} broke: ${error instanceof Error ? error.stack : error}`);
      broken.push({ name: bench.name, message: error instanceof Error ? error.message : String(error) });
    }
  }
  return {
    results,
    broken,
    quick,
    repetitions,
    seconds: Math.round((performance.now() - startedAt) / 1000),
    machine: await describeMachine(),
    versions: await describeVersions(bed.postgres),
    generators: bed.listGenerators(),
  };
}

/** Opens a bench, measures all of its contenders once, then all of them again, and closes it. */
async function runBench(bed: Bed, bench: Bench, signal: AbortSignal): Promise<RowResult[]> {
  const stepMsMax = bench.onlyWhenNamed ? LONG_STEP_MS_MAX : STEP_MS_MAX;
  const startedAt = performance.now();
  const progress = (text: string) =>
    tell(`${bench.name}: ${text} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`);
  progress("setting up");
  await using steps = new Steps(stepMsMax, signal);
  const open = await steps.open(bench.open(bed));
  const samples: Sample[] = [];
  for (let repetition = 1; repetition <= bed.repetitions; repetition++) {
    progress(`repetition ${repetition} of ${bed.repetitions}`);
    samples.push(...requireAll(bench, await steps.take(open.repeat())));
  }
  progress("done");
  return bench.rows.map((row) => ({ row, samples: samples.filter((sample) => sample.row === row.name) }));
}

/** The steps of one bench. One that is left behind fails as soon as its servers are gone, and is waited for. */
class Steps implements AsyncDisposable {
  readonly #begun: PromiseLike<unknown>[] = [];
  #opening?: Promise<OpenBench>;

  constructor(private readonly msMax: number, private readonly signal: AbortSignal) {}

  open(opening: Promise<OpenBench>): Promise<OpenBench> {
    this.#opening = opening;
    return this.take(opening);
  }

  /** @throws when the step takes too long or the run is stopped. */
  take<T>(step: Promise<T>): Promise<T> {
    this.#begun.push(step);
    return within(step, this.msMax, this.signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const open = await within(this.#opening ?? Promise.reject(), this.msMax).catch(() => undefined);
    if (open !== undefined) await within(open[Symbol.asyncDispose](), this.msMax);
    await within(Promise.allSettled(this.#begun), this.msMax);
  }
}

/** @throws when a row has no sample, or one that is no figure. */
function requireAll({ rows }: Bench, samples: Sample[]): Sample[] {
  for (const { name } of rows) {
    const found = samples.filter((sample) => sample.row === name);
    if (found.length !== 1) throw new Error(`Cannot tell ${name}: expected 1 sample, found ${found.length}`);
    const [{ measured, against }] = found;
    if (!isFigure(measured) || !isFigure(against)) {
      throw new Error(`Cannot tell ${name}: expected figures, found ${measured} against ${against}`);
    }
    tell(
      `  ${name}: ${measured.toPrecision(4)} : ${against.toPrecision(4)} = ${
        (measured / against).toFixed(2)
      }`,
    );
  }
  return samples;
}

function isFigure(value: number): boolean {
  return Number.isFinite(value) && value > 0;
}

function tell(line: string): void {
  console.error(line);
}

async function main(args: string[]): Promise<number> {
  let options;
  try {
    options = readOptions(args);
  } catch (error) {
    tell(`${(error as Error).message}\n${USAGE}`);
    return 2;
  }
  using signals = new DisposableStack();
  const stopped = untilStopped(signals);
  try {
    const report = await runAll(options, stopped);
    console.log(formatReport(report));
    if (options.json !== undefined) await Deno.writeTextFile(options.json, toJson(report));
    return report.broken.length === 0 ? 0 : 1;
  } catch (error) {
    if (!stopped.aborted) throw error;
    tell("Stopped");
    return 130;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
