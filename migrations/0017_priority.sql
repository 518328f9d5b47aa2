-- Entries whose client has a priority other than 0, in the order in which they are flushed. Those of the others cost nothing.
create index cache_priority on cache (pool_id, priority desc, sequence) where priority <> 0;
