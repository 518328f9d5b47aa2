/**
 * What a pending snapshot waits for, by client: the entries ahead of its marker, counted in the cache.
 *
 * Unlike progress, which is a subtraction, this looks at each entry ahead of the marker, in order of the queue: as many as the
 * cache may hold (60 to 110 ms for 65,536 entries of 4 KiB). So it is for one snapshot that somebody looks at, not for lists.
 * One statement, one moment: the shares add up to the totals that are told with them.
 */

import type { Database } from "../database/client.ts";
import { type ClientShare, estimateSeal } from "./seal_progress.ts";
import type { Snapshot } from "./snapshot.ts";

/** Clients that are told one by one; the others are one share together. */
export const PREVIEW_CLIENTS_MAX = 20;

// Statements

interface ShareRow {
  client_id: string | null;
  entries: number;
  bytes: number;
}

async function selectShares({ $client }: Database, poolId: string, sequence: number): Promise<ShareRow[]> {
  return await $client<ShareRow[]>`
    with share as (
      select client_id, count(*) as entries, sum(size_bytes) as bytes
      from cache where pool_id = ${poolId} and sequence < ${sequence}
      group by client_id
    ), ranked as (
      select *, least(row_number() over (order by bytes desc, entries desc, client_id), ${
    PREVIEW_CLIENTS_MAX + 1
  }::bigint) as rank
      from share
    )
    select case when rank <= ${PREVIEW_CLIENTS_MAX}::bigint then min(client_id::text)::uuid end as client_id,
      sum(entries)::bigint as entries, sum(bytes)::bigint as bytes
    from ranked group by rank order by rank`;
}

// Verbs

/** The snapshot, if it is pending with the shares of the clients in what is ahead of its marker, the largest first. */
export async function previewSeal(database: Database, snapshot: Snapshot): Promise<Snapshot> {
  if (snapshot.status !== "pending") return snapshot;
  const rows = await selectShares(database, snapshot.pool.poolId, snapshot.sequence);
  const byClient = rows.map(toShare);
  const progress = estimateSeal(sum(byClient), snapshot.progress.bytesPerSecond);
  return { ...snapshot, progress: { ...progress, byClient } };
}

function toShare({ client_id: clientId, entries, bytes }: ShareRow): ClientShare {
  return { ...(clientId === null ? {} : { clientId }), entriesAhead: entries, bytesAhead: bytes };
}

function sum(shares: ClientShare[]): ClientShare {
  return {
    entriesAhead: shares.reduce((entries, share) => entries + share.entriesAhead, 0),
    bytesAhead: shares.reduce((bytes, share) => bytes + share.bytesAhead, 0),
  };
}
