/**
 * Random histories of everything that changes contents or space, checked block by block against a plain model in memory.
 *
 * fast-check shrinks a history that fails and prints it with its seed.
 */

import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { transact } from "../../src/database/client.ts";
import type { Storage } from "../../src/storage/storage.ts";
import { reclaimStep } from "../../src/storage/reclaim.ts";
import { assertSpaceIsSound } from "./audit_space.ts";
import { fill, readStamps } from "./history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage } from "./storage.ts";

const STEPS_MIN = 100;
const STEPS_MAX = 110;
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
    arbitrary: fc.record({ act: fc.constant("snapshot" as const), of: fc.nat(9), all: fc.boolean() }),
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
  { weight: 2, arbitrary: fc.record({ act: fc.constant("delete snapshot" as const), of: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("delete volume" as const), of: fc.nat(9) }) },
  { weight: 3, arbitrary: fc.record({ act: fc.constant("flush" as const) }) },
  { weight: 4, arbitrary: fc.record({ act: fc.constant("reclaim" as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

/** What a snapshot has of each volume that it covers, by the volume's id. */
type Frozen = Map<string, number[]>;

class History {
  readonly #volumes: { id: string; stamps: number[] }[] = [];
  readonly #snapshots: { id: string; frozen: Frozen }[] = [];
  #other?: Storage;
  #stamp = 0;
  #names = 0;

  constructor(private readonly test: TestStorage) {}

  async start(): Promise<void> {
    this.#other = await this.test.openAnother();
    const { volumeId } = await this.test.storage.createVolume(TESTER, { name: "first", blockCount: BLOCKS });
    this.#volumes.push({ id: volumeId, stamps: Array(BLOCKS).fill(0) });
  }

  async take(step: Step): Promise<void> {
    const { storage } = this.test;
    switch (step.act) {
      case "write":
        return await this.#write(step.of, step.lba, step.count, false);
      case "trim":
        return await this.#write(step.of, step.lba, step.count, true);
      case "snapshot":
        return await this.#snapshot(step.of, step.all);
      case "clone":
        return await this.#clone(step.of, step.from);
      case "revert":
        return await this.#revert(step.of, step.from, step.safe);
      case "delete snapshot": {
        const [gone] = this.#snapshots.splice(step.of % Math.max(1, this.#snapshots.length), 1);
        if (gone !== undefined) await this.#deleteSnapshot(gone.id);
        return;
      }
      case "delete volume": {
        if (this.#volumes.length < 2) return;
        const [{ id }] = this.#volumes.splice(step.of % this.#volumes.length, 1);
        return await storage.deleteVolume(TESTER, id);
      }
      case "flush":
        return void await this.test.createFlusher().sweep();
      case "reclaim":
        return void await this.reclaim();
    }
  }

  /** Compares everything that can be read with the model. */
  async check(): Promise<void> {
    const { storage } = this.test;
    const range = { lba: 0, blockCount: BLOCKS };
    for (const { id, stamps } of this.#volumes) {
      assertEquals(readStamps(await storage.readVolume(id, undefined, range), BLOCK_BYTES), stamps);
    }
    for (const { id, frozen } of this.#snapshots) {
      for (const [volumeId, stamps] of frozen) {
        const bytes = await storage.readSnapshot(id, undefined, volumeId, range);
        assertEquals(readStamps(bytes, BLOCK_BYTES), stamps);
      }
    }
  }

  async reclaim(): Promise<boolean> {
    const { test: { database }, storage } = this.test;
    const { poolId } = await storage.getPool("main");
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

  async deleteAll(): Promise<void> {
    for (const { id } of this.#snapshots.splice(0)) await this.#deleteSnapshot(id);
    for (const { id } of this.#volumes.splice(0)) await this.test.storage.deleteVolume(TESTER, id);
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

  async #snapshot(of: number, all: boolean): Promise<void> {
    if (this.#snapshots.length >= SNAPSHOTS_MAX) return;
    const covered = all ? this.#volumes : [this.#volumes[of % this.#volumes.length]];
    const volumes = covered.map(({ id }) => id);
    const { snapshotId } = await this.test.storage.takeSnapshot(
      TESTER,
      { volumes, untilSealed: false },
      AbortSignal.timeout(1e4),
    );
    this.#remember(snapshotId, covered);
  }

  #remember(id: string, covered: { id: string; stamps: number[] }[]): void {
    this.#snapshots.push({ id, frozen: new Map(covered.map(({ id, stamps }) => [id, [...stamps]])) });
  }

  async #clone(of: number, from: number): Promise<void> {
    if (this.#volumes.length >= VOLUMES_MAX || this.#snapshots.length === 0) return;
    const { id, frozen } = this.#snapshots[from % this.#snapshots.length];
    const [volume, stamps] = [...frozen][of % frozen.size];
    const name = `c${this.#names++}`;
    const { volumeId } = await this.test.storage.cloneVolume(TESTER, { name, snapshot: id, volume });
    this.#volumes.push({ id: volumeId, stamps: [...stamps] });
  }

  async #revert(of: number, from: number, safe: boolean): Promise<void> {
    const volume = this.#volumes[of % this.#volumes.length];
    const usable = this.#snapshots.filter(({ frozen }) => frozen.has(volume.id));
    if (usable.length === 0) return;
    const { id, frozen } = usable[from % usable.length];
    const safety = safe && this.#snapshots.length < SNAPSHOTS_MAX ? {} : undefined;
    const { safetySnapshotId } = await this.test.storage.revertVolume(
      TESTER,
      volume.id,
      undefined,
      id,
      safety,
    );
    if (safetySnapshotId !== undefined) this.#remember(safetySnapshotId, [volume]);
    volume.stamps = [...frozen.get(volume.id) as number[]];
  }

  /** One that was pending stays as a record, and is deleted once more. */
  async #deleteSnapshot(id: string): Promise<void> {
    await this.test.storage.deleteSnapshot(TESTER, id);
  }
}

/** Runs so many histories of at least 100 steps each, and answers how many steps that were. */
export async function runHistories(runs: number, seed?: number): Promise<number> {
  let taken = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: STEPS_MIN, maxLength: STEPS_MAX, size: "max" }),
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
  await using test = await createTestStorage();
  const history = new History(test);
  await history.start();
  for (const [index, next] of steps.entries()) {
    await history.take(next);
    if (index % CHECK_EVERY === CHECK_EVERY - 1) await history.check();
  }
  await history.check();
  await history.settle();
  await history.check();
  await assertSpaceIsSound(test.test.database);
  await history.deleteAll();
  await history.settle();
  await assertSpaceIsSound(test.test.database);
  const { segmentCount, freeSegments } = await test.storage.getPool("main");
  assertEquals(segmentCount - freeSegments, 0);
}
