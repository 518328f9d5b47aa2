/**
 * How long the demo's writes took, before a snapshot, while it was taken and sealed, and after: so that one sees
 * whether anybody was paused.
 */

import { formatCount, formatMilliseconds } from "./demo_bar.ts";

/** A write's time from its request to its acknowledgement, in milliseconds of one clock. */
export interface Timing {
  readonly startedAt: number;
  readonly endedAt: number;
}

/** How long the writes of one phase took. */
export interface Latency {
  readonly writeCount: number;
  /** Half of them took at most so long. Absent without writes. */
  readonly medianMs?: number;
  readonly maxMs?: number;
}

/** The phases, in order. */
export interface PhasedLatency {
  readonly before: Latency;
  readonly during: Latency;
  readonly after: Latency;
}

/** Sorts writes by phase. A write that was under way at any time between request and seal belongs to `during`. */
export function measureLatency(
  timings: readonly Timing[],
  snapshot: { requestedAt: number; sealedAt: number },
): PhasedLatency {
  const before = timings.filter(({ endedAt }) => endedAt < snapshot.requestedAt);
  const after = timings.filter(({ startedAt }) => startedAt > snapshot.sealedAt);
  const during = timings.filter(({ startedAt, endedAt }) =>
    endedAt >= snapshot.requestedAt && startedAt <= snapshot.sealedAt
  );
  return { before: summarize(before), during: summarize(during), after: summarize(after) };
}

function summarize(timings: Timing[]): Latency {
  if (timings.length === 0) return { writeCount: 0 };
  const sorted = timings.map(({ startedAt, endedAt }) => endedAt - startedAt).sort((a, b) => a - b);
  return {
    writeCount: sorted.length,
    medianMs: sorted[Math.ceil(sorted.length / 2) - 1],
    maxMs: sorted[sorted.length - 1],
  };
}

const PHASES = [
  ["before", "before the snapshot"],
  ["during", "while taken and sealed"],
  ["after", "after its seal"],
] as const;
const LABEL_COLUMNS = 27;
const LATENCY_COLUMNS = 30;

/** A table with a line for each phase. Nobody was paused if the middle one is like its neighbours. */
export function formatLatency(parts: Readonly<Record<string, PhasedLatency>>): string[] {
  const toLine = (label: string, columns: string[]) =>
    [label.padEnd(LABEL_COLUMNS), ...columns.map((column) => column.padEnd(LATENCY_COLUMNS))].join("")
      .trimEnd();
  return [
    toLine("Write latency, p50 / max", Object.keys(parts)),
    ...PHASES.map(([phase, label]) =>
      toLine(`  ${label}`, Object.values(parts).map((latency) => describe(latency[phase])))
    ),
  ];
}

function describe({ writeCount, medianMs, maxMs }: Latency): string {
  if (medianMs === undefined || maxMs === undefined) return "no writes";
  const writes = `${formatCount(writeCount)} ${writeCount === 1 ? "write" : "writes"}`;
  return `${formatCount(Math.round(medianMs))} / ${formatMilliseconds(maxMs)}, ${writes}`;
}
