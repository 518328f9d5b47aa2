/**
 * Random histories of everything that changes contents or space, checked block by block against a plain model in memory.
 *
 * fast-check shrinks a history that fails and prints it with its seed.
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { transact } from "../../src/database/client.ts";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { CACHE_MODES, type CacheMode } from "../../src/storage/cache_mode.ts";
import type { Digester } from "../../src/storage/digester.ts";
import { claimDigestions } from "../../src/storage/digestion.ts";
import { flushStep } from "../../src/storage/flush.ts";
import { reclaimStep } from "../../src/storage/reclaim.ts";
import { SpaceCounter } from "../../src/storage/space_counter.ts";
import type { SnapshotInput } from "../../src/storage/snapshot_input.ts";
import type { Storage } from "../../src/storage/storage.ts";
import { assertSpaceIsSound } from "./audit_space.ts";
import { assertChecked } from "./checksum.ts";
import { digestOf, snapshotDigestOf } from "./contents_digest.ts";
import { fill, readStamps } from "./history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage } from "./storage.ts";

/** Steps between two looks at everything. */
const CHECK_EVERY = 10;
const BLOCKS = 22;
const VOLUMES_MAX = 4;
const SNAPSHOTS_MAX = 8;

/** A step names volumes and snapshots by a number that is taken modulo how many there are. */
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      act: fc.constant("write" as const),
      of: fc.nat(9),
      lba: fc.nat(BLOCKS - 1),
      count: fc.integer({ min: 1, max: 9 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      act: fc.constant("trim" as const),
      of: fc.nat(9),
      lba: fc.nat(BLOCKS - 1),
      count: fc.integer({ min: 1, max: 9 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      act: fc.constant("snapshot" as const),
      of: fc.nat(9),
      all: fc.boolean(),
      /** None: covered whole. */
      ranges: fc.oneof(
        { weight: 2, arbitrary: fc.constant([]) },
        {
          weight: 1,
          arbitrary: fc.array(
            fc.record({ of: fc.nat(9), lba: fc.nat(BLOCKS - 1), count: fc.integer({ min: 1, max: 9 }) }),
            { minLength: 1, maxLength: 3 },
          ),
        },
      ),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ act: fc.constant("mode" as const), mode: fc.constantFrom(...CACHE_MODES) }),
  },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("hold" as const), of: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("wait" as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      act: fc.constant("kill" as const),
      worker: fc.constantFrom("flusher" as const, "reclaimer" as const, "digester" as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("clone" as const), of: fc.nat(9), from: fc.nat(9) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      act: fc.constant("revert" as const),
      of: fc.nat(9),
      from: fc.nat(9),
      safe: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      act: fc.constant("import" as const),
      of: fc.nat(9),
      /** None: all there is. */
      from: fc.option(fc.nat(9), { nil: undefined }),
      lba: fc.nat(BLOCKS - 1),
      count: fc.integer({ min: 1, max: 9 }),
      breaks: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ act: fc.constant("delete snapshot" as const), of: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("delete volume" as const), of: fc.nat(9) }) },
  { weight: 3, arbitrary: fc.record({ act: fc.constant("flush" as const) }) },
  { weight: 4, arbitrary: fc.record({ act: fc.constant("reclaim" as const) }) },
  { weight: 2, arbitrary: fc.record({ act: fc.constant("digest" as const) }) },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("verify" as const), of: fc.nat(9) }) },
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

/** What a snapshot has of each volume that it covers, by the volume's id; nothing of blocks that it does not cover. */
type Frozen = Map<string, (number | undefined)[]>;

interface Taken {
  readonly id: string;
  readonly frozen: Frozen;
  heldUntil: number;
}

/** Why a volume does not take a difference to a base. */
const BASE_REFUSALS = ["volume-changed", "unrelated-snapshots", "outside-snapshot", "snapshot-not-found"];

/** How long a hold lasts, in steps. */
const HOLD_STEPS = 7;

class History {
  readonly #volumes: { id: string; stamps: number[] }[] = [];
  readonly #snapshots: Taken[] = [];
  #other?: Storage;
  readonly #digester: Digester;
  readonly #digests = new Map<string, { volumeId: string; digest: string }[]>();
  #stamp = 0;
  #names = 0;

  constructor(private readonly test: TestStorage, private readonly clock: { minutes: number }) {
    this.#digester = test.createDigester();
  }

  async start(): Promise<void> {
    this.#other = await this.test.openAnother();
    const { volumeId } = await this.test.storage.createVolume(TESTER, { name: "first", blockCount: BLOCKS });
    this.#volumes.push({ id: volumeId, stamps: Array(BLOCKS).fill(0) });
  }

