-- The key that receipts are signed with: one Ed25519 pair for the whole installation, so it belongs to no pool. It stands in the
-- database because that is all that servers share. private_key is a JWK (RFC 8037) and goes nowhere else.
create table signing_keys (
  key_name text primary key,
  private_key jsonb not null,
  created_at timestamptz not null
);
