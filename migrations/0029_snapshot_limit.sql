-- How many snapshots a volume may have; null for as many as anybody takes. Counted when one is taken, under the pool's lock.
alter table volumes add column snapshots_max integer check (snapshots_max > 0);
