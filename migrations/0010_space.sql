-- Space as counters, so that telling it costs no walk over the map.
--
-- Which volume's history a timeline is (also those that a revert has left), and the segments that it has taken.
alter table timelines add column volume_id uuid, add column segments_mapped bigint not null default 0;
update timelines t set volume_id = v.volume_id from snapshot_volumes v
  where v.pool_id = t.pool_id and v.timeline_id = t.timeline_id;
update timelines t set volume_id = v.volume_id from volumes v
  where v.pool_id = t.pool_id and v.timeline_id = t.timeline_id;
update timelines t set segments_mapped = (
  select count(*) from segment_map m where m.pool_id = t.pool_id and m.timeline_id = t.timeline_id
);
create index timelines_volume on timelines (pool_id, volume_id);

-- closed: not a reader that went, but an epoch that was closed with no reader of every slot next to it. What it has
-- overwritten of older ones is to be looked at.
alter table reclaims add column closed boolean not null default false;

-- The segments that each epoch of a timeline has taken. counted: the snapshots that it concerns know of them.
create table epoch_space (
  pool_id uuid not null,
  timeline_id bigint not null,
  epoch bigint not null,
  segments bigint not null,
  counted boolean not null default false,
  primary key (pool_id, timeline_id, epoch)
) with (fillfactor = 50);
create index epoch_space_uncounted on epoch_space (pool_id, timeline_id, epoch) where not counted;
insert into epoch_space (pool_id, timeline_id, epoch, segments)
  select pool_id, timeline_id, epoch, count(*) from segment_map group by pool_id, timeline_id, epoch;

-- What a snapshot holds alone, counted in the background. changed rises whenever something happens that may change it, and
-- counted is what it was when the count began. ranged_segments: what it reads of volumes that it does not cover whole.
create table snapshot_space (
  pool_id uuid not null,
  snapshot_id uuid not null,
  unique_segments bigint not null default 0,
  ranged_segments bigint not null default 0,
  changed bigint not null default 0,
  counted bigint not null default 0,
  counted_at timestamptz,
  primary key (pool_id, snapshot_id)
) with (fillfactor = 50);
create index snapshot_space_changed on snapshot_space (pool_id, snapshot_id) where changed > counted;
insert into snapshot_space (pool_id, snapshot_id, changed)
  select pool_id, snapshot_id, 1 from snapshots where status in ('pending', 'sealed');

-- Snapshots that read every slot of a timeline, and those that read some: the nearest one is found past any number of the
-- other kind.
create index snapshot_volumes_whole on snapshot_volumes (pool_id, timeline_id, epoch)
  where covered @> int8range(0, volume_blocks);
create index snapshot_volumes_ranged on snapshot_volumes (pool_id, timeline_id, epoch)
  where not covered @> int8range(0, volume_blocks);
