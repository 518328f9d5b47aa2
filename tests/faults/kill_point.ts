/**
 * Kill points: the moments before and behind each statement of a transaction that writes, as they are seen between the program
 * and its PostgreSQL. They are found by watching, so a statement that is added tomorrow is one more of them.
 *
 * A moment is named by its transaction's statements so far, each told in a few words: `behind begin › lock pool_heads › copy
 * cache`. So it is the same one in every run, whatever other connections do meanwhile. "Before": PostgreSQL has got nothing
 * of the last of them. "Behind": it has done it, and nobody knows.
 *
 * Single statements are transactions of one. Those that only read are points too, before them: somebody stands
 * between two transactions.
 */

import { COPY_DONE, type ProxiedStatement, type ProxyHooks } from "../support/postgres_proxy.ts";

const SEPARATOR = " › ";

/** What is done at a point, told by all of its transaction. The first that fits has it. */
const PHASES: readonly [phase: string, everyOf: readonly string[]][] = [
  ["migrate", ["create"]],
  ["seal", ["delete cache", "update snapshots"]],
  ["flush", ["delete cache"]],
  ["append", ["copy cache"]],
  ["import", ["delete stagings", "insert snapshots"]],
  ["revert", ["insert timelines", "update volumes"]],
  ["schedule run", ["insert snapshots", "update schedules"]],
  ["marker", ["insert snapshots"]],
  ["delete", ["delete snapshots"]],
  ["cancel", ["update cache", "update snapshots"]],
  ["reclaim", ["lock pool_tails", "select reclaims"]],
  ["copy", ["copies"]],
  ["stage", ["stagings"]],
  ["space", ["space"]],
  ["schedule", ["schedules"]],
  ["client", ["clients"]],
  ["volume", ["volumes"]],
];

/** What was seen of a point. */
export interface SeenPoint {
  readonly id: string;
  readonly phase: string;
  /** Whose connection came by. */
  readonly role: string;
  /** How often it came by. */
  readonly count: number;
}

/** A statement in two or three words: what it does, and to which table. */
export function describeStatement(text: string): string {
  return text.split(";").filter((one) => one.trim() !== "").map(describeOne).join(", ");
}

function describeOne(text: string): string {
  const plain = text.toLowerCase().replaceAll('"', "").replaceAll(/\s+/g, " ").trim();
  if (plain === COPY_DONE) return plain;
  const find = (pattern: RegExp) => pattern.exec(plain)?.[1];
  const inserted = find(/\binsert into (\w+)/);
  if (inserted !== undefined) return `insert ${inserted}`;
  const deleted = find(/\bdelete from (\w+)/);
  if (deleted !== undefined) return `delete ${deleted}`;
  const updated = find(/^(?:with .*)?\bupdate (\w+)/);
  if (updated !== undefined) return `update ${updated}`;
  const from = find(/\bfrom (?:\( *select .*? from )?(\w+)/);
  if (/^select\b.* for update/.test(plain)) return `lock ${from}`;
  if (/^(select|with)\b/.test(plain)) return `select ${from ?? find(/^select (\w+)/) ?? ""}`;
  return plain.split(" ").slice(0, 2).join(" ");
}

const WRITES = /\b(insert|update|delete|copy|create|alter) |append_at/;
const ENDS = /^(commit|rollback)/;

interface Trace {
  readonly steps: string[];
  readonly points: string[];
}

/** Watches connections, counts the points that they come by, and waits at one if that is told. */
export class PointWatch {
  readonly #open = new Map<string, Trace>();
  readonly #phases = new Map<string, string>();
  readonly #counts = new Map<string, number>();
  #processes = 0;
  readonly #roles = new Map<string, string>();
  readonly #behind = new WeakMap<ProxiedStatement, string>();

  /** @param onPoint is told each point that is come by, with how often so far, and awaited. */
  constructor(private readonly onPoint: (id: string, count: number) => void | Promise<void>) {}

  /** What to give the proxy of a process. */
  hooksFor(role: string): ProxyHooks {
    const process = ++this.#processes;
    return {
      onStatement: async (statement) => {
        const point = this.#step(`${process} ${statement.connection}`, describeStatement(statement.text));
        this.#roles.set(point, role);
        this.#behind.set(statement, `behind ${point}`);
        await this.#reach(`before ${point}`);
      },
      onAnswer: async (statement) => await this.#reach(this.#behind.get(statement) ?? ""),
    };
  }

  /** Forgets how often each point came by, and all transactions that are under way. */
  reset(): void {
    this.#counts.clear();
    this.#open.clear();
  }

  /** What came by since the last {@linkcode PointWatch.reset}, of transactions that were complete. */
  seen(): SeenPoint[] {
    return [...this.#counts].flatMap(([id, count]) => {
      const point = id.slice(id.indexOf(" ") + 1);
      const phase = this.#phases.get(point);
      if (phase === undefined || (phase === "read" && id.startsWith("behind"))) return [];
      return [{ id, phase, role: this.#roles.get(point) ?? "", count }];
    });
  }

  /** Follows a connection by one statement, and answers the name of where it is now. */
  #step(connection: string, step: string): string {
    const trace = this.#open.get(connection) ?? { steps: [], points: [] };
    trace.steps.push(step);
    const point = trace.steps.join(SEPARATOR);
    trace.points.push(point);
    const isWhole = trace.steps[0].startsWith("begin") ? ENDS.test(step) : !step.includes("copy cache");
    if (isWhole) {
      this.#classify(trace);
      this.#open.delete(connection);
    } else this.#open.set(connection, trace);
    return point;
  }

  #classify({ steps, points }: Trace): void {
    const whole = steps.join(SEPARATOR);
    const isSingle = steps.length === 1;
    if (!WRITES.test(whole) && !isSingle) return;
    const phase = WRITES.test(whole) ? toPhase(whole) : "read";
    for (const point of points) if (!this.#phases.has(point)) this.#phases.set(point, phase);
  }

  async #reach(id: string): Promise<void> {
    const count = (this.#counts.get(id) ?? 0) + 1;
    this.#counts.set(id, count);
    await this.onPoint(id, count);
  }
}

function toPhase(whole: string): string {
  return PHASES.find(([, words]) => words.every((word) => whole.includes(word)))?.[0] ?? "other";
}
