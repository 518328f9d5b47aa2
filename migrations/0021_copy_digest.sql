-- The chain of a digest goes over the pieces' digests, no longer over the pieces (src/storage/contents_digest.ts). What stands half
-- way in the old chain begins its digests anew; what was copied stays. Digests of copies that are done were of the old kind, and
-- were compared then: they are no longer told.
update copies
set phase = 'digesting', position = 0, digest = null,
  source_chain = decode(repeat('00', 32), 'hex'), target_chain = decode(repeat('00', 32), 'hex')
where status = 'running' and phase in ('digesting', 'verifying', 'switching');

update copies set digest = null where status = 'done';
