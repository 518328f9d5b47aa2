/**
 * The storage system as front doors see it: one object with a verb for each thing a client can ask for.
 *
 * A verb takes references (an id or a name) as clients write them, finds what they mean, and makes one call into the
 * domain. It owns what a process remembers (volumes by reference, an appender for each pool) and what runs in the
 * background (the event feed, and the flusher unless it runs elsewhere).
 */

import type { Database } from "../database/client.ts";
import { isMigrated } from "../database/migrate.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { ENTRY_BYTES, type Trim, type Write } from "./append.ts";
import { Appender } from "./appender.ts";
import { type AuditRecord, getAuditRecord, listAudit } from "./audit.ts";
import { cloneVolume } from "./clone.ts";
import { type CoveredVolume, intersectRanges, requireWhole, type VolumeRange } from "./covered.ts";
import { BLOCK_COUNT_MAX, type BlockRange, toBlockCount } from "./block.ts";
import { listCache, type QueuedEntry } from "./cache.ts";
import {
  addDevice,
  type Device,
  getDevice,
  listDevices,
  listSegments,
  type SegmentDescriptor,
} from "./device.ts";
import { type EventFilter, listEvents, readLastEventId, type StorageEvent } from "./event.ts";
import { type Difference, openDifference } from "./difference.ts";
import { Copier } from "./copier.ts";
import { Copies } from "./copies.ts";
import { EventFeed } from "./event_feed.ts";
import { Flusher, isQueueStalled } from "./flusher.ts";
import type { HeadMove } from "./head_move.ts";
import { type Hold, holdSnapshot } from "./hold.ts";
import { IdempotencyKeys } from "./idempotency.ts";
import { type Imported, type ImportPart, importVolume } from "./import.ts";
import { type LabelPatch, type Labels, parseLabelSelectors, requireLabels } from "./label.ts";
import type { StorageLimits } from "./limits.ts";
import type { Page, PageRequest } from "./page.ts";
import {
  createPool,
  getPool,
  getPoolStatus,
  listPools,
  type NewPool,
  type Pool,
  type PoolStatus,
} from "./pool.ts";
import { readSnapshot } from "./read.ts";
import { Reader } from "./reader.ts";
import { Reclaimer } from "./reclaimer.ts";
import { Scheduler } from "./scheduler.ts";
import { Schedules } from "./schedules.ts";
import {
  findLineage,
  findPartsSince,
  type FoundRange,
  type LineagePart,
  listAllocated,
  listChanged,
  type RangeQuery,
} from "./ranges.ts";
import { type Reverted, revertVolume } from "./revert.ts";
import { listMappedSlots, type MappedSlot } from "./segment_map.ts";
import {
  findSnapshotPlace,
  getCovered,
  getSnapshot,
  listSnapshots,
  requireReadable,
  type Snapshot,
  type SnapshotPlace,
} from "./snapshot.ts";
import { previewSeal } from "./seal_preview.ts";
import { changeSnapshot, type SnapshotChange } from "./snapshot_change.ts";
import { deleteSnapshot } from "./snapshot_delete.ts";
import { SpaceCounter } from "./space_counter.ts";
import { EPOCH_LIVE } from "./timeline.ts";
import {
  encodeSnapshotCommand,
  executeSnapshotCommand,
  type SnapshotCommand,
  toMarkerRequest,
} from "./snapshot_command.ts";
import {
  changeVolume,
  createVolume,
  deleteVolume,
  findVolumePlace,
  getVolume,
  getVolumes,
  listVolumes,
  type Volume,
} from "./volume.ts";

/** The pool that is meant where none is named. */
export const DEFAULT_POOL = "main";

/** What a storage system is made of. */
export interface StorageOptions {
  readonly database: Database;
  readonly limits: StorageLimits;
  /** Whether this process flushes, reclaims, copies and runs schedules; if not, another one must. */
  readonly flusher: boolean;
  readonly clock?: () => Date;
  /** Told of faults in the background, which goes on. */
  readonly onFault?: (error: unknown) => void;
}

/** A size in one of its two ways. */
export type Size = { readonly sizeBytes: number } | { readonly blockCount: number };

/** A snapshot request in words, with references. */
export interface SnapshotInput {
  readonly pool?: string;
  /** Covered whole, unless there is one and `lba` or `blockCount` select blocks of it. */
  readonly volumes?: string[];
  readonly lba?: number;
  readonly blockCount?: number;
  /** Blocks of further volumes; without a count, to the volume's end. */
  readonly ranges?: { readonly volume: string; readonly lba: number; readonly blockCount?: number }[];
  readonly name?: string;
  readonly description?: string;
  readonly labels?: Labels;
  /** Answer when sealed rather than at the marker's commit. */
  readonly untilSealed: boolean;
}

