-- Schedules: which volumes of a pool get a snapshot when, and how long those are kept.
--
-- volume_ids or label choose the volumes; both null: every volume of the pool. Either cron or every is set. next_run_at is
-- null while the schedule is paused. revision counts the changes by people: who has decided something on what it read
-- sees whether that still holds. Retention is due while it was asked for more often than it was done.
create table schedules (
  pool_id uuid not null,
  schedule_id uuid not null,
  name text not null,
  volume_ids uuid[],
  label text,
  cron text,
  every text,
  time_zone text not null,
  keep jsonb,
  skip_unchanged boolean not null,
  snapshot_name text not null,
  labels jsonb not null,
  paused boolean not null,
  created_at timestamptz not null,
  revision bigint not null default 0,
  next_run_at timestamptz,
  last_run_at timestamptz,
  last_snapshot_id uuid,
  last_error text,
  retentions_asked bigint not null default 0,
  retentions_done bigint not null default 0,
  primary key (pool_id, schedule_id)
);
create unique index schedules_name on schedules (pool_id, name);
create index schedules_id on schedules (schedule_id);
create index schedules_due on schedules (pool_id, next_run_at) where next_run_at is not null;
create index schedules_retention on schedules (pool_id, schedule_id) where retentions_asked > retentions_done;

-- Which schedule has made a snapshot: no other's are removed by its rules.
alter table snapshots add column schedule_id uuid;
create index snapshots_schedule on snapshots (pool_id, schedule_id, marker_sequence) where schedule_id is not null;
