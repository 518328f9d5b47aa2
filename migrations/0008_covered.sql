-- What a snapshot covers of a volume may be several ranges. As a multirange they are kept sorted and merged, and whether a
-- slot is among them is one operator, without a join: reclaim asks it for every row of the map that it looks at.
alter table snapshot_volumes add column covered int8multirange;
update snapshot_volumes set covered = int8multirange(int8range(first_lba, first_lba + block_count));
alter table snapshot_volumes alter column covered set not null;
alter table snapshot_volumes drop column first_lba, drop column block_count;