/** A snapshot request as bytes, with the pool or the volume that it addresses. */
export interface SnapshotCommandInput {
  readonly cdb: Uint8Array;
  readonly dataOut?: Uint8Array;
  readonly pool?: string;
  readonly volume?: string;
}

/** How the parts stand that a request needs. */
export interface Readiness {
  readonly database: boolean;
  readonly migrations: boolean;
  /** `elsewhere`: this process has none. `stalled`: a queue does not move, whoever should flush it. */
  readonly flusher: "running" | "stalled" | "elsewhere";
}

/** A flusher that has not looked at its pools for so long is stalled: it does so every poll, or step. */
const FLUSHER_STALLED_MS = 35_000;

/** A database that takes longer to answer is not ready. */
const READINESS_MS_MAX = 2_000;

export class Storage implements AsyncDisposable {
  readonly database: Database;
  readonly idempotency: IdempotencyKeys;
  readonly #limits: StorageLimits;
  readonly #clock: () => Date;
  readonly #feed: EventFeed;
  readonly #flusher?: Flusher;
  readonly #reclaimer?: Reclaimer;
  readonly #spaceCounter?: SpaceCounter;
  readonly #scheduler?: Scheduler;
  readonly schedules: Schedules;
  readonly #copier?: Copier;
  /** Copies of snapshots in other pools. */
  readonly copies: Copies;
  readonly #appenders = new Map<string, Appender>();
  readonly #readers = new Map<string, Reader>();
  readonly #volumes = new Map<string, { volume: Volume; until: number }>();

