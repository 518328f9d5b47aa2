import { assertEquals, assertRejects } from "@std/assert";
import { closeDatabase, type Database, openDatabase, transact } from "../../src/database/client.ts";
import { isMigrated, migrate } from "../../src/database/migrate.ts";
import { chainCompletion, verifyChain } from "../../src/storage/audit_chain.ts";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { Digester } from "../../src/storage/digester.ts";
import { Flusher } from "../../src/storage/flusher.ts";
import { Storage } from "../../src/storage/storage.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import { digestOf } from "../support/contents_digest.ts";
import { createTestDatabase } from "../support/database.ts";
import { fill, readStamps } from "../support/history.ts";
import { insertOldData, listMigrations, migrateTo, OLD } from "../support/old_schema.ts";
import { reclaimAll } from "../support/reclaiming.ts";
import { TESTER, write } from "../support/storage.ts";

Deno.test("migrate() brings an empty database up, once, however many processes start at the same time", async () => {
  await using test = await createTestDatabase("template1");
  assertEquals(await isMigrated(test.database), false);
  const others = Array.from({ length: 4 }, () => openDatabase(test.url, { connectionsMax: 1 }));
  try {
    const applied = await Promise.all(others.map((database) => migrate(database)));
    assertEquals(applied.toSorted((a, b) => b.length - a.length), [
      [
        "0001_storage.sql",
        "0002_speed.sql",
        "0003_append_behind.sql",
        "0004_vacuum_blocks.sql",
        "0005_lineage.sql",
        "0006_reclaim.sql",
        "0007_hold.sql",
        "0008_covered.sql",
        "0009_label.sql",
        "0010_space.sql",
        "0011_idempotency.sql",
        "0012_schedule.sql",
        "0013_staging.sql",
        "0014_copy.sql",
        "0015_reclaim_order.sql",
        "0016_placement.sql",
        "0017_priority.sql",
        "0018_client.sql",
        "0019_audit_chain.sql",
        "0020_signing_key.sql",
        "0021_copy_digest.sql",
        "0022_checksum.sql",
        "0023_scrub.sql",
        "0024_flush_policy.sql",
        "0025_snapshot_digest.sql",
        "0026_client_limits.sql",
        "0027_cache_mode.sql",
        "0028_write_through.sql",
        "0029_snapshot_limit.sql",
        "0030_timeline_merge.sql",
      ],
      [],
      [],
      [],
    ]);
  } finally {
    await Promise.all(others.map((database) => closeDatabase(database)));
  }
  assertEquals(await isMigrated(test.database), true);
});

Deno.test("migrate() refuses a database newer than the program", async () => {
  await using test = await createTestDatabase();
  await test.database.$client`insert into schema_migrations (version, name) values (9999, 'later')`;
  await assertRejects(() => migrate(test.database), Error, "its schema is version 9999");
  assertEquals(await isMigrated(test.database), false);
});

Deno.test("migrate() that fails half way changes nothing, and goes on when what stood in its way is gone", async () => {
  await using test = await createTestDatabase("template1");
  const { $client } = test.database;
  await migrateTo(test.database, 17);
  await insertOldData(test.database, 17);
  await $client`create table signing_keys (in_the_way text)`;
  await assertRejects(() => migrate(test.database), Error, "already exists");
  const [{ version, clients }] = await $client`
    select (select max(version) from schema_migrations) as version, to_regclass('clients') as clients`;
  assertEquals([version, clients], [17, null]);
  await $client`drop table signing_keys`;
  assertEquals((await migrate(test.database)).length, listMigrations().length - 17);
});

for (let version = 1; version < listMigrations().length; version++) {
  Deno.test(`a database of version ${version} with data in it is migrated, once by two processes, and served with what it had`, async () => {
    await using test = await createTestDatabase("template1");
    const other = openDatabase(test.url, { connectionsMax: 1 });
    try {
      await migrateTo(test.database, version);
      await insertOldData(test.database, version);
      const applied = await Promise.all([migrate(test.database), migrate(other)]);
      assertEquals(applied.map(({ length }) => length).toSorted((a, b) => a - b), [
        0,
        listMigrations().length - version,
      ]);
    } finally {
      await closeDatabase(other);
    }
    await assertServed(test.database);
  });
}

