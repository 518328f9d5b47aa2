/**
 * What a soak measures while it runs, and whether any of it grows: the server's memory and handles, the sessions of the
 * database, how much data is stored, and how much larger the tables are than that.
 */

import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";
import { readHeld } from "../support/held.ts";
import { BLOCK_BYTES } from "./volume_log.ts";

export interface Sample {
  readonly atSeconds: number;
  readonly memoryBytes: number;
  readonly handles: number;
  readonly sessions: number;
  /** Bytes of the cache's and the block tables' files, for each byte of data in them. */
  readonly bloat: number;
  readonly dataBytes: number;
  /** What was deleted and is still to be looked through: for information, it follows how busy the machine is. */
  readonly reclaims: number;
}

type Figure = "memoryBytes" | "handles" | "sessions" | "bloat" | "dataBytes";

/** How much the median of the last third may exceed that of the first: a share, and something for small numbers. */
const GROWTH_MAX: Readonly<Record<Figure, { share: number; more: number }>> = {
  // A heap is as large as its last collection left it.
  memoryBytes: { share: 1.25, more: 32 * 1024 * 1024 },
  handles: { share: 1, more: 16 },
  sessions: { share: 1, more: 4 },
  // Space is used again where it became free, which takes a vacuum.
  bloat: { share: 1.5, more: 0.5 },
  // As many snapshots, clones and copies at a time, whatever was written, reverted and deleted meanwhile.
  dataBytes: { share: 1.25, more: 16 * 1024 * 1024 },
};

/** The share of a run that warms it up: compiled code, first segments, snapshots up to as many as are kept. */
const WARM_UP = 0.2;

export class Sampler implements AsyncDisposable {
  readonly samples: Sample[] = [];
  readonly #startedAt = performance.now();
  readonly #database: Database;

  constructor(url: string) {
    this.#database = openDatabase(url, { connectionsMax: 1 });
  }

  /** Takes a sample of the server that is process `pid`; none while it or PostgreSQL is away. */
  async take(pid: number): Promise<void> {
    try {
      const [held, stored] = await Promise.all([readHeld(pid), this.#readStored()]);
      const atSeconds = Math.round((performance.now() - this.#startedAt) / 1000);
      this.samples.push({ atSeconds, ...held, ...stored });
    } catch {
      // It was killed just now.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeDatabase(this.#database);
  }

  async #readStored(): Promise<Omit<Sample, "atSeconds" | "memoryBytes" | "handles">> {
    const [row] = await this.#database.$client<StoredRow[]>`
      select (select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid())
          as sessions,
        (select count(*) from reclaims) as reclaims,
        (select sum(pg_total_relation_size(c.oid))::bigint from pg_class c
          where c.relkind = 'r' and c.relname ~ '^(cache|blocks)') as file_bytes,
        (select count(*) from blocks where data is not null) + (select count(*) from cache where data is not null)
          as blocks`;
    const dataBytes = row.blocks * BLOCK_BYTES;
    return {
      sessions: row.sessions,
      bloat: row.file_bytes / Math.max(dataBytes, 1),
      dataBytes,
      reclaims: row.reclaims,
    };
  }
}

interface StoredRow {
  sessions: number;
  file_bytes: number;
  blocks: number;
  reclaims: number;
}

/** The medians of the first and the last third behind the warm-up, of each figure. */
export function findTrends(samples: readonly Sample[]): Record<Figure, { first: number; last: number }> {
  const warm = samples.slice(Math.floor(samples.length * WARM_UP));
  const third = Math.max(1, Math.floor(warm.length / 3));
  const of = (figure: Figure) => ({
    first: median(warm.slice(0, third).map((sample) => sample[figure])),
    last: median(warm.slice(-third).map((sample) => sample[figure])),
  });
  return {
    memoryBytes: of("memoryBytes"),
    handles: of("handles"),
    sessions: of("sessions"),
    bloat: of("bloat"),
    dataBytes: of("dataBytes"),
  };
}

/** What has grown beyond its bound. */
export function findGrowth(trends: ReturnType<typeof findTrends>): string[] {
  return Object.entries(trends).flatMap(([figure, { first, last }]) => {
    const { share, more } = GROWTH_MAX[figure as Figure];
    return last <= first * share + more ? [] : [`${figure} grew from ${first} to ${last}`];
  });
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
