/**
 * A stream of events as a subscriber asks for it: which pool it is of, what of that it tells, and where it stands.
 */

import type { Database } from "../database/client.ts";
import { type EventFilter, readLastEventId } from "./event.ts";
import { DEFAULT_POOL, findPoolId, getPool } from "./pool.ts";
import { getSnapshot } from "./snapshot.ts";
import { findVolumePlace } from "./volume.ts";

/** What a subscriber wants told, with references: all of a pool, or what concerns a volume, a snapshot, or certain types. */
export interface EventStreamInput {
  readonly pool?: string;
  readonly volume?: string;
  readonly snapshot?: string;
  readonly types?: EventFilter["types"];
  /** The ids of the volumes that may be told of; by default, all. */
  readonly within?: EventFilter["within"];
}

export interface EventStream {
  readonly poolId: string;
  readonly filter: EventFilter;
  /** The pool's last event so far. */
  readonly lastEventId: number;
}

/** @throws {StorageError} `pool-not-found`, `volume-not-found`, `snapshot-not-found`, `ambiguous-name`. */
export async function findStream(database: Database, input: EventStreamInput): Promise<EventStream> {
  const volume = input.volume === undefined
    ? undefined
    : await findVolumePlace(database, input.volume, await findPoolId(database, input.pool));
  const snapshot = input.snapshot === undefined
    ? undefined
    : await getSnapshot(database, input.snapshot, await findPoolId(database, input.pool));
  const { poolId } = volume ?? snapshot?.pool ?? await getPool(database, input.pool ?? DEFAULT_POOL);
  const filter = {
    ...(volume === undefined ? {} : { volumeId: volume.volumeId }),
    ...(snapshot === undefined ? {} : { snapshotId: snapshot.snapshotId }),
    ...(input.within === undefined ? {} : { within: input.within }),
    ...(input.types === undefined ? {} : { types: input.types }),
  };
  return { poolId, filter, lastEventId: await readLastEventId(database, poolId) };
}
