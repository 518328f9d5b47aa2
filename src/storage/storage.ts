/**
 * The storage system as front doors see it: one object with a verb for each thing a client can ask for.
 *
 * A verb takes references (an id or a name) as clients write them, finds what they mean, and makes one call into the
 * domain. It owns what the process remembers ({@linkcode ProcessMemory}) and what runs in the background: the event feed, and
 * the workers unless they run elsewhere.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { Actor } from "./actor.ts";
import { type Appended, checkWrites, type Trim, type Write } from "./append.ts";
import { type AuditRecord, getAuditRecord, listAudit, NO_POOL } from "./audit.ts";
import { type VerifiedChain, verifyChain } from "./audit_chain.ts";
import type { BlockRange } from "./block.ts";
import { listCache, type QueuedEntry } from "./cache.ts";
import { Clients } from "./clients.ts";
import { cloneVolume } from "./clone.ts";
import { Copies } from "./copies.ts";
import {
  addDevice,
  type Device,
  getDevice,
  listDevices,
  listSegments,
  type SegmentDescriptor,
} from "./device.ts";
import { type Difference, openDifference } from "./difference.ts";
import { countDigests, type DigestFigures, verifySnapshot } from "./digestion.ts";
import { type EventFilter, listEvents, type StorageEvent } from "./event.ts";
import { EventFeed } from "./event_feed.ts";
import { type EventStream, type EventStreamInput, findStream } from "./event_stream.ts";
import { readAnswer } from "./fault.ts";
import { askFlush } from "./flush_policy.ts";
import { type Hold, holdSnapshot } from "./hold.ts";
import { IdempotencyKeys } from "./idempotency.ts";
import { type Imported, type ImportPart, importVolume } from "./import.ts";
import { parseLabelSelectors, requireLabels } from "./label.ts";
import type { StorageLimits } from "./limits.ts";
import { type Observer, UNOBSERVED } from "./observer.ts";
import type { Page, PageRequest } from "./page.ts";
import {
  createPool,
  DEFAULT_POOL,
  findPoolId,
  getPool,
  getPoolStatus,
  listPools,
  type NewPool,
  type Pool,
  type PoolStatus,
} from "./pool.ts";
import { changePool, type PoolChange } from "./pool_change.ts";
import { type PoolFigures, readPoolFigures } from "./pool_figures.ts";
import { ProcessMemory } from "./process_memory.ts";
import { listChanges, listSnapshotRanges, listVolumeRanges, type RangePageRequest } from "./range_page.ts";
import type { FoundRange } from "./ranges.ts";
import { readSnapshot } from "./read.ts";
import { checkReadiness, type Readiness } from "./readiness.ts";
import { requireSmallRead, requireSmallWrites, weighWrites } from "./request_size.ts";
import { type Reverted, revertVolume } from "./revert.ts";
import { Receipts } from "./receipt.ts";
import type { RunContext } from "./schedule_run.ts";
import { Schedules } from "./schedules.ts";
import { cancelScrub, getScrub, type Scrub, startScrub } from "./scrub.ts";
import { previewSeal } from "./seal_preview.ts";
import { listMappedSlots, type MappedSlot } from "./segment_map.ts";
import { type Size, toBlocks } from "./size.ts";
import {
  findSnapshotPlace,
  getSnapshot,
  listSnapshots,
  type Snapshot,
  type SnapshotStatus,
} from "./snapshot.ts";
import { changeSnapshot, type SnapshotChange } from "./snapshot_change.ts";
import { encodeSnapshotCommand, executeSnapshotCommand, toMarkerRequest } from "./snapshot_command.ts";
import { deleteSnapshot } from "./snapshot_delete.ts";
import { findCoveredPlace, openImage, type SnapshotImage } from "./snapshot_image.ts";
import {
  type AddressedCommand,
  addressInput,
  encodeInput,
  type SnapshotCommandInput,
  type SnapshotInput,
} from "./snapshot_input.ts";
import {
  changeVolume,
  createVolume,
  deleteVolume,
  findVolumePlace,
  getVolume,
  listVolumes,
  type Volume,
} from "./volume.ts";
import {
  type CloneInput,
  findClone,
  findImport,
  type ImportInput,
  toNewVolume,
  toVolumeChange,
  type VolumeChangeInput,
  type VolumeInput,
} from "./volume_input.ts";
import { Workers } from "./workers.ts";

/** What a storage system is made of. */
export interface StorageOptions {
  readonly database: Database;
  readonly limits: StorageLimits;
  /** Whether this process flushes, reclaims, copies and runs schedules; if not, another one must. */
  readonly flusher: boolean;
  readonly clock?: () => Date;
  /** Told of faults in the background, which goes on. */
  readonly onFault?: (error: unknown) => void;
  /** Told what is to be measured. */
  readonly observer?: Observer;
}

