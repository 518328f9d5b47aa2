-- Copies whose segments come from one device of the other pool.
alter table stagings add column device_id uuid;
alter table copies add column device_id uuid;
