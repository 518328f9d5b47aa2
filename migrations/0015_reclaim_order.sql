-- Reclaim looks at rows in descending order of (epoch, slot), so that a block is moved once rather than from epoch to epoch. What
-- is under way begins again; done_epoch is -1 as long as nothing was looked at.
update reclaims set done_epoch = -1, done_slot = -1 where not closed;

-- Readers that stood next to each other are one task, for the youngest of them.
create index reclaims_timeline on reclaims (pool_id, timeline_id, epoch);
