/**
 * The demo's pictures: lines of text that follow from numbers alone.
 *
 * The queue is drawn from its oldest entry of the demo on the left to its tail on the right, as wide as the terminal
 * lets it. New entries join on the right, so the marker wanders to the left while the flushed part grows towards it.
 *
 *     queue ██████████████████░░░░◆░░░░░░░░  ◆ 56 entries, 3.5 MiB ahead · file 62 %
 */

const KIB = 1024;
const MIB = 1024 * KIB;

const FLUSHED = "█";
const WAITING = "░";
const MARKER = "◆";
const FLUSHED_CELLS = /█+/g;

/** What is drawn when the terminal does not tell its width. */
const COLUMNS_DEFAULT = 80;
/** Wider lines are not easier to read. */
const COLUMNS_MAX = 132;
/** What is kept free for the words behind the bar. */
const WORDS_COLUMNS = 56;
const CELLS_MIN = 10;

/** The queue at one moment: sequences `(sequenceFirst, sequenceAppended]`. */
export interface QueueView {
  /** The last sequence before the demo. */
  readonly sequenceFirst: number;
  readonly sequenceFlushed: number;
  readonly sequenceAppended: number;
  readonly sequenceMarker?: number;
}

/** How a terminal shows lines. */
export interface Display {
  readonly columns: number;
  readonly color: boolean;
}

/** The queue, and `words` behind it, in one line that fits into the display. */
export function drawQueue(view: QueueView, words: string, display: Display): string {
  const cells = countCells(display);
  const total = Math.max(1, view.sequenceAppended - view.sequenceFirst);
  const toCell = (sequence: number) =>
    Math.floor(cells * Math.min(1, Math.max(0, sequence - view.sequenceFirst) / total));
  const flushed = toCell(view.sequenceFlushed);
  const bar = [...FLUSHED.repeat(flushed) + WAITING.repeat(cells - flushed)];
  if (view.sequenceMarker !== undefined) bar[Math.min(cells - 1, toCell(view.sequenceMarker - 1))] = MARKER;
  return assemble("queue", bar, words, display);
}

/** How much of something is done, and `words` behind it, in one line that fits into the display. */
export function drawShare(label: string, share: number, words: string, display: Display): string {
  const cells = countCells(display);
  const done = Math.floor(cells * Math.min(1, Math.max(0, share)));
  return assemble(label, [...FLUSHED.repeat(done) + WAITING.repeat(cells - done)], words, display);
}

/** A count with its thousands apart. */
export function formatCount(count: number): string {
  return count.toLocaleString("en-US");
}

/** `entry` with its count: `1 entry`, `2 entries`. */
export function formatEntries(count: number): string {
  return `${formatCount(count)} ${count === 1 ? "entry" : "entries"}`;
}

export function formatBytes(bytes: number): string {
  return bytes < MIB ? `${Math.ceil(bytes / KIB)} KiB` : `${(bytes / MIB).toFixed(1)} MiB`;
}

export function formatMilliseconds(ms: number): string {
  return `${formatCount(Math.round(ms))} ms`;
}

/** One column stays free: a terminal that is filled to its edge may begin a new line. */
function usableColumns({ columns }: Display): number {
  return Math.min(columns > 0 ? columns : COLUMNS_DEFAULT, COLUMNS_MAX) - 1;
}

function countCells(display: Display): number {
  return Math.max(CELLS_MIN, usableColumns(display) - WORDS_COLUMNS);
}

function assemble(label: string, bar: string[], words: string, display: Display): string {
  const columns = Math.max(0, usableColumns(display));
  const line = [...`${label} `, ...bar, ...`  ${words}`].slice(0, columns);
  return display.color ? paint(line.join("")) : line.join("");
}

/** Green what is flushed, yellow the marker: colours that every terminal has (ECMA-48, SGR). */
function paint(line: string): string {
  return line.replaceAll(FLUSHED_CELLS, "\x1b[32m$&\x1b[0m").replaceAll(MARKER, `\x1b[1;33m${MARKER}\x1b[0m`);
}
