/**
 * Who takes part in a soak: writers of several priorities, who snapshots, clones, reverts, copies and follows, and who kills.
 * Each acts again and again, one request at a time, and judges everything that it reads.
 */

import { below, seeded } from "../support/history.ts";
import { subscribe } from "../support/websocket.ts";
import { TEST_TOKEN } from "../support/server.ts";
import { rest } from "./soak_bed.ts";
import { SoakVolume, type SoakWorld, toOctets } from "./soak_world.ts";
import { VolumeLog } from "./volume_log.ts";

export const VAULT = "vault";
/** Snapshots that are kept of those that are taken by hand. */
const SNAPSHOTS_MAX = 12;
/** Snapshots that are kept in the other pool. */
const COPIES_MAX = 2;
const RUN_BLOCKS_MAX = 8;
/** Pauses of each actor: the machine is to have something to spare, or all that is seen is a queue. */
const PAUSES_MS = { write: 25, snapshot: 1_500, schedule: 5_000, clone: 3_000, revert: 11_000, copy: 9_000 };

/** Writes to a part of a volume that is its own, and reads it. */
export async function write(
  world: SoakWorld,
  volume: SoakVolume,
  part: { first: number; end: number },
  tokens: readonly string[],
  seed: number,
): Promise<void> {
  const random = seeded(seed);
  const range = () => {
    const lba = part.first + below(random, part.end - part.first);
    return { lba, blockCount: 1 + below(random, Math.min(RUN_BLOCKS_MAX, part.end - lba)) };
  };
  await world.repeat(async () => {
    await rest(PAUSES_MS.write * 2 * random());
    const kind = random();
    // Of any priority: what is newer may be flushed before what is older.
    const token = tokens[below(random, tokens.length)];
    await volume.whileOpen(async () => {
      if (kind < 0.7) await writeOne(world, volume, range(), token);
      else if (kind < 0.8) await trim(world, volume, range(), token);
      else if (kind < 0.9) await writeTwo(world, volume, part, token);
      else {
        const { lba, blockCount } = range();
        const bytes = await world.bed.ask("GET", `/volumes/${volume.id}/blocks/${lba}?count=${blockCount}`, {
          token,
        });
        volume.log.judge(bytes, { lba });
        world.count("live blocks judged", blockCount);
      }
    });
  });
}

interface Range {
  readonly lba: number;
  readonly blockCount: number;
}

async function writeOne(
  world: SoakWorld,
  { id, log }: SoakVolume,
  { lba, blockCount }: Range,
  token: string,
): Promise<void> {
  const stamps = world.takeStamps(blockCount);
  const attempts = log.attempt(lba, stamps);
  const octets = toOctets(stamps);
  await settle(world, [attempts], "PUT", `/volumes/${id}/blocks/${lba}`, { octets, token });
}

async function trim(
  world: SoakWorld,
  { id, log }: SoakVolume,
  { lba, blockCount }: Range,
  token: string,
): Promise<void> {
  const attempts = log.attempt(lba, new Array(blockCount).fill(0));
  await settle(world, [attempts], "DELETE", `/volumes/${id}/blocks/${lba}?count=${blockCount}`, { token });
}

/** A block at each end, as one. */
async function writeTwo(
  world: SoakWorld,
  { id, log }: SoakVolume,
  { first, end }: { first: number; end: number },
  token: string,
): Promise<void> {
  const lbas = [first, end - 1];
  const stamps = world.takeStamps(2);
  const attempts = lbas.map((lba, index) => log.attempt(lba, [stamps[index]]));
  const writes = lbas.map((lba, index) => ({ lba, data: toOctets([stamps[index]]).toBase64() }));
  await settle(world, attempts, "POST", `/volumes/${id}/writes`, { json: { writes }, token });
}

/** Sends a write once: it happened, or did not, or nobody can tell. */
async function settle(
  world: SoakWorld,
  attempts: ReturnType<VolumeLog["attempt"]>[],
  ...[method, path, asking]: Parameters<SoakWorld["bed"]["send"]>
): Promise<void> {
  const { outcome, body } = await world.bed.send(method, path, asking);
  if (outcome === "200") {
    for (const one of attempts) one.answered(body.sequence);
    world.count("writes");
  } else if (outcome !== "lost" && outcome !== "503 outcome-unknown") {
    if (!/^50[37]/.test(outcome)) throw new Error(`${method} ${path} was answered ${outcome}`);
    for (const one of attempts) one.refused();
  }
}

