-- Scrubs: passes over all blocks of a device, each compared with its checksum. A device has one row: its last pass, or the one
-- under way.
--
-- done_segment and done_block are the key of the last block that was looked at. corrupt holds the places of the first corrupt
-- blocks, oldest first. Whoever has the row locked does a step of it.
create table scrubs (
  pool_id uuid not null,
  device_id uuid not null,
  scrub_id uuid not null,
  status text not null check (status in ('running', 'done', 'cancelled')),
  done_segment bigint not null default -1,
  done_block integer not null default -1,
  blocks_checked bigint not null default 0,
  blocks_unchecked bigint not null default 0,
  blocks_corrupt bigint not null default 0,
  corrupt jsonb not null default '[]',
  told_at timestamptz not null,
  started_at timestamptz not null,
  ended_at timestamptz,
  primary key (pool_id, device_id)
);
create index scrubs_running on scrubs (pool_id, device_id) where status = 'running';
