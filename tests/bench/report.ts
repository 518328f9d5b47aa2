/**
 * The report of a run: the table, what was seen besides, and below it the machine, the versions and the method. Also as JSON.
 */

import type { GeneratorShare } from "./bed.ts";
import type { Machine, Versions } from "./machine.ts";
import { formatNotes, formatTable, type RowResult, summarize } from "./table.ts";

export interface Report {
  readonly results: readonly RowResult[];
  /** Benches that broke. */
  readonly broken: readonly { readonly name: string; readonly message: string }[];
  readonly quick: boolean;
  readonly repetitions: number;
  readonly seconds: number;
  readonly machine: Machine;
  readonly versions: Versions;
  readonly generators: readonly GeneratorShare[];
}

const METHOD = [
  "Each ratio is of a pair measured one right after the other; figures are medians, ratios minimum, median and maximum",
  "over the repetitions, which are interleaved. A checkpoint goes before each contender, a warm-up that does not count",
  "begins it. Durability is PostgreSQL's default everywhere. Contents are random bytes. Load comes over HTTP on loopback.",
];

/** The report as it is printed. */
export function formatReport(report: Report): string {
  const { results, broken, machine, versions, repetitions, seconds, quick } = report;
  const notes = formatNotes(results);
  return [
    formatTable(results),
    "",
    ...broken.map(({ name, message }) => `BROKEN ${name}: ${message}`),
    ...(notes === "" ? [] : ["Notes, of the last repetition:", notes, ""]),
    `Machine: ${machine.cores} cores, ${machine.cpuModel}, ${machine.memoryGib} GiB`,
    `Versions: Deno ${versions.deno}, PostgreSQL ${versions.postgres}, Snapmark ${versions.snapmark}`,
    `Load: ${formatGenerators(report)}`,
    `${repetitions} repetition(s), ${seconds} s in all${quick ? ", quick: the figures mean nothing" : ""}`,
    ...METHOD,
  ].join("\n");
}

/** The same with every sample, as JSON. */
export function toJson({ results, ...context }: Report): string {
  const rows = results.map((result) => ({ ...result.row, ...summarize(result), samples: result.samples }));
  return `${JSON.stringify({ ...context, method: METHOD.join(" "), rows }, null, 2)}\n`;
}

function formatGenerators({ generators }: Report): string {
  const percent = (share: number) => `${Math.round(share * 100)} %`;
  const lines = generators.map(({ generator, shareMin, shareMax }) =>
    `${generator}, ${percent(shareMin)} to ${percent(shareMax)} of all cores`
  );
  return lines.length === 0 ? "none over HTTP" : lines.join("; ");
}
