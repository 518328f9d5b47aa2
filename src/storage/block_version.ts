/**
 * The newest version of a block inside one segment: the highest sequence wins, be it in the cache or in `blocks`. Not
 * "cache first", for an older write may wait in the cache while a newer one is flushed already.
 */

import type { Client } from "../database/client.ts";
import { CHECKSUM_BYTES } from "./checksum.ts";
import type { Pool } from "./pool.ts";

/**
 * A subquery of one row (sequence, data, checksum, queued) or none, for block `b.lba` in the segment of map row `m`. A row
 * without data means zeros.
 *
 * @param what `presence` answers in `data` whether there are data, and reads none.
 */
export function newestVersion(client: Client, { poolId, segmentBlocks }: Pool, what: "data" | "presence") {
  const blockIndex = client`(b.lba % ${segmentBlocks}::bigint)::integer`;
  const inRun = client`(b.lba % ${segmentBlocks}::bigint - c.first_block)::integer`;
  const flushed = what === "data"
    ? client`k.data, k.checksum`
    : client`k.data is not null as data, null as checksum`;
  const queued = what === "presence"
    ? client`c.data is not null as data, null as checksum`
    : client`substring(c.data from ${inRun} * (c.size_bytes / c.block_count)::integer + 1
        for (c.size_bytes / c.block_count)::integer) as data,
      substring(c.checksums from ${inRun} * ${CHECKSUM_BYTES}::integer + 1 for ${CHECKSUM_BYTES}::integer) as checksum`;
  return client`(
    (
      select k.sequence, ${flushed}, false as queued from blocks k
      where k.pool_id = ${poolId} and k.device_id = m.device_id and k.segment_id = m.segment_id
        and k.block_index = ${blockIndex}
    ) union all (
      select c.sequence, ${queued}, true as queued
      from cache c
      where c.pool_id = ${poolId} and c.segment_id = m.segment_id
        and c.first_block <= ${blockIndex}
        and c.first_block + c.block_count > b.lba % ${segmentBlocks}::bigint
      order by c.sequence desc limit 1
    )
    order by sequence desc limit 1
  )`;
}
