-- Clients: who may come in, by which token, and to do what.
--
-- A client belongs to no pool: it may be the one that creates pools. Of its token there is the SHA-256 only. volumes are the
-- volumes that it is bound to ([{poolId, volumeId}]); null: every volume of every pool.
create table clients (
  client_id uuid primary key,
  name text not null,
  priority smallint not null,
  scopes text[] not null,
  volumes jsonb,
  token_hash bytea not null,
  created_at timestamptz not null,
  expires_at timestamptz,
  last_used_at timestamptz
);
create unique index clients_name on clients (name);