/** What {@linkcode insertOldData} wrote is there, is flushed and sealed, and goes on. */
async function assertServed(database: Database): Promise<void> {
  const clock = () => new Date();
  const onFault = (error: unknown) => {
    throw error;
  };
  await using storage = new Storage({ database, limits: STORAGE_LIMITS, flusher: false });
  await storage.start();
  const [whole, part] = [{ lba: 0, blockCount: 16 }, { lba: 0, blockCount: 10 }];
  const zeros = (count: number) => Array<number>(count).fill(0);
  const ofS = [1, 2, 3, 4, ...zeros(12)];
  const ofV = [30, 10, 0, 4, ...zeros(4), 20, 21, ...zeros(6)];
  const assertContents = async () => {
    const volume = async (name: string) => readStamps(await storage.readVolume(name, undefined, whole), 512);
    const snapshot = async (name: string, range: typeof whole) =>
      readStamps(await storage.readSnapshot(name, undefined, undefined, range), 512);
    assertEquals(await volume("v"), ofV);
    assertEquals(await volume("w"), ofS.with(15, 40));
    assertEquals(await snapshot("s", whole), ofS);
    assertEquals(await snapshot("t", part), [1, ...ofV.slice(1, 10)]);
  };
  await assertContents();
  for (const [name, range] of [["s", whole], ["t", part]] as const) {
    assertEquals((await storage.getSnapshot(name)).volumes.map(({ ranges }) => ranges), [[range]]);
  }
  const before = await storage.getPool("p");
  assertEquals([before.sequenceAppended, before.sequenceFlushed], [8, 3]);
  assertEquals([before.dirtyEntries, before.dirtyBytes], [5, 4 * 512]);
  assertEquals([before.segmentCount, before.freeSegments], [100, 95]);
  assertEquals((await storage.getSnapshot("t")).status, "pending");
  const flusher = new Flusher(database, { limits: STORAGE_LIMITS, clock, onFault });
  while (await flusher.sweep());
  await assertContents();
  const sealed = await storage.getSnapshot("t");
  assertEquals([sealed.status, sealed.sequence, sealed.progress.entriesAhead], ["sealed", 6, 0]);
  const after = await storage.getPool("p");
  assertEquals([after.sequenceFlushed, after.dirtyEntries, after.dirtyBytes], [8, 0, 0]);
  // The completion of the command that waited for the seal is the fifth row.
  const chain = await verifyChain(database, OLD.poolId, { rowsMax: 100 });
  assertEquals([chain.rowCount, chain.fault], [5, undefined]);
  assertEquals((await storage.getAuditRecord(OLD.pendingAuditId)).command?.scsiStatus, "GOOD");
  const told = await storage.listEvents(OLD.poolId, {}, 2, 10);
  assertEquals(told.map(({ eventId, type, snapshotId }) => [eventId, type, snapshotId]), [
    [3, "snapshot.sealed", OLD.pendingId],
  ]);
  const digester = new Digester(database, { limits: STORAGE_LIMITS, clock, onFault });
  while (await digester.sweep());
  const { volumes: [{ digest }] } = await storage.getSnapshot("s");
  const contents = ofS.map((stamp) => [...fill(stamp, 1, 512)]).flat();
  assertEquals(digest?.toHex(), digestOf(new Uint8Array(contents)));
  assertEquals((await storage.append(TESTER, "v", "p", [write(5, 50)])).sequence, 9);
  await assertSpaceIsSound(database);
  for (const name of ["s", "t"]) await storage.deleteSnapshot(TESTER, name);
  while (await flusher.sweep());
  await reclaimAll(database);
  const live = readStamps(await storage.readVolume("v", undefined, whole), 512);
  assertEquals(live, ofV.with(5, 50));
  assertEquals(readStamps(await storage.readVolume("w", undefined, whole), 512), ofS.with(15, 40));
  await assertSpaceIsSound(database);
}

