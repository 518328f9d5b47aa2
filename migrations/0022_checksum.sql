-- Checksums of blocks, kept from append to read: CRC-32C of the block's LBA, as eight bytes big-endian, and of its data.
--
-- An entry has those of its blocks one after the other, four bytes big-endian each; a block has its own. Both are null where
-- there are no data, and for what was written before there were checksums: nothing is rewritten here, so such blocks
-- are read unchecked until they are written again. Random bytes: no use in compressing them.
alter table cache add column checksums bytea;
alter table cache alter column checksums set storage external;
alter table blocks add column checksum bytea;