  async take(step: Step): Promise<void> {
    const { storage } = this.test;
    this.clock.minutes += 1;
    switch (step.act) {
      case "write":
        return await this.#write(step.of, step.lba, step.count, false);
      case "trim":
        return await this.#write(step.of, step.lba, step.count, true);
      case "snapshot":
        return await this.#snapshot(step.of, step.all, step.ranges);
      case "clone":
        return await this.#clone(step.of, step.from);
      case "revert":
        return await this.#revert(step.of, step.from, step.safe);
      case "import":
        return await this.#import(step);
      case "delete snapshot": {
        const index = step.of % Math.max(1, this.#snapshots.length);
        if (await this.#deleteSnapshot(this.#snapshots[index])) this.#snapshots.splice(index, 1);
        return;
      }
      case "mode":
        return await this.#setMode(step.mode);
      case "hold":
        return await this.#hold(this.#snapshots[step.of % Math.max(1, this.#snapshots.length)]);
      case "wait":
        this.clock.minutes += HOLD_STEPS;
        return;
      case "kill":
        return await this.#kill(step.worker);
      case "delete volume": {
        if (this.#volumes.length < 2) return;
        const [{ id }] = this.#volumes.splice(step.of % this.#volumes.length, 1);
        return await storage.deleteVolume(TESTER, id);
      }
      case "flush":
        return void await this.test.createFlusher().sweep();
      case "reclaim":
        await this.reclaim();
        return await this.#count();
      case "digest":
        return void await this.#digester.sweep();
      case "verify":
        return await this.#verify(this.#snapshots[step.of % Math.max(1, this.#snapshots.length)]);
    }
  }

  /** Compares everything that can be read with the model. */
  async check(): Promise<void> {
    const { storage } = this.test;
    for (const { id, stamps } of this.#volumes) {
      const range = { lba: 0, blockCount: BLOCKS };
      assertEquals(readStamps(await storage.readVolume(id, undefined, range), BLOCK_BYTES), stamps);
    }
    for (const { id, frozen } of this.#snapshots) {
      for (const [volumeId, stamps] of frozen) {
        for (const [lba, expected] of runsOf(stamps)) {
          const range = { lba, blockCount: expected.length };
          const bytes = await storage.readSnapshot(id, undefined, volumeId, range);
          assertEquals(readStamps(bytes, BLOCK_BYTES), expected);
        }
      }
    }
    await this.#checkDigests();
  }

  /** Whatever has a digest has the one that its contents have by the model, and was found to have it by who looked last. */
  async #checkDigests(): Promise<void> {
    const { items } = await this.test.storage.listSnapshots({}, { itemsMax: 1_000 });
    const frozen = new Map(this.#snapshots.map((taken) => [taken.id, taken.frozen]));
    for (const { snapshotId, volumes, digest, verification } of items) {
      const contents = frozen.get(snapshotId);
      if (contents === undefined || verification?.checkedAt === undefined) continue;
      assertEquals(verification.intact, true);
      const expected = this.#digestFrozen(snapshotId, contents, volumes.map(({ volumeId }) => volumeId));
      assertEquals(volumes.map(({ digest }) => digest?.toHex()), expected.map(({ digest }) => digest));
      assertEquals(digest?.toHex(), snapshotDigestOf(expected));
    }
  }

  /** The digests of what a snapshot has by the model, which never changes. */
  #digestFrozen(snapshotId: string, contents: Taken["frozen"], volumeIds: string[]) {
    const known = this.#digests.get(snapshotId);
    if (known !== undefined) return known;
    const digests = volumeIds.map((volumeId) => {
      const stamps = contents.get(volumeId) as (number | undefined)[];
      const bytes = new Uint8Array(stamps.length * BLOCK_BYTES);
      for (const [lba, stamp] of stamps.entries()) {
        bytes.set(fill(stamp ?? 0, 1, BLOCK_BYTES), lba * BLOCK_BYTES);
      }
      return { volumeId, digest: digestOf(bytes) };
    });
    this.#digests.set(snapshotId, digests);
    return digests;
  }

  async #verify(taken: Taken | undefined): Promise<void> {
    if (taken === undefined) return;
    const asked = this.test.storage.verifySnapshot(TESTER, taken.id);
    const code = await asked.then(() => undefined, (error: { code?: string }) => error.code);
    assert(code === undefined || code === "invalid-argument", `only a pending one is refused: ${code}`);
  }

  /** Reads all snapshots that nobody has read. */
  async digestAll(): Promise<void> {
    for (let sweeps = 0; await this.#digester.sweep(); sweeps++) {
      if (sweeps > 1_000) throw new Error("Digesting does not end");
    }
    for (const { id } of this.#snapshots) {
      assertEquals((await this.test.storage.getSnapshot(id)).verification?.intact, true);
    }
  }

  async reclaim(): Promise<boolean> {
    const { test: { database } } = this.test;
    const { poolId } = await this.test.storage.getPool("main");
    return (await transact(database, (tx) => reclaimStep(tx, poolId, new Date()))).idle;
  }

  async settle(): Promise<void> {
    await this.test.drain();
    // A round that had to leave something for the queue ends idle, and is taken once more.
    for (let steps = 0; steps < 10_000; steps++) {
      if (await this.reclaim() && await this.#countReclaims() === 0) return;
    }
    throw new Error("Reclaiming does not end");
  }

  async #countReclaims(): Promise<number> {
    const [{ left }] = await this.test.test.database.$client`select count(*) as left from reclaims`;
    return left;
  }

  /**
   * Deletes everything. What each snapshot was told to hold alone comes back when it goes, no more and no less; what it was told
   * to share is what else its lineage has.
   */
  async deleteAll(): Promise<void> {
    this.clock.minutes += HOLD_STEPS;
    // Closes the open epochs, so that nothing in them is left to merge.
    const last = await this.#take({ volumes: this.#volumes.map(({ id }) => id) });
    await this.settle();
    for (const taken of this.#snapshots.splice(0)) {
      await this.#count();
      const { space } = await this.test.storage.getSnapshot(taken.id);
      // A snapshot of a few slots may be all that keeps a timeline, which holds more of its parent than those.
      const shared = Math.max(0, await this.#readBytes(taken.id) - (space?.uniqueBytes ?? 0));
      assertEquals(space?.sharedBytes, shared);
      const before = await this.#mappedBytes();
      await this.#deleteSnapshot(taken);
      await this.settle();
      assertEquals(before - await this.#mappedBytes(), space?.uniqueBytes);
    }
    await this.test.storage.deleteSnapshot(TESTER, last);
    for (const { id } of this.#volumes.splice(0)) await this.test.storage.deleteVolume(TESTER, id);
  }

  async #count(): Promise<void> {
    const counter = new SpaceCounter(this.test.test.database, {
      pollMs: 1,
      clock: () => toMoment(this.clock.minutes),
      onFault: (error) => {
        throw error;
      },
    });
    for (let sweeps = 0; await counter.sweep(); sweeps++) {
      if (sweeps > 1_000) throw new Error("Counting does not end");
    }
  }

  async #mappedBytes(): Promise<number> {
    return (await this.test.storage.getPool("main")).mappedBytes;
  }

  /** What a snapshot's lineage has of the slots that it covers, counted from the map itself. */
  async #readBytes(snapshotId: string): Promise<number> {
    const { pool, volumes } = await this.test.storage.getSnapshot(snapshotId);
    const { $client } = this.test.test.database;
    const segments = new Set<number>();
    for (const { timelineId, epoch, ranges } of volumes) {
      const slots = new Set(
        ranges.flatMap(({ lba, blockCount }) =>
          Array.from({ length: blockCount }, (_, block) => Math.floor((lba + block) / pool.segmentBlocks))
        ),
      );
      let point: { id: number; epoch: number } | undefined = { id: timelineId, epoch };
      while (point !== undefined) {
        const rows = await $client<{ slot: number; segment_id: number }[]>`
          select slot, segment_id from segment_map where timeline_id = ${point.id} and epoch <= ${point.epoch}`;
        for (const row of rows) if (slots.has(row.slot)) segments.add(row.segment_id);
        const parents: { id: number; epoch: number }[] = await $client`
          select parent_timeline_id as id, parent_epoch as epoch from timelines
          where timeline_id = ${point.id} and parent_timeline_id is not null`;
        point = parents[0];
      }
    }
    return segments.size * pool.segmentBlocks * pool.blockSizeBytes;
  }

  async #write(of: number, lba: number, most: number, trim: boolean): Promise<void> {
    const { id, stamps } = this.#volumes[of % this.#volumes.length];
    const count = Math.min(most, BLOCKS - lba);
    const first = this.#stamp + 1;
    this.#stamp += count;
    const what = trim ? { lba, trim: count } : { lba, data: fill(first, count, BLOCK_BYTES) };
    // Two processes take turns at the pool, now and then.
    const process = lba % 3 === 0 ? this.#other : this.test.storage;
    await process?.append(TESTER, id, undefined, [what]);
    for (let i = 0; i < count; i++) stamps[lba + i] = trim ? 0 : first + i;
  }

