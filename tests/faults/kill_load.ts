/**
 * Load to kill amid: owners who write their lanes as fast as they are answered, somebody who takes cuts of everything, and somebody
 * who deletes, clones and reverts. It goes on from what is there, kill after kill.
 */

import { below, seeded } from "../support/history.ts";
import { Struck } from "./kill_caller.ts";
import type { Lane } from "./lane.ts";
import {
  type KnownSnapshot,
  type KnownVolume,
  LANE_BLOCKS,
  type Ledger,
  type PartOfWrite,
} from "./ledger.ts";

const VOLUMES = 2;
const LANES_PER_VOLUME = 3;
const SNAPSHOTS_MAX = 10;
const CLONES_MAX = 3;
const PAUSE_MS = 5;

/** Runs until a blow falls. */
export async function loadUntilStruck(ledger: Ledger, random: () => number): Promise<void> {
  try {
    await load(ledger, random);
  } catch (error) {
    if (!(error instanceof Struck)) throw error;
  }
}

async function load(ledger: Ledger, random: () => number): Promise<void> {
  const bases = await openBases(ledger);
  const own = () => seeded(below(random, 2 ** 31));
  const owners = bases.flatMap((volume) => volume.lanes.map((lane) => ownLane(ledger, volume, lane, own())));
  const ended = await Promise.allSettled([...owners, takeCuts(ledger, bases, own()), branch(ledger, own())]);
  for (const end of ended) {
    if (end.status === "rejected" && !(end.reason instanceof Struck)) throw end.reason;
  }
}

function there<T extends { presence: string }>(things: T[]): T[] {
  return things.filter(({ presence }) => presence === "there");
}

/** The volumes that are never deleted; clones are called otherwise. */
async function openBases(ledger: Ledger): Promise<KnownVolume[]> {
  const bases = there(ledger.volumes).filter(({ name }) => name.startsWith("v"));
  while (bases.length < VOLUMES) bases.push(await ledger.createVolume(LANES_PER_VOLUME));
  return bases;
}

async function ownLane(ledger: Ledger, volume: KnownVolume, lane: Lane, random: () => number): Promise<void> {
  while (!ledger.bed.isStruck) {
    const lba = below(random, LANE_BLOCKS);
    const count = 1 + below(random, LANE_BLOCKS - lba);
    const choice = below(random, 6);
    if (choice === 0) await ledger.trim(volume, lane, lba, count);
    else if (choice === 1) await ledger.writeMany(volume, lane, toParts(random));
    else await ledger.write(volume, lane, lba, count);
  }
}

function toParts(random: () => number): PartOfWrite[] {
  return Array.from({ length: 2 + below(random, 4) }, (): PartOfWrite => {
    const lba = below(random, LANE_BLOCKS);
    const count = 1 + below(random, Math.min(5, LANE_BLOCKS - lba));
    return below(random, 3) === 0 ? { lba, trim: count } : { lba, count };
  });
}

async function takeCuts(ledger: Ledger, bases: KnownVolume[], random: () => number): Promise<void> {
  while (!ledger.bed.isStruck) {
    const volumes = below(random, 2) === 0 ? bases : [bases[below(random, bases.length)]];
    const untilSealed = below(random, 3) === 0;
    if (there(ledger.snapshots).length >= SNAPSHOTS_MAX) await pause();
    else if (below(random, 3) === 0) await ledger.snapshotRanges(volumes, untilSealed);
    else await ledger.snapshot(volumes, untilSealed);
  }
}

/** Deletes snapshots, and makes clones, writes, reverts and deletes them. */
async function branch(ledger: Ledger, random: () => number): Promise<void> {
  const pick = <T>(things: T[]): T | undefined => things[below(random, things.length)];
  while (!ledger.bed.isStruck) {
    const snapshots = there(ledger.snapshots);
    const clones = there(ledger.volumes).filter(({ name }) => name.startsWith("c"));
    const clone = pick(clones);
    const source = pick(snapshots.filter(isCloneable));
    const choice = below(random, 6);
    if (choice === 0 && source !== undefined && clones.length < CLONES_MAX) await ledger.clone(source);
    else if (choice === 1 && clone !== undefined) await ledger.deleteVolume(clone);
    else if (choice === 2 && clone !== undefined) await revertToNow(ledger, clone);
    else if (choice === 3 && snapshots.length > SNAPSHOTS_MAX / 2) {
      await ledger.deleteSnapshot(pick(snapshots) as KnownSnapshot);
    } else if (clone !== undefined) await ledger.write(clone, clone.lanes[0], below(random, LANE_BLOCKS), 1);
    else await pause();
  }
}

/** What is in one that was not looked at yet may be known to nobody. */
function isCloneable({ covers, frozen }: KnownSnapshot): boolean {
  return covers.length === 1 && covers[0].range === undefined && frozen !== undefined;
}

async function revertToNow(ledger: Ledger, clone: KnownVolume): Promise<void> {
  const snapshot = await ledger.snapshot([clone]);
  await ledger.write(clone, clone.lanes[0], 0, 3);
  await ledger.deleteSnapshot(await ledger.revert(clone, snapshot));
  await ledger.deleteSnapshot(snapshot);
}

async function pause(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
}