/** Takes snapshots of one volume or of all, reads one of those that there are, and deletes the oldest. */
export async function snapshot(world: SoakWorld): Promise<void> {
  const { bed, snapshots, volumes } = world;
  await world.repeat(async () => {
    await rest(PAUSES_MS.snapshot);
    const covered = world.random() < 0.3 ? volumes : [world.one(volumes)];
    const name = world.takeName("s");
    const taken = await bed.ask("POST", "/snapshots", {
      json: { name, volumes: covered.map(({ id }) => id) },
      key: name,
    });
    snapshots.push({ id: taken.id, sequence: taken.sequence, volumes: covered, readers: 0 });
    world.count("snapshots");
    await world.readSnapshot(world.one(snapshots));
    const oldest = snapshots.findIndex(({ readers }) => readers === 0);
    if (snapshots.length <= SNAPSHOTS_MAX || oldest < 0) return;
    const [gone] = snapshots.splice(oldest, 1);
    await bed.ask("DELETE", `/snapshots/${gone.id}`, {}, ["404 snapshot-not-found"]);
  });
}

/** Reads what the schedules have taken, as long as it is kept. */
export async function readScheduled(world: SoakWorld): Promise<void> {
  const { bed, volumes } = world;
  await world.repeat(async () => {
    await rest(PAUSES_MS.schedule);
    const { snapshots } = await bed.ask("GET", "/snapshots?label=by=schedule");
    if (snapshots.length === 0) return;
    const { id, sequence, volumes: covered } = world.one<{
      id: string;
      sequence: number;
      volumes: { volumeId: string }[];
    }>(snapshots);
    const [volume] = volumes.filter((one) => covered.some(({ volumeId }) => volumeId === one.id));
    const path = `/snapshots/${id}/blocks/0?count=${volume.log.blockCount}&volume=${volume.id}`;
    const bytes = await bed.ask("GET", path, {}, ["404 snapshot-not-found"]);
    if (bytes === undefined) return;
    volume.log.judge(bytes, { before: sequence });
    world.count("scheduled snapshots read");
  });
}

/** Runs `act` with a snapshot that is not deleted meanwhile. */
async function withSnapshot(
  world: SoakWorld,
  act: (snapshot: SoakWorld["snapshots"][number]) => Promise<void>,
): Promise<void> {
  if (world.snapshots.length === 0) return;
  const chosen = world.one(world.snapshots);
  chosen.readers += 1;
  try {
    await act(chosen);
  } finally {
    chosen.readers -= 1;
  }
}

/** Clones a snapshot, writes to the clone, reads it, and deletes it. */
export async function clone(world: SoakWorld): Promise<void> {
  const { bed } = world;
  await world.repeat(async () => {
    await rest(PAUSES_MS.clone);
    await withSnapshot(world, async (chosen) => {
      const name = world.takeName("clone");
      const [stamps] = await world.readSnapshot({ ...chosen, volumes: chosen.volumes.slice(0, 1) });
      const source = { snapshot: chosen.id, volume: chosen.volumes[0].id };
      const { id } = await bed.ask("POST", "/volumes", { json: { name, source }, key: name });
      const cloned = new SoakVolume(id, name, new VolumeLog(stamps));
      const { blockCount } = cloned.log;
      for (let write = 0; write < 4; write++) {
        const lba = below(world.random, blockCount - RUN_BLOCKS_MAX);
        await writeOne(world, cloned, { lba, blockCount: RUN_BLOCKS_MAX }, TEST_TOKEN);
      }
      cloned.log.judge(await bed.ask("GET", `/volumes/${id}/blocks/0?count=${blockCount}`));
      await bed.ask("DELETE", `/volumes/${id}`, {}, ["404 volume-not-found"]);
      world.count("clones");
    });
  });
}

