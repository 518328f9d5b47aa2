/**
 * Answers that are made again: of what a request has done, when its answer was lost with its server or was too large to store.
 *
 * They tell of the thing as it is now, in the form in which its route answers.
 */

import type { AuditAction } from "../storage/audit.ts";
import type { KeptAnswer, Outcome } from "../storage/idempotency.ts";
import type { Storage } from "../storage/storage.ts";
import { toBody as toCopyBody } from "./copies.ts";
import { toBody as toDeviceBody } from "./devices.ts";
import { toBody as toPoolBody } from "./pools.ts";
import { given } from "./schema.ts";
import { toBody as toScheduleBody } from "./schedules.ts";
import { toReceiptedBody, toSnapshotBody } from "./snapshot_body.ts";
import { isAnsweredSealed } from "./snapshots.ts";
import { toBody as toVolumeBody } from "./volumes.ts";

type Remake = (storage: Storage, done: Outcome, outcomes: Outcome[]) => Promise<KeptAnswer>;

const remakeVolume: Remake = async (storage, { targetId, poolId }) => {
  const volume = await storage.getVolume(targetId, poolId);
  return answer(201, toVolumeBody(volume), `/volumes/${targetId}`);
};

/** One row for every action; it does not compile when one is missing. `null`: no request under a key does that. */
const REMAKES: Readonly<Record<AuditAction, Remake | null>> = {
  "client.change": null,
  // A token is shown once: it must not stand in a stored answer.
  "client.create": null,
  "client.revoke": null,
  "client.rotate": null,
  "copy.cancel": null,
  "copy.create": async (storage, { targetId }) =>
    answer(202, toCopyBody(await storage.copies.get(targetId)), `/copies/${targetId}`),
  "device.add": async (storage, { targetId, poolId }) => {
    const device = await storage.getDevice(targetId, poolId);
    return answer(201, toDeviceBody(device), `/devices/${targetId}`);
  },
  "pool.change": null,
  "pool.create": async (storage, { targetId }) =>
    answer(201, toPoolBody(await storage.getPool(targetId)), `/pools/${targetId}`),
  "schedule.change": null,
  "schedule.create": async (storage, { targetId, poolId }) => {
    const schedule = await storage.schedules.get(targetId, poolId);
    return answer(201, toScheduleBody(schedule), `/schedules/${targetId}`);
  },
  "schedule.delete": null,
  "schedule.run": async (storage, { poolId }, outcomes) => {
    const taken = outcomes.find(({ action }) => action === "snapshot.create");
    const snapshot = await storage.getSnapshot(taken?.targetId ?? "", poolId);
    return answer(202, await toReceiptedBody(storage, snapshot), `/snapshots/${snapshot.snapshotId}`);
  },
  // Asked for again it is not started again.
  "scrub.cancel": null,
  "scrub.start": null,
  "snapshot.cancel": null,
  "snapshot.create": async (storage, { targetId, poolId }) => {
    const snapshot = await storage.getSnapshot(targetId, poolId);
    const status = isAnsweredSealed(snapshot) ? 200 : 202;
    return answer(status, await toReceiptedBody(storage, snapshot), `/snapshots/${targetId}`);
  },
  "snapshot.delete": null,
  "snapshot.hold": null,
  "snapshot.label": null,
  "snapshot.verify": async (storage, { targetId, poolId }) => {
    const snapshot = await storage.getSnapshot(targetId, poolId);
    return answer(202, toSnapshotBody(snapshot), `/snapshots/${targetId}`);
  },
  "volume.clone": remakeVolume,
  "volume.create": remakeVolume,
  "volume.delete": null,
  "volume.import": null,
  "volume.label": null,
  "volume.limit": null,
  "volume.resize": null,
  "volume.revert": async (storage, { targetId, poolId, sequence }, outcomes) => {
    const volume = toVolumeBody(await storage.getVolume(targetId, poolId));
    const safety = outcomes.find(({ action }) => action === "snapshot.create");
    return answer(200, { volume, sequence, ...given({ safetySnapshotId: safety?.targetId }) });
  },
};

/**
 * Makes the answer to a request that has done this, in that order; the last of it is what was asked for.
 *
 * @throws {StorageError} `…-not-found` when it is gone by now.
 */
export async function remakeAnswer(storage: Storage, outcomes: Outcome[]): Promise<KeptAnswer> {
  const done = outcomes[outcomes.length - 1];
  const remake = REMAKES[done.action];
  if (remake === null) {
    throw new Error(`Cannot make the answer to ${done.action}: no request with a key does that`);
  }
  return await remake(storage, done, outcomes);
}

function answer(status: number, body: unknown, location?: string): KeptAnswer {
  return {
    status,
    contentType: "application/json",
    ...given({ location }),
    body: JSON.stringify(body),
  };
}
