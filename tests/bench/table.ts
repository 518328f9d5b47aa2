/**
 * What a run found, as text: one line for each row of each bench, in columns.
 */

import type { Row, Sample } from "./bench.ts";
import { median } from "./statistics.ts";

/** A row with all of its samples. */
export interface RowResult {
  readonly row: Row;
  readonly samples: readonly Sample[];
}

/** What the samples of a row come to. */
export interface RowSummary {
  readonly measured: number;
  readonly against: number;
  readonly ratioMin: number;
  readonly ratioMedian: number;
  readonly ratioMax: number;
  /** Whether the median reaches the goal; undefined where there is none. */
  readonly reached?: boolean;
}

/** Figures as medians, and the ratios of the pairs. @throws when there is no sample. */
export function summarize({ row, samples }: RowResult): RowSummary {
  const ratios = samples.map(({ measured, against }) => measured / against);
  const ratioMedian = median(ratios);
  const reached = "atLeast" in row.goal
    ? ratioMedian >= row.goal.atLeast
    : "atMost" in row.goal
    ? ratioMedian <= row.goal.atMost
    : undefined;
  return {
    measured: median(samples.map(({ measured }) => measured)),
    against: median(samples.map(({ against }) => against)),
    ratioMin: Math.min(...ratios),
    ratioMedian,
    ratioMax: Math.max(...ratios),
    ...(reached === undefined ? {} : { reached }),
  };
}

const HEAD = [
  "row",
  "measured",
  "against",
  "unit",
  "figure",
  "peer",
  "min",
  "median",
  "max",
  "goal",
  "aim",
  "",
];
/** Columns of numbers, which stand right. */
const FIRST_NUMBER = HEAD.indexOf("figure");
const LAST_NUMBER = HEAD.indexOf("max");

/** The table as a Markdown table whose columns are aligned. */
export function formatTable(results: readonly RowResult[]): string {
  const lines = [HEAD, ...results.map(toCells)];
  const widths = HEAD.map((_, column) => Math.max(3, ...lines.map((cells) => cells[column].length)));
  const texts = lines.map((cells) =>
    toLine(cells.map((cell, column) => align(cell, column, widths[column])))
  );
  return [texts[0], toLine(widths.map(toRule)), ...texts.slice(1)].join("\n");
}

/** The last note of each row that has one. */
export function formatNotes(results: readonly RowResult[]): string {
  return results
    .map(({ row, samples }) => ({
      name: row.name,
      note: samples.findLast(({ note }) => note !== undefined)?.note,
    }))
    .filter(({ note }) => note !== undefined)
    .map(({ name, note }) => `  ${name}: ${note}`)
    .join("\n");
}

function toCells(result: RowResult): string[] {
  const { name, measured, against, unit, goal } = result.row;
  const summary = summarize(result);
  const ratios = [summary.ratioMin, summary.ratioMedian, summary.ratioMax].map((ratio) => ratio.toFixed(2));
  const verdict = summary.reached === undefined ? "" : summary.reached ? "reached" : "NOT reached";
  const figures = [summary.measured, summary.against].map(formatFigure);
  return [name, measured, against, unit, ...figures, ...ratios, formatGoal(goal), formatAim(goal), verdict];
}

function formatGoal(goal: Row["goal"]): string {
  if ("atLeast" in goal) return `≥ ${goal.atLeast}`;
  return "atMost" in goal ? `≤ ${goal.atMost}` : "";
}

function formatAim(goal: Row["goal"]): string {
  if ("atLeast" in goal || "atMost" in goal) return goal.aim === undefined ? "" : String(goal.aim);
  return goal.aimAtMost === undefined ? "" : `≤ ${goal.aimAtMost}`;
}

/** Three digits that count, or more. */
function formatFigure(figure: number): string {
  return figure >= 100 ? Math.round(figure).toLocaleString("en") : figure.toPrecision(3);
}

function align(cell: string, column: number, width: number): string {
  const right = column >= FIRST_NUMBER && column <= LAST_NUMBER;
  return right ? cell.padStart(width) : cell.padEnd(width);
}

function toRule(width: number, column: number): string {
  return column >= FIRST_NUMBER && column <= LAST_NUMBER ? `${"-".repeat(width - 1)}:` : "-".repeat(width);
}

function toLine(cells: string[]): string {
  return `| ${cells.join(" | ")} |`;
}
