-- The audit as a chain: each row's hash covers its contents and the hash of the row before in its pool, so that no row can be
-- changed, taken out, put in or moved without all later hashes being wrong.
--
--     chain_hash = SHA-256(chain_hash of the row before, or 32 zero bytes; the fields)
--
-- A field is its length in bytes as decimal digits, a colon, its UTF-8 bytes and a comma; one that is null is a hyphen and a comma.
-- Which fields, in which order: src/storage/audit_chain.ts.
create function chain_hash(previous bytea, fields text[]) returns bytea language sql stable as $$
  select sha256(previous || convert_to(
    string_agg(coalesce(octet_length(convert_to(field, 'UTF8')) || ':' || field, '-') || ',', '' order by place), 'UTF8'))
  from unnest(fields) with ordinality as f (field, place)
$$;

-- A moment as a field has it.
create function chain_moment(moment timestamptz) returns text language sql stable as $$
  select to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- chain_number rises without a gap in commit order within its pool: it is taken from audit_heads, whose row stays locked until
-- commit, as the last lock that a transaction takes but for that of event_heads. A pool's last row has the head's hash.
create table audit_heads (
  pool_id uuid primary key,
  chain_number bigint not null default 0,
  chain_hash bytea not null default decode(repeat('00', 32), 'hex')
) with (fillfactor = 20);
-- Records of no pool have a chain of their own.
insert into audit_heads (pool_id)
  select pool_id from pools union select '00000000-0000-0000-0000-000000000000'::uuid;

-- How a command ended that was not answered at its marker's commit: the status and the phases that come behind those of its
-- record. A row of the same chain, for the record itself never changes.
create table audit_completions (
  pool_id uuid not null,
  audit_id uuid not null,
  scsi_status text not null,
  phases jsonb not null,
  chain_number bigint not null,
  chain_hash bytea not null,
  primary key (pool_id, audit_id)
);
create unique index audit_completions_chain on audit_completions (pool_id, chain_number);

alter table audit add chain_number bigint, add chain_hash bytea;

-- The rows that there are, by their ids, which rise with time. A command that has ended before is covered as it stands.
do $$
declare
  pool record;
  old record;
  number bigint;
  hash bytea;
begin
  for pool in select pool_id, chain_hash from audit_heads loop
    number := 0;
    hash := pool.chain_hash;
    for old in select * from audit where pool_id = pool.pool_id order by audit_id loop
      number := number + 1;
      hash := chain_hash(hash, array[
        'record', old.pool_id::text, old.audit_id::text, chain_moment(old.at), old.client_id::text, old.client_name,
        old.origin, old.action, old.target_id::text, old.target_name, encode(old.cdb, 'hex'), encode(old.data_out, 'hex'),
        old.scsi_status, old.phases::text, old.marker_sequence::text
      ]);
      update audit set chain_number = number, chain_hash = hash
      where pool_id = old.pool_id and audit_id = old.audit_id;
    end loop;
    update audit_heads set chain_number = number, chain_hash = hash where pool_id = pool.pool_id;
  end loop;
end
$$;

alter table audit alter chain_number set not null, alter chain_hash set not null;
create unique index audit_chain on audit (pool_id, chain_number);
