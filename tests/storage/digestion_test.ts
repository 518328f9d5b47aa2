/** Digests of sealed snapshots: counted in the background, step by step, by several workers, killed anywhere; and checked. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { StorageError } from "../../src/errors.ts";
import { DIGEST_PIECE_BYTES } from "../../src/storage/contents_digest.ts";
import type { Digester } from "../../src/storage/digester.ts";
import {
  claimDigestions,
  DigestionLostError,
  endVolume,
  moveDigestion,
} from "../../src/storage/digestion.ts";
import { UNOBSERVED } from "../../src/storage/observer.ts";
import type { Snapshot } from "../../src/storage/snapshot.ts";
import type { SnapshotInput } from "../../src/storage/snapshot_input.ts";
import { digestOf, snapshotDigestOf } from "../support/contents_digest.ts";
import { fill } from "../support/history.ts";
import { reclaimAll } from "../support/reclaiming.ts";
import { BLOCK_BYTES, createTestStorage, TESTER, type TestStorage, write } from "../support/storage.ts";

const PIECE_BLOCKS = DIGEST_PIECE_BYTES / BLOCK_BYTES;
const SWEEPS_MAX = 1_000;

/** Its digesters take steps of one piece. */
interface Bench extends TestStorage {
  readonly clock: { at: Date };
}

async function createBench(): Promise<Bench> {
  const clock = { at: new Date("2026-01-01T00:00:00Z") };
  const system = await createTestStorage({
    clock: () => clock.at,
    limits: { digestStepBytes: DIGEST_PIECE_BYTES },
  });
  return { ...system, clock };
}

/** Takes a snapshot and seals it. */
async function seal(bench: Bench, input: Partial<SnapshotInput> = {}): Promise<string> {
  const signal = AbortSignal.timeout(1e4);
  const taken = await bench.storage.takeSnapshot(
    TESTER,
    { pool: "main", untilSealed: false, ...input },
    signal,
  );
  await bench.drain();
  return taken.snapshotId;
}

/** Answers how many sweeps did something. */
async function digestAll(digester: Digester): Promise<number> {
  for (let sweeps = 0; sweeps < SWEEPS_MAX; sweeps++) if (!await digester.sweep()) return sweeps;
  throw new Error("Digesting does not end");
}

/** The digest of each volume in hex, and that of the snapshot. */
function toDigests({ volumes, digest }: Snapshot): { volumes: (string | undefined)[]; digest?: string } {
  return {
    volumes: volumes.map(({ digest }) => digest?.toHex()),
    ...(digest === undefined ? {} : { digest: digest.toHex() }),
  };
}

/** What is expected of whole volumes, by their ids. */
function expected(contents: Map<string, Uint8Array>): ReturnType<typeof toDigests> {
  const volumes = [...contents].toSorted(([a], [b]) => a < b ? -1 : 1)
    .map(([volumeId, bytes]) => ({ volumeId, digest: digestOf(bytes) }));
  return { volumes: volumes.map(({ digest }) => digest), digest: snapshotDigestOf(volumes) };
}

/** Two volumes of which one has blocks in three of four pieces, and blocks of zeros in the other. */
async function fillVolumes({ storage }: Bench): Promise<Map<string, Uint8Array>> {
  const sizes = { a: 3 * PIECE_BLOCKS + 40, b: 30 };
  const contents = new Map<string, Uint8Array>();
  for (const [name, blockCount] of Object.entries(sizes)) {
    const { volumeId } = await storage.createVolume(TESTER, { name, blockCount });
    contents.set(volumeId, new Uint8Array(blockCount * BLOCK_BYTES));
  }
  const [a, b] = [...contents];
  const writes: [typeof a, lba: number, data: Uint8Array<ArrayBuffer>][] = [
    [a, PIECE_BLOCKS - 3, fill(1, 6, BLOCK_BYTES)],
    [a, 2 * PIECE_BLOCKS + 5, new Uint8Array(3 * BLOCK_BYTES)],
    [a, 3 * PIECE_BLOCKS + 39, fill(9, 1, BLOCK_BYTES)],
    [b, 7, fill(20, 2, BLOCK_BYTES)],
  ];
  for (const [[volumeId, bytes], lba, data] of writes) {
    bytes.set(data, lba * BLOCK_BYTES);
    await storage.append(TESTER, volumeId, undefined, [{ lba, data }]);
  }
  return contents;
}

