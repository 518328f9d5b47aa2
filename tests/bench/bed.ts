/**
 * The bed that benches stand on: one PostgreSQL with the bundled settings, databases, servers and load on it.
 */

import type { Database } from "../../src/database/client.ts";

/** A database of its own, at this version's schema or empty; dropped when disposed of. */
export interface BenchDatabase extends AsyncDisposable {
  readonly url: string;
  readonly database: Database;
}

/** A server process that serves HTTP. */
export interface BenchServer extends AsyncDisposable {
  readonly url: string;
  readonly token: string;
  readonly processId: number;
}

/** A flusher process. */
export interface BenchWorker extends AsyncDisposable {
  /** Stops its process where it stands (SIGSTOP); it had better be idle. */
  hold(): void;
  /** Lets it go on. */
  release(): void;
}

/** Requests of one kind over and over, each connection sending its next one when the last is answered. */
export interface ClosedLoad {
  readonly server: BenchServer;
  readonly connections: number;
  /** Length of the steady part, which is what counts; a whole number of half seconds. */
  readonly seconds: number;
  /** What goes before it and does not count; half a second unless given. The sum is a whole number of seconds. */
  readonly warmupSeconds?: number;
  readonly method: "GET" | "PUT";
  /** Volumes to choose from at random; each has `blockCount` blocks. */
  readonly volumes: readonly string[];
  readonly blockCount: number;
  /** Blocks of one request. */
  readonly blocksPerRequest: number;
  readonly blockSizeBytes: number;
  /**
   * `random`: at a random multiple of `blocksPerRequest`. `sequential`: each behind the last one. `stride`: each
   * `strideBlocks` behind the last one. Both wrap at the volume's end.
   */
  readonly order: "random" | "sequential" | "stride";
  readonly strideBlocks?: number;
  /** Where `sequential` and `stride` begin, counted in steps; 0 unless given. */
  readonly firstStep?: number;
}

export interface ClosedLoadResult {
  readonly requests: number;
  readonly seconds: number;
  readonly blocksPerSecond: number;
  readonly megabytesPerSecond: number;
  /** Share of all cores that the generator took, 0 … 1, and what it was. */
  readonly generatorShare: number;
  readonly generator: string;
}

/** One-block PUTs at random LBAs that are due at a fixed rate, whether or not the earlier ones are answered. */
export interface OpenLoad {
  readonly server: BenchServer;
  readonly ratePerSecond: number;
  readonly seconds: number;
  /** What goes before and does not count. */
  readonly warmupSeconds: number;
  /** A request that is due waits until one of them is free. */
  readonly connectionsMax: number;
  /** Volumes to choose from at random; each has `blockCount` blocks. */
  readonly volumes: readonly string[];
  readonly blockCount: number;
  readonly blockSizeBytes: number;
}

/** Latencies count from the moment a request was due, so a stall counts for each request that it held up. */
export interface OpenLoadResult {
  readonly requests: number;
  readonly achievedPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
  readonly generatorShare: number;
}

/** An open load under way. Dispose of it to end it early. */
export interface OpenLoadRun extends AsyncDisposable {
  /** Resolves when the warm-up is over. */
  readonly warmedUp: Promise<void>;
  readonly result: Promise<OpenLoadResult>;
  /** Stops sending; resolves when all that was sent is answered. What falls due meanwhile waits. */
  pause(): Promise<void>;
  resume(): Promise<void>;
}

export interface Bed extends AsyncDisposable {
  /** Tiny sizes and times: does it run at all? */
  readonly quick: boolean;
  /** How often each bench is repeated. */
  readonly repetitions: number;
  /** Chooses by {@linkcode Bed.quick}. */
  scaled(full: number, quick: number): number;
  createDatabase(options: { migrated: boolean }): Promise<BenchDatabase>;
  /** Starts `main.ts serve` as a user would, on `database`, with its pool `main`; `args` as `--no-flusher`. */
  startServer(database: BenchDatabase, args?: string[]): Promise<BenchServer>;
  /**
   * Starts the same HTTP door around another storage, which `tests/bench/peer_server.ts` knows by that name. `select`
   * fills its table with `blockCount` blocks first.
   */
  startPeer(
    database: BenchDatabase,
    kind: "insert" | "select",
    options?: { blockCount?: number },
  ): Promise<BenchServer>;
  /** Starts `main.ts worker` on `database`: a flusher in a process of its own, that can be held still. */
  startWorker(database: BenchDatabase): Promise<BenchWorker>;
  /** Writes dirty pages out, so that the next contender starts like the last one. */
  settle(database: BenchDatabase): Promise<void>;
  /** @throws when a request is not answered with success. */
  runClosedLoad(load: ClosedLoad): Promise<ClosedLoadResult>;
  /** @throws in `result`, when a request is not answered with success. */
  startOpenLoad(load: OpenLoad): OpenLoadRun;
  /** What made load so far, and the least and the greatest share of all cores that it took. */
  listGenerators(): GeneratorShare[];
}

export interface GeneratorShare {
  readonly generator: string;
  readonly shareMin: number;
  readonly shareMax: number;
}
