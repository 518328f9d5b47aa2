-- Staged contents: what is to become of a volume, on a timeline of its own, while its data come. Nobody sees them before they
-- are complete; then the volume is switched to that timeline, or else they are dropped and reclaimed.
--
-- block_count is how far they may be written. They take the place of a volume that is as it was: on volume_timeline_id, with
-- volume_blocks, and without a write behind (since_timeline_id, since_epoch). kept_until: dropped then, unless it is put off by
-- whoever is at it; null: kept as long as what they belong to.
create table stagings (
  pool_id uuid not null,
  staging_id uuid not null,
  volume_id uuid not null,
  timeline_id bigint not null,
  block_count bigint not null,
  volume_timeline_id bigint not null,
  volume_blocks bigint not null,
  since_timeline_id bigint not null,
  since_epoch bigint not null,
  kept_until timestamptz,
  primary key (pool_id, staging_id)
);
create index stagings_kept_until on stagings (kept_until) where kept_until is not null;
