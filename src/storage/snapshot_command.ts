/**
 * A snapshot request is a SCSI command, whichever front door it came by.
 *
 * A request in words is encoded as the smallest CDB that can say it, with a parameter list as data-out where it has a
 * name, a description or several volumes. Then the bytes are decoded, and what was decoded is carried out. A request
 * that comes as bytes goes the second half of the way. So the audit row holds exactly what was executed.
 *
 * A CDB has no place for the volume it addresses: that is the nexus, which the front door knows.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { decodeSnapshotCdb, encodeSnapshotCdb, type SnapshotCdb } from "../scsi/cdb.ts";
import {
  decodeSnapshotParameterList,
  encodeSnapshotParameterList,
  type SnapshotParameterList,
} from "../scsi/parameter_list.ts";
import type { Actor } from "./actor.ts";
import { NAME_PATTERN } from "./identifier.ts";
import type { Pool } from "./pool.ts";
import { type MarkerRequest, type PlacedMarker, placeMarker } from "./snapshot.ts";

/** A snapshot request in words. Neither `volumeIds` nor a range means every volume of the pool. */
export interface SnapshotRequest {
  readonly name?: string;
  readonly description?: string;
  readonly volumeIds?: string[];
  /** First block and number of blocks of the one volume; 0 blocks means to its end. */
  readonly lba?: number;
  readonly blockCount?: number;
  /** Answer at the marker's commit rather than at the seal. */
  readonly immed: boolean;
}

/** A snapshot command as it travels: the bytes, and the volume the nexus addresses, if it does. */
export interface SnapshotCommand {
  readonly cdb: Uint8Array;
  readonly dataOut?: Uint8Array;
  readonly addressedVolumeId?: string;
}

/** What was executed: the snapshot, whether its command asked to be answered at once, and how it moved the pool's head. */
export interface ExecutedSnapshot extends PlacedMarker {
  readonly command: SnapshotCdb;
}

/** Longest description: a sentence or a few, in bytes of UTF-8. */
export const DESCRIPTION_BYTES_MAX = 1024;

/**
 * Encodes a request in words.
 *
 * @throws {StorageError} `cdb-field-invalid` for what no command can say.
 */
export function encodeSnapshotCommand(request: SnapshotRequest): SnapshotCommand {
  const { volumeIds = [], lba: firstLba = 0, blockCount = 0, immed } = request;
  const list = request.name !== undefined || request.description !== undefined || volumeIds.length > 1;
  const pool = volumeIds.length === 0;
  return {
    cdb: encodeSnapshotCdb({ immed, pool, list, firstLba, blockCount }),
    ...(list ? { dataOut: encodeSnapshotParameterList(toParameterList(request, volumeIds)) } : {}),
    ...(volumeIds.length === 1 ? { addressedVolumeId: volumeIds[0] } : {}),
  };
}

/**
 * Decodes a command and carries it out; answers at its marker's commit.
 *
 * @throws {StorageError} `cdb-…` and `parameter-list-…` for bytes that are no command; what {@linkcode placeMarker} throws.
 */
export async function executeSnapshotCommand(
  database: Database,
  actor: Actor,
  pool: Pool,
  command: SnapshotCommand,
  clock: () => Date,
): Promise<ExecutedSnapshot> {
  const request = toMarkerRequest(command, clock());
  return { ...await placeMarker(database, actor, pool, request, clock), command: request.command };
}

/** Decodes a command that was received at that time. @throws {StorageError} `cdb-…` and `parameter-list-…`. */
export function toMarkerRequest(
  { cdb, dataOut, addressedVolumeId }: SnapshotCommand,
  receivedAt: Date,
): MarkerRequest {
  const command = decodeSnapshotCdb(cdb);
  const list = decodeDataOut(command, dataOut);
  return {
    ...(list.name === undefined ? {} : { name: list.name }),
    ...(list.description === undefined ? {} : { description: list.description }),
    volumeIds: chooseVolumes(command, list, addressedVolumeId),
    command,
    cdb,
    ...(dataOut === undefined ? {} : { dataOut }),
    receivedAt,
  };
}

function toParameterList({ name, description }: SnapshotRequest, volumeIds: string[]): SnapshotParameterList {
  return {
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
    volumeIds: volumeIds.length > 1 ? volumeIds : [],
  };
}

function decodeDataOut({ list }: SnapshotCdb, dataOut?: Uint8Array): SnapshotParameterList {
  if (list !== (dataOut !== undefined)) {
    throw new StorageError(
      "parameter-list-length-invalid",
      list
        ? "Cannot execute the command: its LIST flag is set and no parameter list follows"
        : "Cannot execute the command: a parameter list follows and its LIST flag is clear",
    );
  }
  const decoded = dataOut === undefined ? { volumeIds: [] } : decodeSnapshotParameterList(dataOut);
  requireListed(decoded);
  return decoded;
}

function requireListed({ name, description, volumeIds }: SnapshotParameterList): void {
  const described = new TextEncoder().encode(description ?? "");
  const problem = name !== undefined && !NAME_PATTERN.test(name)
    ? "a name is 1 to 63 letters, digits, dots, underscores or hyphens"
    : described.length > DESCRIPTION_BYTES_MAX || described.includes(0)
    ? `a description is at most ${DESCRIPTION_BYTES_MAX} bytes without NUL`
    : new Set(volumeIds).size < volumeIds.length
    ? "a volume is named twice"
    : undefined;
  if (problem === undefined) return;
  throw new StorageError(
    "parameter-list-invalid",
    `Cannot execute the command: in its parameter list, ${problem}`,
  );
}

/** POOL means every volume; otherwise the listed ones, or the one that the command addresses. */
function chooseVolumes(
  { pool, firstLba, blockCount }: SnapshotCdb,
  { volumeIds }: SnapshotParameterList,
  addressedVolumeId?: string,
): string[] | "all" {
  if (pool && volumeIds.length > 0) {
    throw new StorageError(
      "parameter-list-invalid",
      "Cannot execute the command: POOL is set and volumes are listed",
    );
  }
  if (pool) return "all";
  const chosen = volumeIds.length > 0
    ? volumeIds
    : addressedVolumeId === undefined
    ? []
    : [addressedVolumeId];
  if (chosen.length === 0) {
    throw new StorageError(
      "invalid-argument",
      "Cannot execute the command: it addresses no volume; name one or set POOL",
    );
  }
  if (chosen.length > 1 && (firstLba > 0 || blockCount > 0)) {
    throw new StorageError(
      "cdb-field-invalid",
      "Cannot execute the command: a range of blocks is of one volume, not of several",
    );
  }
  return chosen;
}
