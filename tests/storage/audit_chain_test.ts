/** The audit as a chain: every change of what is chained is found, and the first row that does not fit is named. */

import { assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { verifyChain } from "../../src/storage/audit_chain.ts";
import { createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

const signal = () => AbortSignal.timeout(60_000);

async function mainPool({ storage }: TestStorage): Promise<string> {
  return (await storage.getPool("main")).poolId;
}

/** The chain of `main`, read two rows at a time. */
async function verifyMain(system: TestStorage) {
  const poolId = await mainPool(system);
  let rowCount = 0;
  for (let after = 0;;) {
    const part = await verifyChain(system.test.database, poolId, { after, rowsMax: 2 });
    rowCount += part.rowCount;
    if (part.next === undefined) return { ...part, rowCount };
    after = part.next;
  }
}

/** Pool, device, volume, four snapshots of which one is answered when sealed: eight rows. */
async function createChain(): Promise<TestStorage> {
  const system = await createTestStorage();
  await system.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  for (let i = 0; i < 3; i++) {
    await system.storage.takeSnapshot(
      TESTER,
      { volumes: ["v"], name: `s${i}`, untilSealed: false },
      signal(),
    );
  }
  const over = new AbortController();
  const taking = system.storage.takeSnapshot(TESTER, { volumes: ["v"], untilSealed: true }, over.signal);
  while ((await verifyMain(system)).rowCount < 7);
  await system.drain();
  await taking;
  return system;
}

Deno.test("a chain that nobody touched fits, by its documented bytes too", async () => {
  await using system = await createChain();
  const { rowCount, number, fault, hash } = await verifyMain(system);
  assertEquals([rowCount, number, fault], [8, 8, undefined]);
  const records = (await system.storage.listAudit({ itemsMax: 10 })).items;
  assertEquals(records.map(({ chainNumber }) => chainNumber), [1, 2, 3, 4, 5, 6, 7]);
  // After the description in README and not by the code that is tested.
  let chain = new Uint8Array(32);
  const extend = (fields: (string | undefined)[]) => {
    const text = fields.map((field) =>
      field === undefined ? "-," : `${new TextEncoder().encode(field).length}:${field},`
    );
    chain = new Uint8Array(createHash("sha256").update(chain).update(text.join("")).digest());
  };
  const toJson = (phases: readonly object[]) => `[${phases.map(toPhase).join(", ")}]`;
  for (const { command, ...record } of records) {
    const { clientId, clientName, origin, action, targetId, targetName } = record;
    // The last one was disconnected after six phases.
    const begun = record.chainNumber === 7 ? command!.phases.slice(0, 6) : command?.phases;
    extend([
      "record",
      record.poolId,
      record.auditId,
      record.at.toISOString().replace("Z", "000Z"),
      ...[clientId, clientName, origin, action, targetId, targetName],
      command?.cdb.toHex(),
      command?.dataOut?.toHex(),
      record.chainNumber === 7 ? undefined : command?.scsiStatus,
      begun && toJson(begun),
      command && String(command.markerSequence),
    ]);
    assertEquals(chain, record.chainHash);
  }
  const { poolId, auditId, command } = records[6];
  extend(["completion", poolId, auditId, "GOOD", toJson(command!.phases.slice(6))]);
  assertEquals(chain.toHex(), hash);
});

function toPhase(phase: object): string {
  const keys = Object.entries(phase).toSorted(([a], [b]) => a.length - b.length || (a < b ? -1 : 1));
  return `{${keys.map(([key, value]) => `"${key}": "${value}"`).join(", ")}}`;
}

const TAMPERINGS: [what: string, statement: string, fault: { number: number; reason: string }][] = [
  ["a name", "update audit set client_name = 'nobody' where chain_number = 3", {
    number: 3,
    reason: "changed",
  }],
  [
    "a microsecond",
    "update audit set at = at + interval '1 microsecond' where chain_number = 4",
    { number: 4, reason: "changed" },
  ],
  ["a CDB", "update audit set cdb = '\\xc00000000000' where chain_number = 5", {
    number: 5,
    reason: "changed",
  }],
  [
    "a phase",
    `update audit set phases = jsonb_set(phases, '{2,at}', '"2020-01-01T00:00:00.000Z"') where chain_number = 6`,
    { number: 6, reason: "changed" },
  ],
  [
    "text moved from one field to the next",
    "update audit set client_name = 'teste', origin = 'r' || origin where chain_number = 2",
    { number: 2, reason: "changed" },
  ],
  ["a hash", "update audit set chain_hash = sha256('') where chain_number = 3", {
    number: 3,
    reason: "changed",
  }],
  [
    "the status of a completion",
    "update audit_completions set scsi_status = 'CHECK CONDITION'",
    { number: 8, reason: "changed" },
  ],
  ["a status that was none", "update audit set scsi_status = 'GOOD' where chain_number = 7", {
    number: 7,
    reason: "changed",
  }],
  ["a deleted row", "delete from audit where chain_number = 4", { number: 4, reason: "missing" }],
  ["a deleted first row", "delete from audit where chain_number = 1", { number: 1, reason: "missing" }],
  ["a deleted completion, the last row", "delete from audit_completions", { number: 8, reason: "missing" }],
  [
    "all of it",
    "with a as (delete from audit) delete from audit_completions",
    { number: 1, reason: "missing" },
  ],
  [
    "two rows that change places",
    `update audit set chain_number = -chain_number where chain_number in (4, 5);
     update audit set chain_number = 9 + chain_number where chain_number < 0`,
    { number: 4, reason: "changed" },
  ],
  [
    "a row put in behind the last",
    `insert into audit select pool_id, gen_random_uuid(), at, client_id, client_name, origin, action, target_id, target_name,
       cdb, data_out, scsi_status, phases, marker_sequence, 9, chain_hash from audit where chain_number = 3`,
    { number: 9, reason: "unexpected" },
  ],
  [
    "a row put in before the first",
    `insert into audit select pool_id, gen_random_uuid(), at, client_id, client_name, origin, action, target_id, target_name,
       cdb, data_out, scsi_status, phases, marker_sequence, 0, chain_hash from audit where chain_number = 3`,
    { number: 0, reason: "unexpected" },
  ],
  [
    "a row put in under the number of a completion",
    `insert into audit select pool_id, gen_random_uuid(), at, client_id, client_name, origin, action, target_id, target_name,
       cdb, data_out, scsi_status, phases, marker_sequence, 8, chain_hash from audit where chain_number = 3`,
    { number: 8, reason: "changed" },
  ],
  [
    "a head that was put back with the last row gone, and forward again",
    "update audit_heads set chain_number = 7",
    { number: 8, reason: "unexpected" },
  ],
  ["the head's hash", "update audit_heads set chain_hash = sha256('')", { number: 8, reason: "changed" }],
];
for (const [what, statement, { number, reason }] of TAMPERINGS) {
  Deno.test(`a change by hand is found: ${what}`, async () => {
    await using system = await createChain();
    await system.test.database.$client.unsafe(statement);
    const { fault } = await verifyMain(system);
    assertEquals([fault?.number, fault?.reason], [number, reason]);
  });
}

Deno.test("transactions at the same time, of several processes and a flusher, make one chain and no deadlock", async () => {
  await using system = await createTestStorage();
  const other = await system.openAnother({ flusher: true });
  await system.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  await Promise.all([system.storage, other, system.storage, other].map(async (storage, taker) => {
    for (let i = 0; i < 12; i++) {
      const name = `s-${taker}-${i}`;
      await storage.takeSnapshot(TESTER, { volumes: ["v"], name, untilSealed: i % 2 === 0 }, signal());
      await storage.changeVolume(TESTER, "v", undefined, { labels: { [`t${taker}`]: String(i) } });
      await storage.changeSnapshot(TESTER, name, undefined, { description: name });
      if (i % 3 === 0) await storage.deleteSnapshot(TESTER, name);
    }
  }));
  const { fault, number } = await verifyMain(system);
  assertEquals(fault, undefined);
  // Pool, device, volume; then of each turn the snapshot, two changes, half of the time a completion, a third of the time a deletion.
  assertEquals(number, 3 + 48 * 3 + 24 + 16);
});

Deno.test("pools have chains of their own", async () => {
  await using system = await createChain();
  const pool = { name: "other", blockSizeBytes: 512, segmentBlocks: 4, cacheBytesMax: 2 ** 20 };
  const { poolId } = await system.storage.createPool(TESTER, pool);
  await system.test.database.$client`delete from audit where chain_number = 2`;
  assertEquals((await verifyChain(system.test.database, poolId, { rowsMax: 10 })).fault, undefined);
  assertEquals((await verifyMain(system)).fault?.number, 2);
});
