/**
 * A soak: a server on a PostgreSQL of its own, and everybody at once who can do anything to it, for as long as told. Whatever is
 * read on the way is judged, and in the end everything there is: each volume, each snapshot, the audit's chain, the space.
 */

import { assert, assertEquals } from "@std/assert";
import { closeDatabase, openDatabase } from "../../src/database/client.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import { seeded } from "../support/history.ts";
import { runTask } from "../support/server.ts";
import { clone, copy, follow, kill, readScheduled, revert, snapshot, VAULT, write } from "./soak_actors.ts";
import { rest, SoakBed } from "./soak_bed.ts";
import { findTrends, Sampler } from "./soak_samples.ts";
import { SoakVolume, SoakWorld } from "./soak_world.ts";
import { VolumeLog } from "./volume_log.ts";

export interface SoakOptions {
  readonly seconds: number;
  readonly seed: number;
  /** Blocks of each volume: the fewer, the oftener each is written. */
  readonly volumeBlocks: number;
  /** Mean time between two kills. */
  readonly killEverySeconds: number;
  /** Time between two samples. */
  readonly sampleEverySeconds: number;
  /** Kills in all; any number unless given. */
  readonly killsMax?: number;
  /** What is to be done at least once: it goes on until then, or for so much longer that something must be wrong. */
  readonly atLeast?: readonly string[];
  readonly onSample?: (line: string) => void;
}

export interface SoakReport {
  readonly counts: Record<string, number>;
  readonly outcomes: Record<string, number>;
  readonly trends: ReturnType<typeof findTrends>;
}

const VOLUMES = 3;
/** Of each volume; the parts are of the same size. */
const WRITERS = 2;
const PRIORITIES = [-10, 0, 10];
const DEVICE_BYTES = 2 ** 30;
/** How much longer it goes on for what is to be done at least once. */
const LONGER_MS_MAX = 180_000;
/** How long what is deleted in the end may take to come back. */
const RECLAIM_MS_MAX = 600_000;

/** Soaks. @throws {Error} at the first thing that is not as it has to be. */
export async function soak(options: SoakOptions): Promise<SoakReport> {
  await using bed = await SoakBed.start();
  await using sampler = new Sampler(bed.postgres.url);
  const world = new SoakWorld(bed, seeded(options.seed));
  const tokens = await furnish(world, options.volumeBlocks);
  const actors = startActors(world, tokens, options);
  try {
    await Promise.race([world.failed, sample(world, sampler, options)]);
  } finally {
    world.stop();
    await Promise.all(actors);
  }
  await Promise.race([world.failed, Promise.resolve()]);
  await verify(world);
  await empty(world);
  return {
    counts: Object.fromEntries(world.counts),
    outcomes: Object.fromEntries(bed.outcomes),
    trends: findTrends(sampler.samples),
  };
}

/** Makes pools, volumes, schedules and clients; answers the clients' tokens. */
async function furnish({ bed, volumes }: SoakWorld, blockCount: number): Promise<string[]> {
  await bed.ask("POST", "/pools", { json: { name: VAULT } });
  await bed.ask("POST", "/devices", { json: { name: VAULT, pool: VAULT, sizeBytes: DEVICE_BYTES } });
  for (let index = 0; index < VOLUMES; index++) {
    const name = `disk-${index}`;
    const { id } = await bed.ask("POST", "/volumes", { json: { name, blockCount } });
    volumes.push(new SoakVolume(id, name, new VolumeLog(new Array(blockCount).fill(0))));
    const schedule = { name, volumes: [id], every: "PT10S", keep: { last: 3 }, labels: { by: "schedule" } };
    await bed.ask("POST", "/schedules", { json: schedule });
  }
  const tokens: string[] = [];
  for (const priority of PRIORITIES) {
    const json = { name: `client${priority}`, scopes: ["read", "write"], priority };
    tokens.push((await bed.ask("POST", "/clients", { json })).token);
  }
  return tokens;
}

function startActors(world: SoakWorld, tokens: string[], options: SoakOptions): Promise<void>[] {
  const partBlocks = options.volumeBlocks / WRITERS;
  const writers = world.volumes.flatMap((volume, index) =>
    Array.from({ length: WRITERS }, (_, part) => {
      const range = { first: part * partBlocks, end: (part + 1) * partBlocks };
      const number = index * WRITERS + part;
      return write(world, volume, range, tokens, options.seed + number);
    })
  );
  return [
    ...writers,
    snapshot(world),
    readScheduled(world),
    clone(world),
    revert(world),
    copy(world),
    follow(world),
    kill(world, options.killEverySeconds * 1_000, options.killsMax),
  ];
}

/** Samples until the time is over. */
async function sample(world: SoakWorld, sampler: Sampler, options: SoakOptions): Promise<void> {
  const until = performance.now() + options.seconds * 1_000;
  const isShort = () => options.atLeast?.some((what) => !world.counts.has(what)) ?? false;
  while (world.isGoing) {
    const now = performance.now();
    if (now >= (isShort() ? until + LONGER_MS_MAX : until)) return;
    await rest(Math.min(options.sampleEverySeconds * 1_000, Math.max(until - now, 1_000)));
    await sampler.take(world.bed.serverPid);
    options.onSample?.(JSON.stringify({ ...sampler.samples.at(-1), writes: world.counts.get("writes") }));
  }
}

/** Everything that there is, with nobody at it. */
async function verify(world: SoakWorld): Promise<void> {
  const { bed, volumes, snapshots } = world;
  for (const pool of ["main", VAULT]) await bed.ask("POST", `/pools/${pool}/flush`);
  for (const { id, log } of volumes) {
    log.judge(await bed.ask("GET", `/volumes/${id}/blocks/0?count=${log.blockCount}`));
  }
  for (const one of snapshots) {
    assertEquals((await bed.ask("GET", `/snapshots/${one.id}`)).status, "sealed");
    await world.readSnapshot(one);
  }
  const { code, stderr } = await runTask("verify", { DATABASE_URL: bed.postgres.url });
  assertEquals(code, 0, stderr);
  await soundly(bed);
  assert((world.counts.get("writes") ?? 0) > 0 && snapshots.length > 0);
}

/** Deletes everything: all segments come back. */
async function empty({ bed }: SoakWorld): Promise<void> {
  for (const { id } of (await bed.ask("GET", "/schedules")).schedules) {
    await bed.ask("DELETE", `/schedules/${id}`);
  }
  for (const kind of ["snapshots", "volumes"]) {
    const { [kind]: items } = await bed.ask("GET", `/${kind}?maxResults=1000`);
    for (const { id, status } of items) {
      if (status !== "cancelled") {
        await bed.ask("DELETE", `/${kind}/${id}`, {}, [`404 ${kind.slice(0, -1)}-not-found`]);
      }
    }
  }
  const deadline = performance.now() + RECLAIM_MS_MAX;
  for (const pool of ["main", VAULT]) {
    for (;;) {
      await bed.ask("POST", `/pools/${pool}/flush`);
      const { freeSegments, segmentCount } = await bed.ask("GET", `/pools/${pool}`);
      if (freeSegments === segmentCount) break;
      if (performance.now() > deadline) {
        throw new Error(`Pool ${pool} has ${freeSegments} of ${segmentCount} segments after all was deleted`);
      }
      await rest(200);
    }
  }
  await soundly(bed);
  assertEquals(await bed.stopServer(), 0);
}

async function soundly({ postgres }: SoakBed): Promise<void> {
  const database = openDatabase(postgres.url, { connectionsMax: 1 });
  try {
    await assertSpaceIsSound(database);
  } finally {
    await closeDatabase(database);
  }
}