  constructor(options: StorageOptions) {
    this.database = options.database;
    this.#limits = options.limits;
    this.#clock = options.clock ?? (() => new Date());
    this.idempotency = new IdempotencyKeys(options.database, options.limits, this.#clock);
    this.#feed = new EventFeed(options.database);
    const running = {
      limits: options.limits,
      clock: this.#clock,
      runAlone: <T extends HeadMove>(pool: Pool, move: () => Promise<T>) =>
        this.#appender(pool).runAlone(move),
    };
    this.schedules = new Schedules(options.database, {
      ...running,
      defaultPool: DEFAULT_POOL,
      onChanged: () => this.#scheduler?.wake(),
      onPlaced: () => this.#flusher?.wake(),
    });
    if (options.flusher) {
      const onFault = options.onFault ?? (() => {});
      this.#flusher = new Flusher(options.database, { limits: options.limits, clock: this.#clock, onFault });
      const pollMs = options.limits.reclaimPollMs;
      this.#reclaimer = new Reclaimer(options.database, { pollMs, clock: this.#clock, onFault });
      this.#spaceCounter = new SpaceCounter(options.database, { pollMs, clock: this.#clock, onFault });
      const onRemoved = () => this.#reclaimer?.wake();
      this.#scheduler = new Scheduler(options.database, { ...running, onFault, onRemoved });
      this.#copier = new Copier(options.database, {
        limits: options.limits,
        clock: this.#clock,
        appenderOf: (pool) => this.#appender(pool),
        onEnded: () => this.#wakeWorkers(),
        onFault,
      });
    }
    this.copies = new Copies(options.database, {
      limits: options.limits,
      clock: this.#clock,
      onCreated: () => this.#copier?.wake(),
      onCancelled: () => this.#wakeWorkers(),
    });
  }

  /** Starts what runs in the background. */
  async start(): Promise<void> {
    await this.#feed.start();
    this.#flusher?.start();
    this.#reclaimer?.start();
    this.#spaceCounter?.start();
    this.#scheduler?.start();
    this.#copier?.start();
  }

  /** Finishes what is under way and stops the background; the database stays open. */
  async stop(): Promise<void> {
    await this.#scheduler?.stop();
    await this.#copier?.stop();
    await Promise.all([...this.#appenders.values()].map((appender) => appender.settled()));
    await Promise.all([this.#flusher?.stop(), this.#reclaimer?.stop(), this.#spaceCounter?.stop()]);
    await this.#feed.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async checkReadiness(): Promise<Readiness> {
    const flusher = this.#checkFlusher();
    const late = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => late.resolve(undefined), READINESS_MS_MAX);
    try {
      const migrations = await Promise.race([isMigrated(this.database), late.promise]);
      const at = this.#clock().getTime();
      const stalled = migrations &&
        await Promise.race([isQueueStalled(this.database, new Date(at - FLUSHER_STALLED_MS)), late.promise]);
      return {
        database: migrations !== undefined,
        migrations: migrations ?? false,
        flusher: stalled ? "stalled" : flusher,
      };
    } catch {
      // Whatever it is, no request can be served.
      return { database: false, migrations: false, flusher };
    } finally {
      clearTimeout(timer);
    }
  }

  #checkFlusher(): Readiness["flusher"] {
    if (this.#flusher === undefined) return "elsewhere";
    const sweptAt = this.#flusher.sweptAt?.getTime() ?? -Infinity;
    return this.#clock().getTime() - sweptAt < FLUSHER_STALLED_MS ? "running" : "stalled";
  }

  // Pools

  createPool(actor: Actor, input: NewPool): Promise<Pool> {
    return createPool(this.database, actor, input, this.#clock());
  }

  getPool(reference: string): Promise<PoolStatus> {
    return getPoolStatus(this.database, reference);
  }

  listPools(page: PageRequest): Promise<Page<PoolStatus>> {
    return listPools(this.database, page);
  }

  async listCache(reference: string, page: PageRequest): Promise<Page<QueuedEntry>> {
    const { poolId } = await getPool(this.database, reference);
    return await listCache(this.database, poolId, page);
  }

  /**
   * Waits until all that was appended so far is flushed (SYNCHRONIZE CACHE) and answers the position.
   *
   * @throws {StorageError} `timed-out` when that takes longer than the limit; the flusher goes on all the same.
   */
  async flushPool(reference: string, signal: AbortSignal): Promise<{ sequenceFlushed: number }> {
    const { poolId, sequenceAppended } = await getPoolStatus(this.database, reference);
    this.#flusher?.wake();
    for await (const _ of this.#looks(poolId, signal)) {
      const { sequenceFlushed } = await getPoolStatus(this.database, poolId);
      if (sequenceFlushed >= sequenceAppended) return { sequenceFlushed };
    }
    throw new StorageError(
      "timed-out",
      `Cannot tell pool ${reference} flushed in time: the flusher is still at work`,
    );
  }

  // Devices

  async addDevice(actor: Actor, input: { name: string; pool?: string } & Size): Promise<Device> {
    const pool = await getPool(this.database, input.pool ?? DEFAULT_POOL);
    const device = { name: input.name, blockCount: toBlocks(input, pool) };
    return await addDevice(this.database, actor, pool, device, this.#clock());
  }

  async getDevice(reference: string, pool?: string): Promise<Device> {
    return await getDevice(this.database, reference, await this.#poolId(pool));
  }

  async listDevices(pool: string | undefined, page: PageRequest): Promise<Page<Device>> {
    return await listDevices(this.database, await this.#poolId(pool), page);
  }

  async listDeviceSegments(
    reference: string,
    poolReference: string | undefined,
    page: PageRequest,
  ): Promise<Page<SegmentDescriptor>> {
    const device = await this.getDevice(reference, poolReference);
    const pool = await getPool(this.database, device.poolId);
    return await listSegments(this.database, pool, device, page);
  }

  // Volumes

  async createVolume(
    actor: Actor,
    { name, labels, ...input }: { name: string; labels?: Labels; pool?: string } & Size,
  ): Promise<Volume> {
    const pool = await getPool(this.database, input.pool ?? DEFAULT_POOL);
    const volume = { name, blockCount: toBlocks(input, pool), ...(labels === undefined ? {} : { labels }) };
    return await createVolume(this.database, actor, pool, volume, this.#limits, this.#clock());
  }

  /** Creates a volume from what a snapshot has of another, in the snapshot's pool. */
  async cloneVolume(
    actor: Actor,
    input:
      & { name: string; labels?: Labels; pool?: string; snapshot: string; volume?: string }
      & Partial<Size>,
  ): Promise<Volume> {
    const { snapshotId, pool } = await findSnapshotPlace(
      this.database,
      input.snapshot,
      await this.#poolId(input.pool),
    );
    const volumeId = input.volume === undefined
      ? undefined
      : (await findVolumePlace(this.database, input.volume, pool.poolId)).volumeId;
    const source = { snapshotId, ...(volumeId === undefined ? {} : { volumeId }) };
    const { name, labels } = input;
    const clone = {
      name,
      ...(isSized(input) ? { blockCount: toBlocks(input, pool) } : {}),
      ...(labels === undefined ? {} : { labels }),
    };
    return await cloneVolume(this.database, actor, pool, source, clone, this.#limits, this.#clock());
  }

  /** Reverts a volume to a snapshot; first takes one of how it stands, unless `safety` is absent. */
  async revertVolume(
    actor: Actor,
    reference: string,
    poolReference: string | undefined,
    snapshot: string,
    safety?: { name?: string },
  ): Promise<Reverted> {
    const volume = await this.getVolume(reference, poolReference);
    const { pool, volumeId } = volume;
    const { snapshotId } = await findSnapshotPlace(this.database, snapshot, pool.poolId);
    const first = safety === undefined ? undefined : toMarkerRequest(
      encodeSnapshotCommand({ ...safety, volumeIds: [volumeId], immed: true }),
      this.#clock(),
    );
    const reverted = await this.#appender(pool).runAlone(() =>
      revertVolume(this.database, actor, volume, snapshotId, first, this.#clock)
    );
    this.#wakeWorkers();
    return reverted;
  }

  /**
   * Takes a volume's contents from `parts`, wholly or not at all: all there is, or the difference to a snapshot that it is still
   * equal to. Takes a snapshot of them.
   */
  async importVolume(
    actor: Actor,
    reference: string,
    poolReference: string | undefined,
    input: Size & { base?: string; snapshotName?: string },
    parts: AsyncIterable<ImportPart>,
  ): Promise<Imported> {
    const volume = await this.getVolume(reference, poolReference);
    const { pool } = volume;
    const { base, snapshotName } = input;
    const baseId = base === undefined
      ? undefined
      : (await findSnapshotPlace(this.database, base, pool.poolId)).snapshotId;
    const context = {
      database: this.database,
      appender: this.#appender(pool),
      limits: this.#limits,
      clock: this.#clock,
    };
    const imported = await importVolume(context, actor, volume, {
      blockCount: toBlocks(input, pool),
      ...(baseId === undefined ? {} : { baseId }),
      ...(snapshotName === undefined ? {} : { snapshotName }),
    }, parts);
    this.#wakeWorkers();
    return imported;
  }

  async getVolume(reference: string, pool?: string): Promise<Volume> {
    return await getVolume(this.database, reference, await this.#poolId(pool));
  }

  /** @param labels which a volume must carry, as `key` or `key=value`. */
  async listVolumes(
    pool: string | undefined,
    page: PageRequest,
    labels: string[] = [],
  ): Promise<Page<Volume>> {
    const wanted = parseLabelSelectors(labels, this.#limits);
    return await listVolumes(this.database, await this.#poolId(pool), wanted, page);
  }

  /** Grows a volume, changes its labels, or both at once. */
  async changeVolume(
    actor: Actor,
    reference: string,
    pool: string | undefined,
    input: { labels?: LabelPatch } & Partial<Size>,
  ): Promise<Volume> {
    const volume = await this.getVolume(reference, pool);
    const { labels } = input;
    const change = {
      ...(isSized(input) ? { blockCount: toBlocks(input, volume.pool) } : {}),
      ...(labels === undefined ? {} : { labels }),
    };
    return await changeVolume(this.database, actor, volume, change, this.#limits, this.#clock());
  }

  async deleteVolume(actor: Actor, reference: string, pool?: string): Promise<void> {
    await deleteVolume(this.database, actor, await this.getVolume(reference, pool), this.#clock());
    this.#reclaimer?.wake();
  }

  async listVolumeSegments(
    reference: string,
    poolReference: string | undefined,
    page: PageRequest,
  ): Promise<Page<MappedSlot>> {
    const { pool, timelineId } = await this.getVolume(reference, poolReference);
    return await listMappedSlots(this.database, pool.poolId, timelineId, page);
  }

  // Blocks

  /**
   * Writes and trims blocks of a volume, as one. Answers the sequence of the last entry and the number of blocks,
   * after the commit.
   *
   * @throws {StorageError} `volume-not-found`, `lba-out-of-range`, `not-whole-blocks`, `request-too-large`,
   *   `insufficient-space`, `cache-full`, `too-busy`, `outcome-unknown`.
   */
  async append(
    actor: Actor,
    reference: string,
    pool: string | undefined,
    writes: (Write | Trim)[],
  ): Promise<{ sequence: number; blockCount: number }> {
    const { dataBytes: sizeBytes, trimBlocks } = requireSmall(this.#limits, writes);
    const { clientId, priority } = actor;
    return await this.#withVolume(reference, pool, async ({ volumeId, pool }) => {
      const weightBytes = sizeBytes + countTrimEntries(writes, pool) * ENTRY_BYTES;
      const request = { volumeId, clientId, priority, writes, sizeBytes, weightBytes };
      const { sequence } = await this.#appender(pool).append(request);
      return { sequence, blockCount: sizeBytes / pool.blockSizeBytes + trimBlocks };
    });
  }

  /** The blocks of a range of a live volume. */
  async readVolume(
    reference: string,
    pool: string | undefined,
    range: BlockRange,
  ): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#withVolume(reference, pool, (volume) => {
      this.#requireReadable(range, volume.pool);
      return this.#reader(volume.pool).read(volume, range);
    });
  }

  /** The blocks of a range of a volume as a snapshot has it; `volume` may be absent when it covers one only. */
  async readSnapshot(
    reference: string,
    pool: string | undefined,
    volume: string | undefined,
    range: BlockRange,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const { pool: found, snapshotId, covered } = await this.#findCovered(reference, pool, volume);
    this.#requireReadable(range, found);
    return await readSnapshot(this.database, found, snapshotId, covered, range);
  }

  /** What a snapshot covers of a volume, which may be absent when it covers one only. */
  async #findCovered(
    reference: string,
    poolReference: string | undefined,
    volume: string | undefined,
  ): Promise<SnapshotPlace & { covered: CoveredVolume }> {
    const place = await findSnapshotPlace(
      this.database,
      reference,
      await this.#poolId(poolReference),
    );
    const { pool: { poolId }, snapshotId } = place;
    const volumeId = volume === undefined
      ? undefined
      : (await findVolumePlace(this.database, volume, poolId)).volumeId;
    return { ...place, covered: await getCovered(this.database, poolId, snapshotId, volumeId) };
  }

  /**
   * A whole volume as a snapshot has it, to be read in pieces.
   *
   * @throws {StorageError} `outside-snapshot` when the snapshot does not cover it whole.
   */
  async openImage(
    reference: string,
    poolReference: string | undefined,
    volume: string | undefined,
  ): Promise<SnapshotImage> {
    const found = await this.#findCovered(reference, poolReference, volume);
    const { pool, snapshotId, createdAt } = found;
    const covered = requireWhole(found.covered);
    return {
      snapshotId,
      volumeId: covered.volumeId,
      createdAt,
      blockSizeBytes: pool.blockSizeBytes,
      sizeBytes: covered.volumeBlocks * pool.blockSizeBytes,
      read: (range) => readSnapshot(this.database, pool, snapshotId, covered, range),
    };
  }

  /** A whole volume as a snapshot has it, compared with an earlier snapshot or with zeros, to be read in pieces. */
  async openDifference(
    reference: string,
    poolReference: string | undefined,
    volume: string | undefined,
    baseReference: string | undefined,
  ): Promise<Difference> {
    const { pool: { poolId }, snapshotId, covered } = await this.#findCovered(
      reference,
      poolReference,
      volume,
    );
    const snapshot = await getSnapshot(this.database, snapshotId, poolId);
    const base = baseReference === undefined
      ? undefined
      : await getSnapshot(this.database, baseReference, poolId);
    return await openDifference(this.database, snapshot, covered, base);
  }

  // Ranges

  /** The allocated blocks of a live volume, as ranges; a page's key is the LBA to go on from. */
  async listVolumeRanges(
    reference: string,
    poolReference: string | undefined,
    page: RangePageRequest,
  ): Promise<Page<FoundRange>> {
    const { pool, timelineId, blockCount } = await this.getVolume(reference, poolReference);
    const parts = await findLineage(this.database, pool.poolId, { timelineId, epoch: EPOCH_LIVE });
    return await listAllocated(this.database, pool, toRangeQuery(page, parts, [{ lba: 0, blockCount }]));
  }

  /** The same of a volume as a snapshot has it. */
  async listSnapshotRanges(
    reference: string,
    poolReference: string | undefined,
    volume: string | undefined,
    page: RangePageRequest,
  ): Promise<Page<FoundRange>> {
    const { pool, snapshotId, covered } = await this.#findCovered(reference, poolReference, volume);
    const parts = await findLineage(this.database, pool.poolId, covered);
    const ranges = await listAllocated(this.database, pool, toRangeQuery(page, parts, covered.ranges));
    await requireReadable(this.database, pool.poolId, snapshotId);
    return ranges;
  }

  /**
   * What was written or cleared between an earlier snapshot, the base, and this one, in the blocks that both cover.
   *
   * @throws {StorageError} `unrelated-snapshots`, `outside-snapshot` when they cover no block in common.
   */
  async listChanges(
    reference: string,
    poolReference: string | undefined,
    volume: string | undefined,
    baseReference: string,
    page: RangePageRequest,
  ): Promise<Page<FoundRange>> {
    const { pool, snapshotId, covered } = await this.#findCovered(reference, poolReference, volume);
    const { volumes, snapshotId: baseId } = await getSnapshot(this.database, baseReference, pool.poolId);
    const { parts, base } = await findPartsSince(this.database, pool.poolId, covered, volumes);
    const within = intersectRanges(covered.ranges, reachOf(base));
    if (within.length === 0) {
      throw new StorageError(
        "outside-snapshot",
        "Cannot compare the snapshots: they cover no block in common",
      );
    }
    const changes = await listChanged(this.database, pool, toRangeQuery(page, parts, within));
    for (const id of [snapshotId, baseId]) await requireReadable(this.database, pool.poolId, id);
    return changes;
  }

  // Snapshots

  /** Takes a snapshot; answers at its marker's commit, or when it is sealed if that was asked for and comes in time. */
  async takeSnapshot(actor: Actor, input: SnapshotInput, signal: AbortSignal): Promise<Snapshot> {
    const { labels = {} } = input;
    requireLabels(labels, this.#limits);
    const { pool, ...covered } = await this.#chooseCovered(input);
    const command = encodeSnapshotCommand({ ...input, ...covered, immed: !input.untilSealed });
    return await this.#execute(actor, pool, { ...command, labels }, signal);
  }

  /** What a request in words wants covered, and the pool that it is in. */
  async #chooseCovered(
    input: SnapshotInput,
  ): Promise<{ pool: Pool; volumeIds: string[]; ranges: VolumeRange[] }> {
    const { volumes: whole = [], ranges: asked = [], lba, blockCount } = input;
    const references = [...whole, ...asked.map(({ volume }) => volume)];
    const volumes = references.length === 0
      ? []
      : await getVolumes(this.database, references, await this.#poolId(input.pool));
    const pool = await this.#commonPool(volumes, input.pool);
    const wholeIds = volumes.slice(0, whole.length).map(({ volumeId }) => volumeId);
    const ranges = volumes.slice(whole.length).map(({ volumeId }, index) => {
      const { lba, blockCount = 0 } = asked[index];
      return { volumeId, lba, blockCount };
    });
    requireOneWay(wholeIds, ranges);
    if (lba !== undefined || blockCount !== undefined) {
      if (wholeIds.length !== 1 || ranges.length > 0) {
        throw new StorageError(
          "cdb-field-invalid",
          "Cannot take a range of several volumes: lba and blockCount are of one; name the ranges",
        );
      }
      ranges.push({ volumeId: wholeIds[0], lba: lba ?? 0, blockCount: blockCount ?? 0 });
    }
    return {
      pool,
      volumeIds: [...new Set([...wholeIds, ...ranges.map(({ volumeId }) => volumeId)])],
      ranges,
    };
  }

  /** Carries out a snapshot command that came as bytes. */
  async executeCommand(actor: Actor, input: SnapshotCommandInput, signal: AbortSignal): Promise<Snapshot> {
    const volume = input.volume === undefined ? undefined : await this.getVolume(input.volume, input.pool);
    const pool = volume?.pool ?? await getPool(this.database, input.pool ?? DEFAULT_POOL);
    const { cdb, dataOut } = input;
    const command = {
      cdb,
      ...(dataOut === undefined ? {} : { dataOut }),
      ...(volume === undefined ? {} : { addressedVolumeId: volume.volumeId }),
    };
    return await this.#execute(actor, pool, command, signal);
  }

  async getSnapshot(reference: string, pool?: string): Promise<Snapshot> {
    return await getSnapshot(this.database, reference, await this.#poolId(pool));
  }

  /** The same; while it is pending also with what is ahead of its marker, by client. */
  async previewSnapshot(reference: string, pool?: string): Promise<Snapshot> {
    return await previewSeal(this.database, await this.getSnapshot(reference, pool));
  }

  /** @param labels which a snapshot must carry, as `key` or `key=value`. */
  async listSnapshots(
    pool: string | undefined,
    page: PageRequest,
    labels: string[] = [],
  ): Promise<Page<Snapshot>> {
    const wanted = parseLabelSelectors(labels, this.#limits);
    return await listSnapshots(this.database, await this.#poolId(pool), wanted, page);
  }

  /** Changes a snapshot's labels, its description, or both at once. */
  async changeSnapshot(
    actor: Actor,
    reference: string,
    pool: string | undefined,
    change: SnapshotChange,
  ): Promise<Snapshot> {
    const place = await findSnapshotPlace(this.database, reference, await this.#poolId(pool));
    await changeSnapshot(this.database, actor, place, change, this.#limits, this.#clock());
    return await getSnapshot(this.database, place.snapshotId, place.pool.poolId);
  }

  async #execute(actor: Actor, pool: Pool, command: SnapshotCommand, signal: AbortSignal): Promise<Snapshot> {
    const { snapshotId, command: { immed } } = await this.#appender(pool).runAlone(() =>
      executeSnapshotCommand(this.database, actor, pool, command, this.#clock)
    );
    this.#flusher?.wake();
    if (immed) return await getSnapshot(this.database, snapshotId, pool.poolId);
    for await (const _ of this.#looks(pool.poolId, signal)) {
      const snapshot = await getSnapshot(this.database, snapshotId, pool.poolId);
      if (snapshot.status !== "pending") return snapshot;
    }
    return await getSnapshot(this.database, snapshotId, pool.poolId);
  }

  /** Holds a snapshot: nobody can delete it before. */
  async holdSnapshot(
    actor: Actor,
    reference: string,
    pool: string | undefined,
    hold: Hold,
  ): Promise<Snapshot> {
    const place = await findSnapshotPlace(this.database, reference, await this.#poolId(pool));
    await holdSnapshot(this.database, actor, place, hold, this.#clock());
    return await getSnapshot(this.database, place.snapshotId, place.pool.poolId);
  }

  /** Deletes a snapshot, or cancels it while it is pending; its space is reclaimed in the background. */
  async deleteSnapshot(actor: Actor, reference: string, pool?: string): Promise<void> {
    const place = await findSnapshotPlace(this.database, reference, await this.#poolId(pool));
    await deleteSnapshot(this.database, actor, place, this.#clock());
    this.#reclaimer?.wake();
  }

  // Audit and events

  listAudit(page: PageRequest): Promise<Page<AuditRecord>> {
    return listAudit(this.database, page);
  }

  getAuditRecord(auditId: string): Promise<AuditRecord> {
    return getAuditRecord(this.database, auditId);
  }

  /** The stream that a subscriber asks for: its pool, and what of it. */
  async findStream(
    input: { pool?: string; volume?: string; snapshot?: string; types?: EventFilter["types"] },
  ): Promise<{ poolId: string; filter: EventFilter; lastEventId: number }> {
    const volume = input.volume === undefined
      ? undefined
      : await findVolumePlace(this.database, input.volume, await this.#poolId(input.pool));
    const snapshot = input.snapshot === undefined
      ? undefined
      : await this.getSnapshot(input.snapshot, input.pool);
    const { poolId } = volume ?? snapshot?.pool ?? await getPool(this.database, input.pool ?? DEFAULT_POOL);
    const filter = {
      ...(volume === undefined ? {} : { volumeId: volume.volumeId }),
      ...(snapshot === undefined ? {} : { snapshotId: snapshot.snapshotId }),
      ...(input.types === undefined ? {} : { types: input.types }),
    };
    return { poolId, filter, lastEventId: await readLastEventId(this.database, poolId) };
  }

  listEvents(
    poolId: string,
    filter: EventFilter,
    afterEventId: number,
    eventsMax: number,
  ): Promise<StorageEvent[]> {
    return listEvents(this.database, poolId, filter, afterEventId, eventsMax);
  }

  followEvents(
    poolId: string,
    filter: EventFilter,
    afterEventId: number,
    signal: AbortSignal,
  ): AsyncGenerator<StorageEvent[]> {
    return this.#feed.follow(poolId, filter, afterEventId, signal);
  }

  /** There is something to flush or to reclaim. */
  #wakeWorkers(): void {
    this.#flusher?.wake();
    this.#reclaimer?.wake();
  }

  // What the process remembers

  #reader(pool: Pool): Reader {
    const known = this.#readers.get(pool.poolId);
    if (known !== undefined) return known;
    const reader = new Reader(this.database, pool, this.#limits);
    this.#readers.set(pool.poolId, reader);
    return reader;
  }

  #appender(pool: Pool): Appender {
    const known = this.#appenders.get(pool.poolId);
    if (known !== undefined) return known;
    const appender = new Appender(
      this.database,
      pool,
      this.#limits,
      this.#clock,
      () => this.#flusher?.nudge(),
    );
    this.#appenders.set(pool.poolId, appender);
    return appender;
  }

  /**
   * Calls `use` with the volume of that reference, remembered or looked up. A remembered one may have been deleted and a
   * new one have its name; `use` then finds no volume, and gets the new one.
   */
  async #withVolume<T>(
    reference: string,
    pool: string | undefined,
    use: (volume: Volume) => Promise<T>,
  ): Promise<T> {
    const key = `${pool ?? ""}/${reference}`;
    const now = this.#clock().getTime();
    const known = this.#volumes.get(key);
    if (known !== undefined && now < known.until) {
      try {
        return await use(known.volume);
      } catch (error) {
        if (!(error instanceof StorageError) || error.code !== "volume-not-found") throw error;
        this.#volumes.delete(key);
      }
    }
    const volume = await this.getVolume(reference, pool);
    if (this.#volumes.size >= this.#limits.rememberedVolumesMax) this.#volumes.clear();
    this.#volumes.set(key, { volume, until: now + this.#limits.rememberedVolumesMs });
    return await use(volume);
  }

  async #poolId(reference: string | undefined): Promise<string | undefined> {
    return reference === undefined ? undefined : (await getPool(this.database, reference)).poolId;
  }

  async #commonPool(volumes: Volume[], reference: string | undefined): Promise<Pool> {
    if (volumes.length === 0) return await getPool(this.database, reference ?? DEFAULT_POOL);
    const [{ pool }] = volumes;
    if (volumes.some((volume) => volume.pool.poolId !== pool.poolId)) {
      throw new StorageError(
        "invalid-argument",
        "Cannot take one snapshot of volumes in several pools: nothing crosses pools",
      );
    }
    return pool;
  }

  #requireReadable({ blockCount }: BlockRange, { blockSizeBytes }: Pool): void {
    requireBytes(this.#limits, blockCount * blockSizeBytes, "read");
  }

  /** Looks again at each event of the pool and at each poll, until the longest wait is over or `signal` is aborted. */
  async *#looks(poolId: string, signal: AbortSignal): AsyncGenerator<void> {
    const { flushWaitMsMax, flushWaitPollMs } = this.#limits;
    const over = AbortSignal.any([signal, AbortSignal.timeout(flushWaitMsMax)]);
    while (!over.aborted) {
      yield;
      await this.#feed.whenChanged(poolId, flushWaitPollMs, over);
    }
  }
}

/** A volume is covered whole, once, or by ranges. @throws {StorageError} `parameter-list-invalid`. */
function requireOneWay(wholeIds: string[], ranges: VolumeRange[]): void {
  const whole = new Set(wholeIds);
  if (whole.size === wholeIds.length && !ranges.some(({ volumeId }) => whole.has(volumeId))) return;
  throw new StorageError(
    "parameter-list-invalid",
    "Cannot take the snapshot: a volume is named twice, or both whole and by ranges",
  );
}

/** A volume as a snapshot has it, to be read in pieces. */
export interface SnapshotImage {
  readonly snapshotId: string;
  readonly volumeId: string;
  readonly createdAt: Date;
  readonly blockSizeBytes: number;
  readonly sizeBytes: number;
  /** At most as many bytes as one read may have. */
  readonly read: (range: BlockRange) => Promise<Uint8Array<ArrayBuffer>>;
}

/** A page of ranges: from which LBA on, and how many at most. */
export interface RangePageRequest {
  readonly startLba: number;
  readonly itemsMax: number;
}

function toRangeQuery(
  { startLba, itemsMax }: RangePageRequest,
  parts: LineagePart[],
  ranges: BlockRange[],
): RangeQuery {
  if (!Number.isSafeInteger(startLba) || startLba < 0) {
    throw new StorageError("lba-out-of-range", `Cannot list ranges from LBA ${startLba} on`);
  }
  const within = intersectRanges(ranges, [{ lba: startLba, blockCount: BLOCK_COUNT_MAX }]);
  return { parts, within, itemsMax };
}

/** What lies behind the end that a volume had was not there, and a base that covers it up to its end says so. */
function reachOf({ ranges, volumeBlocks }: CoveredVolume): BlockRange[] {
  return ranges.map(({ lba, blockCount }) => ({
    lba,
    blockCount: lba + blockCount === volumeBlocks ? BLOCK_COUNT_MAX : blockCount,
  }));
}

/** At most so many entries come of the trims of a request. */
function countTrimEntries(writes: (Write | Trim)[], { segmentBlocks }: Pool): number {
  return writes.reduce(
    (sum, write) => sum + ("data" in write ? 0 : Math.ceil(write.trim / segmentBlocks) + 1),
    0,
  );
}

function isSized(input: Partial<Size>): input is Size {
  return "sizeBytes" in input || "blockCount" in input;
}

function toBlocks(size: Size, { blockSizeBytes }: Pool): number {
  return "blockCount" in size ? size.blockCount : toBlockCount(size.sizeBytes, blockSizeBytes);
}

/** What a request amounts to, which must be within the limits. */
function requireSmall(
  limits: StorageLimits,
  writes: (Write | Trim)[],
): { dataBytes: number; trimBlocks: number } {
  if (writes.length < 1 || writes.length > limits.requestWritesMax) {
    throw new StorageError(
      "request-too-large",
      `Cannot take ${writes.length} writes in one request: expected 1 to ${limits.requestWritesMax}`,
    );
  }
  let dataBytes = 0;
  let trimBlocks = 0;
  for (const write of writes) {
    if ("data" in write) dataBytes += write.data.length;
    else trimBlocks += write.trim;
  }
  if (trimBlocks > limits.trimBlocksMax) {
    throw new StorageError(
      "request-too-large",
      `Cannot trim ${trimBlocks} blocks in one request: expected at most ${limits.trimBlocksMax}`,
    );
  }
  requireBytes(limits, dataBytes, "write");
  return { dataBytes, trimBlocks };
}

function requireBytes({ requestBytesMax }: StorageLimits, sizeBytes: number, verb: "read" | "write"): void {
  if (sizeBytes > requestBytesMax) {
    throw new StorageError(
      "request-too-large",
      `Cannot ${verb} ${sizeBytes} bytes in one request: expected at most ${requestBytesMax}`,
    );
  }
}
