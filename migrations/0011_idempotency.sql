-- Idempotency keys: what a client's request under a key has done, and what it was answered.
--
-- A key belongs to a client and to no pool: its request may be the one that creates the pool. owner_id is the attempt that has
-- the key, until lease_until. outcome is written by the transaction that does the work, in order the things that it did
-- ({poolId, action, targetId, sequence}); status, content_type, location and body are the answer, once it is given.
create table idempotency_keys (
  client_id uuid not null,
  key text not null,
  fingerprint bytea not null,
  owner_id uuid not null,
  lease_until timestamptz not null,
  created_at timestamptz not null,
  outcome jsonb,
  status integer,
  content_type text,
  location text,
  body text,
  primary key (client_id, key)
);
create index idempotency_keys_created on idempotency_keys (created_at);