async function listVerified({ storage }: Bench, pool = "main") {
  const { poolId } = await storage.getPool(pool);
  return (await storage.listEvents(poolId, { types: ["snapshot.verified"] }, 0, 100)).map((
    { snapshotId, body },
  ) => ({
    snapshotId,
    ...body,
  }));
}

async function countDigestions({ test }: Bench): Promise<number> {
  return (await test.database.$client`select count(*) from digestions`)[0].count;
}

Deno.test("a sealed snapshot gets the digest that is described, of each volume and of all, told in the same transaction", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const snapshotId = await seal(bench);
  const before = await bench.storage.getSnapshot(snapshotId);
  assertEquals([before.digest, before.verification], [undefined, { running: true }]);
  await bench.storage.append(TESTER, "a", undefined, [write(0, 77, 5)]);
  // One step for each of the four pieces that have blocks, the one of zeros included, and one for the other volume.
  assertEquals(await digestAll(bench.createDigester()), 5);
  const snapshot = await bench.storage.getSnapshot(snapshotId);
  assertEquals(toDigests(snapshot), expected(contents));
  const at = bench.clock.at;
  assertEquals(snapshot.verification, { running: false, digestedAt: at, checkedAt: at, intact: true });
  const { digest } = expected(contents);
  assertEquals(await listVerified(bench), [{
    snapshotId,
    sequence: snapshot.sequence,
    digest,
    matches: true,
    faults: [],
  }]);
});

Deno.test("what a snapshot of ranges does not cover counts as zeros", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const ranges = [
    { volume: "a", lba: PIECE_BLOCKS - 2, blockCount: 1 },
    { volume: "a", lba: PIECE_BLOCKS, blockCount: 2 },
    { volume: "b", lba: 8, blockCount: 20 },
  ];
  const snapshotId = await seal(bench, { ranges });
  await digestAll(bench.createDigester());
  const [a, b] = contents.keys();
  const only = new Map([...contents].map(([id, bytes]) => [id, new Uint8Array(bytes.length)]));
  for (const { volume, lba, blockCount } of ranges) {
    const id = volume === "a" ? a : b;
    const [start, end] = [lba * BLOCK_BYTES, (lba + blockCount) * BLOCK_BYTES];
    only.get(id)?.set((contents.get(id) as Uint8Array).subarray(start, end), start);
  }
  assertEquals(toDigests(await bench.storage.getSnapshot(snapshotId)), expected(only));
});

Deno.test("a digestion that is killed between any two steps is taken up by another worker, with the same digest", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const snapshotId = await seal(bench);
  let workers = 0;
  for (; (await bench.storage.getSnapshot(snapshotId)).verification?.running; workers++) {
    await bench.createDigester().sweep();
    // Killed here; the next has to wait for the lease.
    assertEquals(await bench.createDigester().sweep(), false);
    bench.clock.at = new Date(bench.clock.at.getTime() + STORAGE_LIMITS.digestLeaseMs);
  }
  assertEquals(workers, 5);
  assertEquals(toDigests(await bench.storage.getSnapshot(snapshotId)), expected(contents));
  assertEquals((await listVerified(bench)).length, 1);
});

Deno.test("a step that was done but not recorded is done again, with the same digest", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const snapshotId = await seal(bench);
  const { $client } = bench.test.database;
  const digester = bench.createDigester();
  const isThere = async () => (await bench.storage.getSnapshot(snapshotId)).verification?.running;
  // Once for each step that stays in its volume.
  for (let steps = 0; await isThere(); steps++) {
    assert(steps < SWEEPS_MAX);
    const [row] = await $client`select * from digestions`;
    await digester.sweep();
    await $client`
      update digestions set position = ${row?.position ?? 0}, chain = ${row?.chain ?? new Uint8Array(32)}
      where volume_id = ${row?.volume_id ?? null}`;
    await digester.sweep();
  }
  assertEquals(toDigests(await bench.storage.getSnapshot(snapshotId)), expected(contents));
});