Deno.test("migrate() chains the audit that there is, and it goes on from there", async () => {
  await using test = await createTestDatabase("template1");
  const { $client } = test.database;
  await migrateTo(test.database, 18);
  const poolId = await insertOldAudit(test.database);
  assertEquals((await migrate(test.database))[0], "0019_audit_chain.sql");
  const verified = await verifyChain(test.database, poolId, { rowsMax: 10 });
  assertEquals([verified.rowCount, verified.fault], [4, undefined]);
  await transact(
    test.database,
    (tx) => chainCompletion(tx, poolId, "00000000-0000-7000-8000-000000000003", [], "GOOD"),
  );
  assertEquals((await verifyChain(test.database, poolId, { rowsMax: 10 })).number, 5);
  await $client`update audit set target_name = 'other' where chain_number = 2`;
  assertEquals((await verifyChain(test.database, poolId, { rowsMax: 10 })).fault?.number, 2);
});

Deno.test("migrate() has copies that were in the middle of a digest begin it anew, and keeps what was copied", async () => {
  await using test = await createTestDatabase("template1");
  const { $client } = test.database;
  await migrateTo(test.database, 20);
  const id = (number: number) => `00000000-0000-7000-8000-00000000000${number}`;
  const old: [status: string, phase: string][] = [
    ["running", "copying"],
    ["running", "digesting"],
    ["running", "verifying"],
    ["running", "switching"],
    ["running", "telling"],
    ["done", "telling"],
  ];
  for (const [index, [status, phase]] of old.entries()) {
    await $client`
      insert into copies (pool_id, copy_id, snapshot_id, volume_id, target_pool_id, target_volume_id, status, phase, position,
        bytes_copied, source_chain, target_chain, digest, client_id, client_name, priority, origin, told_at, created_at)
      values (${id(9)}, ${id(index)}, ${id(9)}, ${id(9)}, ${id(8)}, ${id(8)}, ${status}, ${phase}, 7, 512,
        '\\x01', '\\x02', 'old', ${id(9)}, 'c', 0, 'o', now(), now())`;
  }
  await migrate(test.database);
  const rows = await $client`
    select phase, position, bytes_copied, get_byte(source_chain, 0) + get_byte(target_chain, 0) as chains, digest
    from copies order by copy_id`;
  const anew = { phase: "digesting", position: 0, bytes_copied: 512, chains: 0, digest: null };
  const kept = { position: 7, bytes_copied: 512, chains: 3 };
  assertEquals(rows.map((row) => ({ ...row })), [
    { ...kept, phase: "copying", digest: "old" },
    anew,
    anew,
    anew,
    { ...kept, phase: "telling", digest: "old" },
    { ...kept, phase: "telling", digest: null },
  ]);
});

/** A pool with four rows as the schema before the chain had them: one of no command, one with data-out, one that is not sealed. */
async function insertOldAudit({ $client }: Database): Promise<string> {
  const poolId = "00000000-0000-7000-8000-0000000000ff";
  await $client`
    insert into pools (pool_id, name, block_size_bytes, segment_blocks, cache_bytes_max, created_at)
    values (${poolId}, 'p', 512, 4, 1000000, now())`;
  await $client`
    insert into audit (pool_id, audit_id, at, client_id, client_name, origin, action, target_id, target_name, cdb, data_out,
      scsi_status, phases, marker_sequence)
    select ${poolId}, ('00000000-0000-7000-8000-00000000000' || i)::uuid, '2026-01-01T00:00:00.123456Z', ${poolId}, 'ä,:',
      'http', 'snapshot.create', ${poolId}, name, cdb, data_out, status, phases, sequence
    from (values
      (1, 'p', null::bytea, null::bytea, null, null::jsonb, null::bigint),
      (2, null, '\\xc00100000000', '\\x00000000', 'GOOD', '[{"phase": "BUS FREE", "at": "x"}]', 1),
      (3, 's', '\\xc00000000000', null, null, '[]', 2),
      (4, '', '\\xc00000000000', null, 'GOOD', '[]', 3)
    ) as old (i, name, cdb, data_out, status, phases, sequence)`;
  return poolId;
}
