-- Digests of sealed snapshots, and how they were found when they were last looked at.
--
-- A snapshot's digest is over those of its volumes (src/storage/contents_digest.ts). checked_at is when its blocks were last read as a
-- whole; intact whether they were then what the digests say. fault tells, of a volume, why not.
alter table snapshots add digest bytea, add digested_at timestamptz, add checked_at timestamptz, add intact boolean;
alter table snapshot_volumes add digest bytea, add fault text;
-- What nobody has looked at: a seal need not tell of it.
create index snapshots_unchecked on snapshots (pool_id, marker_sequence)
  where status = 'sealed' and checked_at is null;
create index snapshots_damaged on snapshots (pool_id) where not intact;

-- A snapshot that is being read, as a job that any worker takes up where another left it: up to which block of which of its volumes
-- (in the order of their ids) that is, and the chain there. volume_id is absent when it covers none. worker_id has it until
-- leased_until.
create table digestions (
  pool_id uuid not null,
  snapshot_id uuid not null,
  volume_id uuid,
  position bigint not null default 0,
  chain bytea not null default decode(repeat('00', 32), 'hex'),
  worker_id uuid,
  leased_until timestamptz,
  created_at timestamptz not null,
  primary key (pool_id, snapshot_id)
);
create index digestions_age on digestions (created_at);
