-- What makes writing and reading faster.
--
-- Appends without a question first: a process that knows where the head of its pool stands moves it and adds its
-- entries in one message. Whoever else moved the head or changed the map meanwhile makes that message fail as a
-- whole, with an SQLSTATE of our own.
create function append_at(
  pool uuid, version bigint, sequence bigint, sequences bigint, bytes bigint
) returns void language plpgsql as $$
begin
  update pool_heads h
    set sequence_appended = h.sequence_appended + sequences, bytes_appended = h.bytes_appended + bytes
    where h.pool_id = pool and h.sequence_appended = sequence and h.map_version = version;
  if not found then
    raise exception 'the head of pool % has moved', pool using errcode = 'SM001';
  end if;
end $$;

-- A read looks for the newest entry of a segment that has a block: judged in the index, it fetches that entry alone.
drop index cache_segment;
create index cache_segment on cache (pool_id, segment_id, sequence, first_block, (first_block + block_count))
  where segment_id is not null;
