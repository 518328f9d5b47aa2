/**
 * Volumes as clients ask for them, with references and sizes in either way; and what is meant by that in the pool.
 */

import type { Database } from "../database/client.ts";
import type { NewClone, VolumeSource } from "./clone.ts";
import type { NewImport } from "./import.ts";
import type { LabelPatch, Labels } from "./label.ts";
import { findPoolId, type Pool } from "./pool.ts";
import { isSized, type Size, toBlocks } from "./size.ts";
import { findSnapshotPlace } from "./snapshot.ts";
import { findVolumePlace, type NewVolume, type VolumeChange } from "./volume.ts";

/** A new volume. */
export type VolumeInput = { name: string; labels?: Labels; pool?: string } & Size;

/** A new volume with what a snapshot has of another, which need not be named when it covers one only. */
export type CloneInput =
  & { name: string; labels?: Labels; pool?: string; snapshot: string; volume?: string }
  & Partial<Size>;

/** A change of a volume; what is absent stays. */
export type VolumeChangeInput = { labels?: LabelPatch; snapshotsMax?: number | null } & Partial<Size>;

/** New contents of a volume: all there is, or the difference to a snapshot, the base. */
export type ImportInput = { base?: string; snapshotName?: string } & Size;

/** @throws {StorageError} `not-whole-blocks`. */
export function toNewVolume({ name, labels, ...input }: VolumeInput, pool: Pool): NewVolume {
  return { name, blockCount: toBlocks(input, pool), ...(labels === undefined ? {} : { labels }) };
}

/** @throws {StorageError} `not-whole-blocks`. */
export function toVolumeChange(
  { labels, snapshotsMax, ...input }: VolumeChangeInput,
  pool: Pool,
): VolumeChange {
  return {
    ...(isSized(input) ? { blockCount: toBlocks(input, pool) } : {}),
    ...(labels === undefined ? {} : { labels }),
    ...(snapshotsMax === undefined ? {} : { snapshotsMax }),
  };
}

/**
 * A clone is made in the pool of its snapshot.
 *
 * @throws {StorageError} `pool-not-found`, `snapshot-not-found`, `volume-not-found`, `ambiguous-name`, `not-whole-blocks`.
 */
export async function findClone(
  database: Database,
  { name, labels, ...input }: CloneInput,
): Promise<{ pool: Pool; source: VolumeSource; clone: NewClone }> {
  const place = await findSnapshotPlace(database, input.snapshot, await findPoolId(database, input.pool));
  const { snapshotId, pool } = place;
  const volumeId = input.volume === undefined
    ? undefined
    : (await findVolumePlace(database, input.volume, pool.poolId)).volumeId;
  const source = { snapshotId, ...(volumeId === undefined ? {} : { volumeId }) };
  const clone = {
    name,
    ...(isSized(input) ? { blockCount: toBlocks(input, pool) } : {}),
    ...(labels === undefined ? {} : { labels }),
  };
  return { pool, source, clone };
}

/** @throws {StorageError} `snapshot-not-found`, `ambiguous-name`, `not-whole-blocks`. */
export async function findImport(
  database: Database,
  { base, snapshotName, ...input }: ImportInput,
  pool: Pool,
): Promise<NewImport> {
  const baseId = base === undefined
    ? undefined
    : (await findSnapshotPlace(database, base, pool.poolId)).snapshotId;
  return {
    blockCount: toBlocks(input, pool),
    ...(baseId === undefined ? {} : { baseId }),
    ...(snapshotName === undefined ? {} : { snapshotName }),
  };
}
