-- Write-through: blocks go straight to where a flush would bring them, in the transaction that moves the pool's head.
alter table pool_heads drop constraint pool_heads_cache_mode_check;
alter table pool_heads add constraint pool_heads_cache_mode_check
  check (cache_mode in ('write-back', 'write-back-relaxed', 'write-through'));

-- What never was in the cache. It is counted here and not with what was flushed, whose row is the flusher's. bytes_appended
-- counts what went to the cache only, so what is dirty stays a subtraction.
alter table pool_heads
  add column entries_through bigint not null default 0,
  add column bytes_through bigint not null default 0;

-- entries_through of the pool when the marker was appended.
alter table snapshots add column entries_through bigint not null default 0;

drop function append_at(uuid, uuid, bigint, bigint, bigint, bigint);
create function append_at(
  pool uuid, life uuid, version bigint, sequence bigint, sequences bigint, bytes bigint, through boolean
) returns void language plpgsql as $$
declare
  found_version bigint;
  found_sequence bigint;
  found_life uuid;
begin
  update pool_heads h
    set sequence_appended = h.sequence_appended + sequences,
      bytes_appended = h.bytes_appended + case when through then 0 else bytes end,
      entries_through = h.entries_through + case when through then sequences else 0 end,
      bytes_through = h.bytes_through + case when through then bytes else 0 end
    where h.pool_id = pool
    returning h.map_version, h.sequence_appended - sequences into found_version, found_sequence;
  select l.life into found_life from pool_lives l where l.pool_id = pool;
  if found_version is distinct from version or found_sequence is distinct from sequence
    or found_life is distinct from append_at.life then
    raise exception 'the head of pool % has moved', pool using errcode = 'SM001';
  end if;
end $$;

-- Where runs of blocks are copied to that are to stand in `blocks`: COPY itself cannot put a block over an older one. A run
-- without data is trimmed.
create view write_through as
  select pool_id, device_id, segment_id, block_index as first_block, 1::integer as block_count, sequence, data,
    checksum as checksums
  from blocks;
create function insert_through() returns trigger language plpgsql as $$
declare
  size integer := octet_length(new.data) / new.block_count;
begin
  insert into blocks (pool_id, device_id, segment_id, block_index, sequence, data, checksum)
    select new.pool_id, new.device_id, new.segment_id, new.first_block + i, new.sequence,
      case when new.block_count = 1 then new.data else substring(new.data from i * size + 1 for size) end,
      substring(new.checksums from i * 4 + 1 for 4)
    from generate_series(0, new.block_count - 1) as i
    on conflict (pool_id, device_id, segment_id, block_index) do update
      set sequence = excluded.sequence, data = excluded.data, checksum = excluded.checksum
      where blocks.sequence < excluded.sequence;
  return new;
end $$;
create trigger insert_through instead of insert on write_through for each row execute function insert_through();
