-- How fast a client may come: requests, and bytes of their bodies and of the answers', in a second. null: as fast as any client that
-- has no limits of its own.
alter table clients add column requests_per_second_max integer, add column bytes_per_second_max bigint;
