/**
 * Import: the contents of a volume come as a stream of differences, against zeros or against a snapshot that the volume is still
 * equal to, and are taken as a whole or not at all.
 *
 * They are staged while they come ({@linkcode Staging}), so nobody sees half of them and no lock is held. At the end the volume
 * is switched to them, and a snapshot of just that is taken by the same transaction: the base for the next import.
 *
 * The steps of {@linkcode importVolume}:
 * 1. begin to stage, once the snapshot's name is known to be free
 * 2. write and clear what comes; behind the end that the volume is to have, clear the rest
 * 3. in one transaction: switch the volume, take the snapshot, write the audit record and the event
 * 4. whatever went wrong: drop what was staged. If that fails too, the reclaimer does it when the lease is over
 */

import { type Database, transact, type Transaction } from "../database/client.ts";
import type { Actor } from "./actor.ts";
import type { Appender } from "./appender.ts";
import { appendAudit } from "./audit.ts";
import type { BlockRange } from "./block.ts";
import { appendEvent } from "./event.ts";
import type { HeadMove } from "./head_move.ts";
import { requireName } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";
import { placeMarkerWithin } from "./marker.ts";
import { lockPool, type Pool, type PoolHead } from "./pool.ts";
import { encodeSnapshotCommand, toMarkerRequest } from "./snapshot_command.ts";
import { requireFreeSnapshotName, requireNewSnapshotName } from "./snapshot_name.ts";
import { StagedWriter } from "./staged_writer.ts";
import { beginStaging, dropStaging, type Staging, switchToStaging } from "./staging.ts";
import { toVolumeAudit, toVolumeEvent, type Volume } from "./volume.ts";

/** A part of what comes: blocks with their data, or (`blockCount`) blocks that read as zeros. Ascending, without overlap. */
export type ImportPart = { readonly lba: number; readonly data: Uint8Array } | BlockRange;

/** What is known before the data come. */
export interface NewImport {
  /** The snapshot that the parts are the difference to; without it, to zeros. */
  readonly baseId?: string;
  /** How many blocks the volume is to have. */
  readonly blockCount: number;
  /** Of the snapshot that is taken of it. */
  readonly snapshotName?: string;
}

/** A volume with its new contents, and the snapshot of them. */
export interface Imported extends HeadMove {
  readonly volume: Volume;
  readonly snapshotId: string;
  /** The snapshot's. */
  readonly sequence: number;
}

/** What an import works with. */
export interface ImportContext {
  readonly database: Database;
  readonly appender: Appender;
  readonly limits: StorageLimits;
  readonly clock: () => Date;
}

/**
 * Takes the contents of a volume from `parts`.
 *
 * @throws {StorageError} what {@linkcode beginStaging} and {@linkcode switchToStaging} refuse, among it `volume-changed`;
 *   `name-taken`, `invalid-argument` for the snapshot's name; what an append is refused for; whatever `parts` throws.
 */
export async function importVolume(
  context: ImportContext,
  actor: Actor,
  volume: Volume,
  input: NewImport,
  parts: AsyncIterable<ImportPart>,
): Promise<Imported> {
  const { database, appender, limits, clock } = context;
  const { pool: { poolId } } = volume;
  // 1.
  const { snapshotName, ...stage } = input;
  if (snapshotName !== undefined) {
    requireName(snapshotName);
    await requireFreeSnapshotName(database, poolId, snapshotName);
  }
  const keptUntil = new Date(clock().getTime() + limits.stagingKeptMs);
  const staging = await beginStaging(database, volume, { ...stage, keptUntil });
  try {
    // 2.
    await fill(context, actor, volume, staging, input, parts);
    // 3.
    return await appender.runAlone(() => finishImport(context, actor, volume, staging, input));
  } catch (error) {
    // 4.
    await dropStaging(database, poolId, staging.stagingId, clock()).catch(() => {});
    throw error;
  }
}

async function fill(
  context: ImportContext,
  actor: Actor,
  { pool }: Volume,
  staging: Staging,
  { baseId, blockCount }: NewImport,
  parts: AsyncIterable<ImportPart>,
): Promise<void> {
  const { flushWaitMsMax: waitMsMax } = context.limits;
  const options = { ...context, actor, leased: true, waitMsMax };
  const writer = new StagedWriter(pool, staging, baseId !== undefined, options);
  for await (const part of parts) {
    if ("data" in part) await writer.write(part.lba, part.data);
    else await writer.clear(part);
  }
  await writer.clearBehind(blockCount);
}

async function finishImport(
  { database, clock }: ImportContext,
  actor: Actor,
  { pool, volumeId }: Volume,
  { stagingId }: Staging,
  { baseId, blockCount, snapshotName: name }: NewImport,
): Promise<Imported> {
  return await requireNewSnapshotName(name, () =>
    transact(database, async (tx) => {
      const found = await lockPool(tx, pool.poolId);
      const finished = { volumeId, stagingId, blockCount, name, baseId };
      return await finishImportWithin(tx, actor, pool, found, finished, clock);
    }));
}

/** What is to be of staged contents that are complete. */
export interface FinishedStaging {
  readonly volumeId: string;
  readonly stagingId: string;
  readonly blockCount: number;
  readonly name?: string | undefined;
  readonly baseId?: string | undefined;
}

/** Step 3 as a part of `tx`, which has locked the pool and found its head there. */
export async function finishImportWithin(
  tx: Transaction,
  actor: Actor,
  pool: Pool,
  found: PoolHead,
  { volumeId, stagingId, blockCount, name, baseId }: FinishedStaging,
  clock: () => Date,
): Promise<Imported> {
  const words = { ...(name === undefined ? {} : { name }), volumeIds: [volumeId], immed: true };
  const marker = toMarkerRequest(encodeSnapshotCommand(words), clock());
  const at = clock();
  const volume = await switchToStaging(tx, pool, stagingId, blockCount, at);
  await appendAudit(tx, actor, toVolumeAudit(volume, "volume.import", at));
  const { snapshotId, left } = await placeMarkerWithin(tx, actor, pool, marker, clock);
  const event = toVolumeEvent(volume, "volume.imported", at);
  const body = { ...event.body, snapshotId, ...(baseId === undefined ? {} : { baseId }) };
  await appendEvent(tx, pool.poolId, { ...event, body });
  return { volume, snapshotId, sequence: left.sequenceAppended, found, left };
}
