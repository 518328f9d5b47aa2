/**
 * Scenarios: what clients do while somebody is killed. Together they come by every transaction that writes. Each begins on volumes of
 * its own, and is over at the first blow.
 */

import { Struck } from "./kill_caller.ts";
import type { KnownVolume, Ledger } from "./ledger.ts";

export interface Scenario {
  readonly name: string;
  readonly run: (ledger: Ledger) => Promise<void>;
}

/** The second pool, which copies go into. */
export const COPY_POOL = "second";

/** How long the background may take. */
const SETTLE_MS_MAX = 15_000;

export const SCENARIOS: readonly Scenario[] = [
  { name: "write and snapshot", run: writeAndSnapshot },
  { name: "delete", run: deleteThings },
  { name: "clone and revert", run: cloneAndRevert },
  { name: "import", run: importContents },
  { name: "copy", run: copySnapshot },
  { name: "schedule and client", run: scheduleAndClient },
];

/** Makes what scenarios need once. */
export async function prepareScenarios({ caller }: Ledger): Promise<void> {
  await caller.call("POST", "/pools", { name: COPY_POOL, blockSizeBytes: 4096, segmentBlocks: 16 });
  await caller.call("POST", "/devices", { name: "second-1", pool: COPY_POOL, sizeBytes: 2 ** 30 });
}

/** Runs a scenario until it is done, and what it left to the background too, or until a blow falls. */
export async function runScenario(ledger: Ledger, { run }: Scenario): Promise<void> {
  try {
    await run(ledger);
    await settle(ledger);
  } catch (error) {
    if (!(error instanceof Struck)) throw error;
  }
}