Deno.test("a worker that ends a step after another has taken its job changes nothing", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const snapshotId = await seal(bench);
  const { database } = bench.test;
  const rows = async () =>
    JSON.stringify([
      await database.$client`select * from digestions`,
      await database.$client`select * from snapshots`,
      await database.$client`select * from snapshot_volumes`,
      await database.$client`select * from events`,
    ]);
  const later = () => new Date(bench.clock.at.getTime() + STORAGE_LIMITS.digestLeaseMs);
  let lost = 0;
  for (; (await bench.storage.getSnapshot(snapshotId)).verification?.running; lost++) {
    const slow = crypto.randomUUID();
    const [digestion] = await claimDigestions(database, slow, bench.clock.at, STORAGE_LIMITS.digestLeaseMs);
    bench.clock.at = later();
    const other = bench.createDigester();
    await other.sweep();
    const before = await rows();
    const wrong = { position: 1, chain: new Uint8Array(32).fill(7) };
    await assertRejects(() => moveDigestion(database, digestion, slow, wrong), DigestionLostError);
    const found = { digest: new Uint8Array(32).fill(7) };
    await assertRejects(
      () => endVolume(database, digestion, slow, found, bench.clock.at),
      DigestionLostError,
    );
    assertEquals(await rows(), before);
    await other.stop();
  }
  assertEquals(lost, 5);
  assertEquals(toDigests(await bench.storage.getSnapshot(snapshotId)), expected(contents));
});

Deno.test("the youngest snapshot is next, what has begun is finished first, and a worker that stops leaves it at once", async () => {
  await using bench = await createBench();
  await fillVolumes(bench);
  const [first, second] = [await seal(bench), await seal(bench)];
  const digester = bench.createDigester();
  await digester.sweep();
  const third = await seal(bench);
  await digester.sweep();
  await digester.stop();
  await digestAll(bench.createDigester());
  assertEquals((await listVerified(bench)).map(({ snapshotId }) => snapshotId), [second, third, first]);
});

Deno.test("a digestion that was killed before the clock was set back is taken up at once, not when the old lease ends", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const snapshotId = await seal(bench);
  await bench.createDigester().sweep();
  bench.clock.at = new Date(bench.clock.at.getTime() - 3_600_000);
  await digestAll(bench.createDigester());
  assertEquals(toDigests(await bench.storage.getSnapshot(snapshotId)), expected(contents));
});

Deno.test("workers share what there is: none reads what another has", async () => {
  await using bench = await createBench();
  await fillVolumes(bench);
  await bench.storage.createPool(TESTER, {
    name: "other",
    blockSizeBytes: BLOCK_BYTES,
    segmentBlocks: 4,
    cacheBytesMax: 2 ** 20,
  });
  const mine = await seal(bench);
  const { digestLeaseMs } = STORAGE_LIMITS;
  const claim = (worker: string) =>
    claimDigestions(bench.test.database, worker, bench.clock.at, digestLeaseMs);
  const [a, b] = [crypto.randomUUID(), crypto.randomUUID()];
  assertEquals((await claim(a)).map(({ snapshotId }) => snapshotId), [mine]);
  const theirs = await seal(bench, { pool: "other" });
  assertEquals((await claim(b)).map(({ snapshotId }) => snapshotId), [theirs]);
  assertEquals((await claim(a)).map(({ snapshotId }) => snapshotId), [mine]);
});

Deno.test("a snapshot that is deleted while it is read is dropped, and nothing is told of it", async () => {
  await using bench = await createBench();
  await fillVolumes(bench);
  const digester = bench.createDigester();
  const gone = await seal(bench);
  await digester.sweep();
  await bench.storage.deleteSnapshot(TESTER, gone);
  assertEquals(await countDigestions(bench), 0);
  assertEquals(await digester.sweep(), false);
  // As when it was deleted right before its job was begun.
  const { poolId } = await bench.storage.getPool("main");
  for (const volumeId of [crypto.randomUUID(), null]) {
    await bench.test.database.$client`
      insert into digestions (pool_id, snapshot_id, volume_id, created_at) values (${poolId}, ${gone}, ${volumeId}, now())`;
    await digester.sweep();
    assertEquals(await countDigestions(bench), 0);
  }
  assertEquals(await listVerified(bench), []);
});

Deno.test("what is deleted between reading and telling is lost, not told", async () => {
  await using bench = await createBench();
  await fillVolumes(bench);
  const gone = await seal(bench);
  const { database } = bench.test;
  const worker = crypto.randomUUID();
  const [digestion] = await claimDigestions(database, worker, bench.clock.at, 0);
  await bench.storage.deleteSnapshot(TESTER, gone);
  assertEquals(
    await endVolume(database, digestion, worker, { digest: new Uint8Array(32) }, bench.clock.at),
    undefined,
  );
  assertEquals(await listVerified(bench), []);
});

