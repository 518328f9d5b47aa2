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
  assertEquals({ wrong_devices, twice, lost_blocks, lost_entries }, {
    wrong_devices: 0,
    twice: 0,
    lost_blocks: 0,
    lost_entries: 0,
  });
}
