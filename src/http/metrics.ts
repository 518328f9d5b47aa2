/**
 * The figures of a process for Prometheus, and how they are rendered: what the storage system tells its observer, what the door
 * answers, and how the pools stand when they are asked for.
 *
 * Labels are few and of bounded values: routes as patterns, methods and statuses that there are, and the names of the first
 * hundred pools. Names and ids that requests bring never become a label.
 *
 * What is counted here is this process's. What stands under `snapmark_pool_` is read from the database, so it is of all processes.
 */

import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { StorageError } from "../errors.ts";
import type { Flushed } from "../storage/flush.ts";
import type { AppendedBatch, Observer } from "../storage/observer.ts";
import type { PoolFigures } from "../storage/pool_figures.ts";

/** The media type of the figures. Source: Prometheus, "Exposition formats", text format. */
export const METRICS_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

/** From what memory answers to what a time limit ends. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
/** Powers of four up to a batch's bounds. */
const ENTRIES = [1, 4, 16, 64, 256, 1_024, 4_096, 16_384];
const BYTES = [512, 4_096, 32_768, 262_144, 1_048_576, 4_194_304, 16_777_216];
/** Seals wait for as much as a cache holds. */
const SEAL_SECONDS = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1_800];

const METHODS = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);

/** What a gauge or counter of a pool shows. */
type PoolFigure = Exclude<keyof PoolFigures, "name">;

const POOL_GAUGES: Record<string, { help: string; value: (figures: PoolFigures, at: Date) => number }> = {
  appended_entries_total: { help: "Entries ever appended", value: pick("entriesAppended") },
  appended_bytes_total: { help: "Bytes ever appended", value: pick("bytesAppended") },
  flushed_entries_total: { help: "Entries ever flushed", value: pick("entriesFlushed") },
  flushed_bytes_total: { help: "Bytes ever flushed", value: pick("bytesFlushed") },
  dirty_entries: {
    help: "Entries in the cache",
    value: ({ entriesAppended, entriesFlushed }) => entriesAppended - entriesFlushed,
  },
  dirty_bytes: {
    help: "Bytes in the cache",
    value: ({ bytesAppended, bytesFlushed }) => bytesAppended - bytesFlushed,
  },
  cache_bytes_max: { help: "Dirty bytes at which writes are refused", value: pick("cacheBytesMax") },
  flush_lag_seconds: {
    help: "Age of the oldest entry in the cache; 0 when it is empty",
    value: ({ oldestAt }, at) =>
      oldestAt === null ? 0 : Math.max(0, at.getTime() - oldestAt.getTime()) / 1_000,
  },
  snapshots_pending: {
    help: "Snapshots whose marker is still in the queue",
    value: pick("snapshotsPending"),
  },
  reclaims_waiting: { help: "Reclaim tasks that are not done", value: pick("reclaimsWaiting") },
  scrub_corrupt_blocks: {
    help: "Corrupt blocks that the last scrub of each device has found",
    value: pick("scrubCorruptBlocks"),
  },
  digests_pending: { help: "Sealed snapshots without a digest yet", value: pick("digestsPending") },
  snapshots_damaged: {
    help: "Snapshots whose blocks were not what their digest says, when they were last read",
    value: pick("snapshotsDamaged"),
  },
  segments: { help: "Segments of all devices", value: pick("segmentCount") },
  free_segments: { help: "Segments that nothing is mapped to", value: pick("freeSegments") },
};

function pick(figure: Exclude<PoolFigure, "oldestAt">): (figures: PoolFigures) => number {
  return (figures) => figures[figure];
}

