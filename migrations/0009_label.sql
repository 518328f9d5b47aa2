-- Labels: keys with values on volumes and snapshots. kind tells which, so that who looks for volumes walks over no snapshots.
--
-- Both indexes end in the target's id, the order of lists: a page of those that carry a label is one walk.
create table labels (
  pool_id uuid not null,
  target_id uuid not null,
  key text not null,
  value text not null,
  kind text not null check (kind in ('volume', 'snapshot')),
  primary key (pool_id, target_id, key)
);
create index labels_value on labels (pool_id, kind, key, value, target_id);
create index labels_key on labels (pool_id, kind, key, target_id);
