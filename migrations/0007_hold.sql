-- Holds: until when a snapshot cannot be deleted, by nobody.
alter table snapshots add column held_until timestamptz, add column hold_reason text;
