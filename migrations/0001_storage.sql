-- The storage model: pools with their devices and segments, volumes on timelines, the cache queue, the block
-- tables, snapshots, audit and events.
--
-- Every key leads with pool_id: nothing crosses pools, so the whole schema distributes by pool (Citus). The hot
-- tables (cache, blocks, segment_map, pool_heads, pool_tails) carry no foreign keys: what they name is fixed
-- under the pool row's lock, and a foreign key would take a row lock on the named row for every entry.
--
-- A pool is three rows, so that those who write never wait for those who flush:
--   pools       what it is; never changes
--   pool_heads  the ordered point. "The pool row's lock" is a lock on this row: appends, and whatever changes
--               the map, take it first. Narrow, keyed only, mostly empty pages: each batch updates it in place (HOT)
--   pool_tails  what the flusher has done. Its lock is the right to flush the pool
create table pools (
  pool_id uuid primary key,
  name text not null,
  block_size_bytes integer not null,
  segment_blocks integer not null,
  cache_bytes_max bigint not null,
  created_at timestamptz not null
);
create unique index pools_name on pools (name);

create table pool_heads (
  pool_id uuid primary key,
  sequence_appended bigint not null default 0,
  bytes_appended bigint not null default 0,
  map_version bigint not null default 0,
  timelines_created bigint not null default 0,
  segments_created bigint not null default 0
) with (fillfactor = 20);

-- sequence_flushed: no entry at or below it is left in the cache. entries_flushed and bytes_flushed count all that
-- ever left, so what is dirty is a subtraction (pool_heads minus pool_tails), and so is what is ahead of a marker.
create table pool_tails (
  pool_id uuid primary key,
  sequence_flushed bigint not null default 0,
  entries_flushed bigint not null default 0,
  bytes_flushed bigint not null default 0,
  bytes_per_second bigint not null default 0,
  flushed_at timestamptz
) with (fillfactor = 20);

-- Segments of a device are numbered first_segment_id + 0 .. segment_count - 1. Those from segments_touched on have
-- never been taken, so a device of any size is added in O(1); those given back stand in free_segments.
create table devices (
  pool_id uuid not null,
  device_id uuid not null,
  name text not null,
  block_count bigint not null,
  first_segment_id bigint not null,
  segment_count bigint not null,
  segments_touched bigint not null default 0,
  segments_returned bigint not null default 0,
  created_at timestamptz not null,
  primary key (pool_id, device_id)
) with (fillfactor = 50);
create unique index devices_name on devices (pool_id, name);
create index devices_id on devices (device_id);

create table free_segments (
  pool_id uuid not null,
  segment_id bigint not null,
  device_id uuid not null,
  primary key (pool_id, segment_id)
);

-- A timeline starts empty, or from (parent_timeline_id, parent_epoch).
create table timelines (
  pool_id uuid not null,
  timeline_id bigint not null,
  open_epoch bigint not null default 0,
  parent_timeline_id bigint,
  parent_epoch bigint,
  primary key (pool_id, timeline_id)
) with (fillfactor = 50);

create table volumes (
  pool_id uuid not null,
  volume_id uuid not null,
  name text not null,
  block_count bigint not null,
  timeline_id bigint not null,
  created_at timestamptz not null,
  deleted_at timestamptz,
  primary key (pool_id, volume_id)
);
create unique index volumes_name on volumes (pool_id, name) where deleted_at is null;
create index volumes_id on volumes (volume_id);

-- (timeline, slot, epoch) -> segment. The second index is the invariant that a segment is named by one row at most.
create table segment_map (
  pool_id uuid not null,
  timeline_id bigint not null,
  slot bigint not null,
  epoch bigint not null,
  segment_id bigint not null,
  device_id uuid not null,
  primary key (pool_id, timeline_id, slot, epoch)
);
create unique index segment_map_segment on segment_map (pool_id, segment_id);

