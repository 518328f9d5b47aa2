-- What clones, reverts and comparisons of snapshots need.
--
-- How large a covered volume was at the marker: who covers all of it can be cloned and reverted to. Of snapshots
-- made before, what they cover is taken for all there was.
alter table snapshot_volumes add column volume_blocks bigint;
update snapshot_volumes set volume_blocks = first_lba + block_count;
alter table snapshot_volumes alter column volume_blocks set not null;

-- What an epoch has mapped, without a walk over the slots that others have.
create index segment_map_epoch on segment_map (pool_id, timeline_id, epoch, slot);
