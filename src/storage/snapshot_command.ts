/**
 * A snapshot request is a SCSI command, whichever front door it came by.
 *
 * A request in words is encoded as the smallest CDB that can say it, with a parameter list as data-out where it has a
 * name, a description, several volumes, or ranges that the CDB has no room for. Then the bytes are decoded, and what was
 * decoded is carried out. A request that comes as bytes goes the second half of the way. So the audit row holds exactly what
 * was executed.
 *
 * A CDB has no place for the volume it addresses: that is the nexus, which the front door knows. Nor has it for labels, which
 * travel beside the command: they say nothing of what is to be done.
 */

import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { CDB_NUMBER_MAX, decodeSnapshotCdb, encodeSnapshotCdb, type SnapshotCdb } from "../scsi/cdb.ts";
import {
  decodeSnapshotParameterList,
  encodeSnapshotParameterList,
  type SnapshotParameterList,
} from "../scsi/parameter_list.ts";
import type { Actor } from "./actor.ts";
import type { VolumeRange } from "./covered.ts";
import { NAME_PATTERN } from "./identifier.ts";
import type { Labels } from "./label.ts";
import { type MarkerRequest, type PlacedMarker, placeMarker } from "./marker.ts";
import type { Pool } from "./pool.ts";

/** A snapshot request in words. Neither `volumeIds` nor a range means every volume of the pool. */
export interface SnapshotRequest {
  readonly name?: string;
  readonly description?: string;
  readonly volumeIds?: string[];
  /** What to cover of some of the volumes. */
  readonly ranges?: VolumeRange[];
  /** Answer at the marker's commit rather than at the seal. */
  readonly immed: boolean;
}

/** A snapshot command as it travels: the bytes, and the volume the nexus addresses, if it does. */
export interface SnapshotCommand {
  readonly cdb: Uint8Array;
  readonly dataOut?: Uint8Array;
  readonly addressedVolumeId?: string;
  readonly labels?: Labels;
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
  const { volumeIds = [], ranges = [], immed } = request;
  const inCdb = fitsCdb(volumeIds, ranges);
  const [{ lba: firstLba, blockCount }] = inCdb && ranges.length === 1 ? ranges : [WHOLE];
  const list = request.name !== undefined || request.description !== undefined || !inCdb;
  const pool = volumeIds.length === 0;
  const listed = inCdb ? { volumeIds: [], ranges: [] } : toListed(volumeIds, ranges);
  return {
    cdb: encodeSnapshotCdb({ immed, pool, list, firstLba, blockCount }),
    ...(list ? { dataOut: encodeSnapshotParameterList({ ...toTexts(request), ...listed }) } : {}),
    ...(volumeIds.length === 1 ? { addressedVolumeId: volumeIds[0] } : {}),
  };
}

const WHOLE = { lba: 0, blockCount: 0 };

/** A CDB has room for all of a pool, or for one range of the volume that it addresses. */
function fitsCdb(volumeIds: string[], ranges: VolumeRange[]): boolean {
  return volumeIds.length <= 1 && ranges.length <= 1 &&
    ranges.every(({ lba, blockCount }) => lba <= CDB_NUMBER_MAX && blockCount <= CDB_NUMBER_MAX);
}

function toListed(volumeIds: string[], ranges: VolumeRange[]) {
  const ranged = new Set(ranges.map(({ volumeId }) => volumeId));
  return { volumeIds: volumeIds.filter((id) => !ranged.has(id)), ranges };
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
  { cdb, dataOut, addressedVolumeId, labels = {} }: SnapshotCommand,
  receivedAt: Date,
): MarkerRequest {
  const command = decodeSnapshotCdb(cdb);
  const list = decodeDataOut(command, dataOut);
  const chosen = chooseVolumes(command, list, addressedVolumeId);
  return {
    ...(list.name === undefined ? {} : { name: list.name }),
    ...(list.description === undefined ? {} : { description: list.description }),
    ...chosen,
    command,
    cdb,
    ...(dataOut === undefined ? {} : { dataOut }),
    labels,
    receivedAt,
  };
}

function toTexts({ name, description }: SnapshotRequest) {
  return {
    ...(name === undefined ? {} : { name }),
    ...(description === undefined ? {} : { description }),
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
  const decoded = dataOut === undefined
    ? { volumeIds: [], ranges: [] }
    : decodeSnapshotParameterList(dataOut);
  requireListed(decoded);
  return decoded;
}

/** Tells whether a text can describe a snapshot. */
export function isDescription(text: string): boolean {
  const bytes = new TextEncoder().encode(text);
  return bytes.length <= DESCRIPTION_BYTES_MAX && !bytes.includes(0) && text.isWellFormed();
}

function requireListed({ name, description, volumeIds, ranges }: SnapshotParameterList): void {
  const problem = name !== undefined && !NAME_PATTERN.test(name)
    ? "a name is 1 to 63 letters, digits, dots, underscores or hyphens"
    : description !== undefined && !isDescription(description)
    ? `a description is at most ${DESCRIPTION_BYTES_MAX} bytes without NUL`
    : new Set(volumeIds).size < volumeIds.length
    ? "a volume is named twice"
    : ranges.some(({ volumeId }) => volumeIds.includes(volumeId))
    ? "a volume is named both whole and by ranges"
    : undefined;
  if (problem === undefined) return;
  throw new StorageError(
    "parameter-list-invalid",
    `Cannot execute the command: in its parameter list, ${problem}`,
  );
}

/** POOL means every volume; otherwise the listed ones, or the one that the command addresses. */
function chooseVolumes(
  { pool, firstLba: lba, blockCount }: SnapshotCdb,
  { volumeIds, ranges }: SnapshotParameterList,
  addressedVolumeId?: string,
): Pick<MarkerRequest, "volumeIds" | "ranges"> {
  const listed = [...volumeIds, ...new Set(ranges.map(({ volumeId }) => volumeId))];
  if (pool && listed.length > 0) {
    throw new StorageError(
      "parameter-list-invalid",
      "Cannot execute the command: POOL is set and volumes are listed",
    );
  }
  if (pool) return { volumeIds: "all", ranges: [] };
  const isRange = lba > 0 || blockCount > 0;
  if (listed.length > 0 && isRange) {
    throw new StorageError(
      "cdb-field-invalid",
      "Cannot execute the command: its range is of the volume that it addresses, and volumes are listed",
    );
  }
  if (listed.length > 0) return { volumeIds: listed, ranges };
  if (addressedVolumeId === undefined) {
    throw new StorageError(
      "invalid-argument",
      "Cannot execute the command: it addresses no volume; name one or set POOL",
    );
  }
  const range = { volumeId: addressedVolumeId, lba, blockCount };
  return { volumeIds: [addressedVolumeId], ranges: isRange ? [range] : [] };
}