/** What a flush has reached: all up to there is durable, unless the verifier is another than a write was told. */
export interface Flushed {
  readonly sequenceFlushed: number;
  readonly writeVerifier: string;
}

export class Storage implements AsyncDisposable {
  readonly database: Database;
  readonly idempotency: IdempotencyKeys;
  /** Who may come in. */
  readonly clients: Clients;
  readonly receipts: Receipts;
  readonly #limits: StorageLimits;
  readonly #clock: () => Date;
  readonly #feed: EventFeed;
  readonly #memory: ProcessMemory;
  readonly #workers: Workers;
  readonly schedules: Schedules;
  /** Copies of snapshots in other pools. */
  readonly copies: Copies;

  constructor({ database, limits, flusher: here, ...options }: StorageOptions) {
    const { clock = () => new Date(), onFault = () => {}, observer = UNOBSERVED } = options;
    this.database = database;
    this.#limits = limits;
    this.#clock = clock;
    this.idempotency = new IdempotencyKeys(database, limits, clock);
    this.clients = new Clients(database, { limits, clock });
    this.receipts = new Receipts(database, clock);
    this.#feed = new EventFeed(database, limits);
    const memory = new ProcessMemory(database, {
      limits,
      clock,
      onAppended: (batch) => {
        observer.appended(batch);
        this.#workers.nudgeFlusher();
      },
      onMarker: (milliseconds) => observer.placedMarker(milliseconds),
    });
    const running: RunContext = { limits, clock, runAlone: (pool, move) => memory.runAlone(pool, move) };
    this.#memory = memory;
    this.#workers = new Workers(database, { ...running, here, memory, onFault, observer });
    this.schedules = new Schedules(database, {
      ...running,
      onChanged: () => this.#workers.wake("scheduler"),
      onPlaced: () => this.#workers.wake("flusher"),
    });
    this.copies = new Copies(database, {
      limits,
      clock,
      onCreated: () => this.#workers.wake("copier"),
      onCancelled: () => this.#workers.wake("flusher", "reclaimer"),
    });
  }

  /** Starts what runs in the background. */
  async start(): Promise<void> {
    await this.#feed.start();
    this.#workers.start();
  }

