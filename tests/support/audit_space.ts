/**
 * Whether everything about space is as it has to be, counted in full: what every history has to end with.
 */

import { assertEquals } from "@std/assert";
import type { Database } from "../../src/database/client.ts";

/** Asserts that each segment is free or mapped once, that no block is without a map row, and that the counters are right. */
export async function assertSpaceIsSound({ $client }: Database): Promise<void> {
  const [{ wrong_devices }] = await $client`
    select count(*) as wrong_devices from devices d
    where segments_touched - segments_returned <>
        (select count(*) from segment_map m where m.pool_id = d.pool_id and m.device_id = d.device_id)
      or segments_returned <> (select count(*) from free_segments f where f.pool_id = d.pool_id and f.device_id = d.device_id)`;
  const [{ twice }] = await $client`
    select count(*) as twice from free_segments f
    where exists (select from segment_map m where m.pool_id = f.pool_id and m.segment_id = f.segment_id)`;
  const [{ lost_blocks }] = await $client`
    select count(*) as lost_blocks from blocks k
    where not exists (select from segment_map m where m.pool_id = k.pool_id and m.segment_id = k.segment_id)`;
  const [{ lost_entries }] = await $client`
    select count(*) as lost_entries from cache c
    where segment_id is not null and
      not exists (select from segment_map m where m.pool_id = c.pool_id and m.segment_id = c.segment_id)`;
  const [{ wrong_timelines }] = await $client`
    select count(*) as wrong_timelines from timelines t
    where volume_id is null or segments_mapped <>
      (select count(*) from segment_map m where m.pool_id = t.pool_id and m.timeline_id = t.timeline_id)`;
  const [{ wrong_epochs }] = await $client`
    select count(*) as wrong_epochs from epoch_space e full join (
      select pool_id, timeline_id, epoch, count(*) as segments from segment_map group by pool_id, timeline_id, epoch
    ) m using (pool_id, timeline_id, epoch)
    where e.segments is distinct from m.segments`;
  const [{ lost_counts }] = await $client`
    select count(*) as lost_counts from snapshot_space x full join (
      select pool_id, snapshot_id from snapshots where status in ('pending', 'sealed')
    ) s using (pool_id, snapshot_id)
    where x.changed is null or s.snapshot_id is null`;
  const found = {
    wrong_devices,
    twice,
    lost_blocks,
    lost_entries,
    wrong_timelines,
    wrong_epochs,
    lost_counts,
  };
  assertEquals(found, {
    wrong_devices: 0,
    twice: 0,
    lost_blocks: 0,
    lost_entries: 0,
    wrong_timelines: 0,
    wrong_epochs: 0,
    lost_counts: 0,
  });
}
