-- Vacuums block tables as fast as they are overwritten, as those are that are made from now on. By PostgreSQL's defaults
-- autovacuum pauses so much that overwriting a volume of 1 GiB at full speed made its table grow to 47 GiB in 25 minutes.
do $$
declare
  partition regclass;
begin
  for partition in select inhrelid::regclass from pg_inherits where inhparent = 'blocks'::regclass loop
    execute format('alter table %s set (autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0,
      toast.autovacuum_vacuum_scale_factor = 0.1, toast.autovacuum_vacuum_cost_delay = 0)', partition);
  end loop;
end $$;