/** Waits until the background has nothing to do. */
export async function settle({ bed }: Ledger): Promise<void> {
  for (const deadline = Date.now() + SETTLE_MS_MAX; !bed.isStruck && Date.now() < deadline;) {
    const [row] = await bed.database.$client<{ busy: boolean }[]>`
      select exists (select from cache) or exists (select from reclaims) or exists (select from copies where status = 'running')
        or exists (select from epoch_space where not counted) or exists (select from snapshot_space where changed > counted)
        or exists (select from schedules where retentions_asked > retentions_done) as busy`.catch((error) => {
      if (bed.isStruck) return [{ busy: false }];
      throw error;
    });
    if (!row.busy) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Three owners at once, in the slots of each other; several entries of a request, trims, a second epoch. */
async function writeAndSnapshot(ledger: Ledger): Promise<void> {
  const volume = await ledger.createVolume(3);
  const [first, second, third] = volume.lanes;
  await all([
    ledger.write(volume, first, 0, 24),
    ledger.writeMany(volume, second, [{ lba: 2, count: 9 }, { lba: 4, trim: 3 }, { lba: 20, count: 2 }]),
    ledger.write(volume, third, 7, 1),
  ]);
  await all([ledger.write(volume, first, 3, 2), ledger.trim(volume, second, 9, 5)]);
  await all([
    ledger.snapshot([volume]),
    ledger.write(volume, third, 7, 12),
    ledger.write(volume, first, 3, 1),
  ]);
  await ledger.write(volume, second, 1, 10);
  await all([
    ledger.snapshotRanges([volume], true),
    ledger.writeMany(volume, first, [{ lba: 0, count: 5 }, { lba: 12, trim: 8 }]),
  ]);
  await ledger.write(volume, third, 0, 4);
}

/** What two snapshots tell apart, and a volume; and one that may be pending still. */
async function deleteThings(ledger: Ledger): Promise<void> {
  const volume = await writtenVolume(ledger, 2);
  const [first, second] = volume.lanes;
  const older = await ledger.snapshot([volume]);
  await all([ledger.write(volume, first, 0, 20), ledger.write(volume, second, 10, 5)]);
  const younger = await ledger.snapshot([volume], true);
  await ledger.write(volume, first, 4, 3);
  await ledger.deleteSnapshot(older);
  await all([ledger.write(volume, second, 0, 24), ledger.write(volume, first, 0, 24)]);
  const pending = await ledger.snapshot([volume]);
  await ledger.deleteSnapshot(pending);
  await settle(ledger);
  const other = await writtenVolume(ledger, 1);
  await ledger.deleteVolume(other);
  await ledger.deleteSnapshot(younger);
}

async function cloneAndRevert(ledger: Ledger): Promise<void> {
  const volume = await writtenVolume(ledger, 1);
  const [lane] = volume.lanes;
  const snapshot = await ledger.snapshot([volume]);
  await ledger.write(volume, lane, 6, 9);
  const clone = await ledger.clone(snapshot);
  await all([ledger.write(clone, clone.lanes[0], 1, 20), ledger.trim(volume, lane, 0, 3)]);
  await ledger.revert(volume, snapshot);
  await ledger.write(volume, lane, 2, 2);
  await ledger.snapshot([volume, clone]);
  await ledger.deleteVolume(clone);
}

async function importContents(ledger: Ledger): Promise<void> {
  const volume = await writtenVolume(ledger, 1);
  await ledger.import(volume);
  await ledger.write(volume, volume.lanes[0], 3, 3);
}

async function copySnapshot(ledger: Ledger): Promise<void> {
  const volume = await writtenVolume(ledger, 1);
  const snapshot = await ledger.snapshot([volume]);
  await ledger.copy(snapshot, COPY_POOL);
  await ledger.write(volume, volume.lanes[0], 0, 2);
}

async function scheduleAndClient(ledger: Ledger): Promise<void> {
  const volume = await writtenVolume(ledger, 1);
  const schedule = await ledger.createSchedule(volume);
  await ledger.run(schedule);
  await ledger.write(volume, volume.lanes[0], 2, 2);
  const client = await ledger.createClient();
  await ledger.run(schedule);
  await ledger.revokeClient(client);
  await ledger.deleteSchedule(schedule);
}

async function writtenVolume(ledger: Ledger, laneCount: number): Promise<KnownVolume> {
  const volume = await ledger.createVolume(laneCount);
  for (const lane of volume.lanes) await ledger.write(volume, lane, 1, 22);
  return volume;
}

/** Waits for all of them, and then fails as the first did: nobody is left behind. */
async function all(doing: Promise<unknown>[]): Promise<void> {
  const faults = (await Promise.allSettled(doing)).flatMap((done) =>
    done.status === "rejected" ? [done.reason] : []
  );
  const other = faults.find((fault) => !(fault instanceof Struck));
  if (faults.length > 0) throw other ?? faults[0];
}

/** Deletes all that is known, so that what comes after is as quick as what came before. */
export async function tidy(ledger: Ledger): Promise<void> {
  await settle(ledger);
  const { caller, schedules, copies, snapshots, volumes, clients } = ledger;
  for (const schedule of schedules.filter(({ presence }) => presence === "there")) {
    await ledger.deleteSchedule(schedule);
  }
  for (const client of clients.filter(({ presence }) => presence === "there")) {
    await ledger.revokeClient(client);
  }
  for (const { id } of copies.splice(0)) {
    const { snapshotId, volumeId } = await caller.get(`/copies/${id}`);
    await caller.call("DELETE", `/snapshots/${snapshotId}`);
    await caller.call("DELETE", `/volumes/${volumeId}`);
  }
  for (const snapshot of snapshots.filter(({ presence }) => presence === "there")) {
    const isThere = !snapshot.mayGo || await caller.find(`/snapshots/${snapshot.id}`) !== undefined;
    if (isThere) await ledger.deleteSnapshot(snapshot);
  }
  for (const volume of volumes.filter(({ presence }) => presence === "there")) {
    await ledger.deleteVolume(volume);
  }
  await dropCancelled(ledger);
}

/** A snapshot that was cancelled stays as a record until it is deleted once more. */
async function dropCancelled({ caller }: Ledger): Promise<void> {
  const { snapshots } = await caller.get("/snapshots?status=cancelled&maxResults=1000");
  for (const { id } of snapshots) await caller.call("DELETE", `/snapshots/${id}`);
}