Deno.test("a volume of 1 TiB costs what is written in it: nothing, or a piece for each place", async () => {
  await using bench = await createBench();
  const blockCount = 2 ** 40 / BLOCK_BYTES;
  const { volumeId } = await bench.storage.createVolume(TESTER, { name: "huge", blockCount });
  let read = 0;
  const observer = { ...UNOBSERVED, digested: (bytes: number) => void (read += bytes) };
  const digester = bench.createDigester({ observer, limits: STORAGE_LIMITS });
  const empty = await seal(bench);
  assertEquals([await digestAll(digester), read], [1, 0]);
  const { volumes: [{ digest }] } = await bench.storage.getSnapshot(empty);
  assert(digest !== undefined);
  for (const lba of [5, blockCount / 2, blockCount - 1]) {
    await bench.storage.append(TESTER, volumeId, undefined, [write(lba, 1 + lba % 1_000)]);
  }
  const sparse = await seal(bench);
  assertEquals([await digestAll(digester), read], [1, 3 * DIGEST_PIECE_BYTES]);
  assert(toDigests(await bench.storage.getSnapshot(sparse)).volumes[0] !== digest?.toHex());
});

Deno.test("a snapshot of a pool without volumes has a digest, and one that is pending none", async () => {
  await using bench = await createBench();
  const snapshotId = await seal(bench);
  await digestAll(bench.createDigester());
  assertEquals(toDigests(await bench.storage.getSnapshot(snapshotId)), {
    volumes: [],
    digest: snapshotDigestOf([]),
  });
  const input = { pool: "main", untilSealed: false };
  const pending = await bench.storage.takeSnapshot(TESTER, input, AbortSignal.timeout(1e4));
  assertEquals(await digestAll(bench.createDigester()), 0);
  const { verification } = await bench.storage.getSnapshot(pending.snapshotId);
  assertEquals(verification, undefined);
  const asked = bench.storage.verifySnapshot(TESTER, pending.snapshotId);
  assertEquals((await assertRejects(() => asked, StorageError)).code, "invalid-argument");
});

Deno.test("a seal writes nothing for the digest", async () => {
  await using bench = await createBench();
  const snapshotId = await seal(bench);
  const { $client } = bench.test.database;
  assertEquals(await countDigestions(bench), 0);
  const [row] = await $client`
    select status, digest, checked_at, intact from snapshots where snapshot_id = ${snapshotId}`;
  assertEquals({ ...row }, { status: "sealed", digest: null, checked_at: null, intact: null });
});

Deno.test("verifySnapshot() tells of blocks that are not as their checksums say, by where they lie", async () => {
  await using bench = await createBench();
  await fillVolumes(bench);
  const snapshotId = await seal(bench);
  await digestAll(bench.createDigester());
  await bench.test.database.$client`update blocks set data = set_byte(data, 8, 200) where data is not null`;
  await bench.storage.verifySnapshot(TESTER, snapshotId);
  const faults: unknown[] = [];
  await digestAll(bench.createDigester({ onFault: (error) => faults.push(error) }));
  assertEquals(faults.length, 1);
  const { verification, volumes } = await bench.storage.getSnapshot(snapshotId);
  assertEquals(verification?.intact, false);
  for (const { fault } of volumes) assert(fault?.includes("are not as they were written"), fault);
});