/** Reverts a volume while nobody writes to it, but everybody snapshots it. */
export async function revert(world: SoakWorld): Promise<void> {
  const { bed } = world;
  await world.repeat(async () => {
    await rest(PAUSES_MS.revert);
    await withSnapshot(world, async (chosen) => {
      const [volume] = chosen.volumes;
      const [stamps] = await world.readSnapshot({ ...chosen, volumes: [volume] });
      await volume.alone(async () => {
        const json = { snapshot: chosen.id, safetySnapshot: false };
        const key = world.takeName("revert");
        const { sequence } = await bed.ask("POST", `/volumes/${volume.id}/revert`, { json, key });
        volume.log.reverted(sequence, stamps);
        world.count("reverts");
      });
    });
  });
}

/** Copies snapshots into the other pool, reads the copies, and deletes the oldest. */
export async function copy(world: SoakWorld): Promise<void> {
  const { bed } = world;
  const kept: string[] = [];
  await world.repeat(async () => {
    await rest(PAUSES_MS.copy);
    await withSnapshot(world, async (chosen) => {
      const [{ id: source, name, log }] = chosen.volumes;
      const key = world.takeName("copy");
      const json = { pool: VAULT, name: `${name}-copies`, volume: source };
      const { volume: _, ...single } = json;
      const { id } = await bed.ask("POST", `/snapshots/${chosen.id}/copies`, {
        json: chosen.volumes.length > 1 ? json : single,
        key,
      });
      const done = await untilEnded(world, id);
      if (done === undefined) return;
      const path = `/snapshots/${done.snapshotId}/blocks/0?count=${log.blockCount}&volume=${done.volumeId}`;
      log.judge(await bed.ask("GET", path), { before: chosen.sequence });
      world.count(done.incremental ? "incremental copies" : "full copies");
      kept.push(done.snapshotId);
      if (kept.length <= COPIES_MAX) return;
      await bed.ask("DELETE", `/snapshots/${kept.shift()}`, {}, ["404 snapshot-not-found"]);
    });
  });
}

/** A copy that is done; nothing where the soak has ended before it. */
async function untilEnded(
  world: SoakWorld,
  id: string,
): Promise<{ snapshotId: string; volumeId: string; incremental: boolean } | undefined> {
  for (;;) {
    const found = await world.bed.ask("GET", `/copies/${id}`);
    if (found.status === "done") return found;
    if (found.status !== "running") throw new Error(`A copy has ended: ${JSON.stringify(found)}`);
    if (!world.isGoing) {
      await world.bed.ask("DELETE", `/copies/${id}`, {}, ["404 copy-not-found"]);
      return undefined;
    }
    await rest(200);
  }
}

/** Follows all events of the pool, across every kill: none is missed and none comes twice. */
export async function follow(world: SoakWorld): Promise<void> {
  let last = 0;
  await world.repeat(async () => {
    try {
      using subscriber = await subscribe({ url: world.bed.url }, `?after=${last}`, TEST_TOKEN);
      const ended = subscriber.ended().catch(() => {});
      let isOver = false;
      void ended.then(() => isOver = true);
      while (world.isGoing && !isOver) {
        for (const { id } of subscriber.events.splice(0)) {
          if (id !== last + 1) throw new EventsError(`Event ${id} came behind ${last}`);
          last = id;
          world.count("events");
        }
        await rest(50);
      }
    } catch (error) {
      if (error instanceof EventsError) throw error;
      await rest(200);
    }
  });
}

class EventsError extends Error {}

/** Kills PostgreSQL and the server, in turns, at random moments `meanMs` apart. */
export async function kill(world: SoakWorld, meanMs: number, killsMax = Infinity): Promise<void> {
  const { bed } = world;
  let isServersTurn = false;
  let kills = 0;
  await world.repeat(async () => {
    const until = performance.now() + meanMs * (0.5 + world.random());
    while (performance.now() < until) {
      if (!world.isGoing || kills >= killsMax) return await rest(500);
      await rest(Math.min(500, until - performance.now()));
    }
    if (isServersTurn) {
      await bed.killServer();
      world.count("kills of the server");
    } else {
      await bed.killPostgres();
      world.count("kills of PostgreSQL");
    }
    isServersTurn = !isServersTurn;
    kills += 1;
  });
}
