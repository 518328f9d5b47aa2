/**
 * A volume as a snapshot has it: where it is and what of it is covered, and the whole of it as an image, to be read in pieces.
 */

import type { Database } from "../database/client.ts";
import type { BlockRange } from "./block.ts";
import { type CoveredVolume, requireWhole } from "./covered.ts";
import { findPoolId } from "./pool.ts";
import { readSnapshot } from "./read.ts";
import { findSnapshotPlace, getCovered, type SnapshotPlace } from "./snapshot.ts";
import { findVolumePlace } from "./volume.ts";

/** Where a snapshot is, and what it covers of one volume. */
export interface CoveredPlace extends SnapshotPlace {
  readonly covered: CoveredVolume;
}

/** A volume as a snapshot has it, to be read in pieces. */
export interface SnapshotImage {
  readonly snapshotId: string;
  readonly volumeId: string;
  readonly createdAt: Date;
  readonly blockSizeBytes: number;
  readonly sizeBytes: number;
  /** At most as many bytes as one read may have. */
  readonly read: (range: BlockRange) => Promise<Uint8Array<ArrayBuffer>>;
}

/**
 * What a snapshot covers of a volume, which may be absent when it covers one only.
 *
 * @throws {StorageError} `snapshot-not-found`, `volume-not-found`, `ambiguous-name`; what {@linkcode getCovered} throws.
 */
export async function findCoveredPlace(
  database: Database,
  reference: string,
  pool: string | undefined,
  volume: string | undefined,
): Promise<CoveredPlace> {
  const place = await findSnapshotPlace(database, reference, await findPoolId(database, pool));
  const { pool: { poolId }, snapshotId } = place;
  const volumeId = volume === undefined
    ? undefined
    : (await findVolumePlace(database, volume, poolId)).volumeId;
  return { ...place, covered: await getCovered(database, poolId, snapshotId, volumeId) };
}

/** Opens the whole volume. @throws {StorageError} `outside-snapshot` when the snapshot does not cover it whole. */
export function openImage(
  database: Database,
  { pool, snapshotId, createdAt, ...place }: CoveredPlace,
): SnapshotImage {
  const covered = requireWhole(place.covered);
  return {
    snapshotId,
    volumeId: covered.volumeId,
    createdAt,
    blockSizeBytes: pool.blockSizeBytes,
    sizeBytes: covered.volumeBlocks * pool.blockSizeBytes,
    read: async (range) => (await readSnapshot(database, pool, snapshotId, covered, range)).bytes,
  };
}