-- The queue. An entry is a write (a run of blocks inside one segment), a trim (the same without data; one that
-- found nothing to trim has no segment), or a marker. first_block counts within the segment. lba, volume_id and
-- client_id are for people and for limits; the flush needs only the destination.
-- Up to 8,160 bytes a row stays whole in its page, longer ones go out of line, never compressed: block data is
-- written once, read once and gone. Emptied all the time, so vacuumed early and at full speed.
create table cache (
  pool_id uuid not null,
  sequence bigint not null,
  kind text not null check (kind in ('write', 'trim', 'marker')),
  client_id uuid not null,
  priority smallint not null,
  volume_id uuid,
  lba bigint,
  device_id uuid,
  segment_id bigint,
  first_block integer,
  block_count bigint not null,
  size_bytes integer not null,
  appended_at timestamptz not null,
  data bytea,
  primary key (pool_id, sequence)
) with (
  toast_tuple_target = 8160,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 1000000,
  autovacuum_vacuum_cost_delay = 0
);
alter table cache alter column data set storage external;
-- Statistics taken while one segment is written over and over would make the planner read the whole queue for a block.
alter table cache alter column segment_id set (n_distinct = -0.5);
create index cache_segment on cache (pool_id, segment_id, sequence) where segment_id is not null;
create index cache_markers on cache (pool_id, sequence) where kind = 'marker';

-- One row a block, one partition a device (attached when the device is added). No row: look further back.
-- A row without data: zeros. block_index counts within the segment.
create table blocks (
  pool_id uuid not null,
  device_id uuid not null,
  segment_id bigint not null,
  block_index integer not null,
  sequence bigint not null,
  data bytea,
  primary key (pool_id, device_id, segment_id, block_index)
) partition by list (device_id);
alter table blocks alter column data set storage external;

-- bytes_before is pool_heads.bytes_appended when the marker was appended.
create table snapshots (
  pool_id uuid not null,
  snapshot_id uuid not null,
  name text,
  description text,
  status text not null check (status in ('pending', 'sealed', 'cancelled', 'failed')),
  marker_sequence bigint not null,
  bytes_before bigint not null,
  audit_id uuid not null,
  created_at timestamptz not null,
  sealed_at timestamptz,
  primary key (pool_id, snapshot_id)
);
create unique index snapshots_name on snapshots (pool_id, name);
create index snapshots_id on snapshots (snapshot_id);
create index snapshots_marker on snapshots (pool_id, marker_sequence);

-- What of which volume a snapshot covers: blocks first_lba .. first_lba + block_count - 1 of the volume, as of the
-- end of (timeline_id, epoch).
create table snapshot_volumes (
  pool_id uuid not null,
  snapshot_id uuid not null,
  volume_id uuid not null,
  timeline_id bigint not null,
  epoch bigint not null,
  first_lba bigint not null,
  block_count bigint not null,
  primary key (pool_id, snapshot_id, volume_id)
);

-- Who did what, written in the transaction that did it. cdb, data_out, scsi_status and phases are set for SCSI
-- commands; phases is the list of {phase, at, ...} in order.
create table audit (
  pool_id uuid not null,
  audit_id uuid not null,
  at timestamptz not null,
  client_id uuid not null,
  client_name text not null,
  origin text not null,
  action text not null,
  target_id uuid not null,
  target_name text,
  cdb bytea,
  data_out bytea,
  scsi_status text,
  phases jsonb,
  marker_sequence bigint,
  primary key (pool_id, audit_id)
);
create index audit_id on audit (audit_id);

-- event_id rises without a gap in commit order within its pool: it is taken from event_heads, whose row stays
-- locked until commit, as the last lock a transaction takes.
create table event_heads (
  pool_id uuid primary key,
  event_id bigint not null default 0
) with (fillfactor = 20);

create table events (
  pool_id uuid not null,
  event_id bigint not null,
  type text not null,
  at timestamptz not null,
  snapshot_id uuid,
  device_id uuid,
  volume_id uuid,
  body jsonb not null,
  primary key (pool_id, event_id)
);
