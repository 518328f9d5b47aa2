-- Lets an append wait for the one before it. What `append_at` was to find is judged after the row is locked: judged in its
-- `where`, it was compared with the row as it was when the statement began, and so failed at once while another append of
-- the same process was about to leave the head just there.
create or replace function append_at(
  pool uuid, version bigint, sequence bigint, sequences bigint, bytes bigint
) returns void language plpgsql as $$
declare
  found_version bigint;
  found_sequence bigint;
begin
  update pool_heads h
    set sequence_appended = h.sequence_appended + sequences, bytes_appended = h.bytes_appended + bytes
    where h.pool_id = pool
    returning h.map_version, h.sequence_appended - sequences into found_version, found_sequence;
  if found_version is distinct from version or found_sequence is distinct from sequence then
    raise exception 'the head of pool % has moved', pool using errcode = 'SM001';
  end if;
end $$;
