/** `verify`, as a process with the permissions of its task. */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { fill } from "../support/history.ts";
import { runTask } from "../support/server.ts";
import { createTestStorage, TESTER } from "../support/storage.ts";

Deno.test("verify tells that every pool's audit fits, or names the first row that does not", async () => {
  await using system = await createTestStorage();
  const environment = { DATABASE_URL: system.test.url };
  await system.storage.createVolume(TESTER, { name: "v", blockCount: 8 });
  const right = await runTask("verify", environment);
  assertEquals([right.code, right.stderr], [0, ""]);
  assertStringIncludes(right.stdout, "Pool (none): 0 rows of the audit fit, up to hash ");
  assertStringIncludes(right.stdout, "Pool main: 3 rows of the audit fit, up to hash ");
  await system.test.database.$client`update audit set origin = 'elsewhere' where chain_number = 2`;
  const wrong = await runTask("verify", environment);
  assertEquals(wrong.code, 1);
  assertStringIncludes(wrong.stdout, "Pool main: row 2 of the audit (");
  assertStringIncludes(wrong.stdout, ") was changed");
  assertStringIncludes(wrong.stderr, "Cannot vouch for the audit: 1 of 2 chains do not fit");
});

Deno.test("verify refuses a database that is not migrated, and flags that it does not know", async () => {
  await using system = await createTestStorage();
  await system.test.database.$client`delete from schema_migrations where version > 10`;
  const { code, stderr } = await runTask("verify", { DATABASE_URL: system.test.url });
  assertEquals(code, 1);
  assertStringIncludes(stderr, "expected this version's schema");
  assertEquals((await runTask("verify", { DATABASE_URL: system.test.url }, ["--nothing"])).code, 2);
});

Deno.test("verify --receipt checks a receipt without the server, and against the audit", async () => {
  await using system = await createTestStorage();
  const { storage } = system;
  const snapshot = await storage.takeSnapshot(
    TESTER,
    { pool: "main", untilSealed: false },
    AbortSignal.timeout(60_000),
  );
  const receipt = await storage.receipts.sign(snapshot);
  const directory = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  try {
    const write = async (name: string, value: unknown) => {
      await Deno.writeTextFile(`${directory}/${name}`, JSON.stringify(value));
      return `${directory}/${name}`;
    };
    const key = await write("keys", { keys: await storage.receipts.listKeys() });
    const right = await write("right", { id: snapshot.snapshotId, receipt });
    const wrong = await write("wrong", { ...receipt, sequence: 7 });
    const offline = { DATABASE_URL: "postgres://nobody@127.0.0.1:1/none" };
    const environment = { DATABASE_URL: system.test.url };
    const found = await runTask("verify", offline, ["--receipt", right, "--key", key]);
    assertEquals([found.code, found.stderr], [0, ""]);
    assertStringIncludes(found.stdout, `snapshot ${snapshot.snapshotId} at sequence 1`);
    const changed = await runTask("verify", offline, ["--receipt", wrong, "--key", key]);
    assertEquals(changed.code, 1);
    assertStringIncludes(changed.stderr, "it is not what was signed");
    const noKey = await runTask("verify", offline, ["--receipt", right, "--key", wrong]);
    assertStringIncludes(noKey.stderr, "expected keys as /keys answers them");
    const kept = await runTask("verify", environment, ["--receipt", right]);
    assertEquals([kept.code, kept.stderr], [0, ""]);
    // As after chaining anew.
    await system.test.database.$client`update audit set chain_hash = sha256(chain_hash)`;
    const rewritten = await runTask("verify", environment, ["--receipt", right]);
    assertEquals(rewritten.code, 1);
    assertStringIncludes(rewritten.stderr, "is not there with hash");
    const keyAlone = await runTask("verify", environment, ["--key", key]);
    assertStringIncludes(keyAlone.stderr, "expected --receipt FILE too");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("verify reads every sealed snapshot and names what does not fit its digest; --snapshot reads one", async () => {
  await using system = await createTestStorage();
  const { storage, test: { database, url: DATABASE_URL } } = system;
  const environment = { DATABASE_URL };
  const take = async (name: string) => {
    const input = { pool: "main", name, untilSealed: false };
    const { snapshotId } = await storage.takeSnapshot(TESTER, input, AbortSignal.timeout(60_000));
    await system.drain();
    return snapshotId;
  };
  const [volume, other] = [
    await storage.createVolume(TESTER, { name: "v", blockCount: 5_000 }),
    await storage.createVolume(TESTER, { name: "w", blockCount: 8 }),
  ];
  await storage.append(TESTER, "v", undefined, [{ lba: 0, data: fill(1, 4, 512) }]);
  await storage.append(TESTER, "w", undefined, [{ lba: 0, data: fill(9, 4, 512) }]);
  await take("first");
  await storage.append(TESTER, "v", undefined, [{ lba: 4_990, data: fill(50, 3, 512) }]);
  const second = await take("second");
  const digester = system.createDigester();
  while (await digester.sweep());
  await take("undigested");
  const right = await runTask("verify", environment);
  assertEquals([right.code, right.stderr], [0, ""]);
  assertStringIncludes(right.stdout, `Snapshot second (${second}) of pool main: the blocks fit digest `);
  assertStringIncludes(right.stdout, "Snapshots: 2 fit their digest, 0 do not, 1 have none yet");
  await database.$client`
    update blocks set data = set_byte(data, 511, get_byte(data, 511) # 1), checksum = null
    where sequence = (select max(sequence) from blocks)`;
  const wrong = await runTask("verify", environment);
  assertEquals(wrong.code, 1);
  assertStringIncludes(
    wrong.stdout,
    `Snapshot second (${second}) of pool main: volume ${volume.volumeId} has digest `,
  );
  assertEquals(wrong.stdout.includes(other.volumeId), false);
  assertStringIncludes(wrong.stdout, "Snapshots: 1 fit their digest, 1 do not, 1 have none yet");
  assertStringIncludes(wrong.stderr, "Cannot vouch for the snapshots: 1 of 2 do not fit their digest");
  const only = (reference: string) => runTask("verify", environment, ["--snapshot", reference]);
  const first = await only("first");
  assertEquals([first.code, first.stdout.includes("second"), first.stdout.includes("audit")], [
    0,
    false,
    false,
  ]);
  const damaged = await only(second);
  assertEquals(damaged.code, 1);
  assertStringIncludes(damaged.stderr, `Cannot vouch for snapshot ${second}: it is damaged`);
  assertStringIncludes((await only("undigested")).stderr, "it has no digest yet");
  await database.$client`update blocks set data = set_byte(data, 0, 0)`;
  const unreadable = await only("first");
  assertEquals(unreadable.code, 1);
  assertStringIncludes(unreadable.stdout, `volume ${other.volumeId} cannot be read: Cannot read LBA 0`);
  assertEquals((await only("nothing")).code, 1);
});
