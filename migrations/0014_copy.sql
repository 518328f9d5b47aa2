-- Copies: snapshots on their way into another pool, as jobs that any worker takes up where another left them.
--
-- A mirror is a volume that holds the copies of a volume of another pool. It stands with the copies' pool.
create table mirrors (
  pool_id uuid not null,
  volume_id uuid not null,
  source_pool_id uuid not null,
  source_volume_id uuid not null,
  primary key (pool_id, volume_id)
);
create index mirrors_source on mirrors (pool_id, source_pool_id, source_volume_id);

-- A job stands with its source. phase says what is being done, and position up to which block that is; the chains are those of
-- the digests of both sides. worker_id has it until leased_until. The client is whose writes they are in the other pool.
create table copies (
  pool_id uuid not null,
  copy_id uuid not null,
  snapshot_id uuid not null,
  volume_id uuid not null,
  target_pool_id uuid not null,
  target_volume_id uuid not null,
  status text not null check (status in ('running', 'done', 'failed', 'cancelled')),
  phase text not null,
  position bigint not null default 0,
  base_id uuid,
  staging_id uuid,
  bytes_copied bigint not null default 0,
  bytes_total bigint not null default 0,
  source_chain bytea not null,
  target_chain bytea not null,
  target_snapshot_id uuid,
  digest text,
  failure_code text,
  failure_detail text,
  client_id uuid not null,
  client_name text not null,
  priority smallint not null,
  origin text not null,
  worker_id uuid,
  leased_until timestamptz,
  told_at timestamptz not null,
  created_at timestamptz not null,
  ended_at timestamptz,
  primary key (pool_id, copy_id)
);
create index copies_id on copies (copy_id);
create index copies_snapshot on copies (pool_id, snapshot_id, copy_id);
create index copies_running on copies (pool_id, copy_id) where status = 'running';
create index copies_target on copies (target_pool_id, target_volume_id, copy_id) where status = 'done';