export class Metrics implements Observer {
  readonly #registry = new Registry();
  readonly #pools = Object.entries(POOL_GAUGES).map(([name, { help, value }]) => ({
    metric: this.#poolMetric(`snapmark_pool_${name}`, help),
    value,
  }));
  readonly #databaseUp = this.#gauge("database_up", "Whether the pools could be read for this answer");
  readonly #batchRequests = this.#histogram("append_batch_requests", "Requests of a batch", ENTRIES);
  readonly #batchEntries = this.#histogram("append_batch_entries", "Entries of a batch", ENTRIES);
  readonly #batchBytes = this.#histogram("append_batch_bytes", "Bytes of a batch", BYTES);
  readonly #commit = this.#histogram("append_commit_seconds", "Transaction of a batch", SECONDS);
  readonly #marker = this.#histogram("marker_wait_seconds", "Snapshot asked for → marker committed", SECONDS);
  readonly #seal = this.#histogram(
    "seal_seconds",
    "Marker committed → snapshot sealed, by this process",
    SEAL_SECONDS,
  );
  readonly #flushEntries = this.#histogram("flush_step_entries", "Entries of a step of flushing", ENTRIES);
  readonly #flush = this.#histogram("flush_step_seconds", "Transaction of a step of flushing", SECONDS);
  readonly #reclaimed = this.#counter("reclaimed_segments_total", "Segments given back by this process");
  readonly #digested = this.#counter("digested_bytes_total", "Bytes read for digests by this process");
  readonly #faults = this.#counter("background_faults_total", "Faults of workers, which went on");
  readonly #corrupt = this.#counter(
    "corrupt_reads_total",
    "Requests and background work that met a block which is not as it was written",
  );
  readonly #webSockets = this.#gauge("websockets_open", "Subscribers that are served");
  readonly #underWay = this.#gauge("http_requests_under_way", "Requests of clients that have their place");
  readonly #heldBytes = this.#gauge("http_held_bytes", "Bytes of bodies that there is room kept for");
  readonly #requests = new Counter({
    name: "snapmark_http_requests_total",
    help: "Requests answered",
    labelNames: ["method", "route", "status"],
    registers: [this.#registry],
  });
  readonly #latency = new Histogram({
    name: "snapmark_http_request_seconds",
    help: "Request received → answer begun",
    labelNames: ["method", "route"],
    buckets: SECONDS,
    registers: [this.#registry],
  });

  appended({ requestCount, entryCount, bytes, milliseconds }: AppendedBatch): void {
    this.#batchRequests.observe(requestCount);
    this.#batchEntries.observe(entryCount);
    this.#batchBytes.observe(bytes);
    this.#commit.observe(milliseconds / 1_000);
  }

  placedMarker(milliseconds: number): void {
    this.#marker.observe(milliseconds / 1_000);
  }

  flushed({ entryCount, sealMilliseconds }: Flushed, milliseconds: number): void {
    this.#flushEntries.observe(entryCount);
    this.#flush.observe(milliseconds / 1_000);
    for (const wait of sealMilliseconds) this.#seal.observe(wait / 1_000);
  }

  reclaimed(segmentsReturned: number): void {
    this.#reclaimed.inc(segmentsReturned);
  }

  digested(bytes: number): void {
    this.#digested.inc(bytes);
  }

  /** Counts a fault of a worker. */
  countFault(error: unknown): void {
    this.#faults.inc();
    if (error instanceof StorageError && error.code === "data-corrupt") this.countCorrupt();
  }

  /** Counts a read that was refused because a block is not as it was written. */
  countCorrupt(): void {
    this.#corrupt.inc();
  }

  /** Counts a request; `route` is a pattern, or `none`. */
  countRequest(method: string, route: string, status: number, milliseconds: number): void {
    const known = METHODS.has(method) ? method : "other";
    this.#requests.inc({ method: known, route, status });
    this.#latency.observe({ method: known, route }, milliseconds / 1_000);
  }

  showWebSockets(count: number): void {
    this.#webSockets.set(count);
  }

  showLoads({ requestsUnderWay, heldBytes }: { requestsUnderWay: number; heldBytes: number }): void {
    this.#underWay.set(requestsUnderWay);
    this.#heldBytes.set(heldBytes);
  }

  /** All figures as text; without those of pools when they could not be read. */
  async render(pools: PoolFigures[] | undefined, at: Date): Promise<string> {
    this.#databaseUp.set(pools === undefined ? 0 : 1);
    for (const { metric, value } of this.#pools) {
      metric.reset();
      for (const figures of pools ?? []) metric.inc({ pool: figures.name }, value(figures, at));
    }
    return await this.#registry.metrics();
  }

  #poolMetric(name: string, help: string): Counter<"pool"> | Gauge<"pool"> {
    const options = { name, help, labelNames: ["pool"] as const, registers: [this.#registry] };
    return name.endsWith("_total") ? new Counter(options) : new Gauge(options);
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram {
    return new Histogram({ name: `snapmark_${name}`, help, buckets, registers: [this.#registry] });
  }

  #counter(name: string, help: string): Counter {
    return new Counter({ name: `snapmark_${name}`, help, registers: [this.#registry] });
  }

  #gauge(name: string, help: string): Gauge {
    return new Gauge({ name: `snapmark_${name}`, help, registers: [this.#registry] });
  }
}