  async #snapshot(of: number, all: boolean, ranges: readonly Range[]): Promise<void> {
    if (this.#snapshots.length >= SNAPSHOTS_MAX) return;
    if (ranges.length > 0) return await this.#snapshotRanges(ranges);
    const covered = all ? this.#volumes : [this.#volumes[of % this.#volumes.length]];
    const id = await this.#take({ volumes: covered.map(({ id }) => id) });
    this.#remember(id, new Map(covered.map(({ id, stamps }) => [id, [...stamps]])));
  }

  async #snapshotRanges(ranges: readonly Range[]): Promise<void> {
    const frozen: Frozen = new Map();
    const asked = ranges.map(({ of, lba, count }) => {
      const { id: volume, stamps } = this.#volumes[of % this.#volumes.length];
      const covered = frozen.get(volume) ?? Array(BLOCKS).fill(undefined);
      const blockCount = Math.min(count, BLOCKS - lba);
      for (let block = lba; block < lba + blockCount; block++) covered[block] = stamps[block];
      frozen.set(volume, covered);
      return { volume, lba, blockCount };
    });
    this.#remember(await this.#take({ ranges: asked }), frozen);
  }

  async #take(input: Omit<SnapshotInput, "untilSealed">): Promise<string> {
    const signal = AbortSignal.timeout(1e4);
    return (await this.test.storage.takeSnapshot(TESTER, { ...input, untilSealed: false }, signal))
      .snapshotId;
  }

  #remember(id: string, frozen: Frozen): void {
    this.#snapshots.push({ id, frozen, heldUntil: 0 });
  }

  async #hold(taken: Taken | undefined): Promise<void> {
    if (taken === undefined) return;
    taken.heldUntil = this.clock.minutes + HOLD_STEPS;
    const hold = { until: toMoment(taken.heldUntil), reason: "history" };
    await this.test.storage.holdSnapshot(TESTER, taken.id, undefined, hold);
  }

  /** A worker does all of a step and is killed before it commits; another process takes its place, which remembers nothing. */
  async #kill(worker: "flusher" | "reclaimer" | "digester"): Promise<void> {
    if (worker === "digester") {
      // It has begun, and is killed before a step is recorded; the lease runs out.
      const at = toMoment(this.clock.minutes);
      const leaseMs = STORAGE_LIMITS.digestLeaseMs;
      this.clock.minutes += Math.ceil(leaseMs / 60_000);
      return void await claimDigestions(this.test.test.database, crypto.randomUUID(), at, leaseMs);
    }
    const pool = await this.test.storage.getPool("main");
    const at = toMoment(this.clock.minutes);
    const context = { limits: STORAGE_LIMITS, at, bytesPerSecond: 0, progressDue: false };
    const killed = new Error("killed");
    const step = transact(this.test.test.database, async (tx) => {
      await (worker === "flusher" ? flushStep(tx, pool, context) : reclaimStep(tx, pool.poolId, at));
      throw killed;
    });
    assertEquals(await step.catch((error) => error), killed);
    this.#other = await this.test.openAnother();
  }

  async #setMode(cacheMode: CacheMode): Promise<void> {
    await this.test.storage.changePool(TESTER, "main", { cacheMode });
  }

  async #clone(of: number, from: number): Promise<void> {
    if (this.#volumes.length >= VOLUMES_MAX || this.#snapshots.length === 0) return;
    const { id, frozen } = this.#snapshots[from % this.#snapshots.length];
    const [volume, stamps] = [...frozen][of % frozen.size];
    if (!isWhole(stamps)) return;
    const name = `c${this.#names++}`;
    const { volumeId } = await this.test.storage.cloneVolume(TESTER, { name, snapshot: id, volume });
    this.#volumes.push({ id: volumeId, stamps: [...stamps] });
  }

  async #revert(of: number, from: number, safe: boolean): Promise<void> {
    const volume = this.#volumes[of % this.#volumes.length];
    const usable = this.#snapshots.flatMap(({ id, frozen }) => {
      const stamps = frozen.get(volume.id);
      return stamps !== undefined && isWhole(stamps) ? [{ id, stamps }] : [];
    });
    if (usable.length === 0) return;
    const { id, stamps } = usable[from % usable.length];
    const safety = safe && this.#snapshots.length < SNAPSHOTS_MAX ? {} : undefined;
    const { safetySnapshotId } = await this.test.storage.revertVolume(
      TESTER,
      volume.id,
      undefined,
      id,
      safety,
    );
    if (safetySnapshotId !== undefined) {
      this.#remember(safetySnapshotId, new Map([[volume.id, volume.stamps]]));
    }
    volume.stamps = [...stamps];
  }

  /** Some blocks are written and the first one is cleared, as a whole or not at all. */
  async #import({ of, from, lba, count: most, breaks }: Extract<Step, { act: "import" }>): Promise<void> {
    if (this.#snapshots.length >= SNAPSHOTS_MAX) return;
    const volume = this.#volumes[of % this.#volumes.length];
    const base = from === undefined ? undefined : this.#snapshots[from % this.#snapshots.length];
    if (from !== undefined && base === undefined) return;
    const first = this.#stamp + 1;
    const count = Math.min(most, BLOCKS - lba);
    this.#stamp += count;
    async function* parts() {
      if (lba > 0) yield { lba: 0, blockCount: 1 };
      yield await Promise.resolve({ lba, data: fill(first, count, BLOCK_BYTES) });
      if (breaks) throw new Error("broken off");
    }
    const input = { blockCount: BLOCKS, ...(base === undefined ? {} : { base: base.id }) };
    const importing = this.test.storage.importVolume(TESTER, volume.id, undefined, input, parts());
    const outcome = await importing.catch((error: Error & { code?: string }) => error);
    if (outcome instanceof Error) {
      const isRefused = base !== undefined && BASE_REFUSALS.includes(String(outcome.code));
      assert(isRefused || (breaks && outcome.message === "broken off"), outcome.message);
      return;
    }
    assert(!breaks);
    // A base may be of the volume that this one was cloned from.
    const had = [...(base?.frozen.values() ?? [volume.stamps])].map(String);
    assert(had.includes(String(volume.stamps)), "it was equal to its base");
    volume.stamps = base === undefined ? Array(BLOCKS).fill(0) : [...volume.stamps];
    if (lba > 0) volume.stamps[0] = 0;
    for (let i = 0; i < count; i++) volume.stamps[lba + i] = first + i;
    this.#remember(outcome.snapshotId, new Map([[volume.id, [...volume.stamps]]]));
  }

  /** Deletes it unless it is held. One that was pending stays as a record. */
  async #deleteSnapshot(taken: Taken | undefined): Promise<boolean> {
    if (taken === undefined) return false;
    const deleting = this.test.storage.deleteSnapshot(TESTER, taken.id);
    const isHeld = taken.heldUntil > this.clock.minutes;
    if (isHeld) assertEquals((await deleting.catch((error) => error)).code, "held");
    else await deleting;
    return !isHeld;
  }
}

