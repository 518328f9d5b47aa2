/**
 * What a bench is: rows of a table, each a figure against a peer or a limit, measured in the same run.
 *
 * Machines are shared and noisy, so a figure alone says nothing. Every sample is a pair, taken one right after the other;
 * what is told is the pair's ratio, as minimum, median and maximum over the repetitions. Repetitions are interleaved: all
 * contenders of a bench once, then all of them again.
 */

import type { Bed } from "./bed.ts";

/** A row of the table. */
export interface Row {
  /** Unique, in kebab case: `put`, `read-dirty`. */
  readonly name: string;
  readonly measured: string;
  readonly against: string;
  /** Unit of both figures: `blocks/s`, `MB/s`, `ms`. */
  readonly unit: string;
  /** What the ratio measured / against has to reach; at most that where less is better. */
  readonly goal: { readonly atLeast: number; readonly aim?: number } | {
    readonly atMost: number;
    readonly aim?: number;
  } | {
    /** Nothing has to be reached: at most that is hoped for, or nothing where there is no number. */
    readonly aimAtMost?: number;
  };
}

/** One pair of figures of a row, both above zero. */
export interface Sample {
  readonly row: string;
  readonly measured: number;
  readonly against: number;
  /** What else was seen, for the reader: `generator 18 % of the CPU`. */
  readonly note?: string;
}

/** A bench that is set up: its servers run, its tables are filled. */
export interface OpenBench extends AsyncDisposable {
  /** Measures every contender once, and answers a sample for each row. */
  repeat(): Promise<Sample[]>;
}

export interface Bench {
  /** What `deno task bench NAME` calls it. */
  readonly name: string;
  readonly rows: readonly Row[];
  /** Left out unless named: it takes longer than a run of all others may. */
  readonly onlyWhenNamed?: boolean;
  open(bed: Bed): Promise<OpenBench>;
}