  /** Finishes what is under way and stops the background; the database stays open. */
  async stop(): Promise<void> {
    await this.#workers.stop();
    await this.#feed.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** How the parts stand that a request needs. */
  checkReadiness(): Promise<Readiness> {
    return checkReadiness(this.database, this.#workers, this.#clock);
  }

  /** How the queues of all pools stand. */
  readPoolFigures(): Promise<PoolFigures[]> {
    return readPoolFigures(this.database);
  }

  // Pools

  createPool(actor: Actor, input: NewPool): Promise<Pool> {
    return createPool(this.database, actor, input, this.#limits, this.#clock());
  }

  getPool(reference: string): Promise<PoolStatus> {
    return getPoolStatus(this.database, reference);
  }

  listPools(page: PageRequest): Promise<Page<PoolStatus>> {
    return listPools(this.database, page);
  }

  /** Changes how a pool's queue is flushed. */
  async changePool(actor: Actor, reference: string, change: PoolChange): Promise<PoolStatus> {
    const pool = await getPool(this.database, reference);
    await changePool(this.database, actor, pool, change, this.#limits, this.#clock());
    this.#workers.wake("flusher");
    return await getPoolStatus(this.database, pool.poolId);
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
  async flushPool(reference: string, signal: AbortSignal): Promise<Flushed> {
    const { poolId, sequenceAppended } = await getPoolStatus(this.database, reference);
    await askFlush(this.database, poolId);
    this.#workers.wake("flusher");
    for await (const _ of this.#feed.looks(poolId, signal)) {
      const { sequenceFlushed, writeVerifier } = await getPoolStatus(this.database, poolId);
      if (sequenceFlushed >= sequenceAppended) return { sequenceFlushed, writeVerifier };
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
    return await getDevice(this.database, reference, await findPoolId(this.database, pool));
  }

  async listDevices(pool: string | undefined, page: PageRequest): Promise<Page<Device>> {
    return await listDevices(this.database, await findPoolId(this.database, pool), page);
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

  /** Has a device scrubbed: all of its blocks are compared with their checksums, in the background. */
  async startScrub(actor: Actor, reference: string, pool: string | undefined): Promise<Scrub> {
    const device = await this.getDevice(reference, pool);
    const scrub = await startScrub(this.database, actor, device, this.#clock());
    this.#workers.wake("scrubber");
    return scrub;
  }

  /** The scrub that a device is in, or its last one. */
  async getScrub(reference: string, pool: string | undefined): Promise<Scrub> {
    return await getScrub(this.database, await this.getDevice(reference, pool));
  }

  /** Ends a scrub before it is through. Answers how it stands then. */
  async cancelScrub(actor: Actor, reference: string, pool: string | undefined): Promise<Scrub> {
    return await cancelScrub(this.database, actor, await this.getDevice(reference, pool), this.#clock());
  }

  // Volumes

  async createVolume(actor: Actor, input: VolumeInput): Promise<Volume> {
    const pool = await getPool(this.database, input.pool ?? DEFAULT_POOL);
    const volume = toNewVolume(input, pool);
    return await createVolume(this.database, actor, pool, volume, this.#limits, this.#clock());
  }

  /** Creates a volume from what a snapshot has of another, in the snapshot's pool. */
  async cloneVolume(actor: Actor, input: CloneInput): Promise<Volume> {
    const { pool, source, clone } = await findClone(this.database, input);
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
    const reverted = await this.#memory.runAlone(
      pool,
      () => revertVolume(this.database, actor, volume, snapshotId, first, this.#clock),
    );
    this.#workers.wake("flusher", "reclaimer");
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
    input: ImportInput,
    parts: AsyncIterable<ImportPart>,
  ): Promise<Imported> {
    const volume = await this.getVolume(reference, poolReference);
    const { pool } = volume;
    const wanted = await findImport(this.database, input, pool);
    const context = {
      database: this.database,
      appender: this.#memory.appenderOf(pool),
      limits: this.#limits,
      clock: this.#clock,
    };
    const imported = await importVolume(context, actor, volume, wanted, parts);
    this.#workers.wake("flusher", "reclaimer");
    return imported;
  }

  async getVolume(reference: string, pool?: string): Promise<Volume> {
    return await getVolume(this.database, reference, await findPoolId(this.database, pool));
  }

  /**
   * @param labels which a volume must carry, as `key` or `key=value`.
   * @param within the ids of all that may be told of; by default, any.
   */
  async listVolumes(
    pool: string | undefined,
    page: PageRequest,
    labels: string[] = [],
    within?: string[],
  ): Promise<Page<Volume>> {
    const wanted = parseLabelSelectors(labels, this.#limits);
    return await listVolumes(this.database, await findPoolId(this.database, pool), wanted, page, within);
  }

  /** Grows a volume, changes its labels, or both at once. */
  async changeVolume(
    actor: Actor,
    reference: string,
    pool: string | undefined,
    input: VolumeChangeInput,
  ): Promise<Volume> {
    const volume = await this.getVolume(reference, pool);
    const change = toVolumeChange(input, volume.pool);
    return await changeVolume(this.database, actor, volume, change, this.#limits, this.#clock());
  }

  async deleteVolume(actor: Actor, reference: string, pool?: string): Promise<void> {
    await deleteVolume(this.database, actor, await this.getVolume(reference, pool), this.#clock());
    this.#workers.wake("reclaimer");
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
  ): Promise<Appended & { blockCount: number }> {
    const { dataBytes: sizeBytes, trimBlocks } = requireSmallWrites(this.#limits, writes);
    const { clientId, priority } = actor;
    return await this.#memory.withVolume(reference, pool, async ({ volumeId, pool }) => {
      // Before it waits for anything: from here on the data are watched over.
      const checked = checkWrites(writes, pool);
      const weightBytes = weighWrites(writes, sizeBytes, pool);
      const request = { volumeId, clientId, priority, writes: checked, sizeBytes, weightBytes };
      await this.#memory.pressureOf(pool).slow(sizeBytes);
      const appended = await this.#memory.appenderOf(pool).append(request);
      return { ...appended, blockCount: sizeBytes / pool.blockSizeBytes + trimBlocks };
    });
  }

  /** The blocks of a range of a live volume. */
  async readVolume(
    reference: string,
    pool: string | undefined,
    range: BlockRange,
  ): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#memory.withVolume(reference, pool, (volume) => {
      requireSmallRead(this.#limits, range, volume.pool);
      return this.#memory.readerOf(volume.pool).read(volume, range);
    });
  }

  /** The blocks of a range of a volume as a snapshot has it; `volume` may be absent when it covers one only. */
  async readSnapshot(
    reference: string,
    pool: string | undefined,
    volume: string | undefined,
    range: BlockRange,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const place = await findCoveredPlace(this.database, reference, pool, volume);
    requireSmallRead(this.#limits, range, place.pool);
    return (await readSnapshot(this.database, place.pool, place.snapshotId, place.covered, range)).bytes;
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
    return openImage(this.database, await findCoveredPlace(this.database, reference, poolReference, volume));
  }

  /** A whole volume as a snapshot has it, compared with an earlier snapshot or with zeros, to be read in pieces. */
  async openDifference(
    reference: string,
    poolReference: string | undefined,
    volume: string | undefined,
    baseReference: string | undefined,
  ): Promise<Difference> {
    const place = await findCoveredPlace(this.database, reference, poolReference, volume);
    const { pool: { poolId }, snapshotId, covered } = place;
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
    return await listVolumeRanges(this.database, await this.getVolume(reference, poolReference), page);
  }

  /** The same of a volume as a snapshot has it. */
  async listSnapshotRanges(
    reference: string,
    poolReference: string | undefined,
    volume: string | undefined,
    page: RangePageRequest,
  ): Promise<Page<FoundRange>> {
    const place = await findCoveredPlace(this.database, reference, poolReference, volume);
    return await listSnapshotRanges(this.database, place, page);
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
    const place = await findCoveredPlace(this.database, reference, poolReference, volume);
    return await listChanges(this.database, place, baseReference, page);
  }

  // Snapshots

  /** Takes a snapshot; answers at its marker's commit, or when it is sealed if that was asked for and comes in time. */
  async takeSnapshot(actor: Actor, input: SnapshotInput, signal: AbortSignal): Promise<Snapshot> {
    requireLabels(input.labels ?? {}, this.#limits);
    return await this.#execute(actor, await encodeInput(this.database, input), signal);
  }

  /** Carries out a snapshot command that came as bytes. */
  async executeCommand(actor: Actor, input: SnapshotCommandInput, signal: AbortSignal): Promise<Snapshot> {
    return await this.#execute(actor, await addressInput(this.database, input), signal);
  }

  async getSnapshot(reference: string, pool?: string): Promise<Snapshot> {
    return await getSnapshot(this.database, reference, await findPoolId(this.database, pool));
  }

  /** The same; while it is pending also with what is ahead of its marker, by client. */
  async previewSnapshot(reference: string, pool?: string): Promise<Snapshot> {
    return await previewSeal(this.database, await this.getSnapshot(reference, pool));
  }

  /** The snapshots that are wanted; `labels` as `key` or `key=value`. */
  async listSnapshots(
    { pool, volume, status, within, labels = [] }: {
      pool?: string;
      volume?: string;
      status?: SnapshotStatus;
      within?: string[];
      labels?: string[];
    },
    page: PageRequest,
  ): Promise<Page<Snapshot>> {
    const poolId = await findPoolId(this.database, pool);
    const place = volume === undefined ? undefined : await findVolumePlace(this.database, volume, poolId);
    const filter = {
      labels: parseLabelSelectors(labels, this.#limits),
      ...(poolId === undefined ? {} : { poolId }),
      ...(place === undefined ? {} : place),
      ...(status === undefined ? {} : { status }),
      ...(within === undefined ? {} : { within }),
    };
    return await listSnapshots(this.database, filter, page);
  }

  /** Changes a snapshot's labels, its description, or both at once. */
  async changeSnapshot(
    actor: Actor,
    reference: string,
    pool: string | undefined,
    change: SnapshotChange,
  ): Promise<Snapshot> {
    const place = await findSnapshotPlace(this.database, reference, await findPoolId(this.database, pool));
    await changeSnapshot(this.database, actor, place, change, this.#limits, this.#clock());
    return await readAnswer(() => getSnapshot(this.database, place.snapshotId, place.pool.poolId));
  }

  async #execute(actor: Actor, { pool, command }: AddressedCommand, signal: AbortSignal): Promise<Snapshot> {
    const { snapshotId, command: { immed } } = await this.#memory.runAlone(
      pool,
      () => executeSnapshotCommand(this.database, actor, pool, command, this.#clock),
    );
    this.#workers.wake("flusher");
    const place = { poolId: pool.poolId, snapshotId };
    return await readAnswer(() => immed ? this.#read(place) : this.#awaitSeal(place, signal));
  }

  #read({ poolId, snapshotId }: { poolId: string; snapshotId: string }): Promise<Snapshot> {
    return getSnapshot(this.database, snapshotId, poolId);
  }

  /** Answers when it is sealed, or how it stands when the time is over. */
  async #awaitSeal(place: { poolId: string; snapshotId: string }, signal: AbortSignal): Promise<Snapshot> {
    for await (const _ of this.#feed.looks(place.poolId, signal)) {
      const snapshot = await this.#read(place);
      if (snapshot.status !== "pending") return snapshot;
    }
    return await this.#read(place);
  }

  /** Holds a snapshot: nobody can delete it before. */
  async holdSnapshot(
    actor: Actor,
    reference: string,
    pool: string | undefined,
    hold: Hold,
  ): Promise<Snapshot> {
    const place = await findSnapshotPlace(this.database, reference, await findPoolId(this.database, pool));
    await holdSnapshot(this.database, actor, place, hold, this.#clock());
    return await readAnswer(() => getSnapshot(this.database, place.snapshotId, place.pool.poolId));
  }

  /** Deletes a snapshot, or cancels it while it is pending; its space is reclaimed in the background. */
  async deleteSnapshot(actor: Actor, reference: string, pool?: string): Promise<void> {
    const place = await findSnapshotPlace(this.database, reference, await findPoolId(this.database, pool));
    await deleteSnapshot(this.database, actor, place, this.#clock());
    this.#workers.wake("reclaimer");
  }

  /** Has a sealed snapshot read and compared with its digest, in the background. */
  async verifySnapshot(actor: Actor, reference: string, pool?: string): Promise<Snapshot> {
    const place = await findSnapshotPlace(this.database, reference, await findPoolId(this.database, pool));
    await verifySnapshot(this.database, actor, place, this.#clock());
    this.#workers.wake("digester");
    return await getSnapshot(this.database, place.snapshotId, place.pool.poolId);
  }

  // Audit and events

  listAudit(page: PageRequest): Promise<Page<AuditRecord>> {
    return listAudit(this.database, page);
  }

  getAuditRecord(auditId: string): Promise<AuditRecord> {
    return getAuditRecord(this.database, auditId);
  }

  /**
   * Checks a part of the chain of a pool's audit, or of what is of {@linkcode NO_POOL}: {@linkcode verifyChain}. Of a pool also tells
   * how its snapshots were found when they were last read.
   */
  async verifyAudit(
    pool: string,
    part: { after?: number; rowsMax: number },
  ): Promise<VerifiedChain & { poolId: string; digests?: DigestFigures }> {
    if (pool === NO_POOL) return { poolId: pool, ...await verifyChain(this.database, pool, part) };
    const { poolId } = await getPool(this.database, pool);
    const chain = await verifyChain(this.database, poolId, part);
    return { poolId, ...chain, digests: await countDigests(this.database, poolId) };
  }

  /** The stream that a subscriber asks for: its pool, and what of it. */
  findStream(input: EventStreamInput): Promise<EventStream> {
    return findStream(this.database, input);
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
}
