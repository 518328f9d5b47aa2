/**
 * Whether queue, audit and events tell of what there is, and of nothing else, counted in full: what every history has to end with.
 */

import { assertEquals } from "@std/assert";
import type { Database } from "../../src/database/client.ts";

/**
 * Asserts that the counters of each queue are right, that events have no gap, and that each volume, snapshot and seal has its audit
 * record and its event, once, and that there is no record without; and that nothing is staged that nobody drops.
 */
export async function assertRecordsAreSound({ $client }: Database): Promise<void> {
  const [queues] = await $client`
    select count(*) as wrong_queues from pool_heads h join pool_tails t using (pool_id) cross join lateral (
      select count(*) as entries, coalesce(sum(size_bytes), 0) as bytes, min(sequence) as first, max(sequence) as last
      from cache c where c.pool_id = h.pool_id
    ) c
    where h.sequence_appended - t.entries_flushed <> c.entries or h.bytes_appended - t.bytes_flushed <> c.bytes
      or c.first <= t.sequence_flushed or c.last > h.sequence_appended or t.sequence_flushed > h.sequence_appended
      or (c.entries = 0 and t.sequence_flushed <> h.sequence_appended)`;
  const [events] = await $client`
    select count(*) as wrong_event_heads from event_heads h
    where h.event_id <> (select count(*) from events e where e.pool_id = h.pool_id)
      or h.event_id <> (select coalesce(max(event_id), 0) from events e where e.pool_id = h.pool_id)`;
  const [snapshots] = await $client`
    select count(*) as wrong_snapshots from snapshots s
    where 1 <> (
        select count(*) from audit a
        where a.pool_id = s.pool_id and a.audit_id = s.audit_id and a.target_id = s.snapshot_id
          and a.action = 'snapshot.create' and a.marker_sequence = s.marker_sequence
      )
      or 1 <> ${told($client, "marker.committed")}
      or (s.status = 'sealed')::integer <> ${told($client, "snapshot.sealed")}
      or (s.status = 'cancelled')::integer <> ${told($client, "snapshot.cancelled")}
      or (s.status = 'pending') <> exists (
        select from cache c where c.pool_id = s.pool_id and c.sequence = s.marker_sequence and c.kind = 'marker'
      )`;
  const [completions] = await $client`
    select count(*) as wrong_completions from snapshots s
    join audit a on a.pool_id = s.pool_id and a.audit_id = s.audit_id
    where (s.status <> 'pending' and a.scsi_status is null)::integer <> (
      select count(*) from audit_completions c where c.pool_id = s.pool_id and c.audit_id = s.audit_id
    )`;
  const [volumes] = await $client`
    select count(*) as wrong_volumes from volumes v
    where 1 <> (
        select count(*) from events e
        where e.pool_id = v.pool_id and e.volume_id = v.volume_id and e.type = 'volume.created'
      )
      or (v.deleted_at is not null)::integer <> (
        select count(*) from events e
        where e.pool_id = v.pool_id and e.volume_id = v.volume_id and e.type = 'volume.deleted'
      )
      or (v.deleted_at is not null)::integer <> (
        select count(*) from audit a
        where a.pool_id = v.pool_id and a.target_id = v.volume_id and a.action = 'volume.delete'
      )`;
  const [records] = await $client`
    select count(*) as false_records from audit a
    where (action = 'snapshot.create'
        and not exists (select from snapshots s where s.pool_id = a.pool_id and s.snapshot_id = a.target_id)
        and not exists (
          select from audit d where d.pool_id = a.pool_id and d.target_id = a.target_id and d.action = 'snapshot.delete'
        ))
      or (action in ('volume.create', 'volume.clone')
        and not exists (select from volumes v where v.pool_id = a.pool_id and v.volume_id = a.target_id))`;
  const [stagings] = await $client`
    select count(*) as kept_stagings from stagings t
    where kept_until is null and not exists (
      select from copies c where c.target_pool_id = t.pool_id and c.staging_id = t.staging_id and c.status = 'running'
    )`;
  const found = { ...queues, ...events, ...snapshots, ...completions, ...volumes, ...records, ...stagings };
  assertEquals(found, Object.fromEntries(Object.keys(found).map((name) => [name, 0])));
}

function told($client: Database["$client"], type: string) {
  return $client`(
    select count(*) from events e where e.pool_id = s.pool_id and e.snapshot_id = s.snapshot_id and e.type = ${type}
  )`;
}