interface Range {
  readonly of: number;
  readonly lba: number;
  readonly count: number;
}

function isWhole(stamps: (number | undefined)[]): stamps is number[] {
  return !stamps.includes(undefined);
}

/** The runs of blocks that are covered. */
function runsOf(stamps: (number | undefined)[]): [lba: number, stamps: number[]][] {
  const runs: [lba: number, stamps: number[]][] = [];
  for (const [lba, stamp] of stamps.entries()) {
    if (stamp === undefined) continue;
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1].length === lba) last[1].push(stamp);
    else runs.push([lba, [stamp]]);
  }
  return runs;
}

function toMoment(minutes: number): Date {
  return new Date(Date.UTC(2026, 0, 1) + minutes * 60_000);
}

/** Runs so many histories of at least so many steps each, and answers how many steps that were. */
export async function runHistories(runs: number, stepsMin: number, seed?: number): Promise<number> {
  let taken = 0;
  const length = { minLength: stepsMin, maxLength: Math.ceil(stepsMin * 1.1) };
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { ...length, size: "max" }),
      async (steps) => {
        taken += steps.length;
        await runHistory(steps);
      },
    ),
    { numRuns: runs, ...(seed === undefined ? {} : { seed }) },
  );
  return taken;
}

async function runHistory(steps: Step[]): Promise<void> {
  const clock = { minutes: 0 };
  await using test = await createTestStorage({ clock: () => toMoment(clock.minutes) });
  const history = new History(test, clock);
  await history.start();
  for (const [index, next] of steps.entries()) {
    await history.take(next);
    if (index % CHECK_EVERY === CHECK_EVERY - 1) await history.check();
  }
  await history.check();
  await history.settle();
  await history.digestAll();
  await history.check();
  await assertSpaceIsSound(test.test.database);
  await assertChecked(test.test.database);
  await history.deleteAll();
  await history.settle();
  await assertSpaceIsSound(test.test.database);
  const { segmentCount, freeSegments } = await test.storage.getPool("main");
  assertEquals(segmentCount - freeSegments, 0);
}
