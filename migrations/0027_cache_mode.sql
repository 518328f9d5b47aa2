-- How a pool's cache takes writes. It stands in the ordered point's row, because an append obeys what it reads under that lock.
alter table pool_heads add column cache_mode text not null default 'write-back'
  check (cache_mode in ('write-back', 'write-back-relaxed'));

-- The life of the database, by pool: PostgreSQL empties an unlogged table when it comes back from a crash, and only then. Who
-- finds no life begins one. So what a process remembers is right only within one life: with relaxed durability, a crash
-- takes the queue back to where it was a moment before.
create unlogged table pool_lives (
  pool_id uuid primary key,
  life uuid not null
);

-- An append from where a process knows the head to be fails also when that was in another life. It is judged like the rest
-- behind the lock.
drop function append_at(uuid, bigint, bigint, bigint, bigint);
create function append_at(
  pool uuid, life uuid, version bigint, sequence bigint, sequences bigint, bytes bigint
) returns void language plpgsql as $$
declare
  found_version bigint;
  found_sequence bigint;
  found_life uuid;
begin
  update pool_heads h
    set sequence_appended = h.sequence_appended + sequences, bytes_appended = h.bytes_appended + bytes
    where h.pool_id = pool
    returning h.map_version, h.sequence_appended - sequences into found_version, found_sequence;
  select l.life into found_life from pool_lives l where l.pool_id = pool;
  if found_version is distinct from version or found_sequence is distinct from sequence
    or found_life is distinct from append_at.life then
    raise exception 'the head of pool % has moved', pool using errcode = 'SM001';
  end if;
end $$;
