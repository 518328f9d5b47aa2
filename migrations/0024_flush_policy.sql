-- When a pool is flushed, a row for each. policy: {"kind": "at-once"}, {"kind": "interval", "intervalMs": n}, or
-- {"kind": "threshold", "dirtyBytes": n, "maxAgeMs": n}. sequence_asked: all up to it is to be flushed now, whatever the
-- policy, because somebody waits for it or because the policy has said so.
--
-- Beside the pool's three rows: `pools` never changes, and the other two are locked by who appends and who flushes.
create table flush_policies (
  pool_id uuid primary key,
  policy jsonb not null,
  sequence_asked bigint not null default 0
) with (fillfactor = 50);
insert into flush_policies (pool_id, policy) select pool_id, '{"kind": "at-once"}' from pools;
