-- A timeline that only one other reads is merged into it, so that what a volume keeps does not grow by every revert.
--
-- The epochs of a timeline count on from the moment that it started from, so rows of its parent are older than its own by their
-- epochs too. first_epoch is the oldest that there can be. Timelines from before count from zero and stay as they are.
alter table timelines add column first_epoch bigint not null default 0;

-- reader: one that went. closed: an epoch that was closed with no reader of every slot next to it; what it has overwritten of older
-- ones is to be looked at. merge: a timeline that only one other read when the task was made.
alter table reclaims add column kind text not null default 'reader' check (kind in ('reader', 'closed', 'merge'));
update reclaims set kind = 'closed' where closed;
alter table reclaims drop column closed;
create unique index reclaims_merge on reclaims (pool_id, timeline_id) where kind = 'merge';
