-- Reclaim: what is to be looked at because a reader went: a snapshot that was deleted or cancelled, a live volume, a timeline.
--
-- (timeline_id, epoch) is what it read. The rows of the map with an epoch up to that, and above the next older reader's,
-- are looked at in order of (epoch, slot); done_epoch and done_slot are the last of them. waiting: some had to be left for
-- entries that are still in the queue, so that another round is needed.
create table reclaims (
  pool_id uuid not null,
  reclaim_id uuid not null,
  timeline_id bigint not null,
  epoch bigint not null,
  done_epoch bigint not null default -1,
  done_slot bigint not null default -1,
  waiting boolean not null default false,
  segments_returned bigint not null default 0,
  looked_at timestamptz not null,
  primary key (pool_id, reclaim_id)
);
create index reclaims_next on reclaims (pool_id, looked_at, reclaim_id);

-- Who reads a timeline: snapshots, and timelines that start from it.
create index snapshot_volumes_timeline on snapshot_volumes (pool_id, timeline_id, epoch);
create index timelines_parent on timelines (pool_id, parent_timeline_id, parent_epoch)
  where parent_timeline_id is not null;
create index volumes_timeline on volumes (pool_id, timeline_id) where deleted_at is null;
