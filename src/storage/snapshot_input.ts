/**
 * Snapshot requests as clients make them, in words or as bytes, with references; and the command that each of them is, with
 * the pool that it is for.
 *
 * What a request covers is named in one way only: a volume is covered whole, once, or by ranges. All of it is in one pool.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import type { VolumeRange } from "./covered.ts";
import type { Labels } from "./label.ts";
import { DEFAULT_POOL, findPoolId, getPool, type Pool } from "./pool.ts";
import { encodeSnapshotCommand, type SnapshotCommand } from "./snapshot_command.ts";
import { getVolume, getVolumes, type Volume } from "./volume.ts";

/** A snapshot request in words, with references. */
export interface SnapshotInput {
  readonly pool?: string;
  /** Covered whole, unless there is one and `lba` or `blockCount` select blocks of it. */
  readonly volumes?: string[];
  readonly lba?: number;
  readonly blockCount?: number;
  /** Blocks of further volumes; without a count, to the volume's end. */
  readonly ranges?: { readonly volume: string; readonly lba: number; readonly blockCount?: number }[];
  readonly name?: string;
  readonly description?: string;
  readonly labels?: Labels;
  /** Answer when sealed rather than at the marker's commit. */
  readonly untilSealed: boolean;
}

/** A snapshot request as bytes, with the pool or the volume that it addresses. */
export interface SnapshotCommandInput {
  readonly cdb: Uint8Array;
  readonly dataOut?: Uint8Array;
  readonly pool?: string;
  readonly volume?: string;
}

/** A snapshot command and the pool that is to carry it out. */
export interface AddressedCommand {
  readonly pool: Pool;
  readonly command: SnapshotCommand;
}

/**
 * The command that says a request in words.
 *
 * @throws {StorageError} `pool-not-found`, `volume-not-found`, `ambiguous-name`; `invalid-argument` for volumes in several pools;
 *   `parameter-list-invalid` for a volume that is named twice; `cdb-field-invalid` for what no command can say.
 */
export async function encodeInput(database: Database, input: SnapshotInput): Promise<AddressedCommand> {
  const { labels = {} } = input;
  const { pool, ...covered } = await chooseCovered(database, input);
  const command = encodeSnapshotCommand({ ...input, ...covered, immed: !input.untilSealed });
  return { pool, command: { ...command, labels } };
}

/** The command that came as bytes. @throws {StorageError} `pool-not-found`, `volume-not-found`, `ambiguous-name`. */
export async function addressInput(
  database: Database,
  { cdb, dataOut, ...input }: SnapshotCommandInput,
): Promise<AddressedCommand> {
  const volume = input.volume === undefined
    ? undefined
    : await getVolume(database, input.volume, await findPoolId(database, input.pool));
  const pool = volume?.pool ?? await getPool(database, input.pool ?? DEFAULT_POOL);
  const command = {
    cdb,
    ...(dataOut === undefined ? {} : { dataOut }),
    ...(volume === undefined ? {} : { addressedVolumeId: volume.volumeId }),
  };
  return { pool, command };
}

/** What a request in words wants covered, and the pool that it is in. */
async function chooseCovered(
  database: Database,
  input: SnapshotInput,
): Promise<{ pool: Pool; volumeIds: string[]; ranges: VolumeRange[] }> {
  const { volumes: whole = [], ranges: asked = [], lba, blockCount } = input;
  const references = [...whole, ...asked.map(({ volume }) => volume)];
  const volumes = references.length === 0
    ? []
    : await getVolumes(database, references, await findPoolId(database, input.pool));
  const pool = await findCommonPool(database, volumes, input.pool);
  const wholeIds = volumes.slice(0, whole.length).map(({ volumeId }) => volumeId);
  const ranges = volumes.slice(whole.length).map(({ volumeId }, index) => {
    const { lba, blockCount = 0 } = asked[index];
    return { volumeId, lba, blockCount };
  });
  requireOneWay(wholeIds, ranges);
  if (lba !== undefined || blockCount !== undefined) {
    if (wholeIds.length !== 1 || ranges.length > 0) {
      throw new StorageError(
        "cdb-field-invalid",
        "Cannot take a range of several volumes: lba and blockCount are of one; name the ranges",
      );
    }
    ranges.push({ volumeId: wholeIds[0], lba: lba ?? 0, blockCount: blockCount ?? 0 });
  }
  return {
    pool,
    volumeIds: [...new Set([...wholeIds, ...ranges.map(({ volumeId }) => volumeId)])],
    ranges,
  };
}

async function findCommonPool(
  database: Database,
  volumes: Volume[],
  reference: string | undefined,
): Promise<Pool> {
  if (volumes.length === 0) return await getPool(database, reference ?? DEFAULT_POOL);
  const [{ pool }] = volumes;
  if (volumes.some((volume) => volume.pool.poolId !== pool.poolId)) {
    throw new StorageError(
      "invalid-argument",
      "Cannot take one snapshot of volumes in several pools: nothing crosses pools",
    );
  }
  return pool;
}

/** A volume is covered whole, once, or by ranges. @throws {StorageError} `parameter-list-invalid`. */
function requireOneWay(wholeIds: string[], ranges: VolumeRange[]): void {
  const whole = new Set(wholeIds);
  if (whole.size === wholeIds.length && !ranges.some(({ volumeId }) => whole.has(volumeId))) return;
  throw new StorageError(
    "parameter-list-invalid",
    "Cannot take the snapshot: a volume is named twice, or both whole and by ranges",
  );
}