Deno.test("verifySnapshot() finds a byte that was changed with its checksum, tells of it everywhere, and finds it mended", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const snapshotId = await seal(bench);
  await digestAll(bench.createDigester());
  const { $client } = bench.test.database;
  const flip = () =>
    $client`
      update blocks set data = set_byte(data, 100, get_byte(data, 100) # 1), checksum = null
      where (sequence, block_index) = (select sequence, block_index from blocks order by sequence, block_index limit 1)`;
  const verify = async () => {
    await bench.storage.verifySnapshot(TESTER, snapshotId);
    await bench.storage.verifySnapshot(TESTER, snapshotId);
    assertEquals(await countDigestions(bench), 1);
    const faults: string[] = [];
    await digestAll(bench.createDigester({ onFault: (error) => faults.push((error as Error).message) }));
    return faults;
  };
  assertEquals(await verify(), []);
  await flip();
  bench.clock.at = new Date(bench.clock.at.getTime() + 1_000);
  const [fault] = await verify();
  const [volumeId] = contents.keys();
  assert(
    fault.startsWith(`Cannot vouch for snapshot ${snapshotId}: ${volumeId}: Cannot trust the blocks`),
    fault,
  );
  const damaged = await bench.storage.getSnapshot(snapshotId);
  assertEquals(toDigests(damaged), expected(contents));
  assertEquals([damaged.verification?.intact, damaged.verification?.checkedAt], [false, bench.clock.at]);
  const detail = damaged.volumes.find((volume) => volume.volumeId === volumeId)?.fault;
  assertEquals(damaged.volumes.filter(({ fault }) => fault !== undefined).length, 1);
  assertEquals((await listVerified(bench)).at(-1), {
    snapshotId,
    sequence: damaged.sequence,
    digest: damaged.digest?.toHex(),
    matches: false,
    faults: [{ volumeId, detail }],
  });
  const figures = async () => {
    const [{ digestsPending, snapshotsDamaged }] = await bench.storage.readPoolFigures();
    return [digestsPending, snapshotsDamaged];
  };
  assertEquals(await figures(), [0, 1]);
  // While it is read again it stays damaged.
  await bench.storage.verifySnapshot(TESTER, snapshotId);
  const again = (await bench.storage.getSnapshot(snapshotId)).verification;
  assertEquals([again?.running, again?.intact], [true, false]);
  await flip();
  assertEquals(await verify(), []);
  const mended = await bench.storage.getSnapshot(snapshotId);
  assertEquals([mended.verification?.intact, mended.volumes.some(({ fault }) => fault !== undefined)], [
    true,
    false,
  ]);
  assertEquals(await figures(), [0, 0]);
});

Deno.test("verifySnapshot() finds a digest of the snapshot that was changed", async () => {
  await using bench = await createBench();
  await fillVolumes(bench);
  const snapshotId = await seal(bench);
  await digestAll(bench.createDigester());
  await bench.test.database.$client`update snapshots set digest = sha256(digest)`;
  await bench.storage.verifySnapshot(TESTER, snapshotId);
  const faults: unknown[] = [];
  await digestAll(bench.createDigester({ onFault: (error) => faults.push(error) }));
  assertEquals([faults.length, (await bench.storage.getSnapshot(snapshotId)).verification?.intact], [
    1,
    false,
  ]);
});

Deno.test("what cannot be read is told as damage, and read again when that is asked for", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const snapshotId = await seal(bench);
  const { $client } = bench.test.database;
  await $client`alter table segment_map rename to hidden`;
  const faults: unknown[] = [];
  const careless = bench.createDigester({ onFault: (error) => faults.push(error) });
  await digestAll(careless);
  await $client`alter table hidden rename to segment_map`;
  const unread = await bench.storage.getSnapshot(snapshotId);
  assertEquals([unread.digest, unread.verification?.intact, unread.verification?.running], [
    undefined,
    false,
    false,
  ]);
  // One of each volume, and one of the snapshot.
  assertEquals(faults.length, 3);
  await bench.storage.verifySnapshot(TESTER, snapshotId);
  await digestAll(bench.createDigester());
  const read = await bench.storage.getSnapshot(snapshotId);
  assertEquals([toDigests(read), read.verification?.intact], [expected(contents), true]);
});

Deno.test("a snapshot's digest is the same after what was above and below it has gone", async () => {
  await using bench = await createBench();
  const contents = await fillVolumes(bench);
  const below = await seal(bench);
  await bench.storage.append(TESTER, "b", undefined, [write(3, 50, 9)]);
  contents.get([...contents.keys()][1])?.set(fill(50, 9, BLOCK_BYTES), 3 * BLOCK_BYTES);
  const kept = await seal(bench);
  await bench.storage.append(TESTER, "b", undefined, [{ lba: 0, trim: 30 }]);
  const above = await seal(bench);
  await digestAll(bench.createDigester());
  for (const gone of [below, above]) await bench.storage.deleteSnapshot(TESTER, gone);
  await bench.drain();
  await reclaimAll(bench.test.database);
  await bench.storage.verifySnapshot(TESTER, kept);
  await digestAll(bench.createDigester());
  const snapshot = await bench.storage.getSnapshot(kept);
  assertEquals([toDigests(snapshot), snapshot.verification?.intact], [expected(contents), true]);
});
